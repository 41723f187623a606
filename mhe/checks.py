"""Checks of bad input, shared by the whole library (NumPy).

Each function raises a `ValueError` that ends in "Received: …"; those that return something return
the checked value in a standard form.
"""

import math
from collections.abc import Collection
from numbers import Integral, Real
from typing import Any

import numpy as np

# How far the length of a prototype may be from 1: float16, in which a file may be stored, rounds
# by 5e-4.
_UNIT = 1e-3


def is_integer(value: Any) -> bool:
    """Whether a value is an integer of Python or NumPy, and not a bool.

    Example:

    >>> is_integer(np.int64(3)), is_integer(True), is_integer(3.0)
    (True, False, False)
    """
    return isinstance(value, Integral) and not isinstance(value, bool)


def check_number(
    name: str,
    value: Any,
    least: float = -math.inf,
    above: float = -math.inf,
    below: float = math.inf,
    optional: bool = False,
) -> None:
    """Raises a `ValueError` unless `value` is a finite number within its bounds.

    Args:
        name: The argument's name, for the error.
        value: The number.
        least: Smallest value allowed.
        above: Number that the value must exceed.
        below: Number that the value must be less than.
        optional: Whether None is allowed too.

    Example:

    >>> check_number("gamma", 2.0, least=0)
    >>> check_number("gamma", -1, least=0)
    Traceback (most recent call last):
    ValueError: `gamma` must be a finite number >= 0. Received: gamma=-1
    """
    if value is None and optional:
        return
    is_real = isinstance(value, Real) and not isinstance(value, bool)
    if not (is_real and math.isfinite(value) and least <= value < below and value > above):
        bounds = [
            f"{sign} {bound}"
            for sign, bound in ((">=", least), (">", above), ("<", below))
            if math.isfinite(bound)
        ]
        expected = " ".join([_or_none(optional, "a finite number"), " and ".join(bounds)]).rstrip()
        raise ValueError(f"`{name}` must be {expected}. Received: {name}={value!r}")


def check_range(low: float, high: float) -> None:
    """Raises a `ValueError` unless `low` and `high` are finite numbers and `low < high`.

    Example:

    >>> check_range(1600, 1950)
    """
    for name, bound in (("low", low), ("high", high)):
        check_number(name, bound)
    if not low < high:
        raise ValueError(f"`low` must be less than `high`. Received: low={low!r}, high={high!r}")


def check_count(
    name: str, value: Any, least: int, most: int | None = None, optional: bool = False
) -> None:
    """Raises a `ValueError` unless `value` is an integer from `least` to `most`.

    Args:
        name: The argument's name, for the error.
        value: The integer.
        least: Smallest value allowed.
        most: Largest value allowed, or None for no limit.
        optional: Whether None is allowed too.

    Example:

    >>> check_count("starts", 4, least=1)
    >>> check_count("k", 7, least=1, most=5)
    Traceback (most recent call last):
    ValueError: `k` must be an integer from 1 to 5. Received: k=7
    """
    if value is None and optional:
        return
    if not is_integer(value) or value < least or (most is not None and value > most):
        bounds = f">= {least}" if most is None else f"from {least} to {most}"
        expected = _or_none(optional, "an integer")
        raise ValueError(f"`{name}` must be {expected} {bounds}. Received: {name}={value!r}")


def check_choice(name: str, value: Any, choices: Collection[Any], optional: bool = False) -> None:
    """Raises a `ValueError` unless `value` is one of the choices.

    Args:
        name: The argument's name, for the error.
        value: The value.
        choices: What it may be: strings or integers.
        optional: Whether None is allowed too.

    Example:

    >>> check_choice("space", "half", ("full", "half"))
    >>> check_choice("space", "third", ("full", "half"))
    Traceback (most recent call last):
    ValueError: `space` must be "full" or "half". Received: space='third'
    """
    if value is None and optional:
        return
    if isinstance(value, bool) or value not in choices:
        names = [f'"{choice}"' if isinstance(choice, str) else str(choice) for choice in choices]
        *others, last = names
        expected = _or_none(optional, f"{', '.join(others)} or {last}" if others else last)
        raise ValueError(f"`{name}` must be {expected}. Received: {name}={value!r}")


def check_flag(name: str, value: Any) -> None:
    """Raises a `ValueError` unless `value` is True or False.

    Args:
        name: The argument's name, for the error.
        value: The value.

    Example:

    >>> check_flag("unit", True)
    >>> check_flag("unit", 1)
    Traceback (most recent call last):
    ValueError: `unit` must be True or False. Received: unit=1
    """
    if not isinstance(value, bool):
        raise ValueError(f"`{name}` must be True or False. Received: {name}={value!r}")


