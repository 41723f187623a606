"""Placements that are searched for.

A placement is good if its largest cosine is small. That has no useful gradient, so most of the
search lowers a smooth bound on it, a log-sum-exp of all cosines, and sharpens it in stages.
"""

import itertools
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from mhe.prototypes.bounds import cosine_lower_bound, separation, unit
from mhe.prototypes.configurations import Composition, catalogue, compose

Term = Callable[[np.ndarray], tuple[float, np.ndarray]]
Progress = Callable[[str], None]

# Entries of a block of the matrix of cosines: 32 MiB.
_BLOCK = 2**22

# The sharpness of each stage; the last ends about 1e-5 above the optimum it comes to.
STAGES = tuple(10.0 * 4**stage for stage in range(8))
# A search passes over its starts without the last two, and from a known start without the first
# two, which would forget it. What the others begin with takes turns: the bluntest stages bring
# nearly all starts to one placement, and where that is not the best, descents without them find
# better ones among many worse.
_SCOUT_ENDS = 6
_SCOUT_BEGINS = (0, 0, 1, 1, 2)
_KNOWN = slice(2, 8)

# Work is counted in seconds that it would take on one core of 2020, so that the same seed gives
# the same placement on every machine. A search does so much for small sets; for large ones a few
# descents' worth, up to the second.
_WORK = 3.0
_MOST_WORK = 40.0
# An evaluation of more work than this is not tried where a placement is known without search.
_MOST_EVALUATION = 1.0

# The linear programs of the last polish take longer than all of the search beyond so many numbers.
_POLISHED = 300

# How many of the catalogue's configurations a search starts from, of those whose largest cosine is
# at most so many times that of a descent from nowhere; and how far from them where dimensions are
# left over: the length of what is added there to a unit vector.
_KNOWN_STARTS = 3
_PROMISING = 1.25
_LIFT = 0.3
# The orders of the rotations that every second start is symmetric under, in turn.
_ORDERS = (2, 3, 4, 5)


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


class Effort:
    """What a search has done and may still do.

    Args:
        work: How much it may do, in seconds of one core by rule of thumb; see `evaluation_work`.
        seconds: None, or when to stop by the clock. What is found then depends on the machine.
        progress: Is told in a line of each stage.

    Attributes:
        evaluations: How often all cosines have been computed.

    Example:

    >>> effort = Effort(1.0)
    >>> effort.count(1000, 100)
    >>> effort.evaluations, effort.exhausted
    (1, False)
    """

    def __init__(
        self, work: float = math.inf, seconds: float | None = None, progress: Progress | None = None
    ):
        self.left = work
        self.evaluations = 0
        self._until = math.inf if seconds is None else time.monotonic() + seconds
        self._progress = progress

    def count(self, points: int, images: int, dims: int = 0) -> None:
        """Counts an evaluation of the cosines between so many points and so many images."""
        self.left -= evaluation_work(points, images, dims)
        self.evaluations += 1

    @property
    def timed_out(self) -> bool:
        """Whether the seconds have passed."""
        return time.monotonic() > self._until

    @property
    def exhausted(self) -> bool:
        """Whether the work is done, or the seconds have passed."""
        return self.left <= 0 or self.timed_out

    def tell(self, message: str) -> None:
        """Passes a line on to who follows the search."""
        if self._progress is not None:
            self._progress(message)


def to_stderr(message: str) -> None:
    """Shows a line of progress on stderr.

    Args:
        message: The line.
    """
    print(message, file=sys.stderr, flush=True)


def evaluation_work(points: int, images: int, dims: int) -> float:
    """The work of value and gradient of `soft_maximum`, in seconds by rule of thumb.

    Args:
        points: N.
        images: The number of points that each is compared with.
        dims: D.

    Returns:
        A number.

    Example:

    >>> round(evaluation_work(1000, 1000, 100), 3)
    0.027
    """
    return 1e-4 + points * images * (7e-9 + 2e-10 * dims)


