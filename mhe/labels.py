"""Labels and other targets: one per sample, a class or not, ignored or not.

Arrays and lists are checked, and a `ValueError` names a label that is not a class. Tensors are not
read, which would stall an accelerator and is impossible in a compiled step: for them `read_labels`
tells which labels are wrong.
"""

import numbers
from typing import NamedTuple

import keras
import numpy as np
from keras import ops

from mhe import checks
from mhe.types import Tensor


class Labels(NamedTuple):
    """What labels `(...)` mean, each a tensor of that shape.

    Attributes:
        index: The class, int32; 0 where the label is not a class.
        known: Whether the label is a class, and not ignored.
        wrong: Whether the label is neither a class nor ignored.
    """

    index: Tensor
    known: Tensor
    wrong: Tensor


def is_readable(targets: Tensor) -> bool:
    """Whether targets are NumPy's or Python's own, and not on an accelerator."""
    return isinstance(targets, np.ndarray | np.generic | numbers.Number | list | tuple)


def check_readable(labels: Tensor, classes: int, ignore_class: int | None = None) -> None:
    """Checks labels, as `checks.check_labels` does, unless they are tensors."""
    if is_readable(labels):
        checks.check_labels(labels, classes, ignore_class)


def read_labels(
    labels: Tensor, scores: Tensor, classes: int, ignore_class: int | None = None
) -> Labels:
    """Finds out which labels are classes.

    Args:
        labels: Integers `(...)` or `(..., 1)`, in any dtype.
        scores: Tensor `(..., n)`, whose leading axes the labels must have.
        classes: Number of classes.
        ignore_class: A label to ignore, or None.

    Returns:
        The classes, and which labels are known or wrong.

    Raises:
        ValueError: If there is not one label per sample.

    Example:

    >>> labels = read_labels([1, 7, 255], np.zeros((3, 2), "float32"), classes=2, ignore_class=255)
    >>> [np.asarray(each).astype(int).tolist() for each in labels]
    [[1, 0, 0], [1, 0, 0], [0, 1, 0]]
    """
    # Integers up to 2^24 are exact in float32: no dtype of labels needs a way of its own.
    dtype = keras.backend.result_type(scores.dtype, "float32")
    labels = per_sample(ops.convert_to_tensor(labels, dtype), scores)
    known = ops.logical_and(labels >= 0, labels <= classes - 1)
    known = ops.logical_and(known, ops.equal(labels, ops.floor(labels)))
    wrong = ops.logical_not(known)
    if ignore_class is not None:
        counted = ops.not_equal(labels, ignore_class)
        known = ops.logical_and(known, counted)
        wrong = ops.logical_and(wrong, counted)
    return Labels(ops.cast(ops.where(known, labels, 0.0), "int32"), known, wrong)


def per_sample(targets: Tensor, predictions: Tensor) -> Tensor:
    """Returns targets in the shape of predictions `(..., n)` without their last axis.

    Args:
        targets: Tensor `(...)` or `(..., 1)`.
        predictions: Tensor `(..., n)`.

    Raises:
        ValueError: If the shapes differ: broadcast, targets would meet other samples.
    """
    expected, given = tuple(predictions.shape)[:-1], tuple(targets.shape)
    if len(given) == len(expected) + 1 and given[-1] == 1:
        targets = ops.squeeze(targets, -1)
    shape = tuple(targets.shape)
    if len(shape) != len(expected) or any(
        None not in sizes and sizes[0] != sizes[1] for sizes in zip(shape, expected, strict=True)
    ):
        raise ValueError(
            "There must be one target per sample, in the shape of the predictions without their "
            f"last axis. Received: targets {given}, predictions {tuple(predictions.shape)}"
        )
    return targets


def weights_per_sample(weights: Tensor, predictions: Tensor, dtype: str) -> Tensor:
    """Returns weights with all axes of the targets, so that weights of images reach their pixels.

    Args:
        weights: Array-like with some of the targets' leading axes, or `(..., 1)`.
        predictions: Tensor `(..., n)`.
        dtype: Name of the result's dtype.
    """
    weights = ops.convert_to_tensor(weights, dtype)
    axes = len(predictions.shape) - 1
    if len(weights.shape) == axes + 1 and weights.shape[-1] == 1:
        return ops.squeeze(weights, -1)
    while 0 < len(weights.shape) < axes:
        weights = ops.expand_dims(weights, -1)
    return weights
