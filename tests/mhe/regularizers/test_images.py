"""Regularizers of weights that are images: float64 formulas, gradients, saving, bad input."""

import keras
import numpy as np
import pytest
from keras import ops

import mhe
from mhe.regularizers import nearest, nearest_images

RNG = np.random.default_rng(5)
PICTURES = RNG.uniform(-1, 1, (2, 2, 3, 2, 1)).astype("float32")
IMAGES = RNG.uniform(-1, 1, (7, 3, 2, 1)).astype("float32")
LABELS = np.array([1, 0, 0, 1, 1, 0, 1])


def variation(pictures):
    total = 0.0
    for picture in pictures.reshape(-1, *pictures.shape[-3:]):
        total += np.abs(np.diff(picture, axis=0)).sum() + np.abs(np.diff(picture, axis=1)).sum()
    return total / np.prod(pictures.shape[:-3])


def pull(pictures, labels=None):
    total = 0.0
    for label, own in enumerate(pictures):
        known = IMAGES if labels is None else IMAGES[labels == label]
        for picture in own:
            total += min(np.sum((picture - image.astype("float64")) ** 2) for image in known)
    return total / 4


@pytest.mark.parametrize(
    ("regularizer", "reference"),
    [
        (mhe.TotalVariation(0.5), variation),
        (mhe.NearestImagePull(IMAGES, 0.5), pull),
        (mhe.NearestImagePull(IMAGES, 0.5, LABELS), lambda x: pull(x, LABELS)),
    ],
    ids=["variation", "pull", "pull of own class"],
)
def test_values_and_gradients_follow_the_float64_formula(
    regularizer, reference, value_and_gradient, reference_gradient, monkeypatch
):
    # Two images at a time.
    monkeypatch.setattr(nearest, "_BLOCK", 8)
    value, gradient = value_and_gradient(regularizer, PICTURES)
    assert value == pytest.approx(0.5 * reference(PICTURES.astype("float64")), rel=1e-5)
    expected = reference_gradient(lambda x: 0.5 * reference(x), PICTURES)
    np.testing.assert_allclose(gradient, expected, atol=1e-5)
    half = float(regularizer(ops.cast(PICTURES, "float16")))
    assert half == pytest.approx(float(value), rel=2e-3)
    # The very bits of the images travel with the config.
    again = keras.regularizers.deserialize(keras.regularizers.serialize(regularizer))
    assert again.get_config() == regularizer.get_config()
    assert float(again(PICTURES)) == pytest.approx(float(value), rel=1e-6)


def test_what_is_flat_or_at_an_image_stays_there(value_and_gradient):
    flat = np.full((2, 2, 3, 2, 1), 0.25, "float32")
    for regularizer, at in (
        (mhe.TotalVariation(), flat),
        (mhe.NearestImagePull(IMAGES), IMAGES[:4].reshape(2, 2, 3, 2, 1)),
    ):
        value, gradient = value_and_gradient(regularizer, at)
        assert value == 0
        assert np.all(gradient == 0)


def test_a_small_distance_to_a_far_image_keeps_its_digits():
    images = np.stack([np.full(3, 1e3), np.zeros(3)]).astype("float32")
    index, squares = nearest_images(images[:1] + np.float32(2**-10), images)
    assert int(index[0]) == 0
    assert float(squares[0]) == pytest.approx(3 * 2.0**-20, rel=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mhe.TotalVariation(-1), "strength=-1"),
        (lambda: mhe.TotalVariation()(np.zeros((3, 2))), r"\(..., H, W, C\). Received: .*\(3, 2\)"),
        (lambda: mhe.NearestImagePull(np.zeros((0, 2))), r"Received: shape \(0, 2\)"),
        (lambda: mhe.NearestImagePull([[0.0], [np.nan]]), "Received: image 1 is not"),
        (lambda: mhe.NearestImagePull(IMAGES, labels=[0, 1]), r"\(7,\).* Received: int64 .*\(2,\)"),
        (lambda: mhe.NearestImagePull(IMAGES)(np.zeros((2, 3, 3, 1))), r"Received: \(2, 3, 3, 1\)"),
        (
            lambda: mhe.NearestImagePull(IMAGES, labels=0 * LABELS)(PICTURES),
            "Received: none of class 1",
        ),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
