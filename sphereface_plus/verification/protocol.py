"""The ten-fold protocol of Labeled Faces in the Wild, view 2, and its metrics."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mhe import checks
from sphereface_plus.verification.roc import RocCurve, checked_pairs, roc_curve
from sphereface_plus.verification.scores import cosine_scores
from sphereface_plus.verification.validation import ValidationRate, validation_rate

FARS = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)


@dataclass(frozen=True)
class Verification:
    """How well scores tell pairs of the same person from pairs of different people.

    Attributes:
        accuracies: The accuracy on each fold, `(folds,)`.
        thresholds: The threshold for each fold, chosen on the others, `(folds,)`.
        roc: The ROC curve of all pairs.
        scores: The score of each pair, `(n,)`.
        same: Whether each pair is of the same person, bool `(n,)`.
        val_at_far: The validation rate at false accept rates from 1e-1 to 1e-6, with the threshold
            of each fold from the others. None if there are fewer than 1/FAR pairs of different
            people outside a fold, with a note in `notes`.
    """

    accuracies: np.ndarray
    thresholds: np.ndarray
    roc: RocCurve
    scores: np.ndarray
    same: np.ndarray
    val_at_far: Mapping[float, ValidationRate | None] = field(default_factory=dict)

    @property
    def accuracy(self) -> float:
        """The mean accuracy over the folds."""
        return float(np.mean(self.accuracies))

    @property
    def accuracy_std(self) -> float:
        """The sample standard deviation over the folds, with folds - 1 in the denominator."""
        return float(np.std(self.accuracies, ddof=1))

    @property
    def standard_error(self) -> float:
        """`accuracy_std`/√folds, the number after ± in LFW's own tables."""
        return self.accuracy_std / math.sqrt(len(self.accuracies))

    @property
    def auc(self) -> float:
        """The area under the ROC curve."""
        return self.roc.auc

    @property
    def eer(self) -> float:
        """The equal error rate."""
        return self.roc.eer

    @property
    def tar_at_far(self) -> dict[float, float | None]:
        """The true accept rate at false accept rates from 1e-1 to 1e-6.

        None if there are fewer than 1/FAR pairs of different people, with a note in `notes`.
        """
        return {far: self.roc.tar_at(far) for far in FARS}

    @property
    def notes(self) -> list[str]:
        """Why rates are missing, one sentence for each."""
        return [
            f"FAR {far:.0e} needs {1 / far:,.0f} pairs of different people, "
            f"and there are {self.roc.different:,}"
            for far, tar in self.tar_at_far.items()
            if tar is None
        ] + [
            f"the validation rate at FAR {far:.0e} needs {1 / far:,.0f} pairs of different people "
            f"outside every fold, and of {self.roc.different:,} there are fewer"
            for far, rate in self.val_at_far.items()
            if rate is None and self.tar_at_far[far] is not None
        ]

    def metrics(self) -> dict[str, float | None]:
        """The numbers by name, for reports and files.

        Returns:
            `accuracy`, `accuracy_std`, `standard_error`, `auc`, `eer`, `tar_at_far_1e-1` to
            `tar_at_far_1e-6`, `val_at_far_1e-1` to `val_at_far_1e-6`, and `val_at_far_1e-1_std` to
            `val_at_far_1e-6_std`.
        """
        names = ("accuracy", "accuracy_std", "standard_error", "auc", "eer")
        metrics = {name: getattr(self, name) for name in names}
        for place, (far, tar) in enumerate(self.tar_at_far.items(), start=1):
            metrics[f"tar_at_far_1e-{place}"] = tar
            val = self.val_at_far.get(far)
            metrics[f"val_at_far_1e-{place}"] = None if val is None else val.rate
            metrics[f"val_at_far_1e-{place}_std"] = None if val is None else val.std
        return metrics


