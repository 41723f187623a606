"""The loss of a value that is read off the angle between an embedding and a pole."""

import math
from typing import Any

import keras
from keras import ops

from mhe import checks
from mhe.labels import is_readable, per_sample, weights_per_sample
from mhe.losses.targets import at_least_float32_name
from mhe.precision import at_least_float32
from mhe.types import Tensor


def polar_loss(values: Tensor, predictions: Tensor, low: float, high: float) -> Tensor:
    """Squared difference of two cosines, `(r - cos)²`: that of a value and that of its prediction.

    Both are values v in [low, high] and represent the cosine `2 (v - low) / (high - low) - 1`. The
    difference of the cosines is computed from that of the values, which loses no digits.

    Args:
        values: True values, `(...)` or `(..., 1)`.
        predictions: Tensor `(..., 1)`, as `mhe.layers.PolarHead` returns it.
        low: The value at a cosine of -1.
        high: The value at a cosine of 1.

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
    if is_readable(values):
        checks.check_values(values, low, high)
    predictions = at_least_float32(predictions)
    if len(predictions.shape) == 0 or predictions.shape[-1] != 1:
        raise ValueError(
            "Predictions must be (..., 1), one value per sample. "
            f"Received: shape {tuple(predictions.shape)}"
        )
    values = per_sample(ops.convert_to_tensor(values, predictions.dtype), predictions)
    inside = ops.logical_and(values >= low, values <= high)
    predicted = ops.squeeze(predictions, -1)
    difference = ops.where(inside, values - predicted, 0.0) / ((high - low) / 2.0)
    return ops.where(inside, ops.square(difference), math.nan)


@keras.saving.register_keras_serializable(package="mhe")
class PolarLoss(keras.losses.Loss):
    """`(r - cos)²` of the values that a `mhe.layers.PolarHead` returns.

    `r = 2 (y - low) / (high - low) - 1`, and the cosine is the one behind the head's value; see
    `polar_loss`. Targets are `(B,)` or `(B, 1)`, predictions `(B, 1)`; dense predictions have more
    axes in between. For the error in the units of the value, use Keras's own
    `keras.metrics.MeanAbsoluteError`.

    A value outside [low, high] raises a `ValueError` if targets are an array or a list. Inside
    `fit` they are tensors, and the loss becomes NaN; `mhe.checks.check_values` checks them
    beforehand.

    Args:
        low: Smallest value, as in the head.
        high: Largest value, as in the head; more than `low`.
        reduction: As in Keras's losses.
        name: Name of the loss.
        dtype: As in Keras's losses, but at least float32.

    Raises:
        ValueError: If `low < high` does not hold.

    Example:

    >>> import keras, mhe
    >>> loss = mhe.losses.PolarLoss(low=1600, high=2000)
    >>> round(float(loss([1800, 2000], [[1700.0], [2000.0]])), 6)
    0.125
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    >>> model.compile("sgd", loss)

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
        super().__init__(name=name, reduction=reduction, dtype=at_least_float32_name(dtype))
        self.low = float(low)
        self.high = float(high)

    def __call__(self, y_true: Tensor, y_pred: Tensor, sample_weight: Tensor = None) -> Tensor:
        """The reduced loss, a scalar unless `reduction` is None."""
        if is_readable(y_true):
            checks.check_values(y_true, self.low, self.high)
        y_pred = ops.convert_to_tensor(y_pred)
        if sample_weight is not None:
            sample_weight = weights_per_sample(sample_weight, y_pred, self.dtype)
        y_true = ops.convert_to_tensor(y_true, self.dtype)
        return super().__call__(y_true, y_pred, sample_weight)

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """Values and predictions → the loss of each sample."""
        return polar_loss(y_true, y_pred, self.low, self.high)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "low": self.low,
            "high": self.high,
            "dtype": self.dtype,
        }
