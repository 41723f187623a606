"""The base of metrics over labels and scores: a weighted mean over all labels that count."""

import math
from typing import Any

import keras
from keras import ops

from mhe.labels import check_readable, read_labels, weights_per_sample
from mhe.types import Tensor


class LabelMetric(keras.metrics.Metric):
    """The weighted mean of a value per label, independent of how labels are batched.

    Subclasses define `values`, and `counts` if some labels do not count. There are as many scores
    as classes, or as many as `answers` says.
    """

    def __init__(
        self,
        classes: int,
        ignore_class: int | None,
        name: str | None,
        dtype: Any,
        answers: int | None = None,
    ) -> None:
        super().__init__(name=name, dtype=dtype)
        self.classes = classes
        self.answers = classes if answers is None else answers
        self.ignore_class = ignore_class
        self._total = self.add_variable((), "zeros", name="total")
        self._weight = self.add_variable((), "zeros", name="weight")

    def values(self, labels: Tensor, scores: Tensor) -> Tensor:
        """Labels `(...)` and scores `(..., classes)` → values `(...)`."""
        raise NotImplementedError

    def counts(self, labels: Tensor, scores: Tensor) -> Tensor:
        """Labels `(...)` and scores `(..., classes)` → whether they count, `(...)`."""
        return ops.ones_like(labels, dtype="bool")

    def update_state(self, y_true: Tensor, y_pred: Tensor, sample_weight: Tensor = None) -> None:
        """Adds a batch.

        Args:
            y_true: Labels `(...)` or `(..., 1)`.
            y_pred: Scores `(..., classes)`: logits, probabilities, cosines, negative distances.
            sample_weight: None, or weights over the leading axes of the labels.

        Raises:
            ValueError: If the shapes do not fit, or a label in an array or a list is not a class.
        """
        scores = ops.convert_to_tensor(y_pred)
        if scores.shape[-1] != self.answers:
            kind = "classes" if self.answers == self.classes else "answers"
            raise ValueError(
                f"There must be a score for each of the {self.answers} {kind} along the last "
                f"axis. Received: shape {tuple(scores.shape)}"
            )
        check_readable(y_true, self.classes, self.ignore_class)
        index, known, wrong = read_labels(y_true, scores, self.classes, self.ignore_class)
        values = ops.cast(self.values(index, scores), self.dtype)
        # A wrong label must show, also in a tensor, which cannot be read.
        values = ops.where(wrong, math.nan, values)
        known = ops.logical_and(known, self.counts(index, scores))
        weights = ops.cast(ops.logical_or(known, wrong), self.dtype)
        if sample_weight is not None:
            weights = weights * weights_per_sample(sample_weight, scores, self.dtype)
        values = ops.where(weights > 0, values, 0.0)
        self._total.assign_add(ops.sum(values * weights))
        self._weight.assign_add(ops.sum(weights))

    def result(self) -> Tensor:
        """The mean, 0 if no label counted."""
        return ops.divide_no_nan(self._total, self._weight)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "ignore_class": self.ignore_class}
