"""Parts of a dataset, drawn class by class."""

import numpy as np

from mhe.harness.errors import BadInput


def balanced_subset(
    images: np.ndarray, labels: np.ndarray, count: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Draw a subset with the same number of images of every class.

    Where `count` is not a multiple of the number of classes, some classes, drawn too, have one
    image more. The images keep their order. The smaller of two subsets of one seed lies within the
    larger if both counts are multiples of the number of classes.

    Args:
        images: Array `(N, ...)`.
        labels: Integer array `(N,)`.
        count: Images to draw, at least one a class.
        seed: Non-negative integer that decides which.

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
    chosen = [order[:number] for order, number in zip(orders, wanted, strict=True)]
    chosen = np.sort(np.concatenate(chosen))
    return images[chosen], labels[chosen]


def held_out(labels: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Draw the images that are kept from training, the same share of every class.

    Args:
        labels: Integer array `(N,)`.
        share: Part of each class, between 0 and 1; the number of images is rounded.
        seed: Non-negative integer that decides which.

    Returns:
        Boolean array `(N,)`, true for what is held out.

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
