"""Checks of bad input that heads, losses and programs share (NumPy)."""

import math
from numbers import Real
from typing import Any

import numpy as np


def check_range(low: float, high: float) -> None:
    """Raise a `ValueError` unless `low` and `high` are finite numbers and `low < high`.

    Example:

    >>> check_range(1600, 1950)
    """
    for name, bound in (("low", low), ("high", high)):
        if isinstance(bound, bool) or not isinstance(bound, Real) or not math.isfinite(bound):
            raise ValueError(f"`{name}` must be a finite number. Received: {name}={bound!r}")
    if not low < high:
        raise ValueError(f"`low` must be less than `high`. Received: low={low!r}, high={high!r}")


def check_labels(labels: Any, classes: int, ignore_class: int | None = None) -> None:
    """Raise a `ValueError` unless every label is the number of a class, or is to be ignored.

    Args:
        labels: Array or list of any shape.
        classes: How many classes, or prototypes, there are.
        ignore_class: A label that is right too, whatever it is.

    Raises:
        ValueError: If a label is no integer or not in [0, classes).

    Example:

    >>> check_labels([0, 9, 255], classes=10, ignore_class=255)
    >>> check_labels([0, 10], classes=10)
    Traceback (most recent call last):
    ValueError: Labels must be integers from 0 to 9, as there are 10 classes. Received: label 10
    """
    labels = np.asarray(labels)
    numbers = labels.astype(np.float64)
    right = (numbers >= 0) & (numbers < classes) & (numbers == np.floor(numbers))
    if ignore_class is not None:
        right |= numbers == ignore_class
    if not np.all(right):
        raise ValueError(
            f"Labels must be integers from 0 to {classes - 1}, as there are {classes} classes. "
            f"Received: label {labels[~right].flat[0]}"
        )


def check_values(values: Any, low: float, high: float) -> None:
    """Raise a `ValueError` unless every value is in [low, high], bounds included.

    Values and bounds are compared in float32, in which losses see them.

    Args:
        values: Array or list of any shape.
        low: The least value.
        high: The largest value.

    Raises:
        ValueError: If a value is outside, or is NaN.

    Example:

    >>> check_values([1600.0, 1789.5], low=1600, high=1950)
    """
    values = np.asarray(values)
    with np.errstate(over="ignore"):
        rounded = values.astype(np.float32)
        inside = (rounded >= np.float32(low)) & (rounded <= np.float32(high))
    if not np.all(inside):
        raise ValueError(
            f"Values must be in [{low}, {high}]. Received: value {values[~inside].flat[0]}"
        )
