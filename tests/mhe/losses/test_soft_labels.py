"""Soft labels: values, gradients, focal factors, limits and what is refused."""

import keras
import numpy as np
import pytest
from keras import ops

import mhe
from mhe import losses

# A tree of uneven depth: D of its classes is 2 to 5.
TREE = mhe.ClassTree.from_paths(["animal/dog/poodle", "oak", "animal/cat", "animal/dog/husky"])
COSTS = TREE.cost_matrix()


def reference(logits, labels, beta, gamma=0.0):
    """arXiv:1912.09393, soft labels: one sample, one class at a time, in float64."""
    result = []
    for row, label in zip(np.asarray(logits, "float64"), labels, strict=True):
        p = np.exp(row - row.max()) / np.exp(row - row.max()).sum()
        q = np.exp(-beta * COSTS[label] / COSTS.max())
        q /= q.sum()
        result.append(-sum(q[k] * (1 - p[k]) ** gamma * np.log(p[k]) for k in range(len(p))))
    return np.array(result)


@pytest.mark.parametrize(("beta", "gamma"), [(4, 0), (0, 0), (10, 2), (4, 0.5)])
def test_value_and_gradient(beta, gamma, draw, value_and_gradient, reference_gradient):
    labels, logits, weights = np.array([2, 0, 1]), 3 * draw(3, 4), np.array([1.0, 2.0, 0.5])
    factors = [1.0, 0.5, 2.0, 1.0]
    loss = losses.SoftLabelCrossEntropy(COSTS, beta, gamma, class_weight=factors)

    def expected(logits):
        return np.mean(reference(logits, labels, beta, gamma) * weights * np.take(factors, labels))

    value, gradient = value_and_gradient(lambda z: loss(labels, z, weights), logits)
    assert value == pytest.approx(expected(logits), rel=1e-5)
    np.testing.assert_allclose(gradient, reference_gradient(expected, logits), atol=1e-5)


def test_dense_predictions_and_an_ignored_class(draw):
    labels, logits = np.array([[[0, 255], [3, 1]]]), draw(1, 2, 2, 4).astype("float16")
    each = losses.soft_label_cross_entropy(labels, logits, COSTS, beta=4, ignore_class=255)
    known = labels != 255
    assert keras.backend.standardize_dtype(each.dtype) == "float32"
    each = ops.convert_to_numpy(each)
    np.testing.assert_allclose(each[known], reference(logits[known], labels[known], 4), rtol=1e-5)
    assert each[~known] == 0


@pytest.mark.parametrize("gamma", [0, 0.5, 2])
def test_far_logits_stay_finite(gamma, value_and_gradient):
    # Sure and right, sure and wrong, undecided.
    logits = np.array([[1e4, -1e4, 0, 0], [-1e4, 1e4, 0, 0], [1e4, 1e4, 1e4, 1e4]], "float32")
    loss = losses.SoftLabelCrossEntropy(COSTS, 1000, gamma, reduction="sum")
    value, gradient = value_and_gradient(lambda z: loss([0, 0, 0], z), logits)
    assert value == pytest.approx(2e4 + 0.75**gamma * np.log(4), rel=1e-6)
    assert np.isfinite(gradient).all()


def test_hard_labels_are_the_limit(draw):
    labels, logits = np.array([3, 1]), draw(2, 4)
    each = losses.soft_label_cross_entropy(labels, logits, COSTS, beta=1e3)
    expected = keras.losses.sparse_categorical_crossentropy(labels, logits, from_logits=True)
    np.testing.assert_allclose(
        ops.convert_to_numpy(each), ops.convert_to_numpy(expected), rtol=1e-5
    )


def test_labels_sum_to_one_whatever_the_scale_of_costs():
    rows = losses.soft_labels(COSTS, 5)
    np.testing.assert_allclose(rows.sum(axis=1), 1, rtol=1e-12)
    np.testing.assert_allclose(losses.soft_labels(1e6 * COSTS, 5), rows, rtol=1e-12)
    assert np.array_equal(losses.soft_labels(COSTS, 1e300), np.eye(4))


def test_json_gives_the_same_loss_back(check_copies):
    loss = losses.SoftLabelCrossEntropy(COSTS, 4, 1.5, ignore_class=-1, class_weight={2: 3.0})
    check_copies(loss)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"D": [[0, 1], [2, 0]]}, "Costs must be symmetric. Received"),
        ({"D": np.zeros((3, 3))}, "must have a cost > 0. Received"),
        ({"D": COSTS}, r"must be \(..., 4\), one per class. Received: shape \(2, 3\)"),
        ({"beta": -1}, "`beta` must be a finite number >= 0. Received: beta=-1"),
        ({"beta": "4"}, "Received: beta='4'"),
        ({"gamma": float("nan")}, "Received: gamma=nan"),
    ],
)
def test_what_is_refused(options, named, draw):
    options = {"D": COSTS[:3, :3], "beta": 4, **options}
    with pytest.raises(ValueError, match=named):
        losses.SoftLabelCrossEntropy(**options)([0, 1], draw(2, 3))
    with pytest.raises(ValueError, match=named):
        losses.soft_label_cross_entropy([0, 1], draw(2, 3), **options)
