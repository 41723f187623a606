"""Prototypes whose distances follow given costs: a finite metric embedded in few dimensions."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from mhe import checks, metrics
from mhe.prototypes import frames, optimize
from mhe.prototypes.bounds import unit
from mhe.prototypes.signatures import same_arguments

LOSSES = ("distortion", "rank")
METHODS = ("search", "frame")

# Maximum number of triplets that the rank loss compares: all of up to 161 classes.
_TRIPLETS = 2**22
# How far a start is moved at random, relative to the mean cost: classical scaling may put several
# classes on one point, which has no useful gradient.
_NUDGE = 1e-2

# Maps the matrix of distances to a value and its slopes.
_Loss = Callable[[np.ndarray], tuple[float, np.ndarray]]


class Embedding(NamedTuple):
    """Prototypes whose distances follow costs, and how well they do.

    Attributes:
        prototypes: `(classes, dims)` float32.
        distortion: The scale-free distortion of `mhe.metrics.distortion`; that of a frame is
            relative to the distances of vectors with the given cosines.
        evaluations: How often the loss was computed; 0 for a frame.
    """

    prototypes: np.ndarray
    distortion: float
    evaluations: int


def find(
    D: Any,  # noqa: N803
    dims: int,
    loss: str = "distortion",
    sphere: bool = False,
    *,
    iterations: int = 500,
    seed: int = 0,
    progress: bool | Callable[[str], None] = False,
    method: str = "search",
) -> Embedding:
    """Embeds costs as `embed` does, and reports how well the distances follow them.

    Takes the arguments of `embed`, and raises its errors.

    Returns:
        An `Embedding`.

    Example:

    >>> import mhe
    >>> tree = mhe.ClassTree.from_paths(["animal/dog", "animal/cat", "oak"])
    >>> find(tree.cost_matrix(), dims=2).distortion < 1e-6
    True
    """
    checks.check_choice("method", method, METHODS)
    if loss not in LOSSES:
        raise ValueError(f"`loss` must be one of {', '.join(LOSSES)}. Received: loss={loss!r}")
    checks.check_count("dims", dims, 2 if sphere or method == "frame" else 1)
    checks.check_count("iterations", iterations, 1)
    checks.check_count("seed", seed, 0)
    if method == "frame":
        similarity = frames.read_similarity(D)
        rows = frames.frame(similarity, dims, iterations, seed).astype("float32")
        apart = np.sqrt(np.maximum(2.0 * (1.0 - similarity), 0.0))
        np.fill_diagonal(apart, 0.0)
        return Embedding(rows, metrics.distortion(rows, apart), 0)
    costs = checks.check_costs(D, positive=True)
    if loss == "rank" and len(costs) < 3:
        raise ValueError(f"Ranks need at least 3 classes. Received: {len(costs)}")
    optimize.require_scipy()
    from scipy.optimize import minimize

    tell = optimize.to_stderr if progress is True else progress or (lambda line: None)
    rng = np.random.default_rng(seed)
    # The unit of the costs does not matter to the loss; this keeps its numbers near 1.
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

    result = minimize(
        objective,
        start.ravel(),
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": iterations, "maxfun": 2 * iterations, "ftol": 1e-11, "gtol": 1e-9},
    )
    rows = result.x.reshape(-1, dims)
    prototypes = (unit(rows) if sphere else _at_scale(rows, costs)).astype("float32")
    reached = metrics.distortion(prototypes, costs)
    tell(f"L-BFGS, {result.nit} iterations: scale-free distortion {reached:.4f}")
    return Embedding(prototypes, reached, int(result.nfev))


def _at_scale(rows: np.ndarray, costs: np.ndarray) -> np.ndarray:
    """Centers rows and scales them, to bring their distances nearest to the costs."""
    rows = rows - rows.mean(axis=0)
    upper = np.triu_indices(len(costs), 1)
    rows *= metrics.optimal_scale(metrics.pairwise_distances(rows)[upper] / costs[upper])
    return rows


@same_arguments(find)
def embed(*args: Any, **kwargs: Any) -> np.ndarray:  # noqa: D417 - they are those of `find`
    """Finds prototypes whose distances follow the costs of confusing their classes.

    Starting from classical scaling, L-BFGS minimizes one of two losses in float64:

    - `"distortion"`, the squared scale-free distortion, the loss of `mhe.Distortion`;
    - `"rank"`, RankNet's loss on triplets of classes, the loss of `mhe.Rank`, on distances
      scaled to the mean of the costs, as it has no scale of its own. Beyond 161 classes, each is
      compared with a random sample of the others only.

    Keep the prototypes fixed, or fine-tune them in training.

    `method="frame"` needs no search: the prototypes are unit vectors whose cosines are a given
    similarity, or 1 - D/c for costs, with the smallest c for which there are such vectors: squared
    distances then are in proportion to the costs, and the prototypes of classes that all cost the
    same are a simplex. In closed form if dims is at least the similarity's rank, which is at most
    classes - 1 for costs; in fewer dimensions their cosines are as near as L-BFGS brings them.

    Args:
        D: Costs `(classes, classes)`, positive off the diagonal, such as those of
            `ClassTree.cost_matrix`. For a frame also a similarity, positive semidefinite with ones
            on the diagonal, such as cosines of word vectors.
        dims: Dimensions of the prototypes' space, at least 1, or 2 on the sphere.
        loss: `"distortion"` or `"rank"`.
        sphere: Whether the prototypes are unit vectors. Otherwise they are centered at the origin,
            at the scale that brings their distances nearest to the costs.
        iterations: Maximum number of iterations of L-BFGS.
        seed: Random seed.
        progress: Whether to print the distortion before and after on stderr, or a function that
            receives these lines.
        method: `"search"`, or `"frame"`, which has no use for `loss` and `sphere`.

    Returns:
        `(classes, dims)` float32.

    Raises:
        ValueError: If an argument is invalid.
        ImportError: If SciPy is not installed.

    Example:

    >>> import mhe
    >>> tree = mhe.ClassTree.from_paths(["animal/dog", "animal/cat", "oak"])
    >>> prototypes = embed(tree.cost_matrix(), dims=2)
    >>> mhe.metrics.pairwise_distances(prototypes).round(2)
    array([[0., 2., 3.],
           [2., 0., 3.],
           [3., 3., 0.]])
    >>> prototypes = embed(tree.cost_matrix(), dims=2, method="frame")
    >>> (prototypes @ prototypes.T).round(3)
    array([[ 1.   , -0.111, -0.667],
           [-0.111,  1.   , -0.667],
           [-0.667, -0.667,  1.   ]], dtype=float32)

    Reference:
        Garnot and Landrieu, Leveraging class hierarchies with metric-guided prototype learning
        ([arXiv:2007.03047](https://arxiv.org/abs/2007.03047)), fixed prototypes; Torgerson,
        Multidimensional scaling, Psychometrika 17, 1952. Frames: Liang and Davis, Inducing neural
        collapse to a fixed hierarchy-aware frame for reducing mistake severity, ICCV 2023
        ([arXiv:2303.05689](https://arxiv.org/abs/2303.05689)), whose similarities are other
        functions of the costs.
    """
    return find(*args, **kwargs).prototypes


def classical_scaling(distances: Any, dims: int) -> np.ndarray:
    """Finds points with given distances, exact if possible, else nearest in inner products.

    Args:
        distances: `(N, N)`, symmetric with a zero diagonal.
        dims: Dimensions of the points.

    Returns:
        `(N, dims)` float64; columns are 0 if no further dimension helps.

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
        # A triplet that holds the same other class twice is log 2, whatever the distances.
        value = (value - count * width * np.log(2.0)) / triplets
        # Each pair of others appears in both orders, with half of the slope each.
        by_logit = 2 * (np.where(logits >= 0, 1.0, small) / (1.0 + small) - order).sum(axis=2)
        slopes = np.zeros_like(distances)
        np.put_along_axis(slopes, others, (scale / triplets) * by_logit, axis=1)
        # The scale keeps the mean of the distances, and so removes the slope along it.
        slopes -= np.sum(slopes * distances) / distances.sum() * (1.0 - np.eye(count))
        return value, slopes

    return loss


def _through_distances(loss: _Loss, points: np.ndarray) -> tuple[float, np.ndarray]:
    """A loss of distances, and its gradient with respect to the points."""
    distances = metrics.pairwise_distances(points)
    value, slopes = loss(distances)
    # Coincident points have no direction in which to separate.
    pull = (slopes + slopes.T) / np.where(distances > 0, distances, np.inf)
    return value, pull.sum(axis=1, keepdims=True) * points - pull @ points
