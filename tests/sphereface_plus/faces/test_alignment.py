import numpy as np
import pytest

from sphereface_plus.faces import align, crop, reference, similarity

pytestmark = pytest.mark.one_backend

# SphereFace's five points at 112x96 and ArcFace's at 112x112, as their sources print them.
SPHEREFACE = [
    *([30.2946, 51.6963], [65.5318, 51.5014], [48.0252, 71.7366]),
    *([33.5493, 92.3655], [62.7299, 92.2041]),
]
ARCFACE = [
    *([38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366]),
    *([41.5493, 92.3655], [70.7299, 92.2041]),
]


def least_squares(source, target):
    """The similarity as the solution of linear equations in its four numbers."""
    rows, values = [], []
    for (x, y), (u, v) in zip(source, target, strict=True):
        rows += [[x, -y, 1, 0], [y, x, 0, 1]]
        values += [u, v]
    a, b, c, d = np.linalg.lstsq(np.array(rows, float), np.array(values, float), rcond=None)[0]
    return np.array([[a, -b], [b, a]]), np.array([c, d])


def bilinear(image, x, y):
    """The value of an image between its pixels, whose middles stand at whole numbers."""
    left, top = int(np.floor(x)), int(np.floor(y))
    p, q = x - left, y - top
    near = image[top : top + 2, left : left + 2].astype(np.float64)
    return np.array([1 - q, q]) @ near @ np.array([1 - p, p])


def test_reference_points():
    np.testing.assert_allclose(reference((112, 96)), SPHEREFACE, atol=1e-12)
    np.testing.assert_allclose(reference((112, 112)), ARCFACE, atol=1e-12)
    np.testing.assert_allclose(reference((56, 48)), np.array(SPHEREFACE) / 2, atol=1e-12)


def test_similarity_is_that_of_least_squares_and_never_a_mirror_image():
    rng = np.random.default_rng(0)
    for _ in range(20):
        source, target = rng.normal(size=(2, 5, 2)) * 50
        for points in (target, source * (-1, 1)):
            matrix, offset = similarity(source, points)
            wanted_matrix, wanted_offset = least_squares(source, points)
            np.testing.assert_allclose(matrix, wanted_matrix, rtol=1e-9, atol=1e-9)
            np.testing.assert_allclose(offset, wanted_offset, rtol=1e-9, atol=1e-9)
            assert np.linalg.det(matrix) > 0


@pytest.mark.parametrize("channels", [1, 3])
def test_aligned_pixels_come_from_where_the_transform_says(channels):
    rng = np.random.default_rng(1)
    # Smooth, so that a shift by half a pixel shows and Pillow's rounding does not.
    wave = np.sin(np.arange(160)[:, None] / 7) + np.cos(np.arange(140)[None] / 9)
    image = np.stack([60 * wave + 127] * channels, -1).astype(np.uint8)
    turn = np.array([[1.1, -0.3], [0.3, 1.1]])
    landmarks = np.array(SPHEREFACE) @ turn.T + (40, 0) + rng.normal(size=(5, 2))
    face = align(image, landmarks)
    assert face.shape == (112, 96, channels)
    assert face.dtype == np.uint8
    matrix, offset = least_squares(SPHEREFACE, landmarks)
    checked = 0
    for column, row in rng.integers((96, 112), size=(200, 2)):
        x, y = matrix @ (column, row) + offset
        if 0 <= x < 138 and 0 <= y < 158:
            assert abs(bilinear(image[..., 0], x, y) - face[row, column, -1]) <= 1.5
            checked += 1
    assert checked > 100


def test_landmarks_at_the_reference_leave_a_face_as_it_is():
    image = np.random.default_rng(2).integers(256, size=(112, 112, 3), dtype=np.uint8)
    for size, wanted in (((112, 112), image), ((112, 96), image[:, 8:104])):
        face = align(image, ARCFACE, size).astype(int)
        # Pillow cuts off what is behind the point.
        np.testing.assert_allclose(face, wanted, atol=1)


def test_landmarks_of_no_face():
    image = np.zeros((50, 50, 1), np.uint8)
    with pytest.raises(ValueError, match=r"five different landmarks .* Received: all at \(7, 9\)"):
        align(image, [[7, 9]] * 5)
    for wrong in ([[1, 2]] * 4, [*SPHEREFACE[:4], [np.nan, 1]]):
        with pytest.raises(ValueError, match=r"x and y of five points, all finite. Received"):
            align(image, wrong)
    confused = [SPHEREFACE[place] for place in (1, 0, 2, 4, 3)]
    with pytest.raises(ValueError, match="in the order left eye, right eye"):
        align(image, confused)
    with pytest.raises(ValueError, match=r"uint8 array of shape .*Received: shape \(50, 50\)"):
        align(image[..., 0], SPHEREFACE)
    # A face from the side, and one lying down, are faces.
    side = np.array(SPHEREFACE) * (0.2, 1)
    assert align(image, side).shape == align(image, side[:, ::-1] * (1, -1)).shape


def test_crop_takes_the_middle():
    image = np.zeros((40, 90, 1), np.uint8)
    image[:, 25:65] = np.arange(0, 240, 6)[:, None, None]
    np.testing.assert_array_equal(crop(image, (40, 40)), image[:, 25:65])
    # Four rows become one; away from the ends, their mean.
    rows = crop(image, (10, 10))[1:-1, 5, 0].astype(int)
    np.testing.assert_allclose(rows, image[:, 25, 0].reshape(10, 4).mean(1)[1:-1], atol=1)
