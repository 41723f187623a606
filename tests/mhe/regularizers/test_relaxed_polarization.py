"""The relaxation of polarization: how far neurons are from balance."""

import json

import keras
import numpy as np
import pytest

from mhe.regularizers import Polarization, relaxed_polarization


def draw(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def sphere(dims, places=200_000):
    """Many random places, of which one is near to the pole."""
    points = draw(places, dims, seed=1)
    return points / np.linalg.norm(points, axis=1, keepdims=True)


def formula(rows):
    """‖(1/N) Σ û‖ in float64, neurons as rows."""
    rows = np.asarray(rows, "float64")
    return np.linalg.norm(np.mean(rows / np.linalg.norm(rows, axis=1, keepdims=True), axis=0))


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_value_and_gradient(dtype, value_and_gradient, reference_gradient):
    rows = (draw(7, 5) + 0.3).astype(dtype)
    value, gradient = value_and_gradient(lambda x: relaxed_polarization(x, axis=0), rows)
    assert value.dtype == "float32"
    assert gradient.dtype == dtype
    assert value == pytest.approx(formula(rows), rel=1e-5)
    expected = reference_gradient(formula, rows)
    tolerance = 1e-4 if dtype == "float32" else 1e-3
    np.testing.assert_allclose(gradient, expected, atol=tolerance * np.abs(expected).max())


@pytest.mark.one_backend
def test_it_is_the_least_potential_for_a_power_of_minus_two():
    rows = draw(6, 3)
    units = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    potentials = -np.mean(np.sum((sphere(3)[:, None] - units) ** 2, axis=-1), axis=1)
    value = float(relaxed_polarization(rows.astype("float32"), axis=0))
    assert -2 - 2 * value == pytest.approx(potentials.min(), abs=1e-3)


@pytest.mark.one_backend
def test_axes():
    weights = draw(3, 3, 2, 5).astype("float32")
    assert float(relaxed_polarization(weights)) == pytest.approx(
        formula(weights.reshape(18, 5).T), rel=1e-5
    )
    assert float(relaxed_polarization(weights, axis=(2, 3))) == pytest.approx(
        formula(weights.reshape(9, 10).T), rel=1e-5
    )


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_degenerate_neurons(dtype, gradient_step):
    step = gradient_step(lambda x: relaxed_polarization(x, axis=0))
    for rows, expected in (
        (np.zeros((4, 4)), 0.0),
        (np.ones((4, 4)), 1.0),
        (np.outer([1, -1, 2, -3], np.ones(4)), 0.0),
        (np.eye(4), 0.5),
        (np.eye(4) - np.eye(1, 16).reshape(4, 4), 3**0.5 / 4),
        (1e-6 * np.ones((4, 4)), 1.0),
    ):
        value, gradient = step(rows.astype(dtype))
        assert value == pytest.approx(expected, abs=1e-6)
        assert np.all(np.isfinite(gradient))
    assert float(relaxed_polarization(np.ones((0, 3), dtype), axis=0)) == 0


def test_descending_ends_in_balance(gradient_step):
    rows = (draw(6, 3) + 1).astype("float32")
    step = gradient_step(Polarization(relaxed=True, axis=0))
    for rate in np.geomspace(3, 0.01, 100):
        value, gradient = step(rows)
        rows = (rows - rate * gradient).astype("float32")
    assert value < 0.01 < 0.5 < formula(draw(6, 3) + 1)


@pytest.mark.one_backend
def test_an_option_of_polarization():
    regularizer = Polarization(0.5, relaxed=True, axis=0)
    rows = draw(6, 3).astype("float32")
    assert float(regularizer(rows)) == pytest.approx(0.5 * formula(rows), rel=1e-5)
    config = json.loads(json.dumps(keras.saving.serialize_keras_object(regularizer)))
    copy = keras.regularizers.get(config)
    assert copy.get_config() == regularizer.get_config()
    assert float(copy(rows)) == float(regularizer(rows))
    assert float(regularizer.with_axis(1)(rows)) == pytest.approx(0.5 * formula(rows.T), rel=1e-5)
    assert repr(copy) == "Polarization(0.5, relaxed, full)"
    # As saved before there was the option.
    del config["config"]["relaxed"]
    assert keras.regularizers.get(config).relaxed is False


@pytest.mark.one_backend
def test_bad_options():
    with pytest.raises(ValueError, match=r"`relaxed` .*Received: relaxed=True, space='half'"):
        Polarization(relaxed=True, space="half")
    with pytest.raises(ValueError, match=r"`relaxed` .*Received: relaxed=2"):
        Polarization(relaxed=2)
