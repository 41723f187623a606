"""How many samples are accepted, correctly and wrongly, at every threshold (NumPy).

Not scikit-learn's `roc_curve`: here the counts stay integers, so the area under the curve is exact
up to its last division, and a curve of ten million scores takes at most 0.4 of the time and less
memory (`log/verification`).
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from mhe import checks


@dataclass(frozen=True)
class RocCurve:
    """The corners of a ROC curve; a sample is accepted if its score is at least the threshold.

    Samples are of two kinds: positives, which should be accepted, such as images of known classes
    or pairs of the same person, and negatives. Between two corners one of the counts is constant,
    or several samples have the same score.

    Attributes:
        thresholds: Decreasing, from infinity, which accepts nothing, to the smallest score.
        false_accepts: The number of accepted negatives at each threshold.
        true_accepts: The number of accepted positives at each threshold.

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
    def negatives(self) -> int:
        """The number of negatives."""
        return int(self.false_accepts[-1])

    @property
    def positives(self) -> int:
        """The number of positives."""
        return int(self.true_accepts[-1])

    @property
    def far(self) -> np.ndarray:
        """The false accept rate, or false positive rate, at each corner."""
        return self.false_accepts / self.negatives

    @property
    def tar(self) -> np.ndarray:
        """The true accept rate, or true positive rate, at each corner."""
        return self.true_accepts / self.positives

    @property
    def auc(self) -> float:
        """The area under the curve: the probability that a positive outscores a negative.

        Ties count half. Counts are summed as integers, so only the last division rounds.
        """
        heights = self.true_accepts[1:] + self.true_accepts[:-1]
        twice = int(np.sum(np.diff(self.false_accepts) * heights))
        return twice / (2 * self.positives * self.negatives)

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
            The rate, or None if there are fewer than 1/`far` negatives: so few allow no false
            accept at all, and the rate would be that at FAR 0.

        Example:

        >>> curve = roc_curve([0.9, 0.8, 0.7, 0.1], [True, False, True, False])
        >>> curve.tar_at(0.5), curve.tar_at(0.1)
        (1.0, None)
        """
        # 1e-3 · 1000 must be 1, whatever the rounding.
        allowed = math.floor(far * self.negatives * (1 + 1e-9))
        if allowed < 1:
            return None
        place = int(np.searchsorted(self.false_accepts, allowed, side="right")) - 1
        return float(self.true_accepts[place] / self.positives)

    def far_at(self, tar: float) -> float:
        """The smallest false accept rate whose true accept rate is at least `tar`.

        At 0.95 this is the "FPR at 95 % TPR" of papers on unknown inputs.

        Args:
            tar: A true accept rate in (0, 1].

        Raises:
            ValueError: If `tar` is not such a rate.

        Example:

        >>> curve = roc_curve([0.9, 0.8, 0.7, 0.1], [True, False, True, False])
        >>> curve.far_at(0.5), curve.far_at(0.95)
        (0.0, 0.5)
        """
        checks.check_number("tar", tar, above=0)
        if tar > 1:
            raise ValueError(f"`tar` must be a rate in (0, 1]. Received: tar={tar!r}")
        needed = math.ceil(tar * self.positives * (1 - 1e-9))
        place = int(np.searchsorted(self.true_accepts, needed, side="left"))
        return float(self.false_accepts[place] / self.negatives)


def roc_curve(scores: Any, positive: Any) -> RocCurve:
    """The exact ROC curve of scored samples, with every score as a threshold.

    Args:
        scores: Numbers `(n,)`, larger for samples that should be accepted.
        positive: Whether each sample should be, `(n,)`.

    Returns:
        The curve, with the area under it and the rates at a given other rate.

    Raises:
        ValueError: If the scores are not finite or not one per sample, or all samples are of one
            kind.

    Example:

    >>> known, unknown = [0.9, 0.5], [0.5, 0.2]
    >>> curve = roc_curve(known + unknown, [True, True, False, False])
    >>> curve.thresholds
    array([inf, 0.9, 0.5, 0.2])
    >>> curve.far, curve.tar
    (array([0. , 0. , 0.5, 1. ]), array([0. , 0.5, 1. , 1. ]))
    >>> curve.auc, curve.far_at(0.95)
    (0.875, 0.5)
    """
    scores, positive = checks.check_scored("positive", scores, positive)
    kinds = np.sort(scores[~positive]), np.sort(scores[positive])
    # The curve rises only at scores of positives, so that its corners are there and at its ends.
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


def _rejected(rising: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Counts of rejected scores: all; those up to and those below each value, decreasing; none."""
    sides = [np.searchsorted(rising, values, side) for side in ("right", "left")]
    return np.r_[len(rising), np.stack(sides, axis=1)[::-1].ravel(), 0]
