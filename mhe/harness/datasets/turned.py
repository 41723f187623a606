"""A value to regress on, for any images: the angle that each of them is turned by."""

import numpy as np

from mhe.harness.datasets.images import pillow

_OUTSIDE = 128  # grey, which normalisation brings to about 0


def turned(
    images: np.ndarray, low: float, high: float, seed: int | tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """Turn every image by an angle of its own, drawn once and evenly between two bounds.

    Of an image only the disc that fits into it is kept, before it is turned as well as after: the
    rest is grey in every image, so that no blank corner tells the angle, only what is in the image.

    Args:
        images: uint8 `(N, H, W, C)` with one channel or three.
        low: The smallest angle, in degrees; a positive angle turns counter-clockwise.
        high: The largest angle, in degrees.
        seed: What decides the angles, with the place of an image.

    Returns:
        The turned images, uint8 `(N, H, W, C)`, and the angles in degrees, float32 `(N,)`.

    Example:

    >>> import numpy as np
    >>> images, angles = turned(np.zeros((2, 8, 8, 1), "uint8"), -45, 45, seed=0)
    >>> images.shape, angles.shape, int(images[0, 0, 0, 0]), int(images[0, 4, 4, 0])
    ((2, 8, 8, 1), (2,), 128, 0)
    """
    Image = pillow()
    count, height, width, channels = images.shape
    angles = np.random.default_rng(seed).uniform(low, high, count).astype(np.float32)
    rows, columns = np.ogrid[:height, :width]
    across = (rows - (height - 1) / 2) ** 2 + (columns - (width - 1) / 2) ** 2
    outside = across > (min(height, width) / 2) ** 2
    results = np.empty_like(images)
    for index, angle in enumerate(angles):
        pixels = images[index, ..., 0] if channels == 1 else images[index]
        image = Image.fromarray(pixels).rotate(float(angle), Image.Resampling.BILINEAR)
        results[index] = np.asarray(image).reshape(height, width, channels)
    results[:, outside] = _OUTSIDE
    return results, angles
