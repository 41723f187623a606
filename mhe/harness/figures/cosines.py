"""The distribution of the cosines between prototypes."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from mhe.harness.figures import canvas
from mhe.harness.figures.prototypes import directions

# Odd, so that cosines that are all equal fall into a bin and not on an edge.
_BINS = 81
# Largest number of cosines at a time: 32 MiB in float64.
_BLOCK = 1 << 22
# Narrower ranges of cosines are rounding errors.
_NARROWEST = 1e-3


def draw_cosines(
    prototypes: np.ndarray, path: str | Path, bound: float | None = None, title: str = ""
) -> None:
    """Draws the distribution of the cosines between prototypes, and a bound on the largest.

    The distribution for independent uniform points is drawn for comparison.

    Args:
        prototypes: Rows `(classes, dims)`.
        path: The PNG to write.
        bound: The smallest possible largest cosine, from `mhe.prototypes.cosine_lower_bound`, or
            None to leave it out.
        title: Title of the figure.

    Raises:
        ValueError: If there are fewer than two prototypes.

    Example:

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp(), "cosines.png")
    >>> draw_cosines(np.eye(4), path, bound=-1 / 3)
    >>> path.exists()
    True
    """
    units = directions(prototypes)
    if units.ndim != 2 or len(units) < 2:
        raise ValueError(
            "`prototypes` must be (classes, dims) with at least two classes. "
            f"Received: shape {units.shape}"
        )
    extremes = np.array([[block.min(), block.max()] for block in _cosines(units)])
    low, high = extremes[:, 0].min(), extremes[:, 1].max()
    middle, half = (low + high) / 2, max(high - low, _NARROWEST) * (0.5 + 1e-9)
    edges = np.linspace(middle - half, middle + half, _BINS + 1)
    counts = np.sum([np.histogram(block, edges)[0] for block in _cosines(units)], axis=0)
    figure = canvas.blank(8, 4.5, title)
    axes = figure.subplots()
    shares = 100 * counts / counts.sum()
    axes.stairs(shares, edges, fill=True, color="C0", alpha=0.7, label="pairs of prototypes")
    chance = 100 * np.diff(_chance(units.shape[1], edges))
    axes.stairs(chance, edges, color="0.45", linestyle="--", label="points spread by chance")
    axes.axvline(high, color="C3", label=f"largest: {high:.4f}")
    if bound is not None:
        axes.axvline(
            bound, color="black", linestyle=":", label=f"bound on the largest: {bound:.4f}"
        )
    canvas.label(axes, "cosine between two prototypes", "share of all pairs (%)")
    axes.legend(fontsize=9)
    canvas.save(figure, path)


def _cosines(units: np.ndarray) -> Iterator[np.ndarray]:
    """Yields the cosines of all pairs i < j, a bounded number at a time."""
    height = max(1, _BLOCK // len(units))
    for top in range(0, len(units) - 1, height):
        block = units[top : top + height] @ units[top:].T
        yield block[np.triu(np.ones(block.shape, bool), 1)]


def _chance(dims: int, edges: np.ndarray) -> np.ndarray:
    """The probability that two independent uniform points have a cosine below each edge.

    The density of the angle between them is proportional to sin(θ)^(dims − 2), which is integrated
    with the midpoint rule.
    """
    division = np.linspace(0, np.pi, 20_001)
    log_density = (dims - 2) * np.log(np.sin((division[1:] + division[:-1]) / 2))
    below = np.concatenate([[0.0], np.cumsum(np.exp(log_density))])
    angles = np.arccos(np.clip(edges, -1.0, 1.0))
    return 1 - np.interp(angles, division, below / below[-1])
