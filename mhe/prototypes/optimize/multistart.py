"""The search of `method="auto"`: many descents from known, symmetric and random starts."""

import itertools
import math
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np

from mhe.prototypes.bounds import cosine_lower_bound, separation, unit
from mhe.prototypes.configurations import Composition, catalogue, compose
from mhe.prototypes.optimize.polishing import polish
from mhe.prototypes.optimize.smooth import STAGES, lbfgs, orbit, soft_maximum
from mhe.prototypes.optimize.work import Effort, Stopped, evaluation_work

# What a descent from a random start has reached at this stage tells where it will end (rank
# correlations of 0.96 to 0.99, `log/placements`). It goes on only if it is within _PROMISE of the
# best there; the last two stages are left to the best placement.
_SCOUT_ENDS = 3
_PROMISE = 1e-3
_DESCENT_ENDS = 6
# A symmetry whose best scout is farther than this behind that of starts without one is given up.
_HOPELESS = 0.01
# The stages that scouts begin with rotate: the bluntest ones lead nearly all starts to the same
# placement, and where that is not the best, descents without them find better ones among many
# worse. From a known start they would forget it.
_SCOUT_BEGINS = (0, 0, 1, 0, 2)
_KNOWN_BEGINS = 2

# The work of a search on a small set; large ones get a few descents' worth, up to the second.
_WORK = 3.0
_MOST_WORK = 40.0
# An evaluation of more work than this is not tried where a placement is known without a search.
_MOST_EVALUATION = 1.0

# The linear programs of the last polish take longer than the whole search beyond this many numbers.
_POLISHED = 300

# A placement this near to the bound is polished at once: most bounds are met or missed by more.
_NEAR_BOUND = 1e-3
_MEETS_BOUND = 1e-8

# A search starts from at most this many of the catalogue's configurations, those whose largest
# cosine is at most _PROMISING times that of a descent from a random start. In unused dimensions the
# points of such a start, unit vectors, get random coordinates of length _LIFT.
_KNOWN_STARTS = 3
_PROMISING = 1.25
_LIFT = 0.3
# The orders of the rotations that every second start is symmetric under, in turn.
_ORDERS = (2, 3, 4, 5)


class _Start(NamedTuple):
    """Where a descent begins: rows, stage, the group they are symmetric under, and a name."""

    rows: np.ndarray
    stage: int
    group: np.ndarray | None
    name: str
    is_known: bool = False


