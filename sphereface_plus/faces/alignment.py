"""Faces brought to the same place and size, by five landmarks or by a central crop."""

from typing import TYPE_CHECKING, Any

import numpy as np

from mhe.harness.datasets.images import pillow

if TYPE_CHECKING:
    from PIL import Image

# Left eye, right eye, nose, left and right corner of the mouth, from the viewer's perspective: x
# and y in pixels of a 112x96 face, from the center of the first pixel.
_PUBLISHED = np.array(
    [
        [30.2946, 51.6963],
        [65.5318, 51.5014],
        [48.0252, 71.7366],
        [33.5493, 92.3655],
        [62.7299, 92.2041],
    ]
)
_HEIGHT, _WIDTH = 112, 96
# The correlation of a face with the reference is above 0.7 even in profile or upside down, and
# below 0.3 if left and right are swapped.
_LIKENESS = 0.5
# How far a detector may place a hidden landmark outside, as a share of the image's sides.
_MARGIN = 0.1


def align(image: np.ndarray, landmarks: Any, size: tuple[int, int] = (112, 96)) -> np.ndarray:
    """Moves, rotates and scales a face so that its landmarks match the published positions.

    The similarity transform is the least-squares one, without reflection. Pixels are interpolated
    bilinearly, as published; pixels from outside the image are black.

    Args:
        image: uint8 `(H, W, 1)` or `(H, W, 3)`.
        landmarks: `(5, 2)`: x and y, in pixels of the image, of the left eye, the right eye, the
            nose, the left and the right corner of the mouth; left is where x is smaller.
        size: Height and width of the result.

    Returns:
        uint8 `(*size, 1)` or `(*size, 3)`.

    Raises:
        ValueError: If the landmarks are not five finite points arranged like those of a face.

    Example:

    >>> image = np.zeros((250, 250, 3), "uint8")
    >>> align(image, [[101, 113], [148, 112], [125, 140], [106, 164], [145, 163]]).shape
    (112, 96, 3)

    Reference:
        Liu et al., SphereFace: deep hypersphere embedding for face recognition, CVPR 2017
        ([arXiv:1704.08063](https://arxiv.org/abs/1704.08063)), and its published code.
    """
    landmarks = np.asarray(landmarks, np.float64)
    fault = fault_of(landmarks)
    if fault:
        raise ValueError(fault)
    # Pillow asks where each pixel of the result comes from.
    matrix, offset = similarity(reference(size), landmarks)
    # Landmarks are relative to the center of the first pixel, Pillow's coordinates to its corner.
    offset = offset + 0.5 - matrix @ (0.5, 0.5)
    Image = pillow()
    moved = _picture(image).transform(
        (size[1], size[0]),
        Image.Transform.AFFINE,
        np.column_stack([matrix, offset]).ravel().tolist(),
        Image.Resampling.BILINEAR,
    )
    return np.asarray(moved).reshape(*size, image.shape[2])


def crop(image: np.ndarray, size: tuple[int, int] = (112, 96)) -> np.ndarray:
    """Crops the center of an image, as large as the aspect ratio allows, and scales it.

    Args:
        image: uint8 `(H, W, 1)` or `(H, W, 3)`.
        size: Height and width of the result.

    Returns:
        uint8 `(*size, 1)` or `(*size, 3)`; areas are averaged when it shrinks.

    Example:

    >>> crop(np.zeros((112, 92, 1), "uint8")).shape
    (112, 96, 1)
    """
    Image = pillow()
    from PIL import ImageOps

    fitted = ImageOps.fit(_picture(image), (size[1], size[0]), Image.Resampling.BILINEAR)
    return np.asarray(fitted).reshape(*size, image.shape[2])


def reference(size: tuple[int, int] = (112, 96)) -> np.ndarray:
    """The landmarks of an aligned face.

    At 112×96 they are SphereFace's, at 112×112 ArcFace's, eight pixels further to the right. Other
    sizes scale with the height and are centered in the width.

    Args:
        size: Height and width of the face.

    Returns:
        float64 `(5, 2)`, x and y.

    Example:

    >>> reference((112, 112))[0].tolist()
    [38.2946, 51.6963]
    """
    height, width = size
    scale = height / _HEIGHT
    return _PUBLISHED * scale + ((width - _WIDTH * scale) / 2, 0)


