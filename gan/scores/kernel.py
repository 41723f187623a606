"""The kernel inception distance: an unbiased distance between two sets of features."""

from typing import Any

import numpy as np

from gan.scores.arrays import two_sets


def kernel_inception_distance(
    features1: Any, features2: Any, subsets: int = 100, size: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """Squared maximum mean discrepancy with the kernel (x·y/D + 1)³, over random subsets.

    This is the unbiased estimate: its expectation does not depend on the number of images and is 0
    for sets of the same distribution, so single values may be negative.

    Args:
        features1: Features `(N, D)` of the first set of images.
        features2: Features `(M, D)` of the second set.
        subsets: Number of pairs of subsets, one of each set, to average over.
        size: Number of images in a subset, drawn without replacement.
        seed: Seed of the draws.

    Returns:
        The mean over the subsets and their standard deviation, that of the population as
        published.

    Raises:
        ValueError: If a set has fewer images than `size`, or features are not finite or differ in
            dimensions.

    Example:

    >>> rng = np.random.default_rng(0)
    >>> real, fake = rng.normal(size=(60, 3)), rng.normal(1.0, size=(80, 3))
    >>> mean, std = kernel_inception_distance(real, fake, subsets=10, size=50)
    >>> 3 < mean < 12, std > 0
    (True, True)

    Reference:
        Bińkowski et al., Demystifying MMD GANs, ICLR 2018 (arXiv 1801.01401), section 4, and its
        published code.
    """
    if size < 2 or subsets < 1:
        raise ValueError(
            f"`size` must be at least 2, `subsets` at least 1. Received: {size=}, {subsets=}"
        )
    sets = two_sets(features1, features2, ("features1", "features2"), size)
    rng = np.random.default_rng(seed)
    distances = [
        _squared_discrepancy(
            *(each[rng.choice(len(each), size, replace=False)].astype(np.float64) for each in sets)
        )
        for _ in range(subsets)
    ]
    return float(np.mean(distances)), float(np.std(distances))


def _squared_discrepancy(x: np.ndarray, y: np.ndarray) -> float:
    count = len(x)
    within = sum(
        (kernel.sum() - np.trace(kernel)) / (count * (count - 1))
        for kernel in (_kernel(x, x), _kernel(y, y))
    )
    return within - 2 * _kernel(x, y).mean()


def _kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return (x @ y.T / x.shape[1] + 1) ** 3
