"""Energies of projected neurons: what each projection does, and the gradient for a fixed one."""

import keras
import numpy as np
import pytest
from keras import ops

import mhe
from mhe.regularizers import CoMHE, compressed_energy, compressive

# Compiling the searches takes minutes; `test_family.py` does that for short ones.
pytestmark = pytest.mark.one_backend


def weights(seed=0):
    return np.random.default_rng(seed).normal(size=(12, 9)).astype("float32")


def test_random_projections_average_the_energies_of_projected_neurons(
    monkeypatch, reference_energy, value_and_gradient, reference_gradient
):
    matrices = [np.random.default_rng(seed).normal(size=(12, 4)) for seed in range(2)]
    drawn = iter([matrix.astype("float32") for matrix in matrices] * 4)
    monkeypatch.setattr(keras.random, "normal", lambda *_, **__: ops.convert_to_tensor(next(drawn)))

    def formula(w):
        return np.mean([reference_energy(w.T @ m, 2, "euclidean", "half") for m in matrices])

    value, gradient = value_and_gradient(
        lambda w: compressed_energy(w, "random", 4, 2, space="half"), weights(), eager=True
    )
    assert value == pytest.approx(formula(weights()), rel=1e-5)
    expected = reference_gradient(formula, weights())
    np.testing.assert_allclose(gradient, expected, atol=1e-4 * np.abs(expected).max())


def test_random_projections_are_drawn_anew():
    regularizer = CoMHE(dims=4)
    assert float(regularizer(weights())) != float(regularizer(weights()))
    first = [float(CoMHE(dims=4)(weights(seed))) for seed in (0, 0, 1)]
    assert first[0] == first[1] != first[2]


def test_searched_projections_do_what_they_are_for():
    rows = weights().T
    units = rows / np.linalg.norm(rows, axis=1, keepdims=True)

    def loss(matrix):
        mapped = units @ matrix
        mapped = mapped / np.linalg.norm(mapped, axis=1, keepdims=True)
        return np.sum((mapped @ mapped.T - units @ units.T) ** 2)

    def energy(matrix):
        return float(mhe.hyperspherical_energy(rows @ matrix, axis=0))

    start = np.random.default_rng(0).normal(size=(12, 4)).astype("float32")
    tensor = ops.convert_to_tensor(rows)
    found = {}
    variant = compressive.Variant.of(2, "euclidean", "full")
    objectives = {
        "angle": compressive._loss_of_angles(tensor, 4),
        "energy": compressive._negative_energy(tensor, 4, variant),
    }
    for name, objective in objectives.items():
        flat = compressive.descend(objective, ops.convert_to_tensor(start.reshape(-1)), 5)
        found[name] = ops.convert_to_numpy(flat).reshape(12, 4)
    assert loss(found["angle"]) < 0.8 * loss(start)
    assert energy(found["energy"]) > 1.5 * energy(start)


def test_slopes_of_the_inner_problems(reference_gradient):
    rows = weights().T[:5, :6]
    units = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype("float64")

    def loss(flat):
        mapped = units @ flat.reshape(6, 3)
        mapped = mapped / np.linalg.norm(mapped, axis=1, keepdims=True)
        return np.sum((mapped @ mapped.T - units @ units.T) ** 2)

    flat = np.random.default_rng(1).normal(size=18).astype("float32")
    objective = compressive._loss_of_angles(ops.convert_to_tensor(rows), 3)
    value, found = map(ops.convert_to_numpy, objective(ops.convert_to_tensor(flat)))
    assert float(value) == pytest.approx(0.25 * loss(flat.astype("float64")), rel=1e-4)
    expected = reference_gradient(loss, flat)
    np.testing.assert_allclose(4 * found, expected, atol=1e-3 * np.abs(expected).max())