def similarity(source: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The least-squares similarity transform between two sets of points in the plane.

    It minimizes Σ ‖c·R p + t − q‖² over c, t and rotations R, without reflections. In complex
    numbers a similarity is z ↦ a z + b, which is linear in a and b.

    Args:
        source: Points p `(N, 2)`, not all equal.
        target: Points q `(N, 2)`.

    Returns:
        The matrix c·R `(2, 2)` and the vector t `(2,)`, float64.

    Example:

    >>> square = np.array([[0, 0], [1, 0], [1, 1], [0, 1]])
    >>> matrix, offset = similarity(square, 2 * square + 3)
    >>> (square @ matrix.T + offset).tolist()
    [[3.0, 3.0], [5.0, 3.0], [5.0, 5.0], [3.0, 5.0]]

    Reference:
        Umeyama, Least-squares estimation of transformation parameters between two point patterns,
        TPAMI 1991, equations 40-42, for two dimensions and without reflection.
    """
    z, w = (np.asarray(points, np.float64) @ (1, 1j) for points in (source, target))
    centred = z - z.mean()
    a = np.vdot(centred, w - w.mean()) / np.vdot(centred, centred).real
    b = w.mean() - a * z.mean()
    return np.array([[a.real, -a.imag], [a.imag, a.real]]), np.array([b.real, b.imag])


def fault_of(landmarks: np.ndarray) -> str:
    """Describes what is wrong with landmarks.

    Args:
        landmarks: An array that should be `(5, 2)`.

    Returns:
        Text for an error, empty if a face can be aligned by the landmarks.

    Example:

    >>> fault_of(reference()), fault_of(np.ones((5, 2)))
    ('', 'five different landmarks are expected. Received: all at (1, 1)')
    """
    if landmarks.shape != (5, 2) or not np.all(np.isfinite(landmarks)):
        return (
            "landmarks are expected to be x and y of five points, all finite. "
            f"Received: {landmarks.tolist()}"
        )
    centred = landmarks - landmarks.mean(0)
    spread = np.sqrt(np.sum(centred**2))
    if spread < 1e-6 * max(1.0, np.abs(landmarks).max()):
        x, y = landmarks[0]
        return f"five different landmarks are expected. Received: all at ({x:g}, {y:g})"
    ideal = (_PUBLISHED - _PUBLISHED.mean(0)) @ (1, 1j)
    if abs(np.vdot(ideal, centred @ (1, 1j))) < _LIKENESS * spread * np.linalg.norm(ideal):
        return (
            "landmarks are expected in the order left eye, right eye, nose, left and right corner "
            f"of the mouth, from the viewer's perspective. Received: {landmarks.tolist()}"
        )
    return ""


def fault_outside(landmarks: np.ndarray, size: tuple[int, ...]) -> str:
    """Names a landmark that is outside of its image by more than a tenth of its sides.

    Args:
        landmarks: `(5, 2)`, x and y.
        size: Height and width of the image.

    Returns:
        Text for an error, empty if there is none.

    Example:

    >>> fault_outside(reference() + (0, 50), (112, 96))
    'landmarks are expected inside the image of 96x112 pixels. Received: (33.5493, 142.365)'
    """
    bounds = np.array(size[1::-1])
    beyond = np.maximum(-landmarks, landmarks - (bounds - 1)) > _MARGIN * bounds
    if not beyond.any():
        return ""
    x, y = landmarks[beyond.any(axis=1).argmax()]
    return (
        f"landmarks are expected inside the image of {size[1]}x{size[0]} pixels. "
        f"Received: ({x:g}, {y:g})"
    )


def _picture(image: np.ndarray) -> "Image.Image":
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] not in (1, 3):
        raise ValueError(
            "`image` must be a uint8 array of shape (H, W, 1) or (H, W, 3). "
            f"Received: shape {image.shape}, dtype {image.dtype}"
        )
    return pillow().fromarray(image[..., 0] if image.shape[2] == 1 else image)
