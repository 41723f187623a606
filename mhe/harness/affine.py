"""Augmentation by small affine maps, for drawings and characters: no two are drawn alike."""

import numpy as np

from mhe.harness.datasets.images import pillow


def random_affine(
    images: np.ndarray,
    rng: np.random.Generator,
    degrees: float = 15.0,
    stretch: float = 0.15,
    shear: float = 0.15,
    shift: float = 0.07,
) -> np.ndarray:
    """Turns, stretches, shears and shifts every image a little, each by amounts of its own.

    About the middle of the image, in one interpolation, so that strokes stay sharp. What comes in
    from outside is black: the ground of drawings that are bright on black.

    Args:
        images: uint8 array `(B, H, W, C)` with one channel or three.
        rng: Where the amounts are drawn from, each evenly.
        degrees: The largest turn to either side.
        stretch: The largest change of width and of height, as a part of them.
        shear: The largest sideways move at the unit of height.
        shift: The largest move along each axis, as a part of the image.

    Returns:
        uint8 array `(B, H, W, C)`; the input is left as it is.

    Raises:
        ValueError: If the images are not such an array.

    Example:

    >>> import numpy as np
    >>> images = np.full((2, 8, 8, 1), 255, "uint8")
    >>> random_affine(images, np.random.default_rng(0)).shape
    (2, 8, 8, 1)
    """
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] not in (1, 3):
        raise ValueError(
            "`images` must be a uint8 array of shape (B, H, W, 1) or (B, H, W, 3). "
            f"Received: shape {images.shape}, dtype {images.dtype}"
        )
    Image = pillow()
    count, height, width, channels = images.shape
    angle = np.radians(rng.uniform(-degrees, degrees, count))
    wide, high = rng.uniform(1 - stretch, 1 + stretch, (2, count))
    slant = rng.uniform(-shear, shear, count)
    along = rng.uniform(-shift, shift, (count, 2)) * (width, height)
    cos, sin = np.cos(angle), np.sin(angle)
    # Pillow asks where each pixel of the result comes from: x' = A x + b about the middle.
    turn = np.moveaxis(np.array([[cos, sin], [-sin, cos]]), -1, 0)
    shape = np.moveaxis(np.array([[1 / wide, slant], [0 * wide, 1 / high]]), -1, 0)
    matrices = turn @ shape
    middle = np.array([width, height]) / 2
    offsets = middle - np.einsum("nij,nj->ni", matrices, middle + along)
    results = np.empty_like(images)
    for index in range(count):
        (a, b), (c, d) = matrices[index].tolist()
        x, y = offsets[index].tolist()
        pixels = images[index, ..., 0] if channels == 1 else images[index]
        moved = Image.fromarray(pixels).transform(
            (width, height), Image.Transform.AFFINE, (a, b, x, c, d, y), Image.Resampling.BILINEAR
        )
        results[index] = np.asarray(moved).reshape(height, width, channels)
    return results
