"""The last polish of a placement: linear programs over the pairs that are nearest."""

import numpy as np

from mhe.prototypes.bounds import separation, unit
from mhe.prototypes.optimize.work import Effort, require_scipy


def polish(points: np.ndarray, rounds: int = 30, effort: Effort | None = None) -> np.ndarray:
    """Moves to the exact local optimum by linear programs over the pairs that are nearest.

    Each program minimizes the largest of the linearized cosines within a trust region, which
    shrinks where the true cosine did not follow. At an optimum held by as many pairs as there are
    degrees of freedom, as most are, it converges quadratically.

    Args:
        points: `(N, D)` float64, unit rows near an optimum.
        rounds: Maximum number of linear programs.
        effort: Counts the work, and ends it by the clock.

    Returns:
        `(N, D)` float64, unit rows, no worse than before.

    Raises:
        ImportError: If SciPy is not installed.

    Example:

    >>> near = [[1.0, 0.0], [-0.5, 0.8], [-0.5, -0.9]]
    >>> round(separation(polish(unit(np.array(near)))), 9)
    -0.5
    """
    effort = effort or Effort()
    largest, reach = separation(points), 1e-2
    for _ in range(rounds):
        solution = _linear_program(points, largest, reach)
        effort.count(len(points), *points.shape)
        if solution is None or effort.is_stopped:
            break
        moved = unit(points + solution[:-1].reshape(points.shape))
        now = separation(moved)
        gained = largest - now
        if gained > 0:
            points, largest = moved, now
        # The linear program promised solution[-1].
        if gained < 0.5 * (largest + max(gained, 0) - solution[-1]):
            reach /= 4
        if reach < 1e-12 or 0 <= gained < 1e-13:
            break
    return points


def _linear_program(points: np.ndarray, largest: float, reach: float) -> np.ndarray | None:
    """Each point's best tangential step of at most `reach` per coordinate, `(N·D,)`.

    Returns:
        The steps, followed by the largest linearized cosine they lead to; None without a solution.
    """
    require_scipy()
    from scipy.optimize import linprog
    from scipy.sparse import csr_array

    size, dims = points.shape
    axes = np.arange(dims)
    cosines = points @ points.T
    one, other = np.nonzero(np.triu(cosines > largest - 3 * reach, 1))
    count = len(one)
    row = np.arange(count)[:, None]
    where = [
        np.broadcast_to(row, (count, dims)).ravel(),
        np.broadcast_to(row, (count, dims)).ravel(),
        row.ravel(),
    ]
    column = [
        (one[:, None] * dims + axes).ravel(),
        (other[:, None] * dims + axes).ravel(),
        np.full(count, size * dims),
    ]
    value = [points[other].ravel(), points[one].ravel(), np.full(count, -1.0)]
    near = csr_array(
        (np.concatenate(value), (np.concatenate(where), np.concatenate(column))),
        shape=(count, size * dims + 1),
    )
    tangent = csr_array(
        (points.ravel(), (np.repeat(np.arange(size), dims), np.arange(size * dims))),
        shape=(size, size * dims + 1),
    )
    cost = np.zeros(size * dims + 1)
    cost[-1] = 1.0
    return linprog(
        cost,
        near,
        -cosines[one, other],
        tangent,
        np.zeros(size),
        bounds=[(-reach, reach)] * (size * dims) + [(None, None)],
        method="highs-ds",
    ).x
