"""The force that lengthens neurons and does not turn them, against its formula."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from keras import ops

PATH = Path(__file__).parents[3] / "benchmarks" / "tasks" / "radial.py"


@pytest.fixture(scope="module")
def radial():
    spec = importlib.util.spec_from_file_location("radial", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_value_and_gradient(radial, value_and_gradient):
    kernel = np.random.default_rng(0).normal(size=(3, 3, 2, 5)).astype("float32")
    force = radial.RadialForce(0.7)
    value, gradient = value_and_gradient(force, kernel)
    neurons = kernel.reshape(-1, 5).astype("float64")
    lengths = np.linalg.norm(neurons, axis=0)
    assert value == pytest.approx(-0.7 * np.log(lengths).mean(), rel=1e-5)
    expected = -0.7 * neurons / lengths**2 / 5
    np.testing.assert_allclose(gradient.reshape(-1, 5), expected, rtol=1e-4, atol=1e-7)


def test_zero_neurons_stay_finite(radial, value_and_gradient):
    value, gradient = value_and_gradient(radial.RadialForce(), np.zeros((4, 2), "float32"))
    assert np.isfinite(value)
    np.testing.assert_array_equal(gradient, 0)
    assert float(ops.convert_to_numpy(value)) > 0
