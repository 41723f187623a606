"""What losses of labels share: terms over known classes, class weights, the base class."""

import math
import numbers
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import keras
import numpy as np
from keras import ops

from mhe import checks
from mhe.labels import check_readable, per_sample, read_labels, weights_per_sample
from mhe.precision import at_least_float32
from mhe.types import Tensor

# Smaller probabilities count as this one where a power of them is taken.
_LEAST = 1e-30

ClassWeight: TypeAlias = Sequence[float] | Mapping[int, float] | None

# From classes, int32 `(...)`, and predictions to losses `(...)`: the mathematics of a loss. Samples
# whose label is not a class meet class 0 and predictions of 0, and their losses are dropped.
Term: TypeAlias = Callable[[Tensor, Tensor], Tensor]


def label_losses(
    labels: Tensor,
    predictions: Tensor,
    term: Term,
    ignore_class: int | None = None,
    class_weight: ClassWeight = None,
    classes: int | None = None,
    scores: Tensor = None,
) -> Tensor:
    """Returns the loss of each sample, which has no gradient unless its label is a class.

    Args:
        labels: Integers `(...)` or `(..., 1)`, in any dtype.
        predictions: Tensor `(..., classes)`; computed with in at least float32.
        term: The loss of samples whose class is known.
        ignore_class: A label whose samples have no loss and no gradient.
        class_weight: A factor per class, or for some classes.
        classes: Number of classes that predictions must have, or None for any number.
        scores: One number per class, `(..., classes)`, of predictions that have more axes.

    Returns:
        A tensor `(...)`; NaN for a label outside [0, classes) in a tensor.

    Raises:
        ValueError: If the shapes do not fit, a label in an array or a list is not a class, or the
            class weights are wrong.
    """
    predictions = at_least_float32(predictions)
    scores = predictions if scores is None else scores
    classes = count_classes(scores, classes)
    check_readable(labels, classes, ignore_class)
    index, known, wrong = read_labels(labels, scores, classes, ignore_class)
    of_sample = known
    for _ in range(len(predictions.shape) - len(known.shape)):
        of_sample = ops.expand_dims(of_sample, -1)
    losses = term(index, ops.where(of_sample, predictions, 0.0))
    if class_weight is not None:
        factors = _factors(class_weight, classes)
        losses = losses * ops.take(ops.convert_to_tensor(factors, losses.dtype), index, axis=0)
    return ops.where(wrong, math.nan, ops.where(known, losses, 0.0))


def count_classes(predictions: Tensor, expected: int | None = None) -> int:
    """Number of classes of predictions `(..., classes)`, or a `ValueError` if not as expected."""
    shape = tuple(predictions.shape)
    if len(shape) == 0 or expected not in (None, shape[-1]):
        raise ValueError(
            f"Predictions must be (..., {expected or 'classes'}), one per class. "
            f"Received: shape {shape}"
        )
    return int(shape[-1])


def of_class(values: Tensor, index: Tensor) -> Tensor:
    """The value of each sample's class: values `(..., classes)`, classes `(...)` → `(...)`."""
    return ops.squeeze(ops.take_along_axis(values, ops.expand_dims(index, -1), axis=-1), -1)


def focus(log_probabilities: Tensor, gamma: float) -> Tensor:
    """Log-probabilities times (1 - p)^γ: what is already predicted well counts less.

    Args:
        log_probabilities: Tensor of any shape, at most 0.
        gamma: γ ≥ 0; 0 returns the log-probabilities.

    Returns:
        A tensor of the same shape.

    Example:

    >>> import keras
    >>> logarithms = keras.ops.log(keras.ops.convert_to_tensor([0.5, 0.25]))
    >>> [round(float(each), 3) for each in focus(logarithms, gamma=1)]
    [-0.347, -1.04]

    Reference:
        Lin et al., Focal loss for dense object detection, ICCV 2017
        ([arXiv:1708.02002](https://arxiv.org/abs/1708.02002)), equation 4.
    """
    if gamma == 0:
        return log_probabilities
    # For γ < 1 the slope of a power at 0 is infinite.
    others = ops.maximum(-ops.expm1(log_probabilities), _LEAST)
    return ops.power(others, gamma) * log_probabilities