def search(
    classes: int, dims: int, seed: int, effort_factor: float = 1.0, effort: Effort | None = None
) -> tuple[np.ndarray, str]:
    """The best placement of many descents: from what is known, from symmetric and random starts.

    Args:
        classes: More than 2·dims.
        dims: At least 3.
        seed: Seeds the starts.
        effort_factor: Multiplies the default amount of work.
        effort: Ends the search by the clock, and reports its progress.

    Returns:
        `(classes, dims)`, unit rows, and a description of their origin.

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
    bound = cosine_lower_bound(classes, dims)
    if known is not None:
        if known.cosine <= bound + _MEETS_BOUND:
            return known.rows(classes, dims), str(known)
        if evaluation > _MOST_EVALUATION * effort_factor:
            effort.tell("too large to search: taking the best known placement")
            return known.rows(classes, dims), str(known)
    descent = len(STAGES) * 300 * evaluation
    effort.allow(effort_factor * min(max(_WORK, 2 * descent), _MOST_WORK))
    iterations = int(min(300, max(15, effort.left / 3 / len(STAGES) / evaluation)))
    best = _Best(classes, dims, effort)
    if known is not None:
        best.offer(known.rows(classes, dims), str(known))
        effort.tell(f"{best.origin}: largest cosine {best.cosine:.6f}")
    _improve(best, known, iterations, bound, np.random.default_rng(seed))
    assert best.rows is not None
    return best.rows, best.origin


class _Best:
    """The best placement until now."""

    def __init__(self, classes: int, dims: int, effort: Effort) -> None:
        self.classes = classes
        self.dims = dims
        self.effort = effort
        self.rows: np.ndarray | None = None
        self.origin = ""
        self.cosine = math.inf

    def offer(self, rows: np.ndarray, origin: str, cosine: float | None = None) -> bool:
        """Keeps a placement that is better by more than rounding, and says whether it is.

        Args:
            rows: The placement.
            origin: Where it comes from.
            cosine: Its largest cosine, if it was measured.
        """
        cosine = separation(rows) if cosine is None else cosine
        better = cosine < self.cosine - 1e-12
        if better:
            self.rows, self.origin, self.cosine = rows, origin, cosine
        return better

    def polish(self, iterations: int) -> None:
        """Descends to the end from what a descent found, and polishes it if it is small."""
        if self.rows is None or self.effort.is_stopped:
            return
        rows = lbfgs(self.rows, STAGES[5:], iterations, effort=self.effort)
        if self.classes * self.dims <= _POLISHED:
            rows = polish(rows, effort=self.effort)
        self.offer(rows, self.origin)


def _improve(
    best: _Best,
    known: Composition | None,
    iterations: int,
    bound: float,
    rng: np.random.Generator,
) -> None:
    """Descends from one start after the other until the work is done or the bound is met."""
    classes, dims, effort = best.classes, best.dims, best.effort
    polished = True
    scouted: dict[str, float] = {}
    fresh = _fresh_starts(classes, dims, rng, scouted)
    starts: Iterator[_Start] = itertools.islice(fresh, 1)
    for number in itertools.count(1):
        start = next(starts, None)
        if start is None:
            break
        rows = _scout(start, classes, iterations, effort)
        try:
            promises = start.is_known or _promises(start.name, rows, scouted, effort)
        except Stopped:
            promises = True
        if promises:
            rows = lbfgs(rows, STAGES[_SCOUT_ENDS:_DESCENT_ENDS], iterations, effort=effort)
        # Where the search is stopped, to measure a large set would take much longer than a step.
        if effort.is_stopped and evaluation_work(classes, classes, dims) > _MOST_EVALUATION:
            if best.rows is None:
                best.rows, best.origin = rows, f"L-BFGS from {start.name}, cut short"
            return
        now = separation(rows)
        name = start.name if promises else f"{start.name}, given up"
        effort.tell(f"start {number}, {name}: largest cosine {now:.6f}")
        if best.offer(rows, f"L-BFGS from {start.name}", now):
            polished = best.cosine <= bound + _NEAR_BOUND
            if polished:
                best.polish(iterations)
            if best.cosine <= bound + _MEETS_BOUND:
                effort.tell(f"no placement is better than this: {best.cosine:.6f}")
                return
        if number == 1:
            # If one random start does not come near what is known, more of them would not either.
            fresh = fresh if now <= 1.02 * best.cosine else iter(())
            near = _known_starts(classes, dims, known, _PROMISING * now, rng)
            starts = itertools.chain(near, fresh)
        if effort.exhausted:
            break
    if not polished:
        best.polish(iterations)


def _scout(start: _Start, classes: int, iterations: int, effort: Effort) -> np.ndarray:
    """Begins a descent from a start, within its symmetry if it has one."""
    stages = STAGES[start.stage : _SCOUT_ENDS]
    rows = lbfgs(start.rows, stages, iterations, group=start.group, effort=effort)
    return rows if start.group is None else orbit(rows, start.group)[:classes]


def _promises(name: str, rows: np.ndarray, scouted: dict[str, float], effort: Effort) -> bool:
    """Notes the value that a scout has reached, and says whether to descend to the end.

    Args:
        name: The kind of start.
        rows: Where the scout is.
        scouted: The best value of each kind, which is updated.
        effort: The search.

    Raises:
        Stopped: If it is.
    """
    value, _ = soft_maximum(rows, STAGES[_SCOUT_ENDS - 1], effort=effort)
    scouted[name] = min(value, scouted.get(name, math.inf))
    return value <= min(scouted.values()) + _PROMISE


def _fresh_starts(
    classes: int, dims: int, rng: np.random.Generator, scouted: Mapping[str, float]
) -> Iterator[_Start]:
    """Alternates random starts with symmetric ones, without symmetries that fall behind."""
    plain = "a random start"
    turns = zip(itertools.cycle(_ORDERS), itertools.cycle(_SCOUT_BEGINS), strict=True)
    for order, begin in turns:
        yield _Start(rng.normal(size=(classes, dims)), begin, None, plain)
        name = f"a start of symmetry {order}"
        if scouted.get(name, -math.inf) > scouted.get(plain, math.inf) + _HOPELESS:
            continue
        representatives = rng.normal(size=(-(-classes // order), dims))
        group = _rotations(order, dims, rng)
        yield _Start(representatives, begin, group, name)


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
    near = {
        str(each): each
        for each in [*singles, *([known] if known is not None else [])]
        if each.cosine <= most
    }
    for name, each in itertools.islice(near.items(), _KNOWN_STARTS):
        rows = each.rows(classes, dims).astype("float64")
        unused = ~rows.any(axis=0)
        if unused.any():
            rows[:, unused] = _LIFT * unit(rng.normal(size=(classes, int(unused.sum()))))
        yield _Start(unit(rows), _KNOWN_BEGINS, None, name, is_known=True)


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
