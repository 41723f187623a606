"""Losses over the heads of `mhe.layers`.

Bad targets are told in two ways. Targets that come as arrays or lists are checked, and a
`ValueError` says what is wrong. Tensors are not read: that would stall an accelerator, and cannot
be done inside a compiled step. There the loss of a bad target is NaN, and its gradient zero.
"""

import math
import numbers
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from mhe import checks
from mhe.precision import at_least_float32


def prototype_loss(
    labels: Any,
    cosines: Any,
    ignore_class: int | None = None,
    class_weight: Sequence[float] | Mapping[int, float] | None = None,
) -> Any:
    """Squared distance of a cosine from 1, `(1 - cos_y)²`, for the class y of each sample.

    Args:
        labels: Integers `(...)` or `(..., 1)`, in any dtype.
        cosines: Tensor `(..., classes)`, as `mhe.layers.PrototypeHead` gives it.
        ignore_class: A label whose samples have no loss and no gradient, such as 255 or -1.
        class_weight: A factor for every class, `(classes,)`, or for some: `{class: factor}`.

    Returns:
        A tensor `(...)`: float64 for float64 cosines, else float32. It is NaN for a label outside
        [0, classes) in a tensor, and the gradient there is zero.

    Raises:
        ValueError: If the shapes do not fit, a label in an array or a list is no class, or the
            class weights are not such factors.

    Example:

    >>> import numpy as np
    >>> cosines = np.array([[0.5, -0.5], [0.0, 1.0], [0.3, 0.1]], "float32")
    >>> np.asarray(prototype_loss([0, 1, -1], cosines, ignore_class=-1))
    array([0.25, 0.  , 0.  ], dtype=float32)

    Reference:
        Mettes et al., Hyperspherical Prototype Networks, NeurIPS 2019
        ([arXiv:1901.10514](https://arxiv.org/abs/1901.10514)), on classification.
    """
    cosines = at_least_float32(cosines)
    classes = int(cosines.shape[-1])
    if _is_readable(labels):
        checks.check_labels(labels, classes, ignore_class)
    # Whole numbers up to 2^24 are exact in float32: no dtype of labels needs a way of its own.
    labels = _one_a_sample(ops.convert_to_tensor(labels, cosines.dtype), cosines)
    known = ops.logical_and(labels >= 0, labels <= classes - 1)
    known = ops.logical_and(known, ops.equal(labels, ops.floor(labels)))
    wrong = ops.logical_not(known)
    if ignore_class is not None:
        counted = ops.not_equal(labels, ignore_class)
        known = ops.logical_and(known, counted)
        wrong = ops.logical_and(wrong, counted)
    index = ops.cast(ops.where(known, labels, 0), "int32")
    chosen = ops.squeeze(ops.take_along_axis(cosines, ops.expand_dims(index, -1), axis=-1), -1)
    # What is not known is out of the gradient's way before it is squared, be it NaN itself.
    losses = ops.square(1.0 - ops.where(known, chosen, 1.0))
    if class_weight is not None:
        factors = _factors(class_weight, classes)
        losses = losses * ops.take(ops.convert_to_tensor(factors, losses.dtype), index, axis=0)
    return ops.where(wrong, math.nan, losses)


def polar_loss(values: Any, predictions: Any, low: float, high: float) -> Any:
    """Squared difference of two cosines, `(r - cos)²`: that of a value and that of its prediction.

    Both are values v in [low, high], and stand for the cosine `2 (v - low) / (high - low) - 1`. The
    difference of two cosines is taken as that of the values, which loses no digits.

    Args:
        values: Tensor `(...)` or `(..., 1)` of the right values.
        predictions: Tensor `(..., 1)`, as `mhe.layers.PolarHead` gives it.
        low: The value that stands for a cosine of -1.
        high: The value that stands for a cosine of 1.

    Returns:
        A tensor `(...)`: float64 for float64 predictions, else float32. It is NaN for a value
        outside [low, high] in a tensor, and the gradient there is zero.

    Raises:
        ValueError: If the shapes do not fit, `low < high` does not hold, or a value in an array or
            a list is outside [low, high].

    Example:

    >>> import numpy as np
    >>> predictions = np.array([[1700.0], [2000.0]], "float32")
    >>> np.asarray(polar_loss([1800.0, 2000.0], predictions, low=1600, high=2000))
    array([0.25, 0.  ], dtype=float32)

    Reference:
        Mettes et al., Hyperspherical Prototype Networks, NeurIPS 2019
        ([arXiv:1901.10514](https://arxiv.org/abs/1901.10514)), on regression.
    """
    checks.check_range(low, high)
    if _is_readable(values):
        checks.check_values(values, low, high)
    predictions = at_least_float32(predictions)
    if len(predictions.shape) == 0 or predictions.shape[-1] != 1:
        raise ValueError(
            "Predictions must be (..., 1), one value a sample. "
            f"Received: shape {tuple(predictions.shape)}"
        )
    values = _one_a_sample(ops.convert_to_tensor(values, predictions.dtype), predictions)
    inside = ops.logical_and(values >= low, values <= high)
    predicted = ops.squeeze(predictions, -1)
    apart = ops.where(inside, values - predicted, 0.0) / ((high - low) / 2.0)
    return ops.where(inside, ops.square(apart), math.nan)


