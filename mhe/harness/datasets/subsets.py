"""Random parts of a dataset: balanced over classes, or long-tailed."""

import numpy as np

from mhe.harness.errors import BadInput


def balanced_subset(
    images: np.ndarray, labels: np.ndarray, count: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Draws a subset with the same number of images of every class.

    If `count` is not a multiple of the number of classes, some randomly chosen classes have one
    image more. The images keep their order. Of two subsets with the same seed, the larger contains
    the smaller if both counts are multiples of the number of classes.

    Args:
        images: Array `(N, ...)`.
        labels: Integer array `(N,)`.
        count: Number of images to draw, at least one per class.
        seed: Non-negative integer.

    Returns:
        Images `(count, ...)` and labels `(count,)`.

    Raises:
        BadInput: If a class has too few images, or `count` is smaller than the number of classes.

    Example:

    >>> import numpy as np
    >>> _, labels = balanced_subset(np.zeros((9, 2)), np.arange(9) % 3, count=6, seed=0)
    >>> np.bincount(labels).tolist()
    [2, 2, 2]
    """
    classes = np.unique(labels)
    if count < len(classes):
        raise BadInput(
            f"A balanced subset of {len(classes)} classes needs at least as many images. "
            f"Received: {count}"
        )
    rng = np.random.default_rng(seed)
    orders = [rng.permutation(np.flatnonzero(labels == each)) for each in classes]
    each, left_over = divmod(count, len(classes))
    wanted = np.full(len(classes), each)
    wanted[rng.permutation(len(classes))[:left_over]] += 1
    for label, order, number in zip(classes, orders, wanted, strict=True):
        if len(order) < number:
            raise BadInput(
                f"A balanced subset of {count} images needs {number} of class {label}, "
                f"which has {len(order)}. Received: {count}"
            )
    chosen = np.sort(
        np.concatenate([order[:number] for order, number in zip(orders, wanted, strict=True)])
    )
    return images[chosen], labels[chosen]


def long_tailed(labels: np.ndarray, ratio: float, seed: int) -> np.ndarray:
    """Draws a long-tailed subset, whose classes get exponentially rarer in the order of the labels.

    Of C classes, the smallest of which has n images, class k keeps n·ratio^(-k/(C - 1)) of them,
    rounded down: n of the first and n/ratio of the last. Of two subsets with the same seed, that
    with the smaller ratio contains the other.

    Args:
        labels: Integer array `(N,)`.
        ratio: How many times as many images the first class keeps as the last, at least 1.
        seed: Non-negative integer.

    Returns:
        The indices of the images, in order.

    Raises:
        BadInput: If there are fewer than two classes, the ratio is less than 1, or so large that no
            image of the last class would be left.

    Example:

    >>> labels = np.arange(300) % 3
    >>> np.bincount(labels[long_tailed(labels, ratio=100, seed=0)]).tolist()
    [100, 10, 1]

    Reference:
        Cui et al., Class-balanced loss based on effective number of samples, CVPR 2019
        (arXiv 1901.05555), on long-tailed CIFAR.
    """
    classes, counts = np.unique(labels, return_counts=True)
    if ratio < 1 or len(classes) < 2:
        raise BadInput(
            "A long-tailed subset needs at least two classes and an imbalance of at least 1. "
            f"Received: {len(classes)} classes, an imbalance of {ratio:g}"
        )
    most = int(counts.min())
    # What is a whole number but for the rounding of the power stays one.
    kept = most * ratio ** (-np.arange(len(classes)) / (len(classes) - 1)) + 1e-6
    if kept[-1] < 1:
        raise BadInput(
            f"The last class must keep an image, so an imbalance may be at most {most}, the size "
            f"of the smallest class. Received: {ratio:g}"
        )
    rng = np.random.default_rng(seed)
    chosen = [
        rng.permutation(np.flatnonzero(labels == label))[: int(number)]
        for label, number in zip(classes, kept, strict=True)
    ]
    return np.sort(np.concatenate(chosen))


def held_out(labels: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Draws images to hold out of training, the same share of every class.

    Args:
        labels: Integer array `(N,)`.
        share: Fraction of each class, between 0 and 1; the number of images is rounded.
        seed: Non-negative integer.

    Returns:
        Boolean array `(N,)`, true for the images that are held out.

    Example:

    >>> import numpy as np
    >>> held_out(np.arange(12) % 3, 0.25, seed=0).sum()
    np.int64(3)
    """
    rng = np.random.default_rng(seed)
    chosen = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        chosen[members[: round(share * len(members))]] = True
    return chosen


def halves(labels: np.ndarray) -> np.ndarray:
    """Deals images into two halves, in turn within each class.

    Args:
        labels: Integer array `(N,)`.

    Returns:
        0 or 1 for each image, `(N,)`. Classes of a single image go to either half.

    Example:

    >>> import numpy as np
    >>> halves(np.array([4, 4, 4, 7, 7, 9]))
    array([0, 1, 0, 1, 0, 1])
    """
    half = np.zeros(len(labels), int)
    for label in np.unique(labels):
        places = np.flatnonzero(labels == label)
        half[places] = (np.arange(len(places)) + label) % 2
    return half
