"""Precision and recall of distributions: do images look real, and do all kinds occur?"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from gan.scores.arrays import two_sets

# Distances in memory at once (32 MiB of float64).
_BLOCK = 2**22
# Relative error of the squared distance of two equal rows from their Gram matrix.
_ROUNDING = 1e-13


def precision_recall(real: Any, fake: Any, k: int = 3) -> tuple[float, float]:
    """The fractions of generated images near real ones, and of real images near generated ones.

    A set's manifold is the union of balls around its features, each with the distance to its k-th
    nearest neighbor in the set as radius. Precision is the fraction of `fake` in the manifold of
    `real`, recall the fraction of `real` in that of `fake`.

    Args:
        real: Features `(N, D)` of real images.
        fake: Features `(M, D)` of generated images. The publication uses equally many of both.
        k: The neighbor that defines the radius.

    Returns:
        Precision and recall, from 0 to 1.

    Raises:
        ValueError: If a set has at most `k` images, or features are not finite or differ in
            dimensions.

    Example:

    >>> real = np.array([[0.0], [1.0], [2.0], [9.0]])
    >>> precision_recall(real, np.array([[0.5], [1.5], [30.0], [31.0]]), k=1)
    (0.5, 0.75)

    Reference:
        Kynkäänniemi et al., Improved Precision and Recall Metric for Assessing Generative Models,
        NeurIPS 2019 (arXiv 1904.06991), equations 1 and 2.
    """
    if k < 1:
        raise ValueError(f"`k` must be a positive integer. Received: {k!r}")
    real, fake = two_sets(real, fake, ("real", "fake"), k + 1)
    # Distances do not depend on the origin, near which the Gram matrix is most precise.
    origin = real.mean(axis=0, dtype=np.float64)
    real, fake = real - origin, fake - origin
    return _share_within(fake, real, k), _share_within(real, fake, k)


def _share_within(points: np.ndarray, others: np.ndarray, k: int) -> float:
    """The fraction of points in the manifold of the others."""
    radii = np.empty(len(others))
    for block in _blocks(others, others):
        distances = _squared_distances(others[block], others)
        # A point is not its own neighbor, but an equal one is.
        np.fill_diagonal(distances[:, block], np.inf)
        radii[block] = np.partition(distances, k - 1, axis=1)[:, k - 1]
    inside = sum(
        int((_squared_distances(points[block], others) <= radii).any(axis=1).sum())
        for block in _blocks(points, others)
    )
    return inside / len(points)


def _squared_distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    squares = np.square(a).sum(axis=1)[:, None] + np.square(b).sum(axis=1)
    distances = squares - 2 * (a @ b.T)
    distances[distances < _ROUNDING * squares] = 0.0
    return distances


def _blocks(points: np.ndarray, others: np.ndarray) -> Iterator[slice]:
    step = max(1, _BLOCK // len(others))
    return (slice(begin, begin + step) for begin in range(0, len(points), step))
