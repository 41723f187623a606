"""The squared earth mover's distance: values, gradients, limits and what is refused."""

import keras
import numpy as np
import pytest
from keras import ops

import mhe
from mhe import losses

# A tree of uneven depth: D of its classes is 2 to 5.
TREE = mhe.ClassTree.from_paths(["animal/dog/poodle", "oak", "animal/cat", "animal/dog/husky"])
COSTS = TREE.cost_matrix()


def reference(logits, labels, mu, strength):
    """arXiv:1611.05916, as a regularizer: one sample, one class at a time, in float64."""
    result = []
    for row, label in zip(np.asarray(logits, "float64"), labels, strict=True):
        p = np.exp(row - row.max()) / np.exp(row - row.max()).sum()
        moved = sum(p[k] ** 2 * (COSTS[label, k] + mu) for k in range(len(p)))
        result.append(-np.log(p[label]) + strength * moved)
    return np.array(result)


@pytest.mark.parametrize(("mu", "strength"), [(0, 0.5), (-3, 0.5), (0.25, 0)])
def test_value_and_gradient(mu, strength, draw, value_and_gradient, reference_gradient):
    labels, logits, weights = np.array([2, 0, 1]), 3 * draw(3, 4), np.array([1.0, 2.0, 0.5])
    factors = [1.0, 0.5, 2.0, 1.0]
    loss = losses.SquaredEarthMover(COSTS, mu, strength, class_weight=factors)

    def expected(logits):
        each = reference(logits, labels, mu, strength)
        return np.mean(each * weights * np.take(factors, labels))

    value, gradient = value_and_gradient(lambda z: loss(labels, z, weights), logits)
    assert value == pytest.approx(expected(logits), rel=1e-5, abs=1e-6)
    np.testing.assert_allclose(gradient, reference_gradient(expected, logits), atol=1e-5)


def test_dense_predictions_and_an_ignored_class(draw):
    labels, logits = np.array([[[0, 255], [3, 1]]]), draw(1, 2, 2, 4).astype("float16")
    each = losses.squared_earth_mover(labels, logits, COSTS, mu=-1, ignore_class=255)
    known = labels != 255
    assert keras.backend.standardize_dtype(each.dtype) == "float32"
    each = ops.convert_to_numpy(each)
    expected = reference(logits[known], labels[known], -1, 0.5)
    np.testing.assert_allclose(each[known], expected, rtol=1e-5)
    assert each[~known] == 0


def test_far_logits_stay_finite(value_and_gradient):
    # Sure and right, sure and wrong, undecided.
    logits = np.array([[1e4, -1e4, 0, 0], [-1e4, 1e4, 0, 0], [1e4, 1e4, 1e4, 1e4]], "float32")
    loss = losses.SquaredEarthMover(COSTS, -3, strength=2, reduction="sum")
    value, gradient = value_and_gradient(lambda z: loss([0, 0, 0], z), logits)
    expected = [2 * -3, 2e4 + 2 * (COSTS[0, 1] - 3), np.log(4) + 2 * np.mean(COSTS[0] - 3) / 4]
    assert value == pytest.approx(sum(expected), abs=5e-3)
    assert np.isfinite(gradient).all()


def test_json_gives_the_same_loss_back(check_copies):
    loss = losses.SquaredEarthMover(COSTS, -1, 0.25, ignore_class=-1, class_weight={2: 3.0})
    check_copies(loss)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"D": -COSTS[:3, :3]}, "Costs must be finite and at least 0. Received"),
        ({"D": COSTS}, r"must be \(..., 4\), one per class. Received: shape \(2, 3\)"),
        ({"mu": None}, "`mu` must be a finite number. Received: mu=None"),
        ({"strength": -1}, "`strength` must be a finite number >= 0. Received: strength=-1"),
    ],
)
def test_what_is_refused(options, named, draw):
    options = {"D": COSTS[:3, :3], "mu": 0, **options}
    with pytest.raises(ValueError, match=named):
        losses.SquaredEarthMover(**options)([0, 1], draw(2, 3))
    with pytest.raises(ValueError, match=named):
        losses.squared_earth_mover([0, 1], draw(2, 3), **options)
