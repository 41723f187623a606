"""L-BFGS on a smooth bound on the largest cosine, which is sharpened in stages."""

import math
from collections.abc import Callable, Sequence

import numpy as np

from mhe.prototypes.bounds import unit
from mhe.prototypes.optimize.work import Effort, Stopped, require_scipy, thread_limit

# Rows to a value and its gradient with respect to them.
Term = Callable[[np.ndarray], tuple[float, np.ndarray]]

# Entries of a block of the matrix of cosines: 32 MiB.
BLOCK = 2**22

# The sharpness of each stage; the last ends about 1e-5 above the optimum it converges to.
STAGES = tuple(10.0 * 4**stage for stage in range(8))


def soft_maximum(
    rows: np.ndarray,
    sharpness: float,
    group: np.ndarray | None = None,
    effort: Effort | None = None,
) -> tuple[float, np.ndarray]:
    """Log-sum-exp of the cosines of all ordered pairs, (1/β)·log Σ_{i≠j} exp(β·û_i·û_j).

    Only a block of the matrix of cosines is in memory at a time.

    Args:
        rows: `(N, D)` float64, not necessarily of length 1.
        sharpness: β; the larger, the closer the value is to the largest cosine.
        group: Orthogonal matrices `(k, D, D)`, the identity first, or None. With a group, each row
            is paired with the images of all rows under its matrices, except with itself.
        effort: Asked before each block but the first whether the search is stopped, or None.

    Returns:
        The value and its gradient `(N, D)` with respect to the rows.

    Raises:
        Stopped: If it is.

    Example:

    >>> value, gradient = soft_maximum(np.array([[1.0, 0.0], [0.0, 2.0]]), 10.0)
    >>> round(value, 6)
    0.069315
    """
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    points = rows / lengths
    images = points if group is None else orbit(points, group)
    gradient = np.zeros_like(points)
    largest, total = -math.inf, 0.0
    step = max(1, BLOCK // len(images))
    for start in range(0, len(points), step):
        if effort is not None and start:
            effort.go_on()
        block = points[start : start + step]
        weights = block @ images.T
        itself = np.arange(len(block))
        weights[itself, start + itself] = -math.inf
        top = weights.max()
        if top > largest:
            shrink = math.exp(sharpness * (largest - top))
            gradient *= shrink
            total *= shrink
            largest = top
        weights -= largest
        weights *= sharpness
        np.exp(weights, out=weights)
        total += weights.sum()
        if group is None:
            gradient[start : start + step] += 2 * (weights @ images)
        else:
            gradient[start : start + step] += weights @ images
            back = (weights.T @ block).reshape(len(group), *points.shape)
            gradient += np.einsum("gnd,gde->ne", back, group)
    gradient /= total
    gradient -= np.einsum("ij,ij->i", gradient, points)[:, None] * points
    gradient /= lengths
    return float(largest + math.log(total) / sharpness), gradient


def orbit(points: np.ndarray, group: np.ndarray) -> np.ndarray:
    """Returns the images `(k·N, D)` of points `(N, D)` under matrices `(k, D, D)`."""
    return (points @ group.transpose(0, 2, 1)).reshape(-1, points.shape[1])


def lbfgs(
    start: np.ndarray,
    stages: Sequence[float] = STAGES,
    iterations: int = 300,
    term: Term | None = None,
    group: np.ndarray | None = None,
    effort: Effort | None = None,
) -> np.ndarray:
    """Minimizes the largest cosine by L-BFGS on ever sharper log-sum-exps.

    Args:
        start: `(N, D)`, the rows to start from.
        stages: The sharpness of each stage.
        iterations: Maximum number of iterations per stage.
        term: A second objective, added to the log-sum-exp: maps rows `(N, D)` to its value and
            gradient.
        group: See `soft_maximum`.
        effort: Counts the work, ends it by the clock, and reports each stage.

    Returns:
        `(N, D)` float64, unit rows.

    Raises:
        ImportError: If SciPy is not installed.

    Example:

    >>> start = np.random.default_rng(0).normal(size=(3, 2))
    >>> found = lbfgs(start)
    >>> (found @ found.T).round(3)
    array([[ 1. , -0.5, -0.5],
           [-0.5,  1. , -0.5],
           [-0.5, -0.5,  1. ]])
    """
    require_scipy()
    from scipy.optimize import minimize

    effort = effort or Effort()
    points = reached = unit(start)
    images = len(points) * (1 if group is None else len(group))

    def objective(flat: np.ndarray, sharpness: float) -> tuple[float, np.ndarray]:
        rows = flat.reshape(points.shape)
        value, gradient = soft_maximum(rows, sharpness, group, effort)
        effort.count(len(points), images, points.shape[1])
        if term is not None:
            extra, slope = term(rows)
            value, gradient = value + extra, gradient + slope
        return value, gradient.ravel()

    def watch(x: np.ndarray) -> None:
        nonlocal reached
        reached = x
        effort.go_on()

    options = {"maxiter": iterations, "maxfun": 2 * iterations, "ftol": 1e-16, "gtol": 1e-12}
    with thread_limit(images, points.shape[1]):
        for sharpness in stages:
            try:
                result = minimize(
                    *(objective, points.ravel(), (sharpness,), "L-BFGS-B"),
                    jac=True,
                    callback=watch,
                    options=options,
                )
            except Stopped:
                return unit(reached.reshape(points.shape))
            points = reached = unit(result.x.reshape(points.shape))
            effort.tell(f"sharpness {sharpness:g}: objective {result.fun:.6f}")
            if effort.is_stopped:
                break
    return points