def check_same_length(**arrays: Any) -> None:
    """Raises a `ValueError` unless all arrays, given by name, have the same length.

    Example:

    >>> check_same_length(images=np.zeros((2, 8, 8)), labels=[0, 1, 1])
    Traceback (most recent call last):
    ValueError: There must be as many images as labels. Received: 2 images, 3 labels
    """
    lengths = {name: len(array) for name, array in arrays.items()}
    if len(set(lengths.values())) > 1:
        received = ", ".join(f"{length} {name}" for name, length in lengths.items())
        raise ValueError(f"There must be as many {' as '.join(arrays)}. Received: {received}")


def read_class_names(name: str, labels: Any) -> np.ndarray:
    """Returns labels `(N,)`, integers or names, as an array of integers or strings.

    Object arrays, such as a column of pandas, are taken for what they hold.

    Raises:
        ValueError: If they are something else.

    Example:

    >>> read_class_names("labels", np.array(["a", "b"], object)).dtype.kind
    'U'
    """
    array = np.asarray(labels)
    if array.dtype.kind == "O" and array.ndim == 1:
        for kind, dtype in (((str,), str), ((int, np.integer), np.int64)):
            if all(isinstance(each, kind) and not isinstance(each, bool) for each in array):
                array = array.astype(dtype)
                break
    if array.ndim != 1 or array.dtype.kind not in "iuU":
        raise ValueError(
            f"`{name}` must be integers or names (N,). "
            f"Received: shape {array.shape}, dtype {array.dtype}"
        )
    return array


def check_labels(labels: Any, classes: int, ignore_class: int | None = None) -> None:
    """Raises a `ValueError` unless every label is a class or is ignored.

    Args:
        labels: Array or list of any shape.
        classes: Number of classes.
        ignore_class: A label to allow although it is not a class, or None.

    Raises:
        ValueError: If a label is not an integer in [0, classes).

    Example:

    >>> check_labels([0, 9, 255], classes=10, ignore_class=255)
    >>> check_labels([0, 10], classes=10)
    Traceback (most recent call last):
    ValueError: Labels must be integers from 0 to 9, as there are 10 classes. Received: label 10
    """
    labels, numbers = _numbers("Labels", labels)
    valid = (numbers >= 0) & (numbers < classes) & (numbers == np.floor(numbers))
    if ignore_class is not None:
        valid |= numbers == ignore_class
    if not np.all(valid):
        raise ValueError(
            f"Labels must be integers from 0 to {classes - 1}, as there are {classes} classes. "
            f"Received: label {labels[~valid].flat[0]}"
        )


def check_values(values: Any, low: float, high: float) -> None:
    """Raises a `ValueError` unless every value is in [low, high].

    Values and bounds are compared in float32, as losses see them.

    Args:
        values: Array or list of any shape.
        low: Smallest value allowed.
        high: Largest value allowed.

    Raises:
        ValueError: If a value is not a number, is NaN or is out of range.

    Example:

    >>> check_values([1600.0, 1789.5], low=1600, high=1950)
    """
    values, numbers = _numbers("Values", values)
    with np.errstate(over="ignore"):
        rounded = numbers.astype(np.float32)
        inside = (rounded >= np.float32(low)) & (rounded <= np.float32(high))
    if not np.all(inside):
        raise ValueError(
            f"Values must be in [{low}, {high}]. Received: value {values[~inside].flat[0]}"
        )


def check_finite_array(name: str, values: Any, shape: tuple[int, ...], axes: str) -> np.ndarray:
    """Returns numbers of a given shape as a float32 array, or raises a `ValueError`.

    Args:
        name: The argument's name, for the error.
        values: Array-like.
        shape: The shape it must have.
        axes: Names of its axes, for the error, such as `"(classes, dims)"`.

    Returns:
        A float32 array.

    Raises:
        ValueError: If the shape differs, or a number is not finite.

    Example:

    >>> check_finite_array("prototypes", [[1, 2], [3, np.nan]], (2, 2), "(classes, dims)")
    Traceback (most recent call last):
    ValueError: `prototypes` must be finite. Received: nan at (1, 1) of (classes, dims)
    """
    array = np.asarray(values).astype(np.float32)
    if array.shape != shape:
        raise ValueError(f"`{name}` must be {axes}, here {shape}. Received: shape {array.shape}")
    wrong = np.argwhere(~np.isfinite(array))
    if len(wrong):
        place = tuple(wrong[0].tolist())
        raise ValueError(f"`{name}` must be finite. Received: {array[place]} at {place} of {axes}")
    return array


