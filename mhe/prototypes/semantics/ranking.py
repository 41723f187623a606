"""The ranking loss: the order of prototypes' similarities should follow that of semantics."""

from typing import Any, NamedTuple

import numpy as np

from mhe import checks
from mhe.prototypes.semantics.similarity import check_rows, similarity_levels, unit_semantics

# Number of Chebyshev polynomials in each of two cosines. Each one cuts the error of the
# interpolation 6.4-fold; here it is below 1e-13, and 1e-11 for the slope.
_TERMS = 16

# This many pairs of a class and another one are ranked at a time (half a MiB for the terms), and
# this many in all unless the user asks for more.
_BLOCK = 1 << 12
_PAIRS = 1 << 18
_FEWEST_OTHERS = 32


class RankingTerm:
    """A loss that is low if prototypes' similarities are in the order of the semantic ones.

    For a class i and two others, of which j is semantically more similar to it than k is, the
    term is the cross-entropy of RankNet, with S = sigmoid(o) and o = cos(p_i, p_j) − cos(p_i, p_k):

        −log S(o) = log(1 + exp(cos(p_i, p_k) − cos(p_i, p_j)))

    The value is its mean over all such triplets. The paper sums the cross-entropy of both (i, j, k)
    and (i, k, j), which are equal, and takes the mean over twice as many. Equal semantic
    similarities (within 1.4e-6, the rounding of float32) carry no order, and their triplets are
    left out; the paper counts them as ordered both ways.

    No triplet is ever visited. Between cosines, log(1 + exp(v − u)) is within 1e-13 a sum
    of products of Chebyshev polynomials in u and in v, so that with the others of each class in
    their semantic order, running sums give the value and the exact gradient of N³/2 triplets in
    O(N²) time and memory.

    Beyond 512 classes each class is compared with a random sample of the others only, drawn once:
    2¹⁸ pairs in all, or 32 others per class if that is more.

    Args:
        semantics: Vectors `(classes, m)`, one per class.
        others: Maximum number of others that each class is compared with; None for the above.
        seed: Seeds the sample if there are more classes than that.

    Attributes:
        triplets: The number of triplets (i, j, k), j semantically nearer to i than k.

    Raises:
        ValueError: If `semantics` is not an array of non-zero, finite rows, or `others` is not an
            integer of at least 2.

    Example:

    >>> term = RankingTerm([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]])
    >>> value, gradient = term(np.eye(3))  # all cosines equal: every order equally likely
    >>> term.triplets, round(value / float(np.log(2)), 12), gradient.shape
    (3, 1.0, (3, 3))

    Reference:
        Mettes et al., Hyperspherical Prototype Networks, NeurIPS 2019
        ([arXiv:1901.10514](https://arxiv.org/abs/1901.10514)), prototypes with privileged
        information, the loss L_PI; after Burges et al., Learning to rank using gradient descent,
        ICML 2005.
    """

    def __init__(self, semantics: Any, others: int | None = None, seed: int = 0) -> None:
        rows = unit_semantics(semantics)
        self.classes = len(rows)
        if others is None:
            others = max(_FEWEST_OTHERS, _PAIRS // self.classes)
        checks.check_count("others", others, 2)
        rng = np.random.default_rng(seed)
        # One more, because a sample may contain the class itself, which is then left out.
        width = min(self.classes, int(others) + 1)
        height = max(1, _BLOCK // width)
        self._blocks: list[_Ranking] = []
        for top in range(0, self.classes, height):
            drawn = np.arange(self.classes)
            if width < self.classes:
                drawn = np.sort(rng.choice(self.classes, width, replace=False))
            self._blocks.append(_Ranking.of(rows, np.arange(self.classes)[top:][:height], drawn))
        self.triplets = sum(block.triplets for block in self._blocks)
        self._softplus, derivative = _chebyshev_softplus()
        self._slopes = derivative.T @ self._softplus.T, derivative.T @ self._softplus

    def __call__(self, prototypes: Any) -> tuple[float, np.ndarray]:
        """Returns value and gradient at prototypes of any length: only their directions count.

        Args:
            prototypes: Non-zero rows `(classes, dims)`.

        Returns:
            The value, and its gradient `(classes, dims)`, orthogonal to each row; both are 0 if
            there is no triplet.

        Raises:
            ValueError: If the number of rows is not that of the classes, or a row is zero.
        """
        rows = check_rows(prototypes, self.classes)
        norms = np.linalg.norm(rows, axis=1, keepdims=True)
        units = rows / norms
        value, gradient = 0.0, np.zeros_like(units)
        for block in self._blocks:
            anchors, others = units[block.anchors], units[block.others]
            cosines = np.clip(anchors @ others.T, -1.0, 1.0)
            part, slopes = self._evaluate(block, cosines)
            value += part
            gradient[block.anchors] += slopes @ others
            gradient[block.others] += slopes.T @ anchors
        gradient -= np.sum(gradient * units, axis=1, keepdims=True) * units
        count = max(self.triplets, 1)
        return value / count, gradient / (norms * count)

    def _evaluate(self, block: "_Ranking", cosines: np.ndarray) -> tuple[float, np.ndarray]:
        """The sum over a block's triplets, and its derivative with respect to `cosines`."""
        terms = _chebyshev(np.take_along_axis(cosines, block.order, axis=1))
        terms[:, block.itself, -1] = 0.0
        above = np.zeros((*terms.shape[:2], terms.shape[2] + 1))
        np.cumsum(terms, axis=2, out=above[:, :, 1:])
        if block.ties is None:
            nearer, farther = above[:, :, :-1], above[:, :, -1:] - above[:, :, 1:]
        else:
            first, last = (np.broadcast_to(edge, terms.shape) for edge in block.ties)
            nearer = np.take_along_axis(above, first, axis=2)
            farther = above[:, :, -1:] - np.take_along_axis(above, last, axis=2)
        # One matrix product over everything else: the terms are the first axis for that.
        nearer, farther = (sums.reshape(_TERMS, -1) for sums in (nearer, farther))
        terms = terms.reshape(_TERMS, -1)
        value = float(np.sum(terms * (self._softplus.T @ nearer)))
        slopes = np.sum(terms * (self._slopes[0] @ nearer + self._slopes[1] @ farther), axis=0)
        derivative = np.empty_like(cosines)
        np.put_along_axis(derivative, block.order, slopes.reshape(block.order.shape), axis=1)
        return value, derivative


class _Ranking(NamedTuple):
    """Other classes ranked by their similarity to each of some classes, the anchors.

    `order` `(A, O)` sorts the others, the nearest first. `itself` are the anchors that are among
    their own others; they come last and are left out. `ties`, or None without ties, holds for each
    place the first one that is as near, and the first one that is farther.
    """

    anchors: np.ndarray
    others: np.ndarray
    order: np.ndarray
    itself: np.ndarray
    ties: tuple[np.ndarray, np.ndarray] | None
    triplets: int

    @classmethod
    def of(cls, rows: np.ndarray, anchors: np.ndarray, others: np.ndarray) -> "_Ranking":
        """Ranks `others` by the cosines between `rows`."""
        levels = similarity_levels(rows[anchors] @ rows[others].T)
        same = anchors[:, None] == others
        levels[same] = np.iinfo(levels.dtype).min
        order = np.argsort(-levels.astype(np.int64), axis=1, kind="stable").astype(np.int32)
        levels = np.take_along_axis(levels, order, axis=1)
        itself = np.flatnonzero(same.any(axis=1))
        width = levels.shape[1]
        fresh = np.ones(levels.shape, bool)
        fresh[:, 1:] = levels[:, 1:] != levels[:, :-1]
        places = np.arange(width)
        first = np.maximum.accumulate(np.where(fresh, places, 0), axis=1)
        triplets = int(first.sum()) - int(first[itself, -1].sum())
        if fresh.all():
            return cls(anchors, others, order, itself, None, triplets)
        ends = np.concatenate([fresh[:, 1:], np.ones((len(anchors), 1), bool)], axis=1)
        last = np.where(ends, places + 1, width)[:, ::-1]
        last = np.minimum.accumulate(last, axis=1)[:, ::-1]
        return cls(anchors, others, order, itself, (first, last), triplets)


def _chebyshev_softplus() -> tuple[np.ndarray, np.ndarray]:
    """Coefficients c of log(1 + exp(v − u)) = Σ c_ab T_a(u) T_b(v), and those of each T_a's slope.

    The second, `(_TERMS, _TERMS)`, has in row a the coefficients of the derivative of T_a.
    """
    from numpy.polynomial import chebyshev

    nodes = chebyshev.chebpts1(_TERMS)
    values = np.logaddexp(0.0, nodes - nodes[:, None])
    inverse = np.linalg.inv(chebyshev.chebvander(nodes, _TERMS - 1))
    derivative = np.zeros((_TERMS, _TERMS))
    derivative[:, :-1] = chebyshev.chebder(np.eye(_TERMS)).T
    return inverse @ values @ inverse.T, derivative


def _chebyshev(x: np.ndarray) -> np.ndarray:
    """T_0(x), T_1(x), … along a new first axis."""
    terms = np.empty((_TERMS, *x.shape))
    terms[0], terms[1] = 1.0, x
    for degree in range(2, _TERMS):
        np.multiply(2.0 * x, terms[degree - 1], out=terms[degree])
        terms[degree] -= terms[degree - 2]
    return terms
