"""Images rotated by angles that are to be regressed."""

import numpy as np
import pytest

from mhe.harness.datasets import turned

pytestmark = pytest.mark.one_backend


def disc(size):
    rows, columns = np.ogrid[:size, :size]
    return np.hypot(rows - (size - 1) / 2, columns - (size - 1) / 2) <= size / 2


@pytest.mark.parametrize("channels", [1, 3])
def test_a_quarter_turn_moves_pixels_counter_clockwise(channels):
    images = np.random.default_rng(0).integers(256, size=(3, 9, 9, channels), dtype=np.uint8)
    result, angles = turned(images, 90, 90, seed=0)
    assert angles.tolist() == [90, 90, 90]
    expected = np.where(disc(9)[None, :, :, None], np.rot90(images, axes=(1, 2)), 128)
    np.testing.assert_array_equal(result, expected)


def test_the_angle_is_the_one_that_the_image_is_turned_by():
    """Recovered from second moments: a bar along x, turned, has its axis at that angle."""
    images = np.zeros((40, 33, 33, 1), np.uint8)
    images[:, 15:18, 4:29] = 255
    result, angles = turned(images, -45, 45, seed=(1, 0))
    assert angles.dtype == np.float32
    assert angles.min() < -35
    assert angles.max() > 35
    light = np.where(disc(33), result[..., 0], 0).astype(float)
    y, x = np.mgrid[16:-17:-1, -16:17]
    xx, yy, xy = ((light * each).sum((1, 2)) for each in (x * x, y * y, x * y))
    recovered = np.degrees(np.arctan2(2 * xy, xx - yy) / 2)
    np.testing.assert_allclose(recovered, angles, atol=0.5)
    np.testing.assert_array_equal(turned(images, -45, 45, seed=(1, 0))[0], result)
    assert not np.array_equal(turned(images, -45, 45, seed=(2, 0))[1], angles)


def test_no_corner_tells_the_angle():
    images = np.random.default_rng(0).integers(200, 256, size=(8, 16, 16, 3), dtype=np.uint8)
    result, _ = turned(images, -45, 45, seed=0)
    assert (result[:, ~disc(16)] == 128).all()
    # Black, with which a turn fills what comes from outside, is nowhere within.
    assert result[:, disc(16)].min() > 150
