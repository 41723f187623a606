"""Prototypes whose cosines are given: frames, in closed form where there are enough dimensions."""

from typing import Any

import numpy as np

from mhe import checks
from mhe.prototypes import optimize
from mhe.prototypes.bounds import unit

# How negative the smallest eigenvalue of a similarity may be, relative to the largest.
_SEMIDEFINITE = 1e-6


def read_similarity(values: Any) -> np.ndarray:
    """Returns the similarity of classes that a matrix is, or that its costs imply.

    A matrix with zeros on its diagonal holds costs D. Their similarity is S = 1 - D/c, whose frame
    has squared distances in proportion to the costs. The smallest c that such a frame exists for
    spreads it widest; if all mistakes cost the same, it is the simplex. Costs between the classes
    of a tree always have one.

    Args:
        values: A similarity `(classes, classes)`, symmetric with ones on the diagonal, less than 1
            elsewhere and positive semidefinite; or costs, symmetric with zeros on the diagonal and
            positive elsewhere.

    Returns:
        A float64 array `(classes, classes)`.

    Raises:
        ValueError: If it is neither, or no vectors have squared distances in proportion to the
            costs.

    Example:

    >>> read_similarity([[0, 1, 1], [1, 0, 1], [1, 1, 0]]).round(6)
    array([[ 1. , -0.5, -0.5],
           [-0.5,  1. , -0.5],
           [-0.5, -0.5,  1. ]])
    """
    try:
        matrix = np.array(values, np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"Similarities or costs must be numbers. Received: {error}") from error
    if matrix.ndim == 2 and matrix.size and not np.any(np.diag(matrix)):
        return _of_costs(checks.check_costs(matrix, positive=True))
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or len(matrix) < 2:
        raise ValueError(
            "Similarities must be a square matrix (classes, classes) of at least two classes. "
            f"Received: shape {matrix.shape}"
        )
    for wrong, expected in (
        (~np.isfinite(matrix), "finite"),
        ((np.abs(matrix - 1) > 1e-6) & np.eye(len(matrix), dtype=bool), "1 on the diagonal"),
        ((matrix >= 1 - 1e-9) & ~np.eye(len(matrix), dtype=bool), "less than 1 off the diagonal"),
        (np.abs(matrix - matrix.T) > 1e-6, "symmetric"),
    ):
        if wrong.any():
            one, other = np.argwhere(wrong)[0]
            raise ValueError(
                f"Similarities must be {expected}. "
                f"Received: {matrix[one, other]:g} of {one} and {other}"
            )
    matrix = (matrix + matrix.T) / 2
    values = np.linalg.eigvalsh(matrix)
    if values[0] < -_SEMIDEFINITE * values[-1]:
        raise ValueError(
            "Similarities must be positive semidefinite, as cosines are. "
            f"Received: a smallest eigenvalue of {values[0]:g}"
        )
    return matrix


def frame(similarity: np.ndarray, dims: int, iterations: int = 500, seed: int = 0) -> np.ndarray:
    """Finds unit vectors whose cosines are a similarity S, or the nearest to it.

    With S = Q·Λ·Qᵀ the rows of Q·√Λ have the cosines S, and as many dimensions as S has positive
    eigenvalues, at most `classes`. In fewer dimensions L-BFGS minimizes the sum of squared errors
    of the cosines, from the largest eigenvalues on.

    Args:
        similarity: What `read_similarity` returned.
        dims: Dimensions of the vectors, at least 2. Those that are not needed are 0.
        iterations: Maximum number of iterations of L-BFGS.
        seed: Random seed of the start of L-BFGS.

    Returns:
        `(classes, dims)` float64, unit rows.

    Raises:
        ImportError: If fewer dimensions are given than needed, and SciPy is not installed.

    Example:

    >>> rows = frame(np.array([[1.0, 0.5, 0.0], [0.5, 1.0, 0.0], [0.0, 0.0, 1.0]]), dims=5)
    >>> (rows @ rows.T).round(6) + 0
    array([[1. , 0.5, 0. ],
           [0.5, 1. , 0. ],
           [0. , 0. , 1. ]])
    """
    values, vectors = np.linalg.eigh(similarity)
    values, vectors = values[::-1], vectors[:, ::-1]
    # Cosines may have been rounded to float32.
    needed = int(np.sum(values > _SEMIDEFINITE * values[0]))
    most = min(dims, needed)
    rows = np.zeros((len(similarity), dims))
    rows[:, :most] = vectors[:, :most] * np.sqrt(values[:most])
    if needed <= dims:
        return unit(rows)
    optimize.require_scipy()
    from scipy.optimize import minimize

    # A class may have no part in the largest eigenvalues.
    nudge = np.random.default_rng(seed).normal(size=rows.shape) * 1e-3
    count = len(similarity)

    def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
        free = flat.reshape(rows.shape)
        lengths = np.linalg.norm(free, axis=1, keepdims=True)
        points = free / lengths
        errors = points @ points.T - similarity
        gradient = 4 * errors @ points
        gradient -= np.sum(gradient * points, axis=1, keepdims=True) * points
        return float(np.sum(errors**2)) / count, (gradient / lengths / count).ravel()

    options = {"maxiter": iterations, "maxfun": 2 * iterations, "ftol": 1e-13, "gtol": 1e-9}
    start = unit(rows + nudge).ravel()
    result = minimize(objective, start, jac=True, method="L-BFGS-B", options=options)
    return unit(result.x.reshape(rows.shape))


def _of_costs(costs: np.ndarray) -> np.ndarray:
    """1 - D/c with the smallest c for which that is positive semidefinite, or a `ValueError`."""
    count = len(costs)
    means = costs.mean(axis=0)
    inner = -0.5 * (costs - means - means[:, None] + costs.mean())
    values, vectors = np.linalg.eigh(inner)
    used = values > 1e-9 * values[-1]
    points = vectors[:, used] * np.sqrt(values[used])
    # Points with squared distances D, and the sphere that they lie on: 2·x·z + (r² - z²) = x².
    squares = np.sum(points**2, axis=1)
    system = np.column_stack([2 * points, np.ones(count)])
    solution = np.linalg.lstsq(system, squares, rcond=None)[0]
    radius = solution[-1] + np.sum(solution[:-1] ** 2)
    error = np.abs(system @ solution - squares).max()
    if values[0] < -_SEMIDEFINITE * values[-1] or error > 1e-6 * radius:
        raise ValueError(
            "There must be unit vectors with squared distances in proportion to the costs, as for "
            "those of a tree; for other costs, give a similarity. Received: costs of "
            f"{count} classes without such vectors"
        )
    return 1.0 - costs / (2.0 * radius)
