"""Logit adjustment: values, gradients, its optimum, mixed precision, and what is refused."""

import keras
import numpy as np
import pytest
from keras import ops

from mhe import losses

PRIORS = [0.6, 0.3, 0.07, 0.03]


def reference(logits, labels, priors, tau):
    """arXiv:2007.07314, the logit adjusted loss: one sample at a time, in float64."""
    result = []
    for row, label in zip(np.asarray(logits, "float64"), labels, strict=True):
        adjusted = row + tau * np.log(priors)
        adjusted -= adjusted.max()
        result.append(np.log(np.exp(adjusted).sum()) - adjusted[label])
    return np.array(result)


@pytest.mark.parametrize("tau", [0, 0.5, 1, 3])
def test_value_and_gradient(tau, draw, value_and_gradient, reference_gradient):
    labels, logits, weights = np.array([2, 0, 3]), 3 * draw(3, 4), np.array([1.0, 2.0, 0.5])
    factors = [1.0, 0.5, 2.0, 1.0]
    loss = losses.LogitAdjustedCrossEntropy(PRIORS, tau, class_weight=factors)

    def expected(logits):
        each = reference(logits, labels, PRIORS, tau)
        return np.mean(each * weights * np.take(factors, labels))

    value, gradient = value_and_gradient(lambda z: loss(labels, z, weights), logits)
    assert value == pytest.approx(expected(logits), rel=1e-5)
    np.testing.assert_allclose(gradient, reference_gradient(expected, logits), atol=1e-5)


def test_counts_are_as_good_as_shares_and_even_ones_change_nothing(draw):
    labels, logits = np.array([3, 1]), draw(2, 4)
    shares = losses.logit_adjusted_cross_entropy(labels, logits, PRIORS)
    counts = losses.logit_adjusted_cross_entropy(labels, logits, [600, 300, 70, 30])
    np.testing.assert_allclose(
        ops.convert_to_numpy(counts), ops.convert_to_numpy(shares), rtol=1e-6
    )
    even = losses.logit_adjusted_cross_entropy(labels, logits, [5, 5, 5, 5])
    plain = keras.losses.sparse_categorical_crossentropy(labels, logits, from_logits=True)
    np.testing.assert_allclose(ops.convert_to_numpy(even), ops.convert_to_numpy(plain), rtol=1e-6)


def test_its_optimum_are_the_logits_of_balanced_classes(value_and_gradient):
    """Inputs that tell nothing, labels as frequent as the priors: the best logits are equal."""
    labels = np.repeat(np.arange(4), [60, 30, 7, 3])
    loss = losses.LogitAdjustedCrossEntropy(np.bincount(labels))
    _, gradient = value_and_gradient(
        lambda z: loss(labels, ops.broadcast_to(z, (100, 4))), np.zeros((1, 4), "float32")
    )
    np.testing.assert_allclose(gradient, 0, atol=1e-6)


def test_dense_predictions_in_half_precision_and_an_ignored_class(draw):
    labels, logits = np.array([[[0, 255], [3, 1]]]), draw(1, 2, 2, 4).astype("float16")
    each = losses.logit_adjusted_cross_entropy(labels, logits, PRIORS, ignore_class=255)
    known = labels != 255
    assert keras.backend.standardize_dtype(each.dtype) == "float32"
    each = ops.convert_to_numpy(each)
    expected = reference(logits[known], labels[known], PRIORS, 1)
    np.testing.assert_allclose(each[known], expected, rtol=1e-5)
    assert each[~known] == 0


def test_far_logits_and_tiny_priors_stay_finite(value_and_gradient):
    logits = np.array([[1e4, -1e4], [-1e4, 1e4], [1e4, 1e4]], "float32")
    loss = losses.LogitAdjustedCrossEntropy([1e-300, 1], reduction="sum")
    value, gradient = value_and_gradient(lambda z: loss([0, 0, 0], z), logits)
    rare = 300 * np.log(10)
    assert value == pytest.approx(0 + (2e4 + rare) + rare, rel=1e-5)
    assert np.isfinite(gradient).all()


def test_saved_models_keep_their_loss(tmp_path, draw):
    model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(4)])
    model.compile("sgd", losses.LogitAdjustedCrossEntropy(PRIORS, 0.5))
    x, y = draw(8, 5), np.arange(8) % 4
    model.fit(x, y, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras", safe_mode=True)
    assert loaded.loss.get_config() == model.loss.get_config()
    assert loaded.evaluate(x, y, verbose=0) == pytest.approx(model.evaluate(x, y, verbose=0))


def test_json_gives_the_same_loss_back(check_copies):
    check_copies(losses.LogitAdjustedCrossEntropy(np.array([3, 2, 1]), 1.5, class_weight={2: 3.0}))


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"priors": [0.5, 0.0, 0.5]}, "more than 0, as a class .* Received: 0 of class 1"),
        ({"priors": [0.5, 0.7, -0.2]}, "Received: -0.2 of class 2"),
        ({"priors": [float("nan"), 1, 1]}, "Received: nan of class 0"),
        ({"priors": [float("inf"), 1, 1]}, "Received: inf of class 0"),
        ({"priors": [[1, 1, 1]]}, r"must be numbers \(classes,\).*Received: shape \(1, 3\)"),
        ({"priors": ["many", 1, 1]}, r"must be numbers \(classes,\).*Received: could not"),
        ({"priors": [0.5, 0.5]}, r"must be \(..., 2\), one per class. Received: shape \(2, 3\)"),
        ({"tau": -1}, "`tau` must be a finite number >= 0. Received: tau=-1"),
    ],
)
def test_what_is_refused(options, named, draw):
    options = {"priors": [0.5, 0.3, 0.2], **options}
    with pytest.raises(ValueError, match=named):
        losses.LogitAdjustedCrossEntropy(**options)([0, 1], draw(2, 3))
    with pytest.raises(ValueError, match=named):
        losses.logit_adjusted_cross_entropy([0, 1], draw(2, 3), **options)