def check_unit_rows(prototypes: Any) -> np.ndarray:
    """Returns prototypes as an array, or raises a `ValueError`.

    Args:
        prototypes: Array-like `(classes, dims)`.

    Returns:
        The array, not copied if it already was one.

    Raises:
        ValueError: If it is not an array of real numbers with at least 2 classes and 2 dimensions,
            or the length of a row differs from 1 by more than 1e-3.

    Example:

    >>> check_unit_rows([[1.0, 0.0], [0.0, 2.0]])
    Traceback (most recent call last):
    ValueError: `prototypes` must be rows of length 1. Received: row 1 of length 2
    """
    expected = "an array (classes, dims) of real numbers, of at least 2 classes and 2 dimensions"
    try:
        rows = np.asarray(prototypes)
    except ValueError as error:
        raise ValueError(f"`prototypes` must be {expected}. Received: {error}") from error
    if rows.ndim != 2 or min(rows.shape) < 2 or rows.dtype.kind not in "fiu":
        raise ValueError(
            f"`prototypes` must be {expected}. Received: shape {rows.shape}, dtype {rows.dtype}"
        )
    lengths = np.sqrt(np.einsum("ij,ij->i", rows, rows, dtype="float64"))
    wrong = np.flatnonzero(~(np.abs(lengths - 1) <= _UNIT))
    if len(wrong):
        raise ValueError(
            "`prototypes` must be rows of length 1. "
            f"Received: row {wrong[0]} of length {lengths[wrong[0]]:g}"
        )
    return rows


def check_costs(costs: Any, classes: int | None = None, positive: bool = False) -> np.ndarray:
    """Returns a cost matrix in float64, or raises a `ValueError`.

    Args:
        costs: D `(classes, classes)`, the cost of predicting one class for another.
        classes: The number of classes it must have, or None for at least two.
        positive: Whether every mistake must cost more than 0.

    Returns:
        An array `(classes, classes)`.

    Raises:
        ValueError: If D is not square, symmetric, finite, non-negative and 0 on its diagonal, or
            has another number of classes.

    Example:

    >>> check_costs([[0, 2], [2, 0]])
    array([[0., 2.],
           [2., 0.]])
    >>> check_costs([[0, 2], [1, 0]])
    Traceback (most recent call last):
    ValueError: Costs must be symmetric. Received: 2.0 of 0 for 1, and 1.0 of 1 for 0
    """
    costs = _cost_array(costs, "(classes, classes)")
    if costs.ndim != 2 or costs.shape[0] != costs.shape[1] or len(costs) < 2:
        raise ValueError(
            "Costs must be a square matrix (classes, classes) of at least two classes. "
            f"Received: shape {costs.shape}"
        )
    if classes is not None and len(costs) != classes:
        raise ValueError(
            f"Costs must cover all {classes} classes. Received: costs of {len(costs)} classes"
        )
    mistakes = ~np.eye(len(costs), dtype=bool)
    for wrong, expected in (
        (~(costs >= 0) | np.isinf(costs), "finite and at least 0"),
        ((costs != 0) & ~mistakes, "0 on the diagonal"),
        ((costs == 0) & mistakes & positive, "more than 0 for every mistake"),
    ):
        if wrong.any():
            one, other = np.argwhere(wrong)[0]
            raise ValueError(
                f"Costs must be {expected}. Received: {costs[one, other]} of {one} for {other}"
            )
    wrong = costs != costs.T
    if wrong.any():
        one, other = np.argwhere(wrong)[0]
        raise ValueError(
            f"Costs must be symmetric. Received: {costs[one, other]} of {one} for {other}, "
            f"and {costs[other, one]} of {other} for {one}"
        )
    return costs


def check_answer_costs(costs: Any, square: bool = False) -> np.ndarray:
    """Returns the costs of answers in float64, or raises a `ValueError`.

    Args:
        costs: C `(classes, answers)`, the cost of each answer for each true class. Unlike those of
            `check_costs`, they need not be symmetric.
        square: Whether the answers must be the classes, and the right one cost 0.

    Returns:
        An array `(classes, answers)`.

    Raises:
        ValueError: If C is not a matrix of at least two classes and two answers, finite and
            non-negative.

    Example:

    >>> check_answer_costs([[0, 9, 1], [2, 0, 1]])
    array([[0., 9., 1.],
           [2., 0., 1.]])
    >>> check_answer_costs([[0, -1], [2, 0]])
    Traceback (most recent call last):
    ValueError: Costs must be finite and at least 0. Received: -1.0 of answer 1 for class 0
    """
    costs = _cost_array(costs, "(classes, answers)")
    if costs.ndim != 2 or min(costs.shape) < 2:
        raise ValueError(
            "Costs must be a matrix (classes, answers) of at least two classes and two answers. "
            f"Received: shape {costs.shape}"
        )
    wrong = np.argwhere(~(costs >= 0) | np.isinf(costs))
    if len(wrong):
        label, answer = wrong[0].tolist()
        raise ValueError(
            "Costs must be finite and at least 0. "
            f"Received: {costs[label, answer]} of answer {answer} for class {label}"
        )
    if square and costs.shape[0] != costs.shape[1]:
        raise ValueError(
            f"Costs must be a square matrix (classes, classes). Received: shape {costs.shape}"
        )
    if square and np.any(np.diag(costs)):
        label = int(np.flatnonzero(np.diag(costs))[0])
        raise ValueError(
            f"The right answer must cost 0. Received: {costs[label, label]} for class {label}"
        )
    return costs


