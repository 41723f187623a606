"""Dot regression: values, gradients, mixed precision, saving, and what is refused."""

import keras
import numpy as np
import pytest
from keras import ops

import mhe
from mhe import losses


@pytest.mark.parametrize("length", [1.0, 16.0, 0.25])
def test_value_and_gradient(length, draw, chosen, value_and_gradient, reference_gradient):
    """Yang et al. 2022: (w·h - √(E_W·E_H))² / (2·√(E_W·E_H)), in float64."""
    labels, products, weights = np.array([2, 0, 1]), length * draw(3, 4), np.array([1.0, 2.0, 0.5])
    factors = [1.0, 0.5, 2.0, 1.0]
    loss = losses.DotRegressionLoss(length, class_weight=factors)

    def expected(products):
        each = (chosen(products, labels) - length) ** 2 / (2 * length)
        return np.mean(each * weights * np.take(factors, labels))

    value, gradient = value_and_gradient(lambda z: loss(labels, z, weights), products)
    assert value == pytest.approx(expected(products), rel=1e-5)
    np.testing.assert_allclose(gradient, reference_gradient(expected, products), atol=1e-5)


def test_features_are_pulled_to_their_class_and_pushed_from_none(draw, value_and_gradient):
    """With respect to h on the sphere, before it is kept there: -(1 - cos)·w of its class."""
    rows = mhe.prototypes.place(4, 3)
    h = draw(2, 3)
    h /= np.linalg.norm(h, axis=1, keepdims=True)
    labels = np.array([3, 1])
    _, gradient = value_and_gradient(
        lambda x: losses.DotRegressionLoss(reduction="sum")(
            labels, ops.matmul(x, ops.convert_to_tensor(rows.T))
        ),
        h,
    )
    cosines = np.sum(h * rows[labels], axis=1, keepdims=True)
    np.testing.assert_allclose(gradient, -(1 - cosines) * rows[labels], atol=1e-6)


def test_of_cosines_it_is_half_the_prototype_loss(draw):
    labels, cosines = np.array([[0, 255], [3, 1]]), draw(2, 2, 4).astype("float16")
    each = losses.dot_regression_loss(labels, cosines, ignore_class=255)
    assert keras.backend.standardize_dtype(each.dtype) == "float32"
    expected = losses.prototype_loss(labels, cosines, ignore_class=255)
    np.testing.assert_allclose(
        ops.convert_to_numpy(each), ops.convert_to_numpy(expected) / 2, rtol=1e-6
    )


@pytest.mark.parametrize("dtype", ["float32", "mixed_float16"])
def test_opposite_and_reached_features_have_finite_gradients(dtype, value_and_gradient):
    head = mhe.layers.PrototypeHead(np.eye(3), dtype=dtype)
    loss = losses.DotRegressionLoss(reduction="sum")
    embeddings = np.array([[5, 0, 0], [-5, 0, 0], [0, 0, 0]], "float32")
    value, gradient = value_and_gradient(lambda x: loss([0, 0, 0], head(x)), embeddings)
    assert value == pytest.approx(0 + 2 + 0.5, rel=1e-5)
    assert np.isfinite(gradient).all()
    np.testing.assert_allclose(gradient[:2], 0, atol=1e-5)


def test_json_gives_the_same_loss_back(check_copies):
    check_copies(losses.DotRegressionLoss(2.0, ignore_class=-1, class_weight={2: 3.0}))


@pytest.mark.parametrize("length", [0, -1.0, float("inf"), "1"])
def test_what_is_refused(length, draw):
    message = "`length` must be a finite number > 0. Received: length="
    with pytest.raises(ValueError, match=message):
        losses.DotRegressionLoss(length)
    with pytest.raises(ValueError, match=message):
        losses.dot_regression_loss([0, 1], draw(2, 3), length)
