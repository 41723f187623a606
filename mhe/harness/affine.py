"""Augmentation with small random affine maps, for drawings and characters.

Written here, on Pillow, because the amounts must come from the generator of the batch: that is what
lets a resumed run see the same images as an unbroken one (see `mhe.harness.batches`). Keras's
preprocessing layers draw from a state of their own.
"""

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
    """Rotates, stretches, shears and shifts every image a little, each by its own random amounts.

    The map is about the center of the image and takes a single interpolation, so that strokes stay
    sharp. Pixels from outside the image are black, as is the background of drawings with bright
    strokes.

    Args:
        images: uint8 array `(B, H, W, C)` with 1 or 3 channels.
        rng: Generator of the amounts, which are uniformly distributed.
        degrees: Largest rotation in either direction.
        stretch: Largest relative change of the width and of the height.
        shear: Largest horizontal displacement per unit of height.
        shift: Largest displacement along each axis, as a fraction of the image.

    Returns:
        A new uint8 array `(B, H, W, C)`.

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
    displacement = rng.uniform(-shift, shift, (count, 2)) * (width, height)
    cos, sin = np.cos(angle), np.sin(angle)
    # Pillow maps each pixel of the result to its source: x' = A x + b about the center.
    rotations = np.moveaxis(np.array([[cos, sin], [-sin, cos]]), -1, 0)
    shapes = np.moveaxis(np.array([[1 / wide, slant], [0 * wide, 1 / high]]), -1, 0)
    matrices = rotations @ shapes
    center = np.array([width, height]) / 2
    offsets = center - np.einsum("nij,nj->ni", matrices, center + displacement)
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