def soft_maximum(
    rows: np.ndarray, sharpness: float, group: np.ndarray | None = None
) -> tuple[float, np.ndarray]:
    """Log-sum-exp of the cosines of all ordered pairs, (1/β)·log Σ_{i≠j} exp(β·û_i·û_j).

    A block of the matrix of cosines is in memory at a time.

    Args:
        rows: `(N, D)` float64, not necessarily of length 1.
        sharpness: β; the larger, the closer the value is to the largest cosine.
        group: None, or orthogonal matrices `(k, D, D)`, the identity first. Then the pairs are
            those of a row and an image of a row under one of them, but for a row and itself.

    Returns:
        The value and its gradient `(N, D)` with respect to the rows.

    Example:

    >>> value, gradient = soft_maximum(np.array([[1.0, 0.0], [0.0, 2.0]]), 10.0)
    >>> round(value, 6)
    0.069315
    """
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    points = rows / lengths
    images = (
        points
        if group is None
        else (points @ group.transpose(0, 2, 1)).reshape(-1, points.shape[1])
    )
    gradient = np.zeros_like(points)
    largest, total = -math.inf, 0.0
    step = max(1, _BLOCK // len(images))
    for start in range(0, len(points), step):
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


def lbfgs(
    start: np.ndarray,
    stages: Sequence[float] = STAGES,
    iterations: int = 300,
    term: Term | None = None,
    group: np.ndarray | None = None,
    effort: Effort | None = None,
) -> np.ndarray:
    """Lowers the largest cosine by L-BFGS on ever sharper log-sum-exps.

    Args:
        start: `(N, D)`, the rows to start from.
        stages: The sharpness of each stage.
        iterations: Of L-BFGS in each stage, at most.
        term: Something else to be low, added to the log-sum-exp: from rows `(N, D)` its value and
            gradient.
        group: See `soft_maximum`.
        effort: Counts the work, ends it by the clock, and is told of each stage.

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
    points = unit(start)
    images = len(points) * (1 if group is None else len(group))

    def objective(flat: np.ndarray, sharpness: float) -> tuple[float, np.ndarray]:
        rows = flat.reshape(points.shape)
        effort.count(len(points), images, points.shape[1])
        value, gradient = soft_maximum(rows, sharpness, group)
        if term is not None:
            extra, slope = term(rows)
            value, gradient = value + extra, gradient + slope
        return value, gradient.ravel()

    def watch(_: np.ndarray) -> None:
        if effort.timed_out:
            raise StopIteration

    options = {"maxiter": iterations, "maxfun": 2 * iterations, "ftol": 1e-16, "gtol": 1e-12}
    for sharpness in stages:
        found = minimize(
            *(objective, points.ravel(), (sharpness,), "L-BFGS-B"),
            jac=True,
            callback=watch,
            options=options,
        )
        points = unit(found.x.reshape(points.shape))
        effort.tell(f"sharpness {sharpness:g}: objective {found.fun:.6f}")
        if effort.timed_out:
            break
    return points


def sgd(
    start: np.ndarray,
    steps: int = 10_000,
    rate: float = 0.1,
    term: Term | None = None,
    effort: Effort | None = None,
) -> np.ndarray:
    """The published search: gradient descent on the mean over prototypes of the largest cosine.

    Args:
        start: `(N, D)`, the rows to start from.
        steps: How many; after each, the rows are scaled back to length 1.
        rate: The learning rate.
        term: As for `lbfgs`.
        effort: As for `lbfgs`.

    Returns:
        `(N, D)` float64, unit rows.

    Example:

    >>> found = sgd(np.random.default_rng(0).normal(size=(3, 2)), steps=500)
    >>> (found @ found.T).round(1)
    array([[ 1. , -0.5, -0.5],
           [-0.5,  1. , -0.5],
           [-0.5, -0.5,  1. ]])

    Reference:
        Mettes et al., Hyperspherical Prototype Networks, NeurIPS 2019
        ([arXiv:1901.10514](https://arxiv.org/abs/1901.10514)), equation 2.
    """
    effort = effort or Effort()
    points = unit(start)
    step = max(1, _BLOCK // len(points))
    for done in range(steps):
        effort.count(len(points), len(points), points.shape[1])
        nearest = np.empty(len(points), "int64")
        for above in range(0, len(points), step):
            cosines = points[above : above + step] @ points.T
            itself = np.arange(len(cosines))
            cosines[itself, above + itself] = -math.inf
            nearest[above : above + step] = cosines.argmax(axis=1)
        gradient = points[nearest]
        np.add.at(gradient, nearest, points)
        gradient /= len(points)
        if term is not None:
            gradient += term(points)[1]
        points = unit(points - rate * gradient)
        if (done + 1) % 1000 == 0:
            effort.tell(f"step {done + 1} of {steps}: largest cosine {separation(points):.6f}")
        if effort.timed_out:
            break
    return points


def slsqp(
    start: np.ndarray,
    iterations: int = 300,
    term: Term | None = None,
    effort: Effort | None = None,
) -> np.ndarray:
    """Sequential least squares: the least t with û_i·û_j ≤ t for all pairs, and unit rows.

    SciPy's implementation works on dense matrices: good for some 100 numbers, slow for 1,000.

    Args:
        start: `(N, D)`, the rows to start from.
        iterations: At most.
        term: As for `lbfgs`; it is added to t.
        effort: As for `lbfgs`.

    Returns:
        `(N, D)` float64, unit rows.

    Raises:
        ImportError: If SciPy is not installed.

    Example:

    >>> found = slsqp(np.random.default_rng(0).normal(size=(3, 2)))
    >>> (found @ found.T).round(3)
    array([[ 1. , -0.5, -0.5],
           [-0.5,  1. , -0.5],
           [-0.5, -0.5,  1. ]])
    """
    require_scipy()
    from scipy.optimize import minimize

    effort = effort or Effort()
    points = unit(start)
    size, dims = points.shape
    one, other = np.triu_indices(size, 1)
    pairs, each = np.arange(len(one))[:, None], np.arange(size)

    def split(x: np.ndarray) -> tuple[np.ndarray, float]:
        return x[:-1].reshape(size, dims), float(x[-1])

    def objective(x: np.ndarray) -> tuple[float, np.ndarray]:
        rows, largest = split(x)
        gradient = np.zeros_like(x)
        gradient[-1] = 1.0
        if term is None:
            return largest, gradient
        value, slope = term(rows)
        gradient[:-1] = slope.ravel()
        return largest + value, gradient

    def room(x: np.ndarray) -> np.ndarray:
        effort.count(size, size, dims)
        rows, largest = split(x)
        return largest - (rows @ rows.T)[one, other]

    def room_slope(x: np.ndarray) -> np.ndarray:
        rows, _ = split(x)
        slope = np.zeros((len(one), size, dims))
        slope[pairs[:, 0], one] = -rows[other]
        slope[pairs[:, 0], other] = -rows[one]
        return np.concatenate([slope.reshape(len(one), -1), np.ones((len(one), 1))], axis=1)

    def length(x: np.ndarray) -> np.ndarray:
        return (split(x)[0] ** 2).sum(axis=1) - 1

    def length_slope(x: np.ndarray) -> np.ndarray:
        slope = np.zeros((size, size, dims))
        slope[each, each] = 2 * split(x)[0]
        return np.concatenate([slope.reshape(size, -1), np.zeros((size, 1))], axis=1)

    class Late(Exception):  # noqa: N818 - SLSQP has no other way to be stopped
        """The seconds have passed."""

    best = points

    def watch(x: np.ndarray) -> None:
        nonlocal best
        best = split(x)[0].copy()
        effort.tell(f"largest cosine {separation(unit(best)):.6f}")
        if effort.timed_out:
            raise Late

    constraints = [
        {"type": "ineq", "fun": room, "jac": room_slope},
        {"type": "eq", "fun": length, "jac": length_slope},
    ]
    try:
        found = minimize(
            objective,
            np.append(points.ravel(), separation(points)),
            method="SLSQP",
            jac=True,
            constraints=constraints,
            callback=watch,
            options={"maxiter": iterations, "ftol": 1e-12},
        )
        best = split(found.x)[0]
    except Late:
        pass
    return unit(best)


def polish(points: np.ndarray, rounds: int = 30, effort: Effort | None = None) -> np.ndarray:
    """Moves to the exact local optimum by linear programs over the pairs that are nearest.

    Each program lowers the largest of the linearised cosines, within a distance that is halved
    where the true cosine did not follow. At an optimum held by as many pairs as there are degrees
    of freedom, as most are, it converges quadratically.

    Args:
        points: `(N, D)` float64, unit rows near an optimum.
        rounds: Linear programs at most.
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
    require_scipy()
    from scipy.optimize import linprog
    from scipy.sparse import csr_array

    effort = effort or Effort()
    size, dims = points.shape
    axes = np.arange(dims)
    largest, reach = separation(points), 1e-2
    for _ in range(rounds):
        cosines = points @ points.T
        one, other = np.nonzero(np.triu(cosines > largest - 3 * reach, 1))
        count = len(one)
        # Variables: what each point moves by, and the largest cosine, which is free.
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
        found = linprog(
            cost,
            near,
            -cosines[one, other],
            tangent,
            np.zeros(size),
            bounds=[(-reach, reach)] * (size * dims) + [(None, None)],
            method="highs-ds",
        )
        effort.count(size, size, dims)
        if found.x is None or effort.timed_out:
            break
        moved = unit(points + found.x[:-1].reshape(size, dims))
        now = separation(moved)
        gained = largest - now
        if gained > 0:
            points, largest = moved, now
        # The linear program promised found.x[-1].
        if gained < 0.5 * (largest + max(gained, 0) - found.x[-1]):
            reach /= 4
        if reach < 1e-12 or 0 <= gained < 1e-13:
            break
    return points


# --- the search of `auto` -----------------------------------------------------------------------


def search(
    classes: int, dims: int, seed: int, effort_factor: float = 1.0, effort: Effort | None = None
) -> tuple[np.ndarray, str]:
    """The best placement of many descents: from what is known, from symmetric and random starts.

    Args:
        classes: More than 2·dims.
        dims: At least 3.
        seed: Seeds the starts.
        effort_factor: Of the work that is done by default.
        effort: Ends the search by the clock, and is told what happens.

    Returns:
        `(classes, dims)`, unit rows, and in words what they come from.

    Raises:
        ImportError: If SciPy is needed and not installed.

    Example:

    >>> rows, origin = search(27, 6, seed=0)
    >>> round(separation(rows), 6), origin
    (0.25, 'E8 roots, derived twice')
    """
    effort = effort or Effort()
    known = compose(classes, dims)
    evaluation = evaluation_work(classes, classes, dims)
    if known is not None:
        if known.cosine <= cosine_lower_bound(classes, dims) + 1e-8:
            return known.rows(classes, dims), str(known)
        if evaluation > _MOST_EVALUATION * effort_factor:
            effort.tell("too many to search: the best that is known without")
            return known.rows(classes, dims), str(known)
    descent = len(STAGES) * 300 * evaluation
    work = effort_factor * min(max(_WORK, 2 * descent), _MOST_WORK)
    iterations = int(min(300, max(15, work / 3 / len(STAGES) / evaluation)))
    effort.left = work
    best, origin, cosine = None, "", math.inf
    if known is not None:
        best, origin, cosine = known.rows(classes, dims), str(known), known.cosine
        effort.tell(f"{origin}: largest cosine {cosine:.6f}")
    rng = np.random.default_rng(seed)
    fresh = _fresh_starts(classes, dims, rng)
    starts: Iterator[_Start] = itertools.islice(fresh, 1)
    number = 0
    while (begin := next(starts, None)) is not None:
        start, stages, group, name = begin
        number += 1
        found = lbfgs(start, stages, iterations, group=group, effort=effort)
        if group is not None:
            found = (found @ group.transpose(0, 2, 1)).reshape(-1, dims)[:classes]
            found = lbfgs(found, STAGES[3:6], iterations, effort=effort)
        now = separation(found)
        effort.tell(f"start {number}, {name}: largest cosine {now:.6f}")
        if now < cosine - 1e-12:
            best, origin, cosine = found, f"L-BFGS from {name}", now
        if number == 1:
            # Where what is known is out of reach of a search from nowhere, more are in vain.
            fresh = fresh if now <= 1.02 * cosine else iter(())
            near = _known_starts(classes, dims, known, _PROMISING * now, rng)
            starts = itertools.chain(near, fresh)
        if effort.exhausted:
            break
    if not effort.timed_out and origin.startswith("L-BFGS"):
        found = lbfgs(best, STAGES[5:], iterations, effort=effort)
        if classes * dims <= _POLISHED:
            found = polish(found, effort=effort)
        if separation(found) < cosine:
            best = found
    return best, origin


_Start = tuple[np.ndarray, tuple[float, ...], np.ndarray | None, str]


def _fresh_starts(classes: int, dims: int, rng: np.random.Generator) -> Iterator[_Start]:
    """Where descents begin: rows, stages, the group they are symmetric under, and a name."""
    turns = zip(itertools.cycle(_ORDERS), itertools.cycle(_SCOUT_BEGINS), strict=True)
    for order, begin in turns:
        stages = STAGES[begin:_SCOUT_ENDS]
        yield rng.normal(size=(classes, dims)), stages, None, "a random start"
        representatives = rng.normal(size=(-(-classes // order), dims))
        group = _rotations(order, dims, rng)
        yield representatives, stages, group, f"a start of symmetry {order}"


def _known_starts(
    classes: int,
    dims: int,
    known: Composition | None,
    most: float,
    rng: np.random.Generator,
) -> Iterator[_Start]:
    """Starts at configurations whose largest cosine is at most `most`, lifted into unused axes."""
    singles = [
        Composition((each,), each.cosine)
        for each in catalogue()
        if each.classes >= classes and each.dims <= dims
    ]
    found = {
        str(each): each
        for each in [*singles, *([known] if known is not None else [])]
        if each.cosine <= most
    }
    for name, each in itertools.islice(found.items(), _KNOWN_STARTS):
        rows = each.rows(classes, dims).astype("float64")
        unused = ~rows.any(axis=0)
        if unused.any():
            rows[:, unused] = _LIFT * unit(rng.normal(size=(classes, int(unused.sum()))))
        yield unit(rows), STAGES[_KNOWN], None, name


def _rotations(order: int, dims: int, rng: np.random.Generator) -> np.ndarray:
    """A cyclic group of rotations by random multiples of 2π/order in planes, `(order, D, D)`."""
    turn = np.eye(dims)
    for axis in range(0, dims - 1, 2):
        angle = 2 * math.pi * rng.integers(order) / order
        cosine, sine = math.cos(angle), math.sin(angle)
        turn[axis : axis + 2, axis : axis + 2] = [[cosine, -sine], [sine, cosine]]
    powers = [np.eye(dims)]
    for _ in range(order - 1):
        powers.append(powers[-1] @ turn)
    return np.stack(powers)