@keras.saving.register_keras_serializable(package="mhe")
class PrototypeLoss(keras.losses.Loss):
    """`(1 - cos_y)²` of the cosines that a `mhe.layers.PrototypeHead` gives.

    Labels are integers `(B,)` or `(B, 1)` for cosines `(B, classes)`, and `(B, H, W)` for dense
    predictions `(B, H, W, classes)`. Sample weights may have fewer axes than the labels: one weight
    an image holds for its pixels. For the accuracy, Keras's own
    `keras.metrics.SparseCategoricalAccuracy` takes the largest cosine.

    A label that is no class is a `ValueError` where labels come as an array or a list. Inside `fit`
    they are tensors: there the loss becomes NaN. `mhe.checks.check_labels` tells beforehand.

    Args:
        ignore_class: As in `keras.losses.SparseCategoricalCrossentropy`: samples of this label,
            such as 255 or -1, have no loss, and the mean is over the others.
        class_weight: A factor for the loss of every class, `(classes,)`, or of some:
            `{class: factor}`. As with `fit(class_weight=...)`, the mean is not divided by them;
            other than there, it works for dense predictions.
        reduction: As in Keras's losses.
        name: Name of the loss.
        dtype: As in Keras's losses, but at least float32.

    Raises:
        ValueError: If `ignore_class` is no int, or a class weight no finite number ≥ 0.

    Example:

    >>> import mhe
    >>> loss = mhe.losses.PrototypeLoss()
    >>> round(float(loss([0, 1], [[0.5, -0.5], [0.0, 1.0]])), 6)
    0.125

    Reference:
        Mettes et al., Hyperspherical Prototype Networks, NeurIPS 2019
        ([arXiv:1901.10514](https://arxiv.org/abs/1901.10514)), on classification.
    """

    def __init__(
        self,
        ignore_class: int | None = None,
        class_weight: Sequence[float] | Mapping[int, float] | None = None,
        reduction: str | None = "sum_over_batch_size",
        name: str | None = "prototype_loss",
        dtype: Any = None,
    ) -> None:
        if ignore_class is not None and not _is_int(ignore_class):
            raise ValueError(
                f"`ignore_class` must be None or an int. Received: ignore_class={ignore_class!r}"
            )
        super().__init__(name=name, reduction=reduction, dtype=_at_least_float32(dtype))
        self.ignore_class = None if ignore_class is None else int(ignore_class)
        self.class_weight = None if class_weight is None else _plain_factors(class_weight)

    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        """The reduced loss, a scalar unless `reduction` is None."""
        y_pred = ops.convert_to_tensor(y_pred)
        if _is_readable(y_true):
            checks.check_labels(y_true, int(y_pred.shape[-1]), self.ignore_class)
        if sample_weight is not None:
            sample_weight = _one_a_sample_weight(sample_weight, y_pred, self.dtype)
        # Keras would take a list for a structure of scalars.
        y_true = _one_a_sample(ops.convert_to_tensor(y_true, self.dtype), y_pred)
        if self.ignore_class is not None:
            counted = ops.cast(ops.not_equal(y_true, self.ignore_class), self.dtype)
            if self.reduction in ("mean", "sum_over_batch_size"):
                # Keras divides by the number of all samples.
                counted = ops.divide_no_nan(counted, ops.mean(counted))
            sample_weight = counted if sample_weight is None else counted * sample_weight
        return super().__call__(y_true, y_pred, sample_weight)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Labels and cosines → the loss of each sample."""
        return prototype_loss(y_true, y_pred, self.ignore_class, self.class_weight)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "ignore_class": self.ignore_class,
            "class_weight": self.class_weight,
            "dtype": self.dtype,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "PrototypeLoss":
        factors = config["class_weight"]
        if isinstance(factors, Mapping):
            # JSON knows no keys but text.
            factors = {int(label): factor for label, factor in factors.items()}
        return cls(**{**config, "class_weight": factors})


@keras.saving.register_keras_serializable(package="mhe")
class PolarLoss(keras.losses.Loss):
    """`(r - cos)²` of the values that a `mhe.layers.PolarHead` gives.

    `r = 2 (y - low) / (high - low) - 1`, and the cosine is that of which the head made its value;
    see `polar_loss`. Targets are `(B,)` or `(B, 1)`, predictions `(B, 1)`; axes between the first
    and the last are dense predictions. For the error in the units of the value, take Keras's own
    `keras.metrics.MeanAbsoluteError`.

    A value outside [low, high] is a `ValueError` where targets come as an array or a list. Inside
    `fit` they are tensors: there the loss becomes NaN. `mhe.checks.check_values` tells beforehand.

    Args:
        low: The least value, as in the head.
        high: The largest value, as in the head, more than `low`.
        reduction: As in Keras's losses.
        name: Name of the loss.
        dtype: As in Keras's losses, but at least float32.

    Raises:
        ValueError: If `low < high` does not hold.

    Example:

    >>> import mhe
    >>> loss = mhe.losses.PolarLoss(low=1600, high=2000)
    >>> round(float(loss([1800, 2000], [[1700.0], [2000.0]])), 6)
    0.125

    Reference:
        Mettes et al., Hyperspherical Prototype Networks, NeurIPS 2019
        ([arXiv:1901.10514](https://arxiv.org/abs/1901.10514)), on regression.
    """

    def __init__(
        self,
        low: float,
        high: float,
        reduction: str | None = "sum_over_batch_size",
        name: str | None = "polar_loss",
        dtype: Any = None,
    ) -> None:
        checks.check_range(low, high)
        super().__init__(name=name, reduction=reduction, dtype=_at_least_float32(dtype))
        self.low = float(low)
        self.high = float(high)

    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        """The reduced loss, a scalar unless `reduction` is None."""
        if _is_readable(y_true):
            checks.check_values(y_true, self.low, self.high)
        y_pred = ops.convert_to_tensor(y_pred)
        if sample_weight is not None:
            sample_weight = _one_a_sample_weight(sample_weight, y_pred, self.dtype)
        y_true = ops.convert_to_tensor(y_true, self.dtype)
        return super().__call__(y_true, y_pred, sample_weight)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Values and predictions → the loss of each sample."""
        return polar_loss(y_true, y_pred, self.low, self.high)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "low": self.low,
            "high": self.high,
            "dtype": self.dtype,
        }


def _at_least_float32(dtype: Any) -> str:
    policy = keras.dtype_policies.get(dtype or keras.config.floatx())
    return keras.backend.result_type(policy.compute_dtype, "float32")


def _is_readable(targets: Any) -> bool:
    return isinstance(targets, np.ndarray | np.generic | numbers.Number | list | tuple)


def _is_int(value: Any) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def _one_a_sample(targets: Any, predictions: Any) -> Any:
    """Targets `(...)` for predictions `(..., n)`, without a last axis of one.

    Anything else is a `ValueError`: broadcast, targets would meet samples that are not theirs.
    """
    expected = tuple(predictions.shape)[:-1]
    given = tuple(targets.shape)
    if len(given) == len(expected) + 1 and given[-1] == 1:
        targets = ops.squeeze(targets, -1)
    shape = tuple(targets.shape)
    if len(shape) != len(expected) or any(
        None not in sizes and sizes[0] != sizes[1] for sizes in zip(shape, expected, strict=True)
    ):
        raise ValueError(
            "Targets must have one number a sample, in the shape of the predictions but for its "
            f"last axis. Received: targets {given}, predictions {tuple(predictions.shape)}"
        )
    return targets


def _one_a_sample_weight(weights: Any, predictions: Any, dtype: str) -> Any:
    """Weights with all axes of the targets, so that those of images reach their pixels."""
    weights = ops.convert_to_tensor(weights, dtype)
    axes = len(predictions.shape) - 1
    if len(weights.shape) == axes + 1 and weights.shape[-1] == 1:
        return ops.squeeze(weights, -1)
    while 0 < len(weights.shape) < axes:
        weights = ops.expand_dims(weights, -1)
    return weights


def _plain_factors(class_weight: Any) -> list[float] | dict[int, float]:
    """Class weights as a config can hold them, or a `ValueError`."""
    if isinstance(class_weight, Mapping):
        right = all(_is_int(label) and label >= 0 for label in class_weight)
        factors = list(class_weight.values())
    else:
        factors = np.asarray(class_weight).tolist()
        right = isinstance(factors, list)
    if not right or not all(
        isinstance(factor, numbers.Real) and 0 <= factor < math.inf for factor in factors
    ):
        raise ValueError(
            "`class_weight` must be a finite number >= 0 for every class, or a dict "
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
                f"`class_weight` names a class beyond the {classes} there are. "
                f"Received: class {max(factors)}"
            )
        return np.array([factors.get(label, 1.0) for label in range(classes)])
    if len(factors) != classes:
        raise ValueError(
            f"`class_weight` must have one number for each of the {classes} classes. "
            f"Received: {len(factors)} numbers"
        )
    return np.array(factors)
