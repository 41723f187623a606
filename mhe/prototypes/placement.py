"""The choice among all ways to place prototypes."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from mhe import checks
from mhe.prototypes import closed_forms, optimize
from mhe.prototypes.bounds import check_shape, separation, unit
from mhe.prototypes.semantics import RankingTerm, assign, unit_semantics
from mhe.prototypes.signatures import same_arguments

_CLOSED_FORMS = ("simplex", "orthoplex")
_SEARCHES: dict[str, Callable[..., np.ndarray]] = {
    "lbfgs": optimize.lbfgs,
    "sgd": optimize.sgd,
    "slsqp": optimize.slsqp,
}
METHODS = ("auto", *_CLOSED_FORMS, *_SEARCHES)

# Up to this many rows are put in an order for classes to come, and up to that many are exchanged
# first; their energy is a sum of exp(_SHARPNESS · cosine), which the largest cosines dominate.
_MOST_ORDERED = 4096
_MOST_EXCHANGED = 1024
_SHARPNESS = 60.0


class Placement(NamedTuple):
    """Prototypes and their origin.

    Attributes:
        prototypes: `(classes + reserve, dims)` float32, unit rows.
        origin: Their origin, in words.
        evaluations: How often a search computed all cosines; 0 without a search.
        unmoved: Their largest cosine before semantics moved them, which tells what the order
            costs; None if nothing was moved.
    """

    prototypes: np.ndarray
    origin: str
    evaluations: int
    unmoved: float | None = None


def find(
    classes: int,
    dims: int,
    method: str = "auto",
    seed: int = 0,
    semantics: Any = None,
    *,
    semantics_weight: float = 1.0,
    effort: float = 1.0,
    seconds: float | None = None,
    progress: bool | Callable[[str], None] = False,
    stop: Callable[[], bool] | None = None,
    reserve: int = 0,
) -> Placement:
    """Places prototypes as `place` does, and reports their origin.

    Takes the arguments of `place`, and raises its errors.

    Returns:
        A `Placement`.

    Example:

    >>> find(27, 6).origin, find(8, 4).origin
    ('E8 roots, derived twice', 'orthoplex')
    """
    check_shape(classes, dims)
    if method not in METHODS:
        raise ValueError(f"`method` must be one of {', '.join(METHODS)}. Received: {method!r}")
    checks.check_number("semantics_weight", semantics_weight, least=0)
    checks.check_number("effort", effort, above=0)
    if seconds is not None:
        checks.check_number("seconds", seconds, above=0)
    checks.check_count("seed", seed, 0)
    checks.check_count("reserve", reserve, 0)
    if reserve and semantics is not None:
        raise ValueError(
            "`reserve` is for classes of which nothing is known yet, and goes without `semantics`. "
            f"Received: reserve={reserve}, and semantics"
        )
    count = int(classes) + int(reserve)
    if semantics is not None:
        semantics = unit_semantics(semantics, classes)
    tell = optimize.to_stderr if progress is True else progress or None
    work = optimize.Effort(seconds=seconds, progress=tell, stop=stop)
    descend = _SEARCHES.get(method, optimize.lbfgs)
    rows, origin = _closed_form(count, dims, method)
    if rows is None and method == "auto":
        rows, origin = optimize.search(count, dims, seed, effort, work)
    elif rows is None:
        start = np.random.default_rng(seed).normal(size=(count, dims))
        rows, origin = descend(start, effort=work), f"{method} from a random start"
    unmoved = None
    if reserve:
        rows = rows[_spreading_order(rows, int(classes))]
    if semantics is not None:
        rows = rows[assign(rows, semantics, seed=seed)]
        origin += ", assigned by semantics"
        if semantics_weight and method not in _CLOSED_FORMS:
            term = _weighted(RankingTerm(semantics, seed=seed), semantics_weight)
            unmoved = separation(rows)
            # Blunter stages would forget the assignment.
            stages = {"stages": optimize.STAGES[2:6]} if descend is optimize.lbfgs else {}
            rows = descend(rows, term=term, effort=work, **stages)
            origin += f", moved by their ranking with weight {semantics_weight:g}"
    return Placement(rows.astype("float32", copy=False), origin, work.evaluations, unmoved)


@same_arguments(find)
def place(*args: Any, **kwargs: Any) -> np.ndarray:  # noqa: D417 - they are those of `find`
    """Places prototypes on the unit sphere, their largest cosine as small as is known or found.

    `method="auto"` takes

    - the simplex up to dims + 1 classes, the orthoplex up to 2·dims, the polygon in two
      dimensions: nothing is better;
    - a sharp configuration, or several in orthogonal subspaces, where none can be better;
    - else the best of these and of a search: descents by L-BFGS over ever sharper log-sum-exps of
      the cosines in float64, from known, random and symmetric starts, with a last polish. The work
      is counted, not timed: about 3 seconds on one core for small sets, 60 for large ones, and
      longer where a single descent takes longer, as for 20,000 classes in 10 dimensions, for which
      nothing is known; `seconds` limits it;
    - the best known without a search, such as rows of block codes, where one evaluation of all
      cosines takes a second or more (beyond some 5,500 classes in 128 dimensions). More `effort`
      searches there too.

    The other methods are `"simplex"` and `"orthoplex"`; `"lbfgs"` and `"slsqp"`, one descent from a
    random start, the second for small sets only (memory grows as classes³·dims); and `"sgd"`, the
    published one.

    The same arguments give the same array in every process with the same number of threads on the
    same machine; the order of floating-point operations may differ elsewhere.

    Args:
        classes: Number of prototypes, at least 2.
        dims: Dimensions of their space, at least 2.
        method: One of `METHODS`.
        seed: Random seed, a non-negative integer.
        semantics: Prior knowledge about the classes, such as word vectors `(classes, m)`, or None:
            the order of the prototypes' similarities should follow the order of these. First each
            class gets the prototype that suits it best, which costs no separation but takes time as
            classes³: a minute for 1,000. Then the prototypes are moved, unless the method is a
            closed form.
        semantics_weight: Weight of the ranking term (`mhe.prototypes.semantics.RankingTerm`)
            relative to the largest cosine when prototypes are moved: the larger, the better the
            order is kept, and the worse the separation. 0 moves nothing.
        effort: Multiplies the amount of work of `"auto"`.
        seconds: Time limit for searching and moving, or None. If it ends them early, the result
            also depends on the machine's speed.
        progress: Whether to print a line for each stage of a search on stderr, or a function that
            receives these lines.
        stop: Asked after every iteration of a search, and within those that take long, whether to
            end it there and keep the best placement until then, or None.
        reserve: Number of further prototypes, for classes to come. All rows are placed at once. The
            first `classes` are those among them that exchanges have found to be best separated;
            each of the others is as far from those before it as any that is left. So the whole is
            separated as well as rows without an order, and the first `classes`, or any number more,
            at least as well: less than they could be alone, which matters where `reserve` is many
            times `classes`. Beyond 4,096 rows they stay in the order in which they were placed.

    Returns:
        `(classes + reserve, dims)` float32, unit rows.

    Raises:
        ValueError: If an argument is invalid, or the method cannot place that many classes.
        ImportError: If a search is needed and SciPy is not installed.

    Example:

    >>> prototypes = place(10, 5)
    >>> prototypes.shape, separation(prototypes)
    ((10, 5), 0.0)
    >>> prototypes = place(3, 2, reserve=3)  # a hexagon, a triangle first
    >>> round(separation(prototypes[:3]), 6), round(separation(prototypes), 6)
    (-0.5, 0.5)

    Reference:
        Mettes et al., Hyperspherical Prototype Networks, NeurIPS 2019
        ([arXiv:1901.10514](https://arxiv.org/abs/1901.10514)).
    """
    return find(*args, **kwargs).prototypes


def _closed_form(classes: int, dims: int, method: str) -> tuple[np.ndarray | None, str]:
    """The rows of a regular figure and its name, if the method asks for one or it is optimal."""
    if method == "simplex" or (method == "auto" and classes <= dims + 1):
        return closed_forms.simplex(classes, dims), "simplex"
    if method == "orthoplex" or (method == "auto" and classes <= 2 * dims):
        return closed_forms.orthoplex(classes, dims), "orthoplex"
    if method == "auto" and dims == 2:
        return closed_forms.polygon(classes), "polygon"
    return None, ""


def _spreading_order(rows: np.ndarray, classes: int) -> np.ndarray:
    """An order whose first `classes` rows are spread, and of which any further row keeps them so.

    Every row after the first ones is as far from those before it as any that is left. The first are
    chosen likewise, and then exchanged for others while that lowers their energy.
    """
    if len(rows) > _MOST_ORDERED:
        return np.arange(len(rows))
    rows = unit(rows)
    first = _farthest_next(rows, np.zeros(1, np.int64), classes)
    if len(rows) <= _MOST_EXCHANGED:
        first = _exchanged(rows, first)
    return _farthest_next(rows, first, len(rows))


def _farthest_next(rows: np.ndarray, order: np.ndarray, count: int) -> np.ndarray:
    """Continues an order to `count` rows, each the farthest from those before it."""
    nearest = (rows @ rows[order].T).max(axis=1)
    nearest[order] = np.inf
    further: list[int] = []
    while len(order) + len(further) < count:
        row = int(np.argmin(nearest))
        further.append(row)
        nearest = np.maximum(nearest, rows @ rows[row])
        nearest[row] = np.inf
    return np.concatenate([order, np.array(further, np.int64)])


def _exchanged(rows: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Exchanges chosen rows for others, the best exchange first, until none lowers their energy."""
    energies = np.exp(_SHARPNESS * (rows @ rows.T - 1.0))
    np.fill_diagonal(energies, 0.0)
    chosen = chosen.copy()
    for _ in range(10 * len(chosen)):
        left = np.setdiff1d(np.arange(len(rows)), chosen)
        own = energies[:, chosen].sum(axis=1)
        gains = own[chosen][:, None] - (own[left] - energies[np.ix_(chosen, left)])
        out, into = np.unravel_index(np.argmax(gains), gains.shape)
        if gains[out, into] <= 1e-9 * own[chosen].sum():
            break
        chosen[out] = left[into]
    return chosen


def _weighted(term: optimize.Term, weight: float) -> optimize.Term:
    def weighted(rows: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = term(rows)
        return weight * value, weight * gradient

    return weighted