def _cost_array(costs: Any, shape: str) -> np.ndarray:
    try:
        return np.array(costs, np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"Costs must be numbers {shape}. Received: {error}") from error


def check_probabilities(probabilities: Any) -> None:
    """Raises a `ValueError` unless numbers are probabilities of classes, along the last axis.

    Args:
        probabilities: Array or list `(..., classes)`. Their sum may differ from 1 by a thousandth,
            or a hundredth in float16.

    Raises:
        ValueError: If a number is negative or not finite, or they do not sum to 1.

    Example:

    >>> check_probabilities([[0.5, 0.5], [1.0, 0.0]])
    """
    given, numbers = _numbers("Probabilities", probabilities)
    if numbers.ndim == 0:
        raise ValueError("Probabilities must be (..., classes). Received: a single number")
    expected = (
        "Probabilities must be at least 0 and sum to 1; for logits, set `from_logits=True`. "
        "Received:"
    )
    if not np.all(numbers >= 0):
        raise ValueError(f"{expected} {numbers[~(numbers >= 0)].flat[0]:g}")
    sums = numbers.sum(axis=-1)
    wrong = ~(np.abs(sums - 1) <= (1e-2 if given.dtype == np.float16 else 1e-3))
    if np.any(wrong):
        raise ValueError(f"{expected} probabilities that sum to {sums[wrong].flat[0]:g}")


def check_scored(
    name: str,
    scores: Any,
    kinds: Any,
    sample: str = "sample",
    both: tuple[str, str] = ("positive samples", "negative ones"),
) -> tuple[np.ndarray, np.ndarray]:
    """Returns scores of two kinds of samples, float32 or float64 `(n,)`, and their kinds, bool.

    Args:
        name: The name of the kinds' argument, for the error.
        scores: Finite numbers, one for each sample.
        kinds: True and False, or 1 and 0, one for each sample.
        sample: What a sample is, for the error.
        both: What samples of kind True and False are, for the error.

    Raises:
        ValueError: If they are not such numbers, or all samples are of one kind.

    Example:

    >>> check_scored("same", [1, 2], [0, 1])
    (array([1., 2.]), array([False,  True]))
    >>> check_scored("same", [1, 2], [1, 1], both=("pairs of one person", "pairs of two"))
    Traceback (most recent call last):
    ValueError: There must be pairs of one person and pairs of two. Received: 2 and 0
    """
    scores, kinds = np.asarray(scores), np.asarray(kinds)
    if scores.ndim != 1 or scores.dtype.kind not in "fiu" or kinds.shape != scores.shape:
        raise ValueError(
            f"There must be one score and one label for each {sample}, both (n,). "
            f"Received: scores {scores.dtype} {scores.shape}, {name} {kinds.shape}"
        )
    if scores.dtype != np.float32:
        scores = scores.astype(np.float64)
    if not np.isfinite(scores).all():
        wrong = int(np.argmin(np.isfinite(scores)))
        raise ValueError(f"Scores must be finite. Received: {scores[wrong]} of {sample} {wrong}")
    if kinds.dtype != bool:
        is_wrong = (kinds != 0) & (kinds != 1)
        if is_wrong.any():
            raise ValueError(
                f"`{name}` must be True and False, or 1 and 0. "
                f"Received: {kinds[is_wrong.argmax()]} of {sample} {is_wrong.argmax()}"
            )
        kinds = kinds.astype(bool)
    count = np.count_nonzero(kinds)
    if not 0 < count < len(kinds):
        raise ValueError(
            f"There must be {both[0]} and {both[1]}. Received: {count} and {len(kinds) - count}"
        )
    return scores, kinds


def _or_none(optional: bool, expected: str) -> str:
    return f"None or {expected}" if optional else expected


def _numbers(what: str, given: Any) -> tuple[np.ndarray, np.ndarray]:
    """The given values as an array, unchanged and in float64."""
    try:
        array = np.asarray(given)
        return array, array.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{what} must be numbers. Received: {error}") from error
