"""What losses of labels share: weights, what is ignored, what is refused, how they are saved."""

import keras
import numpy as np
import pytest
from keras import ops

from mhe import losses


@pytest.mark.parametrize(
    "make",
    [
        losses.PrototypeLoss,
        lambda **options: keras.losses.SparseCategoricalCrossentropy(from_logits=True, **options),
    ],
    ids=["prototype_loss", "keras_crossentropy"],
)
@pytest.mark.parametrize(
    "reduction", ["sum_over_batch_size", "mean", "sum", "mean_with_sample_weight", None]
)
@pytest.mark.parametrize("ignored", [255, -1])
def test_ignoring_is_what_keras_does(make, reduction, ignored, draw):
    labels, cosines, weights = (
        np.array([[0, ignored, 2], [ignored, 1, 1]]),
        draw(2, 3, 4),
        draw(2, 3),
    )
    weights += 1.5
    kept = labels != ignored
    each = ops.convert_to_numpy(make(reduction=None)(labels[kept], cosines[kept]))
    loss = make(ignore_class=ignored, reduction=reduction)
    for given in (None, weights):
        weighted = each if given is None else each * given[kept]
        if reduction is None:
            expected = np.zeros(labels.shape)
            expected[kept] = weighted
        elif reduction == "sum":
            expected = weighted.sum()
        elif reduction == "mean_with_sample_weight" and given is not None:
            expected = weighted.sum() / given[kept].sum()
        else:
            expected = weighted.sum() / kept.sum()
        np.testing.assert_allclose(
            ops.convert_to_numpy(loss(labels, cosines, given)), expected, rtol=1e-5
        )


def test_nothing_is_left_where_all_is_ignored(value_and_gradient, draw):
    cosines = draw(3, 4)
    cosines[0, 0] = np.nan  # of no one's concern
    loss = losses.PrototypeLoss(ignore_class=0)
    value, gradient = value_and_gradient(lambda c: loss([0, 0, 0], c), cosines)
    assert value == 0
    np.testing.assert_array_equal(gradient, 0)


def test_class_weights_are_factors_as_in_fit(draw, chosen):
    labels, cosines = np.array([0, 2, 2, 1]), draw(4, 3)
    each = (1 - chosen(cosines, labels)) ** 2
    by_class = {"class_weight": [0.5, 1.0, 3.0]}, {"class_weight": {0: 0.5, 2: 3.0}}
    expected = np.mean(each * [0.5, 3, 3, 1])
    for options in by_class:
        loss = losses.PrototypeLoss(**options)
        assert float(loss(labels, cosines)) == pytest.approx(expected, rel=1e-6)


def test_weights_of_images_hold_for_their_pixels(draw, chosen):
    # As many images as columns: broadcast, a weight would meet a column.
    labels, cosines, weights = (
        np.array([[[0, 1], [2, 1]], [[1, 1], [0, 2]]]),
        draw(2, 2, 2, 3),
        [1, 5],
    )
    each = (1 - chosen(cosines, labels)) ** 2
    expected = np.mean(each * np.reshape(weights, (2, 1, 1)))
    for given in (np.array(weights), np.array(weights)[:, None]):
        value = losses.PrototypeLoss()(labels, cosines, given)
        assert float(value) == pytest.approx(expected, rel=1e-6)
    weights = draw(2, 2, 2)
    for given in (weights, weights[..., None]):
        value = losses.PrototypeLoss()(labels, cosines, given)
        assert float(value) == pytest.approx(np.mean(each * weights), rel=1e-5)


@pytest.mark.parametrize("wrong", [5, -1, 1.5, 2**24, float("nan")])
def test_labels_that_are_no_class_never_train(wrong, value_and_gradient, draw):
    cosines = draw(3, 5)
    labels = np.array([1, wrong, 3])
    loss = losses.PrototypeLoss()
    with pytest.raises(ValueError, match=r"integers from 0 to 4, as there are 5 classes. Received"):
        loss(labels, cosines)
    with pytest.raises(ValueError, match="Received: label"):
        losses.prototype_loss(labels.tolist(), cosines)
    tensor = ops.convert_to_tensor(labels.astype("float32"))
    each = ops.convert_to_numpy(losses.prototype_loss(tensor, cosines))
    assert np.isnan(each).tolist() == [False, True, False]
    value, gradient = value_and_gradient(lambda c: loss(tensor, c), cosines)
    assert np.isnan(value)
    assert np.all(gradient[1] == 0)
    assert np.count_nonzero(gradient) == 2


@pytest.mark.parametrize(
    ("labels", "cosines"),
    [((3, 4), (3, 4)), ((4,), (3, 4)), ((1,), (3, 4)), ((3,), (3, 2, 4)), ((2, 3), (3, 4))],
)
def test_labels_do_not_broadcast(labels, cosines, draw):
    labels, cosines = np.ones(labels, int), draw(*cosines)
    for options in ({}, {"ignore_class": 7}):
        with pytest.raises(ValueError, match=r"one target per sample.* Received: targets"):
            losses.PrototypeLoss(**options)(labels, cosines)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"ignore_class": 1.0}, "Received: ignore_class=1.0"),
        ({"ignore_class": True}, "Received: ignore_class=True"),
        ({"class_weight": [1, -1, 1]}, r"Received: class_weight=\[1, -1, 1\]"),
        ({"class_weight": {0: float("nan")}}, "Received: class_weight={0: nan}"),
        ({"class_weight": {"a": 1.0}}, "Received: class_weight={'a': 1.0}"),
        ({"class_weight": 2.0}, "Received: class_weight=2.0"),
        ({"class_weight": [[1.0, 2.0, 3.0]]}, "Received: class_weight="),
        ({"class_weight": [1, 2]}, "each of the 3 classes. Received: 2 numbers"),
        ({"class_weight": {3: 1.0}}, "beyond the 3 that exist. Received: class 3"),
    ],
)
def test_other_options_are_refused(options, named, draw):
    with pytest.raises(ValueError, match=named):
        losses.PrototypeLoss(**options)([0, 1], draw(2, 3))


@pytest.mark.parametrize("dtype", ["float16", "mixed_bfloat16", "float32", None])
def test_labels_are_never_rounded_to_half_precision(dtype):
    # 2049 is 2048 in float16.
    cosines = np.zeros((1, 2100), "float16")
    cosines[0, 2049] = 0.5
    loss = losses.PrototypeLoss(dtype=dtype)(np.array([2049]), cosines)
    assert float(loss) == 0.25
    assert keras.backend.standardize_dtype(loss.dtype) == "float32"


@pytest.mark.parametrize(
    "loss",
    [
        losses.PrototypeLoss(),
        losses.PrototypeLoss(255, [1, 2.5, 0], "sum", name="dense", dtype="float64"),
        losses.PrototypeLoss(-1, {0: 2, 7: 0.5}),
        losses.PrototypeLoss(np.int64(3), np.array([1.0, 2.0])),
    ],
    ids=["plain", "factors", "some_factors", "numpy"],
)
def test_json_gives_the_same_loss_back(loss, check_copies):
    check_copies(loss)
