"""Small affine maps of images: each amount alone is a map that is known exactly."""

import numpy as np
import pytest

from mhe.harness.affine import random_affine

pytestmark = pytest.mark.one_backend
NONE = {"degrees": 0, "stretch": 0, "shear": 0, "shift": 0}


class Largest:
    """A generator that always draws the upper bound."""

    def uniform(self, low, high, size):
        return np.full(size, high, np.float64)


def images(channels):
    return np.random.default_rng(0).integers(256, size=(2, 8, 8, channels), dtype=np.uint8)


@pytest.mark.parametrize("channels", [1, 3])
def test_each_amount_alone(channels):
    before = images(channels)
    given = before.copy()

    def moved(**amounts):
        return random_affine(before, Largest(), **{**NONE, **amounts})

    np.testing.assert_array_equal(moved(), before)
    turned = moved(degrees=90).astype(float)  # a hair off in places: sin 90° is rounded
    np.testing.assert_allclose(turned, np.rot90(before, -1, axes=(1, 2)), atol=1)
    shifted = np.zeros_like(before)
    shifted[:, 2:, 2:] = before[:, :-2, :-2]
    np.testing.assert_array_equal(moved(shift=0.25), shifted)
    # Of twice the size, a corner shows what was a quarter of a pixel beyond the inner half.
    weights = np.array([0.25, 0.75])
    corner = np.einsum("i,j,nijc->nc", weights, weights, before[:, 1:3, 1:3].astype(float))
    np.testing.assert_allclose(moved(stretch=1)[:, 0, 0], corner, atol=1)
    # A shear of one moves each row by its distance from the middle: rows half a pixel off the
    # middle are means of neighbours.
    rows = moved(shear=1)[:, 4, :7].astype(float)
    np.testing.assert_allclose(
        rows, (before[:, 4, :7] + before[:, 4, 1:].astype(float)) / 2, atol=1
    )
    np.testing.assert_array_equal(before, given)


def test_every_image_has_amounts_of_its_own():
    same = np.repeat(images(1)[:1], 3, axis=0)
    drawn = random_affine(same, np.random.default_rng(3))
    assert not np.array_equal(drawn[0], drawn[1])
    np.testing.assert_array_equal(drawn, random_affine(same, np.random.default_rng(3)))


@pytest.mark.parametrize("given", [np.zeros((2, 8, 8, 1)), np.zeros((2, 8, 8, 2), "uint8")])
def test_images_that_are_none(given):
    with pytest.raises(ValueError, match=r"\(B, H, W, 3\)\. Received: shape \(2, 8, 8"):
        random_affine(given, np.random.default_rng(0))
