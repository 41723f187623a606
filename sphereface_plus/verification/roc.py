"""How many pairs are accepted, correctly and wrongly, at every threshold (NumPy).

Not scikit-learn's `roc_curve`: here the counts stay integers, so the area under the curve is exact
up to its last division, and a curve of ten million pairs takes at most 0.4 of the time and less
memory (`log/verification`).
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class RocCurve:
    """The corners of a ROC curve; a pair is accepted if its score is at least the threshold.

    Between two corners one of the counts is constant, or several pairs have the same score.

    Attributes:
        thresholds: Decreasing, from infinity, which accepts nothing, to the smallest score.
        false_accepts: The number of accepted pairs of different people at each threshold.
        true_accepts: The number of accepted pairs of the same person at each threshold.

    Example:

    >>> curve = roc_curve([0.9, 0.8, 0.7, 0.1], [True, True, False, False])
    >>> curve.true_accepts
    array([0, 2, 2])
    >>> float(curve.auc), float(curve.eer)
    (1.0, 0.0)
    """

    thresholds: np.ndarray
    false_accepts: np.ndarray
    true_accepts: np.ndarray

    @property
    def different(self) -> int:
        """The number of pairs of different people."""
        return int(self.false_accepts[-1])

    @property
    def same(self) -> int:
        """The number of pairs of the same person."""
        return int(self.true_accepts[-1])

    @property
    def far(self) -> np.ndarray:
        """The false accept rate at each corner."""
        return self.false_accepts / self.different

    @property
    def tar(self) -> np.ndarray:
        """The true accept rate at each corner."""
        return self.true_accepts / self.same

    @property
    def auc(self) -> float:
        """The area under the curve: the probability that a same pair outscores a different one.

        Ties count half. Counts are summed as integers, so only the last division rounds.
        """
        heights = self.true_accepts[1:] + self.true_accepts[:-1]
        twice = int(np.sum(np.diff(self.false_accepts) * heights))
        return twice / (2 * self.same * self.different)

    @property
    def eer(self) -> float:
        """The equal error rate, where the false accept rate equals the false reject rate.

        The curve is interpolated linearly between corners.
        """
        far, frr = self.far, 1 - self.tar
        after = int(np.argmax(far >= frr))
        before = after - 1
        missing = frr[before] - far[before]
        part = missing / (missing + far[after] - frr[after])
        return float(far[before] + part * (far[after] - far[before]))

    def tar_at(self, far: float) -> float | None:
        """The largest true accept rate whose false accept rate is at most `far`.

        Args:
            far: A false accept rate in (0, 1].

        Returns:
            The rate, or None if there are fewer than 1/`far` pairs of different people: so few
            allow no false accept at all, and the rate would be that at FAR 0.

        Example:

        >>> curve = roc_curve([0.9, 0.8, 0.7, 0.1], [True, False, True, False])
        >>> curve.tar_at(0.5), curve.tar_at(0.1)
        (1.0, None)
        """
        # 1e-3 · 1000 must be 1, whatever the rounding.
        allowed = math.floor(far * self.different * (1 + 1e-9))
        if allowed < 1:
            return None
        place = int(np.searchsorted(self.false_accepts, allowed, side="right")) - 1
        return float(self.true_accepts[place] / self.same)


def roc_curve(scores: Any, same: Any) -> RocCurve:
    """The exact ROC curve of scored pairs, with every score as a threshold.

    Args:
        scores: Numbers `(n,)`, larger for more similar pairs.
        same: Whether each pair is of the same person, `(n,)`.

    Returns:
        The curve.

    Raises:
        ValueError: If the scores are not finite or not one per pair, or there are no pairs of the
            same person or none of different people.

    Example:

    >>> curve = roc_curve([0.9, 0.5, 0.5, 0.2], [True, True, False, False])
    >>> curve.thresholds
    array([inf, 0.9, 0.5, 0.2])
    >>> curve.far, curve.tar
    (array([0. , 0. , 0.5, 1. ]), array([0. , 0.5, 1. , 1. ]))
    """
    scores, same = checked_pairs(scores, same)
    kinds = np.sort(scores[~same]), np.sort(scores[same])
    # The curve rises only at scores of same pairs, so that its corners are there and at its ends.
    values = np.unique(kinds[1])
    rejected = np.stack([_rejected(kind, values) for kind in kinds])
    rejected = rejected[:, np.r_[True, (np.diff(rejected) != 0).any(axis=0)]]
    level = np.diff(rejected) == 0
    straight = (level[:, 1:] & level[:, :-1]).any(axis=0)
    rejected = rejected[:, np.r_[True, ~straight, True]]
    # The smallest accepted score, or infinity if none is accepted.
    least = [np.r_[kind, np.inf][own] for kind, own in zip(kinds, rejected, strict=True)]
    # The first threshold rejects all.
    false_accepts, true_accepts = rejected[:, :1] - rejected
    return RocCurve(np.minimum(*least).astype(scores.dtype), false_accepts, true_accepts)


def checked_pairs(scores: Any, same: Any) -> tuple[np.ndarray, np.ndarray]:
    """Returns scores, float32 or float64, and labels, bool, as arrays, or raises a `ValueError`."""
    scores, same = np.asarray(scores), np.asarray(same)
    if scores.ndim != 1 or scores.dtype.kind not in "fiu" or same.shape != scores.shape:
        raise ValueError(
            "There must be one score and one label for each pair, both (n,). "
            f"Received: scores {scores.dtype} {scores.shape}, same {same.shape}"
        )
    if scores.dtype != np.float32:
        scores = scores.astype(np.float64)
    if not np.isfinite(scores).all():
        wrong = int(np.argmin(np.isfinite(scores)))
        raise ValueError(f"Scores must be finite. Received: {scores[wrong]} of pair {wrong}")
    if same.dtype != bool:
        wrong = (same != 0) & (same != 1)
        if wrong.any():
            raise ValueError(
                "`same` must be True and False, or 1 and 0. "
                f"Received: {same[wrong.argmax()]} of pair {wrong.argmax()}"
            )
        same = same.astype(bool)
    positive = np.count_nonzero(same)
    if not 0 < positive < len(same):
        raise ValueError(
            "There must be pairs of the same person and pairs of different people. "
            f"Received: {positive} and {len(same) - positive}"
        )
    return scores, same


def _rejected(rising: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Counts of rejected scores: all; those up to and those below each value, decreasing; none."""
    sides = [np.searchsorted(rising, values, side) for side in ("right", "left")]
    return np.r_[len(rising), np.stack(sides, axis=1)[::-1].ravel(), 0]
