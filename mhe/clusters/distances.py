"""Squared distances of many embeddings to many others, in float64 and in bounded memory."""

from collections.abc import Iterator
from typing import Any

import numpy as np

# At most this many distances are in memory at a time (64 MiB).
_BLOCK = 2**23
# Smaller variances, relative to the spread of the centers, are rounding errors.
_ROUNDING = 1e-12
_SMALLEST = 1e-30


def finite_rows(embeddings: Any, dims: int | None = None, classes: Any = None) -> np.ndarray:
    """Embeddings as float64 rows, or a `ValueError` that names the class if it is known."""
    rows = np.asarray(embeddings, np.float64)
    if rows.ndim != 2 or (dims is not None and rows.shape[1] != dims):
        raise ValueError(
            f"Embeddings must be (B, {'dims' if dims is None else dims}). "
            f"Received: shape {rows.shape}"
        )
    if not np.isfinite(rows).all():
        wrong = int(np.argmin(np.isfinite(rows).all(axis=1)))
        known = np.ndim(classes) == 1 and wrong < len(classes)
        named = f" of class {classes[wrong]}" if known else ""
        raise ValueError(f"Embeddings must be finite. Received: row {wrong}{named} that is not")
    return rows


def squared_distances(rows: np.ndarray, others: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Yields blocks of rows, as slices, and their squared distances to all others."""
    # Around their mean fewer digits cancel.
    middle = others.mean(axis=0)
    others = others - middle
    lengths = np.sum(np.square(others), axis=1)
    height = max(1, _BLOCK // len(others))
    for start in range(0, len(rows), height):
        block = slice(start, min(start + height, len(rows)))
        own = rows[block] - middle
        squares = np.sum(np.square(own), axis=1)[:, None] + lengths - 2 * own @ others.T
        yield block, np.maximum(squares, 0.0)


def distance_scale(variance: float, centers: np.ndarray) -> float:
    """2σ², or a positive substitute: with one image per cluster, σ² = 0."""
    spread = float(np.sum(np.square(centers - centers.mean(axis=0))) / len(centers))
    return 2 * max(variance, _ROUNDING * spread, _SMALLEST)


def largest(exponents: np.ndarray) -> np.ndarray:
    """The largest of each row, `(B, 1)`, or 0 if all are -∞."""
    top = exponents.max(axis=1, keepdims=True)
    return np.where(np.isfinite(top), top, 0.0)
