"""Where fixed prototypes stand on the sphere: as far apart as is known or can be found.

`place` puts them there, `separation` measures them, and `cosine_lower_bound` says what no
placement can do better. On the command line, `python -m mhe.prototypes` does all three.
"""

import math
import numbers
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from mhe.prototypes import closed_forms, optimize
from mhe.prototypes.bounds import check_shape, cosine_lower_bound, separation
from mhe.prototypes.embedding import embed
from mhe.prototypes.semantics import RankingTerm, assign, order_kept, unit_semantics

__all__ = [
    "METHODS",
    "Placement",
    "cosine_lower_bound",
    "embed",
    "find",
    "order_kept",
    "place",
    "separation",
]

_CLOSED_FORMS = ("simplex", "orthoplex")
_SEARCHES = {"lbfgs": optimize.lbfgs, "sgd": optimize.sgd, "slsqp": optimize.slsqp}
METHODS = ("auto", *_CLOSED_FORMS, *_SEARCHES)


class Placement(NamedTuple):
    """Prototypes, and where they come from.

    Attributes:
        prototypes: `(classes, dims)` float32, unit rows.
        origin: What they come from, in words.
        evaluations: How often a search computed all cosines; 0 where nothing was searched for.
        unmoved: Their largest cosine before semantics moved them, to tell what the order costs;
            None where nothing was moved.
    """

    prototypes: np.ndarray
    origin: str
    evaluations: int
    unmoved: float | None = None


