"""RepMet's losses: values, gradients, far and near embeddings, what is ignored and refused."""

import keras
import numpy as np
import pytest
from keras import ops

from mhe import losses


def reference(distances, labels, version, alpha, sigma):
    """arXiv:1806.04728 and its authors' modification: one sample at a time, in float64."""
    result = []
    for squares, label in zip(np.asarray(distances, "float64"), labels, strict=True):
        g = np.exp(-squares / (2 * sigma**2))
        if version == 1:
            ratio = g[label].max() / np.delete(g, label, axis=0).sum()
        else:
            ratio = g[label].sum() / g.sum()
        result.append(max(0.0, alpha - np.log(ratio)))
    return np.array(result)


@pytest.mark.parametrize(("version", "alpha"), [(1, 1.0), (1, -1.0), (2, 1.0), (2, -1.0)])
def test_value_and_gradient(version, alpha, draw, value_and_gradient, reference_gradient):
    labels, distances = np.array([2, 0, 1, 1]), 2 * draw(4, 3, 2) ** 2
    weights, factors = np.array([1.0, 2.0, 0.5, 3.0]), [1.0, 0.5, 2.0]
    loss = losses.RepMetLoss(version, alpha, sigma=0.6, class_weight=factors)

    def expected(distances):
        each = reference(distances, labels, version, alpha, 0.6)
        return np.mean(each * weights * np.take(factors, labels))

    # Some hinges are closed where they can be.
    closed = reference(distances, labels, version, alpha, 0.6) == 0
    assert closed.any() == (alpha < 0)
    assert not closed.all()
    value, gradient = value_and_gradient(lambda d: loss(labels, d, weights), distances)
    assert value == pytest.approx(expected(distances), rel=1e-5)
    np.testing.assert_allclose(gradient, reference_gradient(expected, distances), atol=1e-5)


@pytest.mark.parametrize("version", [1, 2])
def test_what_is_ignored_or_no_class_never_trains(version, draw, value_and_gradient):
    labels, distances = np.array([[1, -1], [2, 0]]), draw(2, 2, 3, 2) ** 2
    distances[0, 1] = np.nan  # of no one's concern
    loss = losses.RepMetLoss(version, ignore_class=-1)
    value, gradient = value_and_gradient(lambda d: loss(labels, d), distances)
    known = labels >= 0
    expected = reference(distances[known], labels[known], version, 1.0, 0.5)
    assert value == pytest.approx(expected.mean(), rel=1e-5)
    assert np.all(gradient[0, 1] == 0)
    assert np.isfinite(gradient).all()
    each = losses.repmet_loss(ops.convert_to_tensor([5, 1]), distances[1], version)
    assert np.isnan(ops.convert_to_numpy(each)).tolist() == [True, False]


@pytest.mark.parametrize("version", [1, 2])
def test_far_and_near_embeddings_stay_finite(version, value_and_gradient):
    # On its representative, far from all, on another's, and beyond float16.
    distances = np.array(
        [
            [[0, 0], [4e4, 4e4]],
            [[3e4, 3e4], [3e4, 3e4]],
            [[4e4, 4e4], [0, 0]],
            [[6e4, 6e4], [6e4, 6.1e4]],
        ],
        "float16",
    )
    each = losses.repmet_loss([0, 0, 0, 0], distances, version, sigma=0.5)
    assert keras.backend.standardize_dtype(each.dtype) == "float32"
    # The logarithms of 1/(2 e^-80000), 1/2, e^-80000/2 and 1; of 1, 1/2, e^-80000 and 2/3.
    logarithms = {
        1: [8e4, -np.log(2), -8e4 - np.log(2), 0],
        2: [0, -np.log(2), -8e4, np.log(2 / 3)],
    }
    expected = np.maximum(1 - np.array(logarithms[version]), 0)
    np.testing.assert_allclose(ops.convert_to_numpy(each), expected, rtol=1e-5)
    _, gradient = value_and_gradient(
        lambda d: ops.sum(losses.repmet_loss([0, 0, 0, 0], d, version)), distances.astype("float32")
    )
    assert np.isfinite(gradient).all()


def test_json_gives_the_same_loss_back(check_copies):
    loss = losses.RepMetLoss(2, alpha=0.5, sigma=0.7, ignore_class=9, class_weight={1: 2.0})
    check_copies(loss)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"version": 3}, "`version` must be 1 or 2. Received: version=3"),
        ({"alpha": float("inf")}, "`alpha` must be a finite number. Received: alpha=inf"),
        ({"sigma": 0}, "`sigma` must be a finite number > 0. Received: sigma=0"),
    ],
)
def test_options_that_are_refused(options, named):
    with pytest.raises(ValueError, match=named):
        losses.RepMetLoss(**options)


@pytest.mark.parametrize(
    ("labels", "shape", "named"),
    [
        ([0, 3], (2, 3, 2), "integers from 0 to 2, as there are 3 classes. Received: label 3"),
        ([0, 1], (2, 1, 3), "at least two classes. Received: shape"),
        ([0, 1, 1], (2, 3, 2), "one target per sample"),
    ],
)
def test_targets_and_distances_that_are_refused(labels, shape, named):
    with pytest.raises(ValueError, match=named):
        losses.RepMetLoss()(labels, np.ones(shape, "float32"))
