"""How well a placement separates its prototypes, and how well any placement could."""

import math
import operator
from typing import Any

import numpy as np

# Entries of a block of the matrix of all cosines: 64 MiB in float64.
_BLOCK = 2**23
_UNIT = 1e-4


def check_shape(classes: Any, dims: Any) -> None:
    """Refuses what is no number of classes or of dimensions.

    Args:
        classes: At least 2.
        dims: At least 2.

    Raises:
        ValueError: If one of them is not such an integer.

    Example:

    >>> check_shape(1, 2)
    Traceback (most recent call last):
        ...
    ValueError: `classes` must be an integer of at least 2. Received: classes=1
    """
    for name, value in (("classes", classes), ("dims", dims)):
        try:
            valid = not isinstance(value, bool) and operator.index(value) >= 2
        except TypeError:
            valid = False
        if not valid:
            raise ValueError(
                f"`{name}` must be an integer of at least 2. Received: {name}={value!r}"
            )


def check_prototypes(prototypes: Any) -> np.ndarray:
    """Refuses what are no unit rows.

    Args:
        prototypes: `(classes, dims)`, whatever NumPy makes an array of.

    Returns:
        The array, not copied where it was one.

    Raises:
        ValueError: If it is no such array, or holds a row whose length is not 1 within 1e-4.

    Example:

    >>> check_prototypes([[1.0, 0.0], [0.0, 2.0]])
    Traceback (most recent call last):
        ...
    ValueError: `prototypes` must be unit rows. Received: row 1 of length 2
    """
    rows = np.asarray(prototypes)
    if rows.ndim != 2 or rows.dtype.kind not in "fiu":
        raise ValueError(
            "`prototypes` must be an array (classes, dims) of real numbers. "
            f"Received: shape={rows.shape}, dtype={rows.dtype}"
        )
    check_shape(*rows.shape)
    lengths = np.sqrt(np.einsum("ij,ij->i", rows, rows, dtype="float64"))
    wrong = np.flatnonzero(~(np.abs(lengths - 1) <= _UNIT))
    if len(wrong):
        raise ValueError(
            "`prototypes` must be unit rows. "
            f"Received: row {wrong[0]} of length {lengths[wrong[0]]:g}"
        )
    return rows


def separation(prototypes: Any) -> float:
    """The largest cosine between two different rows: the smaller, the better they are separated.

    The matrix of all cosines is computed in float64, a block at a time.

    Args:
        prototypes: `(classes, dims)`, unit rows.

    Returns:
        A number from −1 to 1.

    Raises:
        ValueError: If there are fewer than two rows or dimensions, or the rows are not unit rows.

    Example:

    >>> separation([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]])
    0.0
    """
    rows = check_prototypes(prototypes)
    step = max(1, min(2048, _BLOCK // rows.shape[1]))
    largest = -math.inf
    for start in range(0, len(rows), step):
        block = unit(rows[start : start + step])
        for other in range(start, len(rows), step):
            if other == start:
                cosines = block @ block.T
                np.fill_diagonal(cosines, -math.inf)
            else:
                cosines = block @ unit(rows[other : other + step]).T
            largest = max(largest, float(cosines.max()))
    return min(1.0, max(-1.0, largest))


def unit(rows: np.ndarray) -> np.ndarray:
    """Rows of length 1 in float64.

    Args:
        rows: `(N, D)`, none of them zero.

    Returns:
        `(N, D)` float64.

    Example:

    >>> unit(np.array([[3.0, 4.0]]))
    array([[0.6, 0.8]])
    """
    rows = rows.astype("float64")
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)
