"""The published, bounded cross-entropy: values, gradients, its ceiling, and what is refused."""

import keras
import numpy as np
import pytest
from keras import ops

from mhe import losses


def softmax(logits):
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def reference(logits, labels, smoothing=0.01, floor=1e-4):
    """-Σ t·log(softmax + floor), t = (1 - smoothing)·one-hot + smoothing/classes, in float64."""
    logits = np.asarray(logits, "float64")
    targets = np.full(logits.shape, smoothing / logits.shape[-1])
    targets[np.arange(len(labels)), labels] += 1 - smoothing
    return -np.sum(targets * np.log(softmax(logits) + floor), axis=-1)


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize(("smoothing", "floor"), [(0.01, 1e-4), (0.0, 1e-3), (0.3, 1e-7)])
def test_value_and_gradient(
    smoothing, floor, jit_compile, draw, value_and_gradient, reference_gradient
):
    labels, logits, weights = np.array([0, 4, 2, 2]), 4 * draw(4, 5), np.array([1.0, 2.0, 0.5, 1.0])
    loss = losses.BoundedCrossEntropy(smoothing, floor, from_logits=True)

    def expected(logits):
        return np.mean(reference(logits, labels, smoothing, floor) * weights)

    value, gradient = value_and_gradient(
        lambda z: loss(labels, z, weights), logits, jit_compile=jit_compile
    )
    assert value == pytest.approx(expected(logits), rel=1e-5)
    np.testing.assert_allclose(gradient, reference_gradient(expected, logits), atol=1e-5)


def test_probabilities_give_what_their_logits_give(draw):
    labels, logits = np.array([1, 0, 2]), 3 * draw(3, 4)
    of_logits = losses.bounded_cross_entropy(labels, logits, from_logits=True)
    of_probabilities = losses.bounded_cross_entropy(labels, softmax(logits).astype("float32"))
    for each in (of_logits, of_probabilities):
        np.testing.assert_allclose(ops.convert_to_numpy(each), reference(logits, labels), rtol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_saturated_softmax_is_at_the_ceiling_without_a_gradient(dtype, gradient_step):
    """All probability is on a wrong class: -log(1e-4) but for the smoothing, and no way back."""
    logits = np.zeros((3, 10), dtype)
    logits[:, 3] = [30.0, 1000.0, 60000.0]
    labels = np.array([0, 0, 0])
    loss = losses.BoundedCrossEntropy(from_logits=True)
    value, gradient = gradient_step(lambda z: loss(labels, ops.cast(z, "float32")))(logits)
    ceiling = -0.99 * np.log(1e-4) - 0.001 * (9 * np.log(1e-4) + np.log1p(1e-4))
    assert value == pytest.approx(ceiling, rel=1e-5)
    assert value < -np.log(1e-4)
    assert np.all(np.isfinite(gradient))
    np.testing.assert_allclose(gradient, 0, atol=1e-6)
    # Plain cross-entropy draws with full force there.
    plain = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    _, gradient = gradient_step(lambda z: plain(labels, ops.cast(z, "float32")))(logits)
    np.testing.assert_allclose(gradient[:, 0], -1 / 3, rtol=1e-3)


def test_the_true_class_is_drawn_by_its_share_above_the_floor(gradient_step):
    """The factor p/(p + floor) of the gradient of plain cross-entropy, here a half."""
    logits = np.log(np.array([[1e-4, 1 - 1e-4]], "float32"))
    loss = losses.BoundedCrossEntropy(0.0, 1e-4, from_logits=True)
    _, gradient = gradient_step(lambda z: loss([0], z))(logits)
    np.testing.assert_allclose(gradient, [[-0.5, 0.5]], rtol=2e-4)


def test_saturation_counts_true_classes_below_the_floor():
    probabilities = np.array([[0.9e-4, 1 - 0.9e-4], [1.1e-4, 1 - 1.1e-4], [0.5, 0.5]], "float32")
    labels = np.array([0, 0, 1])
    for given, from_logits in ((probabilities, False), (np.log(probabilities), True)):
        each = losses.saturation(labels, given, from_logits=from_logits)
        np.testing.assert_array_equal(ops.convert_to_numpy(each), [1, 0, 0])
    each = losses.saturation(labels, probabilities, floor=1e-3)
    np.testing.assert_array_equal(ops.convert_to_numpy(each), [1, 1, 0])


def test_dense_predictions_and_an_ignored_class(draw):
    labels, logits = np.array([[[0, 255], [4, 1]]]), draw(1, 2, 2, 6).astype("float16")
    each = losses.bounded_cross_entropy(labels, logits, from_logits=True, ignore_class=255)
    known = labels != 255
    assert keras.backend.standardize_dtype(each.dtype) == "float32"
    each = ops.convert_to_numpy(each)
    np.testing.assert_allclose(each[known], reference(logits[known], labels[known]), rtol=1e-5)
    assert each[~known] == 0


def test_it_survives_saving():
    loss = losses.BoundedCrossEntropy(0.1, 1e-3, True, class_weight={0: 2.0}, ignore_class=-1)
    again = keras.losses.deserialize(keras.losses.serialize(loss))
    assert again.get_config() == loss.get_config()
    assert (again.smoothing, again.floor, again.from_logits) == (0.1, 1e-3, True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"smoothing": -0.1}, "`smoothing` must be .*Received: smoothing=-0.1"),
        ({"smoothing": 1.5}, "`smoothing` must be .*Received: smoothing=1.5"),
        ({"floor": 0.0}, "`floor` must be .*Received: floor=0.0"),
        ({"floor": float("nan")}, "`floor` must be .*Received: floor=nan"),
    ],
)
def test_numbers_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        losses.BoundedCrossEntropy(**options)
    with pytest.raises(ValueError, match=message):
        losses.bounded_cross_entropy([0], [[0.0, 1.0]], **options)