def place(
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
) -> np.ndarray:
    """Prototypes on the unit sphere whose largest cosine is as small as is known or found.

    `method="auto"` takes

    - the simplex up to dims + 1 classes, the orthoplex up to 2·dims, the polygon in two
      dimensions: nothing is better;
    - a sharp configuration, or several in orthogonal subspaces, where none can be better;
    - else the best of these and of a search: descents by L-BFGS over ever sharper log-sum-exps of
      the cosines in float64, from known, random and symmetric starts, with a last polish. The work
      is counted, not timed: some 3 seconds on one core for small sets, 60 for large ones, and
      longer where one descent takes longer, as for 20,000 classes in 10 dimensions, of which
      nothing is known: `seconds` ends it;
    - the best known without a search, such as rows of block codes, where one evaluation of all
      cosines takes a second or more (beyond some 5,500 classes in 128 dimensions). More `effort`
      searches there too.

    The other methods are `"simplex"` and `"orthoplex"`; `"lbfgs"` and `"slsqp"`, one descent from a
    random start, the second for small sets only (memory grows as classes³·dims); and `"sgd"`, the
    published one.

    The same arguments give the same array in every process with as many threads on the same
    machine; the order of floating-point operations may differ elsewhere.

    Args:
        classes: How many prototypes, at least 2.
        dims: Of the space they stand in, at least 2.
        method: One of `METHODS`.
        seed: Seeds what is random, an integer of at least 0.
        semantics: None, or what is known of the classes beforehand, such as word vectors
            `(classes, m)`: the order of the prototypes' similarities should follow the order of
            these. First the prototypes are given to the classes that suit them best, which costs no
            separation, but takes time as classes³: a minute for 1,000. Then they are moved, unless
            a closed form was asked for by name.
        semantics_weight: Weight of the ranking term (`mhe.prototypes.semantics.RankingTerm`) beside
            the largest cosine when prototypes are moved: the larger, the better the order is kept,
            and the worse the separation. 0 moves nothing.
        effort: Factor of the work that `"auto"` does.
        seconds: None, or when searching and moving end by the clock, with what they have, if they
            are not done before: then the array also depends on the machine's speed.
        progress: True shows a line for each stage of a search on stderr; a function gets the line.

    Returns:
        `(classes, dims)` float32, unit rows.

    Raises:
        ValueError: If an argument is not one of the above, or the method cannot place so many.
        ImportError: If it takes a search, and SciPy is not installed.

    Example:

    >>> prototypes = place(10, 5)
    >>> prototypes.shape, separation(prototypes)
    ((10, 5), 0.0)

    Reference:
        Mettes et al., Hyperspherical Prototype Networks, NeurIPS 2019
        ([arXiv:1901.10514](https://arxiv.org/abs/1901.10514)).
    """
    return find(
        *(classes, dims, method, seed, semantics),
        semantics_weight=semantics_weight,
        effort=effort,
        seconds=seconds,
        progress=progress,
    ).prototypes


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
) -> Placement:
    """What `place` does, with a report of where the prototypes come from.

    Args:
        classes: As for `place`, and so are all the others.
        dims: As for `place`.
        method: As for `place`.
        seed: As for `place`.
        semantics: As for `place`.
        semantics_weight: As for `place`.
        effort: As for `place`.
        seconds: As for `place`.
        progress: As for `place`.

    Returns:
        A `Placement`.

    Raises:
        ValueError: As `place`.
        ImportError: As `place`.

    Example:

    >>> find(27, 6).origin, find(8, 4).origin
    ('E8 roots, derived twice', 'orthoplex')
    """
    check_shape(classes, dims)
    if method not in METHODS:
        raise ValueError(f"`method` must be one of {', '.join(METHODS)}. Received: {method!r}")
    _check_number("semantics_weight", semantics_weight, above=False)
    _check_number("effort", effort, above=True)
    if seconds is not None:
        _check_number("seconds", seconds, above=True)
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
        raise ValueError(f"`seed` must be an integer of at least 0. Received: seed={seed!r}")
    if semantics is not None:
        semantics = unit_semantics(semantics, classes)
    tell = optimize.to_stderr if progress is True else progress or None
    work = optimize.Effort(seconds=seconds, progress=tell)
    descend = _SEARCHES.get(method, optimize.lbfgs)
    rows, origin = _closed_form(classes, dims, method)
    if rows is None and method == "auto":
        rows, origin = optimize.search(classes, dims, seed, effort, work)
    elif rows is None:
        start = np.random.default_rng(seed).normal(size=(classes, dims))
        rows, origin = descend(start, effort=work), f"{method} from a random start"
    unmoved = None
    if semantics is not None:
        rows = rows[assign(rows, semantics, seed=seed)]
        origin += ", assigned by semantics"
        if semantics_weight and method not in _CLOSED_FORMS:
            term = _weighted(RankingTerm(semantics, seed=seed), semantics_weight)
            unmoved = separation(rows)
            # Blunter stages would forget what was assigned.
            stages = {"stages": optimize.STAGES[2:6]} if descend is optimize.lbfgs else {}
            rows = descend(rows, term=term, effort=work, **stages)
            origin += f", moved by their ranking with weight {semantics_weight:g}"
    return Placement(rows.astype("float32", copy=False), origin, work.evaluations, unmoved)


def _closed_form(classes: int, dims: int, method: str) -> tuple[np.ndarray | None, str]:
    """The rows of a regular figure and its name, if the method asks for one or it is optimal."""
    if method == "simplex" or (method == "auto" and classes <= dims + 1):
        return closed_forms.simplex(classes, dims), "simplex"
    if method == "orthoplex" or (method == "auto" and classes <= 2 * dims):
        return closed_forms.orthoplex(classes, dims), "orthoplex"
    if method == "auto" and dims == 2:
        return closed_forms.polygon(classes), "polygon"
    return None, ""


def _weighted(term: optimize.Term, weight: float) -> optimize.Term:
    def weighted(rows: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = term(rows)
        return weight * value, weight * gradient

    return weighted


def _check_number(name: str, value: Any, *, above: bool) -> None:
    """Refuses what is no finite number of at least 0, or above it."""
    real = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not real or not (0 < value < math.inf or (value == 0 and not above)):
        kind = "above 0" if above else "of at least 0"
        raise ValueError(f"`{name}` must be a finite number {kind}. Received: {name}={value!r}")
