"""Products with unit class vectors: values and gradients against float64, at their limits too."""

import keras
import numpy as np
import pytest
from keras import ops

from sphereface_plus.heads import products

array = ops.convert_to_numpy

# Powers of two, whose inverse lengths are exact: angles of 0 and π are so too.
KERNEL = np.array(
    [[2.0, 0.0, 1e-4, -3e3, 0.0], [0.0, 0.5, 2e-4, 4e3, 0.0], [0.0, 0.0, -2e-4, 5e3, 0.0]]
).astype("float32")
FEATURES = np.array(
    [[0.5, 0, 0], [-4, 0, 0], [0, 0, 0], [3e-5, -4e-5, 8e-5], [6e3, 8e3, -1e3], [1, 2, 3]]
).astype("float32")


def reference(features, kernel, factors):
    """Products ‖x‖ cos θ, and the gradient of their weighted sum, one pair after the other."""
    x, w = features.astype("float64"), kernel.astype("float64")
    found, along_x, along_w = np.zeros(factors.shape), np.zeros(x.shape), np.zeros(w.shape)
    for i, j in np.ndindex(factors.shape):
        length = np.linalg.norm(w[:, j])
        unit = w[:, j] / length if length else w[:, j]
        found[i, j] = x[i] @ unit
        along_x[i] += factors[i, j] * unit
        # A zero vector counts as having a length of 1: so it can leave zero.
        across = (np.eye(3) - np.outer(unit, unit)) / length if length else np.eye(3)
        along_w[:, j] += factors[i, j] * (across @ x[i])
    return found, along_x, along_w


@pytest.mark.parametrize("large", [False, True])
def test_values_and_gradients_at_the_limits(gradient_step, monkeypatch, large):
    if large:  # gone through in parts
        monkeypatch.setattr(products, "_LARGE", 1)
        monkeypatch.setattr(products, "_ROWS", 2)
    factors = np.random.default_rng(0).normal(size=(6, 5)).astype("float32")

    def total(packed):
        features, kernel = packed[:6], ops.transpose(packed[6:])
        return ops.sum(products.class_products(features, kernel) * ops.convert_to_tensor(factors))

    expected, along_x, along_w = reference(FEATURES, KERNEL, factors)
    found = array(products.class_products(FEATURES, KERNEL))
    # Relative to the length of each feature.
    scales = np.linalg.norm(FEATURES, axis=1)[:, None]
    assert (np.abs(found - expected) <= 1e-6 * scales).all()
    assert found[0, 0] == 0.5
    assert found[1, 0] == -4
    value, gradient = gradient_step(total)(np.concatenate([FEATURES, KERNEL.T]))
    assert value == pytest.approx(np.sum(factors * expected), rel=1e-5)
    np.testing.assert_allclose(gradient[:6], along_x, rtol=1e-4, atol=1e-6)
    # Features of length 1e4 over class vectors of length 1e-4: the gradient spans many decades.
    assert (np.abs(gradient[6:].T - along_w) <= 1e-5 * np.abs(along_w).max(axis=0)).all()


@pytest.mark.skipif(
    keras.backend.backend() == "jax", reason="it would compile every operation by itself"
)
def test_float16_features():
    """Are computed with in float32: what float16 cannot hold does not overflow."""
    features = np.array([[300, 400, 0]], "float16")
    found = products.class_products(ops.convert_to_tensor(features), 100 * KERNEL)
    assert keras.backend.standardize_dtype(found.dtype) == "float32"
    expected, *_ = reference(features, KERNEL, np.zeros((1, 5)))
    np.testing.assert_allclose(array(found), expected, rtol=1e-6)
