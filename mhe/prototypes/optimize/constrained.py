"""The placement as a constrained problem, for sequential least squares."""

import numpy as np

from mhe.prototypes.bounds import separation, unit
from mhe.prototypes.optimize.smooth import Term
from mhe.prototypes.optimize.work import Effort, Stopped, require_scipy, thread_limit


class _Problem:
    """Minimize t with û_i·û_j ≤ t for all pairs and unit rows, over x: all rows, and t last."""

    def __init__(self, size: int, dims: int, term: Term | None, effort: Effort) -> None:
        self._shape = size, dims
        self._pairs = np.triu_indices(size, 1)
        self._term = term
        self._effort = effort

    def rows(self, x: np.ndarray) -> np.ndarray:
        return x[:-1].reshape(self._shape)

    def objective(self, x: np.ndarray) -> tuple[float, np.ndarray]:
        largest = float(x[-1])
        gradient = np.zeros_like(x)
        gradient[-1] = 1.0
        if self._term is None:
            return largest, gradient
        value, slope = self._term(self.rows(x))
        gradient[:-1] = slope.ravel()
        return largest + value, gradient

    def room(self, x: np.ndarray) -> np.ndarray:
        """How far each pair's cosine is below t."""
        self._effort.count(self._shape[0], *self._shape)
        rows = self.rows(x)
        return float(x[-1]) - (rows @ rows.T)[self._pairs]

    def room_slope(self, x: np.ndarray) -> np.ndarray:
        rows = self.rows(x)
        one, other = self._pairs
        pairs = np.arange(len(one))
        slope = np.zeros((len(one), *self._shape))
        slope[pairs, one] = -rows[other]
        slope[pairs, other] = -rows[one]
        return np.concatenate([slope.reshape(len(one), -1), np.ones((len(one), 1))], axis=1)

    def length(self, x: np.ndarray) -> np.ndarray:
        return (self.rows(x) ** 2).sum(axis=1) - 1

    def length_slope(self, x: np.ndarray) -> np.ndarray:
        size = self._shape[0]
        each = np.arange(size)
        slope = np.zeros((size, *self._shape))
        slope[each, each] = 2 * self.rows(x)
        return np.concatenate([slope.reshape(size, -1), np.zeros((size, 1))], axis=1)


def slsqp(
    start: np.ndarray,
    iterations: int = 300,
    term: Term | None = None,
    effort: Effort | None = None,
) -> np.ndarray:
    """Sequential least squares: the least t with û_i·û_j ≤ t for all pairs, and unit rows.

    SciPy's implementation works on dense matrices: fine for some 100 numbers, slow for 1,000.

    Args:
        start: `(N, D)`, the rows to start from.
        iterations: Maximum number of iterations.
        term: As for `lbfgs`; it is added to t.
        effort: As for `lbfgs`.

    Returns:
        `(N, D)` float64, unit rows.

    Raises:
        ImportError: If SciPy is not installed.

    Example:

    >>> round(separation(slsqp(np.random.default_rng(0).normal(size=(4, 3)))), 6)
    -0.333333
    """
    require_scipy()
    from scipy.optimize import minimize

    effort = effort or Effort()
    points = unit(start)
    size, dims = points.shape
    problem = _Problem(size, dims, term, effort)
    best = points

    def watch(x: np.ndarray) -> None:
        nonlocal best
        best = problem.rows(x).copy()
        effort.tell(f"largest cosine {separation(unit(best)):.6f}")
        effort.go_on()

    try:
        with thread_limit(size, dims):
            result = minimize(
                problem.objective,
                np.append(points.ravel(), separation(points)),
                method="SLSQP",
                jac=True,
                constraints=[
                    {"type": "ineq", "fun": problem.room, "jac": problem.room_slope},
                    {"type": "eq", "fun": problem.length, "jac": problem.length_slope},
                ],
                callback=watch,
                options={"maxiter": iterations, "ftol": 1e-12},
            )
        best = problem.rows(result.x)
    except Stopped:
        pass
    return unit(best)
