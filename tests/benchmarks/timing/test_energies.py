"""What the timing programs compare: the published formula and ours are the same energy."""

import keras
import numpy as np
import pytest

import mhe

VARIANTS = [
    (0, "euclidean", "full"),
    (1, "euclidean", "half"),
    (2, "euclidean", "half"),
    (3, "euclidean", "full"),
    (0, "angle", "half"),
    (1, "angle", "full"),
    (2, "angle", "full"),
    (3, "angle", "half"),
]


@pytest.fixture
def backend(part):
    return part("backend")


@pytest.fixture
def energies(part):
    return part("energies")


def draw(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_published_formula_is_the_same_energy(variant, backend, energies, reference_energy):
    weights = draw(12, 7)
    calls = energies.functions(dict(zip(("s", "distance", "space"), variant, strict=True)))
    value, gradient = backend.compiled(calls["published"][0], weights)()
    expected = reference_energy(weights.T, *variant)
    # In half space it has to stop short of the angle of opposite neurons.
    assert float(value) == pytest.approx(expected, rel=1e-3)
    own, own_gradient = backend.compiled(calls["kernel"][0], weights)()
    assert float(own) == pytest.approx(expected, rel=1e-5)
    gradient, own_gradient = map(keras.ops.convert_to_numpy, (gradient, own_gradient))
    np.testing.assert_allclose(gradient, own_gradient, atol=1e-3 * np.abs(own_gradient).max())


def test_clusters_are_as_close_as_they_claim(energies):
    weights = energies.clustered_layer(2000, 40, seed=0, clusters=2)
    units = weights / np.linalg.norm(weights, axis=0)
    cosines = (units.T @ units)[np.triu_indices(40, 1)]
    near = cosines > 0.15
    assert 0.3 < near.mean() < 0.7
    assert cosines[near].mean() == pytest.approx(0.3, abs=0.02)
    assert cosines[~near].mean() == pytest.approx(0, abs=0.03)
    assert np.array_equal(weights, energies.clustered_layer(2000, 40, seed=0, clusters=2))


def test_published_regularizer_is_the_half_space_energy(energies):
    kernel = draw(3, 3, 2, 6)
    value = float(energies.Published("half")(keras.ops.convert_to_tensor(kernel)))
    assert value == pytest.approx(float(mhe.MHE()(kernel)), rel=1e-4)
