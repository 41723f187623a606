"""How well prototypes keep the order of semantic similarities."""

import math
from typing import Any, NamedTuple

import numpy as np

from mhe.prototypes.optimize import require_scipy
from mhe.prototypes.semantics.similarity import similarity_levels, unit_pair


class Order(NamedTuple):
    """How well prototypes keep the order of semantic similarities; see `order_kept`.

    Attributes:
        classes: The classes that were compared, `(N,)`.
        per_class: Kendall's τ for each of them, `(N,)`, between its similarities to the other
            classes among prototypes and among semantics. NaN if either has no order, as in a
            simplex, whose cosines are all equal.
        mean: The mean of those that are not NaN.
        pairs: Kendall's τ over all pairs of classes at once.
    """

    classes: np.ndarray
    per_class: np.ndarray
    mean: float
    pairs: float


def order_kept(prototypes: Any, semantics: Any, most: int = 1000, seed: int = 0) -> Order:
    """Measures how well prototypes keep the order of semantic similarities, by Kendall's τ.

    1 is the same order, 0 none, −1 the opposite. It is τ-b: equal similarities (within 1.4e-6, the
    rounding of float32) count for neither.

    Args:
        prototypes: Rows `(classes, dims)`.
        semantics: Vectors `(classes, m)`.
        most: Maximum number of classes to compare; of more, this many are drawn at random.
        seed: Seeds that draw.

    Returns:
        An `Order`.

    Raises:
        ValueError: If `semantics` is not one non-zero, finite vector per class, or there are fewer
            than three classes.
        ImportError: If SciPy is not installed.

    Example:

    >>> words = np.array([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0], [-0.6, 0.8]])
    >>> order_kept(words, words).mean
    1.0
    >>> round(order_kept(words[[0, 2, 1, 3]], words).pairs, 2)
    -0.23

    Reference:
        Kendall, The treatment of ties in ranking problems, Biometrika 33, 1945.
    """
    require_scipy()
    from scipy.stats import kendalltau

    prototypes, semantics = unit_pair(prototypes, semantics, 3)
    classes = np.arange(len(semantics))
    if len(classes) > most:
        classes = np.sort(np.random.default_rng(seed).choice(classes, most, replace=False))
    placed, known = (
        similarity_levels(rows[classes] @ rows[classes].T) for rows in (prototypes, semantics)
    )
    upper = np.triu_indices(len(classes), 1)
    others = ~np.eye(len(classes), dtype=bool)
    per_class = np.array(
        [
            kendalltau(mine[each], theirs[each]).statistic
            for mine, theirs, each in zip(placed, known, others, strict=True)
        ]
    )
    ordered = per_class[~np.isnan(per_class)]
    mean = float(ordered.mean()) if ordered.size else math.nan
    return Order(classes, per_class, mean, float(kendalltau(placed[upper], known[upper]).statistic))
