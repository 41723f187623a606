"""Prototypes whose distances follow given costs: a finite metric embedded in few dimensions."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from mhe import checks, metrics
from mhe.prototypes import optimize
from mhe.prototypes.bounds import unit

LOSSES = ("distortion", "rank")

# The rank loss compares so many triplets at most, all of up to 161 classes.
_TRIPLETS = 2**22
# How far a start is moved at random, by the mean cost: classical scaling may put classes on one
# point, from which no gradient leads.
_NUDGE = 1e-2

# Value, and slopes with respect to the matrix of distances.
_Loss = Callable[[np.ndarray], tuple[float, np.ndarray]]


class Embedding(NamedTuple):
    """Prototypes whose distances follow costs, and how well they do.

    Attributes:
        prototypes: `(classes, dims)` float32.
        distortion: The scale-free distortion of `mhe.metrics.distortion`.
        evaluations: How often the loss was computed.
    """

    prototypes: np.ndarray
    distortion: float
    evaluations: int


def embed(
    D: Any,  # noqa: N803
    dims: int,
    loss: str = "distortion",
    sphere: bool = False,
    *,
    iterations: int = 500,
    seed: int = 0,
    progress: bool | Callable[[str], None] = False,
) -> np.ndarray:
    """Prototypes whose distances follow the costs of taking one class for another.

    From classical scaling, L-BFGS lowers one of two losses in float64:

    - `"distortion"`, the squared scale-free distortion, the loss of `mhe.Distortion`;
    - `"rank"`, RankNet's loss on triplets of classes, that of `mhe.Rank`, for distances brought to
      the mean of the costs, as it knows no scale of its own. Beyond 161 classes, each is compared
      with a part of the others only, drawn by the seed.

    Fix the prototypes, or let training go on from them.

    Args:
        D: Costs `(classes, classes)`, more than 0 off the diagonal, such as
            `ClassTree.cost_matrix` gives.
        dims: Of the space, at least 1, or 2 on the sphere.
        loss: One of the two.
        sphere: Whether the prototypes are unit vectors. Else they are about the origin, at the
            scale at which their distances are nearest to the costs.
        iterations: Of L-BFGS at most.
        seed: Seeds what is random.
        progress: True shows on stderr where it began and what was reached; a function gets the
            lines.

    Returns:
        `(classes, dims)` float32.

    Raises:
        ValueError: If an argument is not one of the above.
        ImportError: If SciPy is not installed.

    Example:

    >>> import mhe
    >>> tree = mhe.ClassTree.from_paths(["animal/dog", "animal/cat", "oak"])
    >>> prototypes = embed(tree.cost_matrix(), dims=2)
    >>> mhe.metrics.pairwise_distances(prototypes).round(2)
    array([[0., 2., 3.],
           [2., 0., 3.],
           [3., 3., 0.]])

    Reference:
        Garnot and Landrieu, Leveraging class hierarchies with metric-guided prototype learning
        ([arXiv:2007.03047](https://arxiv.org/abs/2007.03047)), fixed prototypes; Torgerson,
        Multidimensional scaling, Psychometrika 17, 1952.
    """
    options = {"iterations": iterations, "seed": seed, "progress": progress}
    return find(D, dims, loss, sphere, **options).prototypes


def find(
    D: Any,  # noqa: N803
    dims: int,
    loss: str = "distortion",
    sphere: bool = False,
    *,
    iterations: int = 500,
    seed: int = 0,
    progress: bool | Callable[[str], None] = False,
) -> Embedding:
    """What `embed` does, with a report of how well the distances follow the costs.

    Args:
        D: As for `embed`, and so are all the others.
        dims: As for `embed`.
        loss: As for `embed`.
        sphere: As for `embed`.
        iterations: As for `embed`.
        seed: As for `embed`.
        progress: As for `embed`.

    Returns:
        An `Embedding`.

    Raises:
        ValueError: As `embed`.
        ImportError: As `embed`.

    Example:

    >>> import mhe
    >>> tree = mhe.ClassTree.from_paths(["animal/dog", "animal/cat", "oak"])
    >>> found = find(tree.cost_matrix(), dims=2)
    >>> found.distortion < 1e-6
    True
    """
    costs = checks.check_costs(D, positive=True)
    if loss not in LOSSES:
        raise ValueError(f"`loss` must be one of {', '.join(LOSSES)}. Received: loss={loss!r}")
    checks.check_count("dims", dims, 2 if sphere else 1)
    checks.check_count("iterations", iterations, 1)
    checks.check_count("seed", seed, 0)
    if loss == "rank" and len(costs) < 3:
        raise ValueError(f"Ranks need 3 classes or more. Received: {len(costs)}")
    optimize.require_scipy()
    from scipy.optimize import minimize

    tell = optimize.to_stderr if progress is True else progress or (lambda line: None)
    rng = np.random.default_rng(seed)
    # Costs of any unit: the loss is the same for all, and its numbers near 1.
    scaled = costs / costs.max()
    start = classical_scaling(scaled, dims)
    tell(f"classical scaling: scale-free distortion {metrics.distortion(start, costs):.4f}")
    start = start + rng.normal(size=start.shape) * (_NUDGE * scaled.mean() / np.sqrt(dims))
    by_distances = _squared_distortion(scaled) if loss == "distortion" else _ranking(scaled, rng)

    def objective(x: np.ndarray) -> tuple[float, np.ndarray]:
        rows = x.reshape(-1, dims)
        points = unit(rows) if sphere else rows
        value, gradient = _through_distances(by_distances, points)
        if sphere:
            gradient -= np.sum(gradient * points, axis=1, keepdims=True) * points
            gradient /= np.linalg.norm(rows, axis=1, keepdims=True)
        return value, gradient.ravel()

    found = minimize(
        objective,
        start.ravel(),
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": iterations, "maxfun": 2 * iterations, "ftol": 1e-11, "gtol": 1e-9},
    )
    rows = found.x.reshape(-1, dims)
    if sphere:
        rows = unit(rows)
    else:
        rows = rows - rows.mean(axis=0)
        upper = np.triu_indices(len(costs), 1)
        rows *= metrics.optimal_scale(metrics.pairwise_distances(rows)[upper] / costs[upper])
    prototypes = rows.astype("float32")
    reached = metrics.distortion(prototypes, costs)
    tell(f"L-BFGS, {found.nit} iterations: scale-free distortion {reached:.4f}")
    return Embedding(prototypes, reached, int(found.nfev))


def classical_scaling(distances: Any, dims: int) -> np.ndarray:
    """Points from distances: exact where that is possible, and else nearest in inner products.

    Args:
        distances: `(N, N)`, symmetric with a zero diagonal.
        dims: Of the space.

    Returns:
        `(N, dims)` float64; columns are 0 where no further dimension helps.

    Raises:
        ImportError: If SciPy is not installed.

    Example:

    >>> points = classical_scaling([[0, 3, 5], [3, 0, 4], [5, 4, 0]], 2)
    >>> metrics.pairwise_distances(points).round(6)
    array([[0., 3., 5.],
           [3., 0., 4.],
           [5., 4., 0.]])

    Reference:
        Torgerson, Multidimensional scaling, Psychometrika 17, 1952.
    """
    optimize.require_scipy()
    from scipy.linalg import eigh

    squares = np.asarray(distances, np.float64) ** 2
    means = squares.mean(axis=0)
    inner = -0.5 * (squares - means - means[:, None] + squares.mean())
    count = len(inner)
    most = min(dims, count)
    values, vectors = eigh(inner, subset_by_index=[count - most, count - 1])
    points = np.zeros((count, dims))
    points[:, :most] = (vectors * np.sqrt(np.maximum(values, 0.0)))[:, ::-1]
    return points


def _squared_distortion(costs: np.ndarray) -> _Loss:
    """Mean of (s·r - 1)² over ordered pairs, r = d / D, with s = Σ r / Σ r²."""
    count = len(costs)
    # The diagonal has no cost and no part in the sums: 1 / inf is 0.
    inverse = 1.0 / np.where(np.eye(count, dtype=bool), np.inf, costs)
    pairs = count * (count - 1)

    def loss(distances: np.ndarray) -> tuple[float, np.ndarray]:
        ratios = distances * inverse
        scale = ratios.sum() / np.sum(ratios**2)
        errors = scale * ratios - 1.0
        # On the diagonal (0 - 1)² is 1. As s is optimal, no slope goes through it.
        return (np.sum(errors**2) - count) / pairs, (2 * scale / pairs) * errors * inverse

    return loss


def _ranking(costs: np.ndarray, rng: np.random.Generator) -> _Loss:
    """Mean cross-entropy of RankNet over triplets of a class and two others."""
    count = len(costs)
    width = min(count - 1, max(2, int(np.sqrt(_TRIPLETS / count))))
    # Each row without the class itself.
    others = np.argsort(rng.random((count, count - 1)), axis=1)[:, :width]
    others += others >= np.arange(count)[:, None]
    near = np.take_along_axis(costs, others, axis=1)
    order = (np.sign(near[:, :, None] - near[:, None, :]).astype("float32") + 1) / 2
    triplets = count * width * (width - 1)
    total = costs.sum()

    def loss(distances: np.ndarray) -> tuple[float, np.ndarray]:
        scale = total / distances.sum()
        logits = scale * np.take_along_axis(distances, others, axis=1)
        logits = logits[:, :, None] - logits[:, None, :]
        small = np.exp(-np.abs(logits))
        value = np.sum(np.maximum(logits, 0.0) + np.log1p(small) - order * logits)
        # A triplet of a class and one other twice is log 2, whatever the distances.
        value = (value - count * width * np.log(2.0)) / triplets
        # The order and its opposite are both there: each has half of the slope.
        by_logit = 2 * (np.where(logits >= 0, 1.0, small) / (1.0 + small) - order).sum(axis=2)
        slopes = np.zeros_like(distances)
        np.put_along_axis(slopes, others, (scale / triplets) * by_logit, axis=1)
        # What is left of the slope when distances are kept at their mean.
        slopes -= np.sum(slopes * distances) / distances.sum() * (1.0 - np.eye(count))
        return value, slopes

    return loss


def _through_distances(loss: _Loss, points: np.ndarray) -> tuple[float, np.ndarray]:
    """Value and gradient with respect to the points whose distances the loss is of."""
    distances = metrics.pairwise_distances(points)
    value, slopes = loss(distances)
    # Points on one spot have no direction in which to part.
    pull = (slopes + slopes.T) / np.where(distances > 0, distances, np.inf)
    return value, pull.sum(axis=1, keepdims=True) * points - pull @ points
