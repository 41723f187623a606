"""Grids of generated images, interpolations between them, and training curves."""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gan.model import GAN
from mhe.harness.figures import canvas
from mhe.harness.files import replacing

# The columns of a log to draw, with their labels.
_CURVES = {
    "generator_loss": "loss of the generator",
    "discriminator_loss": "loss of the discriminator",
    "real_logit": "mean logit of real images",
    "fake_logit": "mean logit of generated images",
    "energy": "energy of the discriminator",
    "inception_score": "inception score",
    "frechet_distance": "Fréchet distance",
    "kernel_inception_distance": "kernel inception distance",
}
_GAP = 2
# Small images are enlarged to about this many pixels per side.
_SIDE = 64


def grid(images: np.ndarray, columns: int) -> np.ndarray:
    """Arranges images in rows, with white gaps.

    Args:
        images: uint8 `(N, H, W, C)` with C 1 or 3.
        columns: Number of images per row; the last row may have fewer.

    Returns:
        One image, uint8 `(H', W', 3)`.

    Raises:
        ValueError: If the images have another shape or dtype.

    Example:

    >>> grid(np.zeros((3, 4, 6, 1), "uint8"), columns=2).shape
    (10, 14, 3)
    """
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] not in (1, 3):
        raise ValueError(
            "`images` must be a uint8 array (N, H, W, C) with C 1 or 3. "
            f"Received: shape {images.shape}, dtype {images.dtype}"
        )
    count, height, width, _ = images.shape
    rows = -(-count // columns)
    shape = (rows * (height + _GAP) - _GAP, columns * (width + _GAP) - _GAP, 3)
    sheet = np.full(shape, 255, np.uint8)
    for place, image in enumerate(images):
        row, column = divmod(place, columns)
        top, left = row * (height + _GAP), column * (width + _GAP)
        sheet[top : top + height, left : left + width] = image
    return sheet


def draw_grid(images: np.ndarray, path: str | Path, columns: int = 8) -> None:
    """Writes a grid of images as PNG; the pixels of small ones are enlarged.

    Args:
        images: As in `grid`.
        path: The PNG to write.
        columns: Number of images per row.

    Example:

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp(), "grid.png")
    >>> draw_grid(np.zeros((4, 8, 8, 3), "uint8"), path, columns=2)
    >>> path.exists()
    True
    """
    from matplotlib import image

    factor = max(1, _SIDE // max(images.shape[1:3]))
    enlarged = images.repeat(factor, axis=1).repeat(factor, axis=2)
    with replacing(Path(path)) as partial:
        image.imsave(partial, grid(enlarged, columns), format="png")


def interpolate(first: np.ndarray, second: np.ndarray, count: int) -> np.ndarray:
    """Spherical interpolation between two latents.

    Normal latents in many dimensions have about the same length; a straight line between two passes
    through shorter ones, which the generator has not seen. With θ the angle between them,

        z_t = (sin((1 − t) θ) z_0 + sin(t θ) z_1) / sin θ

    Args:
        first: z_0 `(L,)`.
        second: z_1 `(L,)`.
        count: Number of points, including both ends.

    Returns:
        Latents `(count, L)`.

    Example:

    >>> interpolate(np.array([1.0, 0.0]), np.array([0.0, 1.0]), 3).round(4).tolist()
    [[1.0, 0.0], [0.7071, 0.7071], [0.0, 1.0]]
    """
    t = np.linspace(0.0, 1.0, count)[:, None]
    cosine = first @ second / (np.linalg.norm(first) * np.linalg.norm(second))
    angle = np.arccos(np.clip(cosine, -1.0, 1.0))
    if np.sin(angle) < 1e-6:
        return (1 - t) * first + t * second
    return (np.sin((1 - t) * angle) * first + np.sin(t * angle) * second) / np.sin(angle)


def draw_samples(model: GAN, folder: Path, seed: int = 0) -> None:
    """Writes `grid.png`, 100 images of a GAN, and `interpolation.png`, rows from image to image.

    Args:
        model: The GAN.
        folder: The folder to write to.
        seed: Seed of the latents.
    """
    draw_grid(model.generate(100, seed=seed), folder / "grid.png", columns=10)
    rng = np.random.default_rng(seed)
    ends = rng.standard_normal((8, 2, model.generator.input_shape[-1]))
    latents = np.concatenate([interpolate(first, second, 12) for first, second in ends])
    draw_grid(model.generate(latents), folder / "interpolation.png", columns=12)


def draw_curves(
    runs: Mapping[str, Sequence[Mapping[str, Any]]], path: str | Path, title: str = ""
) -> None:
    """Draws losses, logits, energies and scores of one or more runs over the iterations.

    Args:
        runs: The rows of the log of each run by its name.
        path: The PNG to write.
        title: The title of the figure.

    Example:

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp(), "curves.png")
    >>> draw_curves({"sn": [{"step": 10, "energy": 0.5}, {"step": 20, "energy": 0.4}]}, path)
    >>> path.exists()
    True
    """
    drawn = {
        column: name
        for column, name in _CURVES.items()
        if any(column in row for rows in runs.values() for row in rows)
    }
    columns = min(4, len(drawn))
    lines = -(-len(drawn) // columns)
    figure = canvas.blank(4.5 * columns, 3.5 * lines, title)
    panels = figure.subplots(lines, columns, squeeze=False).ravel()
    for axes, column in itertools.zip_longest(panels, drawn):
        if column is None:
            axes.set_axis_off()
            continue
        for (name, rows), color in zip(runs.items(), canvas.colors(len(runs)), strict=True):
            points = [(row["step"], row[column]) for row in rows if column in row]
            axes.plot(*zip(*points, strict=True), label=name, color=color, marker=".")
        canvas.label(axes, "step", drawn[column])
    if len(runs) > 1:
        panels[0].legend(fontsize=7)
    canvas.save(figure, path)
