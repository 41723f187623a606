"""The inception score: confident predictions for each image, diverse ones over all images."""

import itertools
from typing import Any

import numpy as np

from gan.scores.arrays import rows

# Tolerance of the sum of probabilities, for a softmax in float16.
TOLERANCE = 1e-2


def inception_score(probabilities: Any, splits: int = 10) -> tuple[float, float]:
    """The exponential of the mean KL divergence of predictions from their mean.

        exp(1/n Σ_i KL(p(y|x_i) ‖ p(y))),    p(y) = 1/n Σ_i p(y|x_i)

    It is computed for each split of consecutive images, as in the published code. It is between 1,
    if all predictions are equal, and the number of classes. Fewer images score lower, and so do
    images sorted by class, as in many datasets: shuffle real images first.

    Args:
        probabilities: `(N, K)`, the classifier's class probabilities of N generated images; each
            row sums to 1.
        splits: Number of splits. All images are used; if N is not a multiple, some splits have one
            more image.

    Returns:
        The mean over the splits and their standard deviation, that of the population (divided by
        `splits`) as published.

    Raises:
        ValueError: If a row is not a distribution, or there are fewer images than splits.

    Example:

    >>> mean, std = inception_score(np.full((20, 4), 0.25))
    >>> round(mean, 6), round(std, 6)
    (1.0, 0.0)
    >>> mean, std = inception_score(np.tile(np.eye(4), (10, 1)))
    >>> round(mean, 6), round(std, 6)
    (4.0, 0.0)

    Reference:
        Salimans et al., Improved Techniques for Training GANs, NeurIPS 2016 (arXiv 1606.03498),
        section 4, and its published code.
    """
    probabilities = rows(probabilities, "probabilities")
    if isinstance(splits, bool) or not isinstance(splits, int | np.integer) or splits < 1:
        raise ValueError(f"`splits` must be a positive integer. Received: {splits!r}")
    count = len(probabilities)
    if count < splits:
        raise ValueError(
            f"`probabilities` must have at least one image per split. "
            f"Received: {count} images, splits={splits}"
        )
    sums = probabilities.sum(axis=1, dtype=np.float64)
    wrong = (probabilities < 0).any(axis=1) | (np.abs(sums - 1) > TOLERANCE)
    if wrong.any():
        row = int(wrong.argmax())
        raise ValueError(
            "`probabilities` must be nonnegative rows that sum to 1. "
            f"Received: row {row} of smallest entry {probabilities[row].min()} and sum {sums[row]}"
        )
    edges = [part * count // splits for part in range(splits + 1)]
    scores = [
        _score(probabilities[begin:end] / sums[begin:end, None])
        for begin, end in itertools.pairwise(edges)
    ]
    return float(np.mean(scores)), float(np.std(scores))


def _score(p: np.ndarray) -> float:
    # Σ_k p_k log p_k, with 0 log 0 = 0; the marginal is positive wherever any row is.
    divergences = _p_log_p(p).sum(axis=1).mean() - _p_log_p(p.mean(axis=0)).sum()
    return float(np.exp(divergences))


def _p_log_p(p: np.ndarray) -> np.ndarray:
    return p * np.log(np.where(p > 0, p, 1.0))
