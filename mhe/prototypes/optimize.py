"""Placements that are searched for."""

import math
from collections.abc import Callable, Sequence

import numpy as np

from mhe.prototypes.bounds import unit

Term = Callable[[np.ndarray], tuple[float, np.ndarray]]

# Sharpness of the log-sum-exp, stage by stage; the last ends within 1e-5 of the largest cosine.
_STAGES = tuple(10.0 * 4**stage for stage in range(8))


def require_scipy() -> None:
    """Says how to get SciPy where it is missing.

    Raises:
        ImportError: If it cannot be imported.
    """
    try:
        import scipy.optimize  # noqa: F401
    except ImportError as error:
        raise ImportError(
            "Searching for a placement needs SciPy: pip install mhe[prototypes]"
        ) from error


def soft_maximum(rows: np.ndarray, sharpness: float) -> tuple[float, np.ndarray]:
    """Log-sum-exp of the cosines of all ordered pairs, (1/β)·log Σ_{i≠j} exp(β·û_i·û_j).

    Args:
        rows: `(N, D)` float64, not necessarily of length 1.
        sharpness: β; the larger, the closer the value is to the largest cosine.

    Returns:
        The value and its gradient `(N, D)` with respect to the rows.

    Example:

    >>> value, gradient = soft_maximum(np.array([[1.0, 0.0], [0.0, 2.0]]), 10.0)
    >>> round(value, 6)
    0.069315
    """
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    points = rows / lengths
    weights = points @ points.T
    np.fill_diagonal(weights, -math.inf)
    largest = weights.max()
    weights -= largest
    weights *= sharpness
    np.exp(weights, out=weights)
    total = weights.sum()
    gradient = (2 / total) * (weights @ points)
    gradient -= np.einsum("ij,ij->i", gradient, points)[:, None] * points
    gradient /= lengths
    return float(largest + math.log(total) / sharpness), gradient


def lbfgs(
    start: np.ndarray,
    stages: Sequence[float] = _STAGES,
    iterations: int = 300,
    term: Term | None = None,
) -> np.ndarray:
    """Lowers the largest cosine by L-BFGS on ever sharper log-sum-exps.

    Args:
        start: `(N, D)`, the rows to start from.
        stages: The sharpness of each stage.
        iterations: Of L-BFGS in each stage.
        term: A function of unit rows that is added, `(value, gradient)`.

    Returns:
        `(N, D)` float64, unit rows.

    Example:

    >>> start = np.random.default_rng(0).normal(size=(3, 2))
    >>> (lbfgs(start) @ lbfgs(start).T).round(3)
    array([[ 1. , -0.5, -0.5],
           [-0.5,  1. , -0.5],
           [-0.5, -0.5,  1. ]])
    """
    require_scipy()
    from scipy.optimize import minimize

    points = unit(start)

    def objective(flat: np.ndarray, sharpness: float) -> tuple[float, np.ndarray]:
        rows = flat.reshape(points.shape)
        value, gradient = soft_maximum(rows, sharpness)
        if term is not None:
            lengths = np.linalg.norm(rows, axis=1, keepdims=True)
            extra, slope = term(rows / lengths)
            inward = np.einsum("ij,ij->i", slope, rows / lengths)[:, None] * (rows / lengths)
            value, gradient = value + extra, gradient + (slope - inward) / lengths
        return value, gradient.ravel()

    options = {"maxiter": iterations, "maxfun": 2 * iterations, "ftol": 1e-16, "gtol": 1e-12}
    for sharpness in stages:
        found = minimize(
            objective, points.ravel(), (sharpness,), "L-BFGS-B", jac=True, options=options
        )
        points = unit(found.x.reshape(points.shape))
    return points
