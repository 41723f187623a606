"""Boxes of a detector: overlaps, a grid of proposals, suppression, average precision.

A box is `(top, left, bottom, right)` in pixels, the last two exclusive.
"""

from collections.abc import Sequence

import numpy as np


def overlaps(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Returns the intersection over union of every box with every other.

    Args:
        boxes: `(N, 4)`.
        others: `(M, 4)`.

    Returns:
        A float64 array `(N, M)`, from 0 to 1.

    Example:

    >>> overlaps(np.array([[0, 0, 2, 2]]), np.array([[0, 0, 2, 2], [0, 1, 2, 3], [5, 5, 6, 6]]))
    array([[1.        , 0.33333333, 0.        ]])
    """
    boxes, others = np.asarray(boxes, float), np.asarray(others, float)
    first = np.maximum(boxes[:, None, :2], others[None, :, :2])
    last = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    shared = np.prod(np.maximum(last - first, 0), axis=-1)
    areas = [np.prod(each[:, 2:] - each[:, :2], axis=1) for each in (boxes, others)]
    return shared / (areas[0][:, None] + areas[1] - shared)


def grid(size: int, sides: Sequence[int], step: int) -> np.ndarray:
    """Returns a dense grid of square boxes of some sizes on a square canvas.

    Args:
        size: Side of the canvas in pixels.
        sides: Sides of the boxes in pixels.
        step: Pixels from one box to the next.

    Returns:
        An array `(P, 4)`.

    Example:

    >>> grid(6, [4, 6], step=2).tolist()
    [[0, 0, 4, 4], [0, 2, 4, 6], [2, 0, 6, 4], [2, 2, 6, 6], [0, 0, 6, 6]]
    """
    boxes = []
    for side in sides:
        places = np.arange(0, size - side + 1, step)
        corners = np.stack(np.meshgrid(places, places, indexing="ij"), axis=-1).reshape(-1, 2)
        boxes.append(np.concatenate([corners, corners + side], axis=1))
    return np.concatenate(boxes)


def suppress(boxes: np.ndarray, scores: np.ndarray, threshold: float = 0.3) -> np.ndarray:
    """Selects the best boxes and drops those that overlap a better one (non-maximum suppression).

    Args:
        boxes: `(N, 4)`.
        scores: `(N,)`.
        threshold: The overlap from which the worse of two boxes is dropped.

    Returns:
        The indices of the boxes that stay, the best first.

    Example:

    >>> boxes = np.array([[0, 0, 4, 4], [0, 1, 4, 5], [8, 8, 12, 12]])
    >>> suppress(boxes, np.array([0.8, 0.9, 0.3])).tolist()
    [1, 2]
    """
    overlapping = overlaps(boxes, boxes) >= threshold
    remaining = np.ones(len(boxes), bool)
    best = []
    for index in np.argsort(-scores, kind="stable"):
        if remaining[index]:
            best.append(index)
            remaining &= ~overlapping[index]
    return np.array(best, np.int64)


def average_precision(scores: np.ndarray, correct: np.ndarray, objects: int) -> float:
    """Returns the area under the curve of precision over recall, as VOC defines it since 2010.

    The precision at a recall is the largest there or at any higher recall.

    Args:
        scores: Scores of the detections of one class, `(N,)`.
        correct: Whether each of them detects an object of its own, bool `(N,)`.
        objects: The number of objects to detect.

    Returns:
        A number from 0 to 1.

    Example:

    >>> average_precision(np.array([0.9, 0.8, 0.7]), np.array([True, False, True]), objects=2)
    0.8333333333333333

    Reference:
        Everingham et al., The PASCAL Visual Object Classes challenge: a retrospective, IJCV 2015,
        section 2.2.
    """
    detected = np.cumsum(correct[np.argsort(-scores, kind="stable")])
    precision = detected / np.arange(1, len(detected) + 1)
    best = np.maximum.accumulate(precision[::-1])[::-1]
    # Recall rises by 1 / objects at each correct detection.
    rises = np.diff(detected, prepend=0)
    return float(np.sum(best * rises) / objects)


def matched(
    boxes: np.ndarray, scores: np.ndarray, truths: np.ndarray, threshold: float = 0.5
) -> np.ndarray:
    """Returns which detections of one class on one canvas are correct.

    Each object counts once, for its best detection.

    Args:
        boxes: `(N, 4)`.
        scores: `(N,)`.
        truths: The boxes of the objects `(M, 4)`.
        threshold: The overlap from which an object is detected.

    Returns:
        A bool array `(N,)`.

    Example:

    >>> boxes = np.array([[0, 0, 4, 4], [0, 1, 4, 5], [8, 8, 12, 12]])
    >>> matched(boxes, np.array([0.8, 0.9, 0.3]), np.array([[0, 0, 4, 4]])).tolist()
    [False, True, False]
    """
    correct = np.zeros(len(boxes), bool)
    if len(truths) == 0:
        return correct
    shared = overlaps(boxes, truths)
    taken = np.zeros(len(truths), bool)
    for index in np.argsort(-scores, kind="stable"):
        nearest = int(shared[index].argmax())
        if shared[index, nearest] >= threshold and not taken[nearest]:
            taken[nearest] = correct[index] = True
    return correct
