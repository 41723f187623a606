"""How far probabilities are from how often they are right."""

import math
from typing import Any

import keras
from keras import ops

from mhe import checks
from mhe.labels import check_readable, is_readable, read_labels, weights_per_sample
from mhe.precision import at_least_float32
from mhe.types import Tensor


@keras.saving.register_keras_serializable(package="mhe")
class CalibrationError(keras.metrics.Metric):
    """The expected calibration error: how far confidence is from accuracy, on average.

    The confidence of a prediction is its probability, the largest of all classes. Predictions are
    put into bins of equal width by their confidence, ((b - 1)/bins, b/bins], and

        ECE = Σ_b n_b / n · |accuracy of bin b - mean confidence of bin b|

    0 is perfect. Sums are kept per bin, so the result does not depend on how samples are batched.

    Args:
        bins: Number of bins, at least 1.
        from_logits: Whether the predictions are logits; else probabilities.
        ignore_class: A label that does not count, or None.
        name: Name of the metric.
        dtype: As in Keras's metrics.

    Raises:
        ValueError: If `bins` is out of range.

    Example:

    >>> import keras, mhe
    >>> metric = mhe.metrics.CalibrationError(bins=10)
    >>> metric.update_state([0, 1, 0, 0], [[0.9, 0.1], [0.9, 0.1], [0.6, 0.4], [0.6, 0.4]])
    >>> round(float(metric.result()), 6)  # 0.9 sure and half right; 0.6 sure and all right
    0.4
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    >>> model.compile(metrics=[mhe.metrics.CalibrationError(from_logits=True)])

    Reference:
        Guo et al., On calibration of modern neural networks, ICML 2017
        ([arXiv:1706.04599](https://arxiv.org/abs/1706.04599)), equation 3.
    """

    def __init__(
        self,
        bins: int = 15,
        from_logits: bool = False,
        ignore_class: int | None = None,
        name: str = "calibration_error",
        dtype: Any = None,
    ) -> None:
        checks.check_count("bins", bins, least=1)
        super().__init__(name=name, dtype=dtype)
        self.bins = int(bins)
        self.from_logits = bool(from_logits)
        self.ignore_class = ignore_class
        self._right = self.add_variable((self.bins,), "zeros", name="right")
        self._confidence = self.add_variable((self.bins,), "zeros", name="confidence")
        self._weight = self.add_variable((self.bins,), "zeros", name="weight")

    def update_state(self, y_true: Tensor, y_pred: Tensor, sample_weight: Tensor = None) -> None:
        """Adds a batch.

        Args:
            y_true: Labels `(...)` or `(..., 1)`.
            y_pred: Probabilities or logits `(..., classes)`.
            sample_weight: None, or weights over the leading axes of the labels.

        Raises:
            ValueError: If the shapes do not fit, a label in an array or a list is not a class, or
                probabilities in one do not sum to 1.
        """
        if not self.from_logits and is_readable(y_pred):
            checks.check_probabilities(y_pred)
        scores = at_least_float32(y_pred)
        if len(scores.shape) == 0:
            raise ValueError("Predictions must be (..., classes). Received: a single number")
        classes = int(scores.shape[-1])
        check_readable(y_true, classes, self.ignore_class)
        index, known, wrong = read_labels(y_true, scores, classes, self.ignore_class)
        probabilities = ops.softmax(scores, axis=-1) if self.from_logits else scores
        confidence = ops.cast(ops.max(probabilities, axis=-1), self.dtype)
        predicted = ops.cast(ops.argmax(scores, axis=-1), index.dtype)
        right = ops.cast(ops.equal(predicted, index), self.dtype)
        weights = ops.cast(ops.logical_or(known, wrong), self.dtype)
        if sample_weight is not None:
            weights = weights * weights_per_sample(sample_weight, scores, self.dtype)
        # A wrong label must show, also in a tensor, which cannot be read.
        right = ops.where(wrong, math.nan, right)
        place = ops.cast(ops.ceil(confidence * self.bins) - 1, "int32")
        place = ops.reshape(ops.clip(place, 0, self.bins - 1), (-1,))
        for total, values in (
            (self._right, right * weights),
            (self._confidence, confidence * weights),
            (self._weight, weights),
        ):
            values = ops.reshape(ops.where(weights > 0, values, 0.0), (-1,))
            total.assign_add(ops.segment_sum(values, place, num_segments=self.bins))

    def result(self) -> Tensor:
        """The error, 0 if no label counted."""
        gaps = ops.absolute(self._right - self._confidence)
        return ops.divide_no_nan(ops.sum(gaps), ops.sum(self._weight))

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "bins": self.bins,
            "from_logits": self.from_logits,
            "ignore_class": self.ignore_class,
        }