class LabelLoss(keras.losses.Loss):
    """A Keras loss of integer labels, which holds the configuration of a `Term`.

    Args:
        term: The loss of samples whose class is known.
        ignore_class: As in `keras.losses.SparseCategoricalCrossentropy`.
        class_weight: A factor for the loss of each class, `(classes,)`, or of some.
        reduction: As in Keras's losses.
        name: Name of the loss.
        dtype: As in Keras's losses, but at least float32.
        classes: Number of classes that predictions must have, or None for any number.

    Raises:
        ValueError: If `ignore_class` is not an int, or a class weight is negative or not finite.
    """

    def __init__(
        self,
        term: Term,
        ignore_class: int | None,
        class_weight: ClassWeight,
        reduction: str | None,
        name: str | None,
        dtype: Any,
        classes: int | None = None,
    ) -> None:
        if ignore_class is not None and not checks.is_integer(ignore_class):
            raise ValueError(
                f"`ignore_class` must be None or an int. Received: ignore_class={ignore_class!r}"
            )
        super().__init__(name=name, reduction=reduction, dtype=at_least_float32_name(dtype))
        self.ignore_class = None if ignore_class is None else int(ignore_class)
        self.class_weight = None if class_weight is None else _plain_factors(class_weight)
        self.term = term
        self.classes = classes

    def __call__(self, y_true: Tensor, y_pred: Tensor, sample_weight: Tensor = None) -> Tensor:
        """The reduced loss, a scalar unless `reduction` is None."""
        y_pred = ops.convert_to_tensor(y_pred)
        scores = self.scores(y_pred)
        classes = count_classes(scores, self.classes)
        check_readable(y_true, classes, self.ignore_class)
        if sample_weight is not None:
            sample_weight = weights_per_sample(sample_weight, scores, self.dtype)
        # Keras would mistake a list for a structure of scalars.
        y_true = per_sample(ops.convert_to_tensor(y_true, self.dtype), scores)
        if self.ignore_class is not None:
            counted = ops.cast(ops.not_equal(y_true, self.ignore_class), self.dtype)
            if self.reduction in ("mean", "sum_over_batch_size"):
                # Keras divides by the number of all samples.
                counted = ops.divide_no_nan(counted, ops.mean(counted))
            sample_weight = counted if sample_weight is None else counted * sample_weight
        return super().__call__(y_true, y_pred, sample_weight)

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """Labels and predictions → the loss of each sample."""
        return label_losses(
            y_true,
            y_pred,
            self.term,
            self.ignore_class,
            self.class_weight,
            self.classes,
            self.scores(y_pred),
        )

    def scores(self, y_pred: Tensor) -> Tensor:
        """One number per class, `(..., classes)`, of predictions that may have more axes."""
        return y_pred

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "ignore_class": self.ignore_class,
            "class_weight": self.class_weight,
            "dtype": self.dtype,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "LabelLoss":
        factors = config["class_weight"]
        if isinstance(factors, Mapping):
            # JSON has turned the keys into strings.
            factors = {int(label): factor for label, factor in factors.items()}
        return cls(**{**config, "class_weight": factors})


def at_least_float32_name(dtype: Any) -> str:
    """Name of the dtype in which a loss computes: float64 for a float64 dtype, else float32."""
    policy = keras.dtype_policies.get(dtype or keras.config.floatx())
    return keras.backend.result_type(policy.compute_dtype, "float32")


def _plain_factors(class_weight: Any) -> list[float] | dict[int, float]:
    """Class weights as a config holds them, or a `ValueError`."""
    if isinstance(class_weight, Mapping):
        valid = all(checks.is_integer(label) and label >= 0 for label in class_weight)
        factors = list(class_weight.values())
    else:
        factors = np.asarray(class_weight).tolist()
        valid = isinstance(factors, list)
    if not valid or not all(
        isinstance(factor, numbers.Real) and 0 <= float(factor) < math.inf for factor in factors
    ):
        raise ValueError(
            "`class_weight` must be a finite number >= 0 per class, or a dict "
            f"{{class: number}}. Received: class_weight={class_weight!r}"
        )
    if isinstance(class_weight, Mapping):
        return {int(label): float(factor) for label, factor in class_weight.items()}
    return [float(factor) for factor in factors]


def _factors(class_weight: Any, classes: int) -> np.ndarray:
    """The factor of each class, `(classes,)`."""
    factors = _plain_factors(class_weight)
    if isinstance(factors, dict):
        if any(label >= classes for label in factors):
            raise ValueError(
                f"`class_weight` names a class beyond the {classes} that exist. "
                f"Received: class {max(factors)}"
            )
        return np.array([factors.get(label, 1.0) for label in range(classes)])
    if len(factors) != classes:
        raise ValueError(
            f"`class_weight` must have one number for each of the {classes} classes. "
            f"Received: {len(factors)} numbers"
        )
    return np.array(factors)
