"""How many pairs are accepted, rightly and wrongly, at every threshold (NumPy)."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class RocCurve:
    """The corners of a ROC curve: a pair is accepted if its score is at least the threshold.

    Between corners, one of the two counts stays what it is, or several pairs have one score.

    Attributes:
        thresholds: Falling, from infinity, which accepts nothing, to the least score.
        false_accepts: How many pairs of different people each accepts.
        true_accepts: How many pairs of the same person each accepts.

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
        """How many pairs are of different people."""
        return int(self.false_accepts[-1])

    @property
    def same(self) -> int:
        """How many pairs are of the same person."""
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
        """The area under the curve: how often a same pair scores above a different one.

        Ties count half. The counts are added up as integers, and only the last division rounds.
        """
        heights = self.true_accepts[1:] + self.true_accepts[:-1]
        twice = int(np.sum(np.diff(self.false_accepts) * heights))
        return twice / (2 * self.same * self.different)

    @property
    def eer(self) -> float:
        """The equal error rate: where as many different pairs are accepted as same ones rejected.

        Between two corners the curve is a straight line.
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
            The rate, or None where there are fewer than 1/`far` pairs of different people: with so
            few, no pair may be accepted wrongly, and the rate would be the one at FAR 0.

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
    """The ROC curve of scored pairs, exact: every score is a threshold.

    Args:
        scores: Numbers `(n,)`, larger for pairs that are more alike.
        same: Whether a pair is of the same person, `(n,)`.

    Returns:
        The curve.

    Raises:
        ValueError: If the scores are not finite or not all of a kind, or there are no same or no
            different pairs.

    Example:

    >>> curve = roc_curve([0.9, 0.5, 0.5, 0.2], [True, True, False, False])
    >>> curve.thresholds
    array([inf, 0.9, 0.5, 0.2])
    >>> curve.far, curve.tar
    (array([0. , 0. , 0.5, 1. ]), array([0. , 0.5, 1. , 1. ]))
    """
    scores, same = checked_pairs(scores, same)
    kinds = np.sort(scores[~same]), np.sort(scores[same])
    # The curve is level but where a pair of the same person has that score, so that it turns only
    # there, and where all above is accepted.
    values = np.unique(kinds[1])
    rejected = np.stack([_rejected(kind, values) for kind in kinds])
    rejected = rejected[:, np.r_[True, (np.diff(rejected) != 0).any(axis=0)]]
    level = np.diff(rejected) == 0
    straight = (level[:, 1:] & level[:, :-1]).any(axis=0)
    rejected = rejected[:, np.r_[True, ~straight, True]]
    # The least score that is accepted, which is infinity where none is.
    least = [np.r_[kind, np.inf][own] for kind, own in zip(kinds, rejected, strict=True)]
    # The first accepts nothing: all are rejected.
    false_accepts, true_accepts = rejected[:, :1] - rejected
    return RocCurve(np.minimum(*least).astype(scores.dtype), false_accepts, true_accepts)


def checked_pairs(scores: Any, same: Any) -> tuple[np.ndarray, np.ndarray]:
    """Scores and labels of pairs as arrays, float32 or float64 and bool, or a `ValueError`."""
    scores, same = np.asarray(scores), np.asarray(same)
    if scores.ndim != 1 or scores.dtype.kind not in "fiu" or same.shape != scores.shape:
        raise ValueError(
            "There must be one number and one truth for each pair, both (n,). "
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
    """How many numbers are rejected: all, those up to each value and below it, falling, none."""
    sides = [np.searchsorted(rising, values, side) for side in ("right", "left")]
    return np.r_[len(rising), np.stack(sides, axis=1)[::-1].ravel(), 0]
