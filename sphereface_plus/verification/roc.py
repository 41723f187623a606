"""ROC curves of pairs (NumPy)."""

from typing import Any

import numpy as np

from mhe import checks, metrics


class RocCurve(metrics.RocCurve):
    """A ROC curve whose positives are pairs of the same person; see `mhe.metrics.RocCurve`.

    Example:

    >>> curve = roc_curve([0.9, 0.8, 0.7, 0.1, 0.0], [True, True, False, False, False])
    >>> curve.same, curve.different
    (2, 3)
    """

    @property
    def different(self) -> int:
        """The number of pairs of different people."""
        return self.negatives

    @property
    def same(self) -> int:
        """The number of pairs of the same person."""
        return self.positives


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
    curve = metrics.roc_curve(*checked_pairs(scores, same))
    return RocCurve(curve.thresholds, curve.false_accepts, curve.true_accepts)


def checked_pairs(scores: Any, same: Any) -> tuple[np.ndarray, np.ndarray]:
    """Returns scores, float32 or float64, and labels, bool, as arrays, or raises a `ValueError`."""
    both = ("pairs of the same person", "pairs of different people")
    return checks.check_scored("same", scores, same, "pair", both)
