"""Validation rates at false accept rates, with the threshold of each fold from the others."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mhe import checks


@dataclass(frozen=True)
class ValidationRate:
    """The validation rate, VAL, at a false accept rate that was set on other folds.

    Attributes:
        rates: The share of the pairs of the same person that each fold accepts, `(folds,)`.
        false_accepts: The share of the pairs of different people that each fold accepts; they
            differ from the rate that was asked for, which the other folds have, `(folds,)`.
        thresholds: The threshold for each fold: a pair is accepted if its score is at least that,
            `(folds,)`.

    Example:

    >>> found = ValidationRate(np.array([0.9, 1.0]), np.array([0.0, 0.1]), np.array([4., 3.]))
    >>> found.rate, round(found.std, 4), found.far
    (0.95, 0.0707, 0.05)
    """

    rates: np.ndarray
    false_accepts: np.ndarray
    thresholds: np.ndarray

    @property
    def rate(self) -> float:
        """The mean validation rate over the folds."""
        return float(np.mean(self.rates))

    @property
    def std(self) -> float:
        """The sample standard deviation over the folds, with folds - 1 in the denominator."""
        return float(np.std(self.rates, ddof=1))

    @property
    def far(self) -> float:
        """The mean false accept rate over the folds, as it turned out."""
        return float(np.mean(self.false_accepts))


def validation_rate(
    different: Sequence[np.ndarray], same: Sequence[np.ndarray], far: float
) -> ValidationRate | None:
    """The validation rate at a false accept rate, with the threshold of each fold from the others.

    The threshold of a fold is the smallest at which the other folds, taken together, have at most
    this false accept rate: just above the score of the first pair of different people that must be
    rejected.

    Args:
        different: For each of two or more folds, the sorted scores of its pairs of different
            people, floating-point numbers.
        same: For each fold, the sorted scores of its pairs of the same person.
        far: The false accept rate, in (0, 1).

    Returns:
        The rates, or None if there are fewer than 1/`far` pairs of different people outside a fold:
        so few allow no false accept at all.

    Raises:
        ValueError: If the rate is outside (0, 1).

    Example:

    >>> different, same = np.array([1.0, 2.0, 3.0, 4.0]), np.array([3.5, 9.0])
    >>> found = validation_rate([different, different + 1], [same, same], far=0.25)
    >>> found.rates, found.false_accepts, found.thresholds.round(4)
    (array([0.5, 1. ]), array([0. , 0.5]), array([4., 3.]))

    Reference:
        Schroff et al., FaceNet: a unified embedding for face recognition and clustering, CVPR 2015
        ([arXiv:1503.03832](https://arxiv.org/abs/1503.03832)), equations 5-7; the folds are those
        of LFW's view 2.
    """
    checks.check_number("far", far, above=0, below=1)
    thresholds = []
    for fold in range(len(different)):
        others = [each for place, each in enumerate(different) if place != fold]
        # 1e-2 · 100 must be 1, whatever the rounding.
        allowed = math.floor(far * sum(map(len, others)) * (1 + 1e-9))
        if allowed < 1:
            return None
        largest = np.concatenate([each[-(allowed + 1) :] for each in others])
        first_rejected = np.partition(largest, -(allowed + 1))[-(allowed + 1)]
        thresholds.append(np.nextafter(first_rejected, first_rejected.dtype.type(np.inf)))
    accepted, false = (
        np.array([np.mean(each >= bar) for each, bar in zip(kind, thresholds, strict=True)])
        for kind in (same, different)
    )
    return ValidationRate(accepted, false, np.array(thresholds))
