"""Semantic vectors and prototypes of the same classes, checked, and their similarities."""

import math
from typing import Any

import numpy as np

from mhe.prototypes.bounds import unit

# Similarities within this of each other count as equal: it is the rounding of float32. No
# fraction is an odd multiple of its half, so that the equal cosines of a regular figure, which
# differ in their last bits, do not fall on two sides of an edge.
_TIE = math.sqrt(2) * 1e-6


def unit_semantics(semantics: Any, classes: int | None = None) -> np.ndarray:
    """Returns semantic vectors as unit rows in float64, after checking them.

    Args:
        semantics: Vectors `(classes, m)`, one per class.
        classes: The required number of vectors, or None for at least two.

    Returns:
        An array `(classes, m)`.

    Raises:
        ValueError: If the shape is wrong, or a vector is zero or holds NaN or infinity.

    Example:

    >>> unit_semantics([[3.0, 4.0], [0.0, 2.0]])
    array([[0.6, 0.8], [0. , 1. ]])
    """
    try:
        rows = np.asarray(semantics, np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"`semantics` must be numbers (classes, m). Received: {error}") from error
    if rows.ndim != 2 or rows.shape[0] < 2 or rows.shape[1] < 1:
        raise ValueError(
            "`semantics` must be vectors (classes, m) of at least two classes. "
            f"Received: shape {rows.shape}"
        )
    if classes is not None and len(rows) != classes:
        raise ValueError(
            f"`semantics` must hold one vector for each of the {classes} classes. "
            f"Received: {len(rows)} vectors"
        )
    for wrong, what in (
        (~np.isfinite(rows).all(axis=1), "finite"),
        (~rows.any(axis=1), "non-zero, as zero has no direction"),
    ):
        if wrong.any():
            raise ValueError(
                f"Every vector of `semantics` must be {what}. "
                f"Received: {_listed(np.flatnonzero(wrong))} (counted from 0)"
            )
    return unit(rows)


def similarity_levels(cosines: np.ndarray) -> np.ndarray:
    """Cosines as integers, equal for those that differ by rounding only."""
    return np.rint(cosines / _TIE).astype(np.int32)


def unit_pair(prototypes: Any, semantics: Any, fewest: int) -> tuple[np.ndarray, np.ndarray]:
    """Prototypes and semantics as unit rows, after checking that their classes match."""
    semantics = unit_semantics(semantics)
    if len(semantics) < fewest:
        raise ValueError(f"At least {fewest} classes are needed. Received: {len(semantics)}")
    return unit(check_rows(prototypes, len(semantics))), semantics


def check_rows(prototypes: Any, classes: int) -> np.ndarray:
    """Prototypes in float64, after checking that they are finite and non-zero, one per class."""
    rows = np.asarray(prototypes, np.float64)
    if rows.ndim != 2 or len(rows) != classes or not np.isfinite(rows).all():
        raise ValueError(
            f"`prototypes` must be finite rows (classes, dims), one for each of the {classes} "
            f"classes of `semantics`. Received: shape {rows.shape}"
        )
    zero = np.flatnonzero(~rows.any(axis=1))
    if zero.size:
        raise ValueError(f"`prototypes` must be non-zero. Received: zeros in {_listed(zero)}")
    return rows


def _listed(rows: np.ndarray, most: int = 10) -> str:
    more = f" and {len(rows) - most} more" if len(rows) > most else ""
    return ("row " if len(rows) == 1 else "rows ") + ", ".join(map(str, rows[:most])) + more
