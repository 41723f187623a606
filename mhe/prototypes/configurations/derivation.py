"""Deriving a configuration from one with an additional dimension."""

import math

import numpy as np

from mhe.prototypes.bounds import unit

# Cosines of exact configurations that differ by more than this are different.
SAME = 1e-9


def derive(rows: np.ndarray, cosine: float | None = None) -> np.ndarray:
    """The points at a given cosine to the first, as seen from it, in one dimension less.

    Points at cosine c to the first, projected to the space orthogonal to it, have cosines
    (x − c²)/(1 − c²), so that a largest cosine of 1/k becomes one of 1/(k + 1).

    Args:
        rows: `(N, D)` float64, unit rows.
        cosine: c; by default the largest cosine to the first point.

    Returns:
        `(n, D − 1)` float64, unit rows.

    Example:

    >>> derive(np.array([[1.0, 0.0], [0.0, 1.0], [0.0, -1.0], [-1.0, 0.0]]))
    array([[ 1.],
           [-1.]])
    """
    cosines = rows @ rows[0]
    if cosine is None:
        cosine = cosines[1:].max()
    near = rows[np.abs(cosines - cosine) < SAME]
    # The reflection that takes the first point to an axis, which is then left out.
    axis = np.argmax(np.abs(rows[0]))
    mirror = rows[0].copy()
    mirror[axis] += math.copysign(1, mirror[axis])
    mirror /= np.linalg.norm(mirror)
    near = near - 2 * np.outer(near @ mirror, mirror)
    return unit(np.delete(near, axis, axis=1))
