"""Optimal placements in closed form."""

import math

import numpy as np

from mhe.prototypes.bounds import check_shape


def simplex(classes: int, dims: int) -> np.ndarray:
    """The regular simplex: every two rows have the cosine −1/(classes − 1), which is optimal.

    Row i is column i of a Helmert matrix, so that most of the array is zeros and 10,000 rows take
    no longer than writing them to memory.

    Args:
        classes: At least 2, and at most dims + 1.
        dims: At least 2. Axes beyond classes − 1 stay zero.

    Returns:
        `(classes, dims)` float32, unit rows.

    Raises:
        ValueError: If there are more than dims + 1 classes.

    Example:

    >>> rows = simplex(3, 2)
    >>> (rows @ rows.T).round(6)
    array([[ 1. , -0.5, -0.5],
           [-0.5,  1. , -0.5],
           [-0.5, -0.5,  1. ]], dtype=float32)

    Reference:
        Rankin, The closest packing of spherical caps in n dimensions, Proceedings of the Glasgow
        Mathematical Association 2, 1955, for the optimality.
    """
    check_shape(classes, dims)
    if classes > dims + 1:
        raise ValueError(
            f"A simplex needs classes <= dims + 1. Received: classes={classes}, dims={dims}"
        )
    axes = np.arange(1, classes, dtype="float64")
    above = (np.sqrt(classes / (classes - 1)) / np.sqrt(axes * (axes + 1))).astype("float32")
    corner = np.sqrt(classes / (classes - 1) * axes / (axes + 1)).astype("float32")
    rows = np.zeros((classes, dims), "float32")
    for i in range(classes):
        rows[i, i : classes - 1] = above[i:]
        if i > 0:
            rows[i, i - 1] = -corner[i - 1]
    return rows


def orthoplex(classes: int, dims: int) -> np.ndarray:
    """The corners of the cross polytope: each axis followed by its opposite.

    No two rows have a cosine above 0, which is optimal from dims + 2 to 2·dims classes.

    Args:
        classes: At least 2, and at most 2·dims.
        dims: At least 2.

    Returns:
        `(classes, dims)` float32, unit rows.

    Raises:
        ValueError: If there are more than 2·dims classes.

    Example:

    >>> orthoplex(3, 2)
    array([[ 1.,  0.],
           [-1.,  0.],
           [ 0.,  1.]], dtype=float32)

    Reference:
        Rankin 1955, as for `simplex`.
    """
    check_shape(classes, dims)
    if classes > 2 * dims:
        raise ValueError(
            f"An orthoplex needs classes <= 2 * dims. Received: classes={classes}, dims={dims}"
        )
    rows = np.zeros((classes, dims), "float32")
    which = np.arange(classes)
    rows[which, which // 2] = 1 - 2 * (which % 2)
    return rows


def polygon(classes: int) -> np.ndarray:
    """The regular polygon, optimal in two dimensions.

    Args:
        classes: At least 2.

    Returns:
        `(classes, 2)` float32, unit rows.

    Example:

    >>> polygon(4).round(6) + 0
    array([[ 1.,  0.],
           [ 0.,  1.],
           [-1.,  0.],
           [ 0., -1.]], dtype=float32)
    """
    check_shape(classes, 2)
    angles = np.arange(classes) * (2 * math.pi / classes)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype("float32")
