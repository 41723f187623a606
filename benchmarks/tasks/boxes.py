"""Boxes of a detector: overlaps, a grid of proposals, suppression of doubles, average precision.

A box is `(top, left, bottom, right)` in pixels, the last two excluded.
"""

from collections.abc import Sequence

import numpy as np


def overlaps(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Intersection over union of every box with every other.

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
    """Square boxes of some sizes all over a square canvas: proposals that know nothing of it.

    Args:
        size: Pixels of the canvas each way.
        sides: Sides of the boxes.
        step: Pixels from a box to the next.

    Returns:
        An array `(P, 4)`.

    Example:

    >>> grid(6, [4, 6], step=2).tolist()
    [[0, 0, 4, 4], [0, 2, 4, 6], [2, 0, 6, 4], [2, 2, 6, 6], [0, 0, 6, 6]]
    """
    found = []
    for side in sides:
        places = np.arange(0, size - side + 1, step)
        corners = np.stack(np.meshgrid(places, places, indexing="ij"), axis=-1).reshape(-1, 2)
        found.append(np.concatenate([corners, corners + side], axis=1))
    return np.concatenate(found)


def without_doubles(boxes: np.ndarray, scores: np.ndarray, threshold: float = 0.3) -> np.ndarray:
    """Keeps the best boxes, and drops those that overlap a better one (non-maximum suppression).

    Args:
        boxes: `(N, 4)`.
        scores: `(N,)`.
        threshold: The overlap from which a box is the double of a better one.

    Returns:
        Which boxes are kept, the best first.

    Example:

    >>> boxes = np.array([[0, 0, 4, 4], [0, 1, 4, 5], [8, 8, 12, 12]])
    >>> without_doubles(boxes, np.array([0.8, 0.9, 0.3])).tolist()
    [1, 2]
    """
    doubles = overlaps(boxes, boxes) >= threshold
    left = np.ones(len(boxes), bool)
    kept = []
    for place in np.argsort(-scores, kind="stable"):
        if left[place]:
            kept.append(place)
            left &= ~doubles[place]
    return np.array(kept, np.int64)


def average_precision(scores: np.ndarray, right: np.ndarray, objects: int) -> float:
    """Area under the curve of precision over recall, as VOC has taken it since 2010.

    The precision at a recall is the largest there or at any higher recall.

    Args:
        scores: Of the detections of one class, `(N,)`.
        right: Which of them found an object of their own, bool `(N,)`.
        objects: How many objects there are to find.

    Returns:
        A number from 0 to 1.

    Example:

    >>> average_precision(np.array([0.9, 0.8, 0.7]), np.array([True, False, True]), objects=2)
    0.8333333333333333

    Reference:
        Everingham et al., The PASCAL Visual Object Classes challenge: a retrospective, IJCV 2015,
        section 2.2.
    """
    found = np.cumsum(right[np.argsort(-scores, kind="stable")])
    precision = found / np.arange(1, len(found) + 1)
    best = np.maximum.accumulate(precision[::-1])[::-1]
    # Recall rises by 1 / objects at each detection that is right.
    rises = np.diff(found, prepend=0)
    return float(np.sum(best * rises) / objects)


def matched(
    boxes: np.ndarray, scores: np.ndarray, truths: np.ndarray, threshold: float = 0.5
) -> np.ndarray:
    """Which detections of one class on one canvas are right: each object is found at most once.

    Args:
        boxes: `(N, 4)`.
        scores: `(N,)`; the best detection of an object has it.
        truths: The boxes of the objects `(M, 4)`.
        threshold: The overlap from which an object is found.

    Returns:
        A bool array `(N,)`.

    Example:

    >>> boxes = np.array([[0, 0, 4, 4], [0, 1, 4, 5], [8, 8, 12, 12]])
    >>> matched(boxes, np.array([0.8, 0.9, 0.3]), np.array([[0, 0, 4, 4]])).tolist()
    [False, True, False]
    """
    right = np.zeros(len(boxes), bool)
    if len(truths) == 0:
        return right
    shared = overlaps(boxes, truths)
    taken = np.zeros(len(truths), bool)
    for place in np.argsort(-scores, kind="stable"):
        nearest = int(shared[place].argmax())
        if shared[place, nearest] >= threshold and not taken[nearest]:
            taken[nearest] = right[place] = True
    return right
