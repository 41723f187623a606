"""The assignment of prototypes to classes."""

import math
from typing import Any

import numpy as np

from mhe import checks
from mhe.prototypes.optimize import require_scipy
from mhe.prototypes.semantics.similarity import similarity_levels, unit_pair


def assign(prototypes: Any, semantics: Any, starts: int = 4, seed: int = 0) -> np.ndarray:
    """Assigns prototypes to classes so that the order of similarities is kept best.

    The prototypes do not move, so this costs no separation. It maximizes the correlation between
    the ranks of the two kinds of similarities (Spearman's ρ over all pairs), a quadratic
    assignment problem: SciPy's fast approximate method comes near an optimum, and the best swap of
    two classes follows as long as one helps. The best of several starts is a good local optimum,
    not always the global one. A start takes some N³ steps: a quarter of a second for 100 classes on
    one core, 13 seconds for 1,000.

    Args:
        prototypes: Rows `(classes, dims)`.
        semantics: Vectors `(classes, m)`.
        starts: Number of starts: the first at the mean of all assignments, the others at random.
        seed: Seeds the random starts.

    Returns:
        Integers `(classes,)`: row `result[c]` of `prototypes` is for class c.

    Raises:
        ValueError: If `semantics` is not one non-zero, finite vector per class, or `starts` is not
            a positive integer.
        ImportError: If SciPy is not installed.

    Example:

    >>> import mhe
    >>> words = np.array([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0], [-0.6, 0.8]])
    >>> shuffled = words[[2, 0, 3, 1]]
    >>> order = assign(shuffled, words)
    >>> mhe.prototypes.order_kept(shuffled[order], words).mean
    1.0

    Reference:
        Vogelstein et al., Fast approximate quadratic programming for graph matching, PLoS ONE
        10(4), 2015; Koopmans and Beckmann, Assignment problems and the location of economic
        activities, Econometrica 25, 1957.
    """
    checks.check_count("starts", starts, 1)
    require_scipy()
    from scipy.optimize import quadratic_assignment

    prototypes, semantics = unit_pair(prototypes, semantics, 2)
    given, wanted = _ranks(prototypes), _ranks(semantics)
    rng = np.random.default_rng(seed)
    best, order = -math.inf, np.arange(len(given))
    for start in ["barycenter"] + ["randomized"] * (starts - 1):
        # The equal cosines of a regular figure leave the first step open: `shuffle_input`.
        options = {"maximize": True, "rng": rng, "P0": start, "shuffle_input": True}
        candidate = quadratic_assignment(wanted, given, method="faq", options=options).col_ind
        candidate = _swap(wanted, given, candidate)
        value = float(np.sum(wanted * given[np.ix_(candidate, candidate)]))
        if value > best:
            best, order = value, candidate
    return order


def _swap(wanted: np.ndarray, given: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Makes the best swap in `order` until none increases sum(wanted · given[order][:, order]).

    Both matrices are symmetric with a zero diagonal. `products` follows each swap, so that a swap
    costs N² steps.
    """
    order = order.copy()
    given = given[np.ix_(order, order)]
    products = wanted @ given
    scale = np.abs(wanted).max() * np.abs(given).max()
    while True:
        itself = np.diag(products)
        gains = products + products.T - itself[:, None] - itself + 2 * wanted * given
        one, two = np.unravel_index(np.argmax(gains), gains.shape)
        # A smaller gain may be rounding, and swaps would go round in circles.
        if gains[one, two] <= 1e-9 * scale:
            return order
        pair, swapped = [one, two], [two, one]
        order[pair] = order[swapped]
        difference = given[two] - given[one]
        given[pair] = given[swapped]
        given[:, pair] = given[:, swapped]
        products[:, pair] = wanted @ given[:, pair]
        difference[pair] = 0.0
        products += np.outer(wanted[:, one] - wanted[:, two], difference)
        products[:, pair] = wanted @ given[:, pair]


def _ranks(rows: np.ndarray) -> np.ndarray:
    """The centered ranks of all pairs' similarities, in a symmetric matrix."""
    from scipy.stats import rankdata

    upper = np.triu_indices(len(rows), 1)
    ranks = rankdata(similarity_levels(rows @ rows.T)[upper])
    matrix = np.zeros((len(rows), len(rows)))
    matrix[upper] = ranks - ranks.mean()
    return matrix + matrix.T
