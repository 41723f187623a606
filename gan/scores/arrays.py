"""Checks of arrays that all scores share."""

from typing import Any

import numpy as np


def rows(array: Any, name: str, least: int = 1) -> np.ndarray:
    """Checks features or probabilities with one row per image.

    Args:
        array: Array-like `(N, D)`.
        name: Its name in errors.
        least: Minimum number of rows.

    Returns:
        An array `(N, D)` of the same dtype.

    Raises:
        ValueError: If it has another shape, too few rows, or entries that are not finite numbers.

    Example:

    >>> rows([[1.0, 2.0]], "features").shape
    (1, 2)
    """
    array = np.asarray(array)
    if array.ndim != 2 or array.shape[1] == 0 or array.dtype.kind not in "fiu":
        raise ValueError(
            f"`{name}` must be real numbers (N, D). "
            f"Received: shape {array.shape}, dtype {array.dtype}"
        )
    if len(array) < least:
        raise ValueError(f"`{name}` must have at least {least} rows. Received: {len(array)} rows")
    if not np.isfinite(array).all():
        raise ValueError(
            f"`{name}` must be finite. Received: NaN or infinity in "
            f"{np.count_nonzero(~np.isfinite(array).all(axis=1))} of {len(array)} rows"
        )
    return array


def two_sets(first: Any, second: Any, names: tuple[str, str], least: int) -> list[np.ndarray]:
    """Checks two sets of features to compare.

    Args:
        first: Array-like `(N, D)`.
        second: Array-like `(M, D)`.
        names: Their names in errors.
        least: Minimum number of rows of each.

    Returns:
        Both as arrays.

    Raises:
        ValueError: If one of them is invalid, or their dimensions differ.

    Example:

    >>> two_sets([[1.0, 2.0]], [[3.0, 3.0]], ("real", "fake"), 1)[1]
    array([[3., 3.]])
    """
    sets = [rows(each, name, least) for each, name in zip((first, second), names, strict=True)]
    if sets[0].shape[1] != sets[1].shape[1]:
        raise ValueError(
            f"`{names[0]}` and `{names[1]}` must be features of one classifier. "
            f"Received: shapes {sets[0].shape} and {sets[1].shape}"
        )
    return sets