def verify(a: Any, b: Any, same: Any, folds: int | Any = 10) -> Verification:
    """Verifies pairs of embeddings by their cosine.

    Args:
        a: Embeddings of the first faces, `(n, dims)`.
        b: Embeddings of the second faces, `(n, dims)`.
        same: Whether each pair is of the same person, `(n,)`.
        folds: As in `verify_scores`.

    Returns:
        As `verify_scores`.

    Raises:
        ValueError: If the shapes do not match, an embedding is zero or not finite, or a fold lacks
            pairs of one kind.

    Example:

    >>> a, b = [[1.0, 0.0]] * 4, [[2.0, 0.1], [-1.0, 3.0], [3.0, 0.2], [-1.0, 0.0]]
    >>> result = verify(a, b, [True, False, True, False], folds=2)
    >>> result.accuracy, result.auc, result.eer
    (1.0, 1.0, 0.0)

    Reference:
        Huang et al., Labeled Faces in the Wild: a database for studying face recognition in
        unconstrained environments, University of Massachusetts, Amherst, 07-49, 2007, view 2.
    """
    return verify_scores(cosine_scores(a, b), same, folds)


def verify_scores(scores: Any, same: Any, folds: int | Any = 10) -> Verification:
    """Verifies pairs by their scores, each fold with the threshold that is best on the others.

    A pair is accepted if its score is at least the threshold. The threshold of a fold is the one
    with the highest accuracy on the other folds, halfway between two of their scores; of equally
    good ones it is the highest, which accepts the fewest pairs.

    Args:
        scores: Numbers `(n,)`, larger for more similar pairs.
        same: Whether each pair is of the same person, `(n,)`.
        folds: The number of folds, which are consecutive pairs as in LFW's list of pairs; or the
            fold of each pair, integers `(n,)`, such as `stratified_folds` returns.

    Returns:
        The accuracies, the thresholds, the validation rates, and the ROC curve of all pairs.

    Raises:
        ValueError: If the scores are not finite or not one per pair, there are fewer than two
            folds, or a fold lacks pairs of one kind.

    Example:

    >>> scores = [0.9, 0.2, 0.6, 0.3, 0.8, 0.7]
    >>> result = verify_scores(scores, [True, False] * 3, folds=3)
    >>> result.thresholds
    array([0.75, 0.75, 0.45])
    >>> result.accuracies
    array([1. , 0.5, 0.5])
    >>> result.tar_at_far[0.1]
    >>> result.notes[0]
    'FAR 1e-01 needs 10 pairs of different people, and there are 3'
    """
    scores, same = checked_pairs(scores, same)
    folds = _checked_folds(folds, len(same))
    different, matches = [], []
    for fold in range(max(2, int(folds.max()) + 1)):
        own = folds == fold
        different.append(np.sort(scores[own & ~same]))
        matches.append(np.sort(scores[own & same]))
        if not (len(different[-1]) and len(matches[-1])):
            raise ValueError(
                "Each of two or more folds must hold pairs of the same person and pairs of "
                "different people; `stratified_folds` makes such folds. "
                f"Received: fold {fold} with {len(matches[-1])} and {len(different[-1])}"
            )
    thresholds = best_thresholds(different, matches)
    accuracies = [
        (np.searchsorted(low, threshold) + len(high) - np.searchsorted(high, threshold))
        / (len(low) + len(high))
        for low, high, threshold in zip(different, matches, thresholds, strict=True)
    ]
    rates = {far: validation_rate(different, matches, far) for far in FARS}
    curve = roc_curve(scores, same)
    return Verification(np.array(accuracies), thresholds, curve, scores, same, rates)


