"""A value to regress from any images: the angle by which each of them is rotated."""

import numpy as np

from mhe.harness.datasets.images import pillow

_OUTSIDE = 128  # gray, which is about 0 after normalization


def turned(
    images: np.ndarray, low: float, high: float, seed: int | tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """Rotates every image by its own angle, drawn uniformly between two bounds.

    Only the largest disc inside an image is kept and the rest is gray in every image, so that the
    content of the image tells the angle and no blank corner does.

    Args:
        images: uint8 `(N, H, W, C)` with 1 or 3 channels.
        low: The smallest angle in degrees; positive angles are counter-clockwise.
        high: The largest angle in degrees.
        seed: Seed of the angles, one per image in order.

    Returns:
        The rotated images, uint8 `(N, H, W, C)`, and the angles in degrees, float32 `(N,)`.

    Example:

    >>> import numpy as np
    >>> images, angles = turned(np.zeros((2, 8, 8, 1), "uint8"), -45, 45, seed=0)
    >>> images.shape, angles.shape, int(images[0, 0, 0, 0]), int(images[0, 4, 4, 0])
    ((2, 8, 8, 1), (2,), 128, 0)
    """
    Image = pillow()
    count, height, width, channels = images.shape
    angles = np.random.default_rng(seed).uniform(low, high, (count,)).astype(np.float32)
    rows, columns = np.ogrid[:height, :width]
    squared_radius = (rows - (height - 1) / 2) ** 2 + (columns - (width - 1) / 2) ** 2
    outside = squared_radius > (min(height, width) / 2) ** 2
    results = np.empty_like(images)
    for index, angle in enumerate(angles):
        pixels = images[index, ..., 0] if channels == 1 else images[index]
        image = Image.fromarray(pixels).rotate(float(angle), Image.Resampling.BILINEAR)
        results[index] = np.asarray(image).reshape(height, width, channels)
    results[:, outside] = _OUTSIDE
    return results, angles
