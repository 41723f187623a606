"""Embeddings of unit length, also of images for which all hidden units are off."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from keras import ops

PATH = Path(__file__).parents[3] / "benchmarks" / "tasks" / "unit_norm.py"


@pytest.fixture(scope="module")
def unit_norm():
    spec = importlib.util.spec_from_file_location("unit_norm", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_gradients_of_zero_vectors_are_not_huge(unit_norm, value_and_gradient):
    layer = unit_norm.UnitNorm()
    points = np.array([[3.0, 4.0], [0.0, 0.0]], "float32")
    weights = np.array([[2.0, 1.0], [5.0, 7.0]], "float32")
    value, gradient = value_and_gradient(lambda x: ops.sum(ops.multiply(layer(x), weights)), points)
    assert value == pytest.approx(2.0)
    # (I - uu')w/‖x‖; at zero the gradient of the vector itself.
    np.testing.assert_allclose(gradient, [[0.16, -0.12], [5.0, 7.0]], atol=1e-4)