def best_thresholds(different: Sequence[np.ndarray], same: Sequence[np.ndarray]) -> np.ndarray:
    """For each fold, the threshold with the highest accuracy on the others; see `verify_scores`.

    Args:
        different: For each fold, the sorted scores of its pairs of different people.
        same: For each fold, the sorted scores of its pairs of the same person.

    Returns:
        A threshold for each fold, in the precision of the scores.

    Example:

    >>> different, same = np.array([0.1, 0.4]), np.array([0.6, 0.9])
    >>> best_thresholds([different, different - 0.1], [same, same + 0.1])
    array([0.5, 0.5])
    """
    scores, folds = np.concatenate(same), np.repeat(np.arange(len(same)), [*map(len, same)])
    order = np.argsort(scores)
    scores, folds = scores[order], folds[order]
    # The next score above a best threshold, if there is one, is that of a same pair: rejecting a
    # different pair, too, would be better. So it is enough to try thresholds below same pairs, and
    # accuracy is highest where the rejected different pairs most outnumber the rejected same ones.
    rejected = [np.searchsorted(each, scores).astype(np.int32) for each in different]
    total = np.sum(rejected, axis=0, dtype=np.int64)
    found = []
    for fold in range(len(same)):
        kept = folds != fold
        candidates = np.r_[scores[kept], np.inf].astype(scores.dtype)
        gains = np.r_[(total - rejected[fold])[kept], 0] - np.arange(len(candidates))
        gains[-1] += sum(len(each) for place, each in enumerate(different) if place != fold)
        above = candidates[len(gains) - 1 - np.argmax(gains[::-1])]
        others = [
            each[place]
            for kind in (different, same)
            for each in (*kind[:fold], *kind[fold + 1 :])
            if (place := np.searchsorted(each, above) - 1) >= 0
        ]
        found.append(_between(max(others), above) if others else above)
    return np.array(found)


def _between(below: np.floating, above: np.floating) -> np.floating:
    """A number of the same precision above `below`, at most `above`, halfway if there is one."""
    if np.isinf(above):
        return np.nextafter(below, above)
    middle = below + (above - below) / 2
    return middle if middle > below else above


def stratified_folds(same: Any, folds: int = 10, seed: int = 0) -> np.ndarray:
    """Deals pairs in no particular order into folds, balanced over both kinds of pairs.

    Pairs of one person may be in several folds: thresholds are chosen on the same people that they
    are tested on, whereas LFW's own folds are of different people.

    Args:
        same: Whether each pair is of the same person, `(n,)`.
        folds: The number of folds.
        seed: Seed of the shuffle.

    Returns:
        The fold of each pair, integers `(n,)`. The sizes of the folds differ by two at most, and by
        one for each kind of pair.

    Raises:
        ValueError: If there are fewer pairs of one kind than folds.

    Example:

    >>> same = np.array([True] * 4 + [False] * 6)
    >>> dealt = stratified_folds(same, 2)
    >>> np.bincount(dealt[same]), np.bincount(dealt[~same])
    (array([2, 2]), array([3, 3]))
    """
    checks.check_count("folds", folds, 2)
    same = np.asarray(same).astype(bool)
    fewest = min(np.count_nonzero(same), np.count_nonzero(~same))
    if fewest < folds:
        raise ValueError(
            f"There must be at least {folds} pairs of each kind for {folds} folds. "
            f"Received: {np.count_nonzero(same)} of the same person and "
            f"{np.count_nonzero(~same)} of different people"
        )
    generator = np.random.default_rng(seed)
    dealt = np.empty(len(same), np.int32)
    for kind in (same, ~same):
        own = np.arange(np.count_nonzero(kind), dtype=np.int32) % np.int32(folds)
        generator.shuffle(own)
        dealt[kind] = own
    return dealt


def _checked_folds(folds: Any, pairs: int) -> np.ndarray:
    """Returns the fold of each pair, int32 `(n,)`, or raises a `ValueError`."""
    if np.ndim(folds) == 0:
        checks.check_count("folds", folds, 2)
        folds = np.arange(pairs) * int(folds) // pairs
    given = np.asarray(folds)
    if given.shape != (pairs,) or given.dtype.kind not in "iu" or given.min() < 0:
        raise ValueError(
            "`folds` must be their number, or the fold of each pair as an integer from 0. "
            f"Received: {given.dtype} {given.shape} for {pairs} pairs"
        )
    return given.astype(np.int32)
