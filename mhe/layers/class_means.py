"""Distances of an embedding to the running means of the classes."""

import numbers
from typing import Any

import keras
import numpy as np
from keras import ops

from mhe import checks
from mhe.labels import is_readable, read_labels
from mhe.layers.distance import check_distance, distances
from mhe.layers.head import Head


@keras.saving.register_keras_serializable(package="mhe")
class NearestClassMean(Head):
    """Logits of an embedding: minus its distances to running means of the classes' embeddings.

    In training, a call with labels counts its embeddings into the means; no gradient goes there.
    Logits are those of the means before the call, as in its authors' code, so that no embedding is
    compared with itself. `mhe.HeadModel` hands the labels over inside `fit`; without labels, or
    outside training, nothing changes.

    With S_c the sum of the n_c embeddings of class c in a batch, N_c those counted before, and m_c
    the mean, a class that is in the batch gets

        decay=None    m_c ← (N_c · m_c + S_c) / (N_c + n_c),    the mean of all there ever were
        decay=α       m_c ← α · m_c + (1 - α) · S_c / n_c,      or S_c / n_c the first time

    and a class that is not keeps its mean. Means that were never counted are 0. (Garnot and
    Landrieu's code counts a batch before its logits, and means of batches with equal weights.)

    Under gradient accumulation over k batches, `accumulate=k` holds sums and counts for k calls
    with labels and then counts them in at once. Until then the means stay as they are. So logits,
    gradients and means are those of one batch of all, in both variants. With `accumulate=1` the
    means of all embeddings come out the same, but the logits see them change from batch to batch,
    and with a decay there are k steps of it instead of one.

    Means are those of the whole batch also where it is split among devices, under
    `keras.distribution.DataParallel` or TensorFlow's `MirroredStrategy` (where counts are those of
    an average replica). Embeddings that are not
    finite, as those of a step that loss scaling skips, are not counted.

    Args:
        classes: How many, at least 2.
        dims: How many numbers an embedding has.
        decay: None, or the part of a mean that stays, in [0, 1).
        accumulate: How many calls make one batch.
        distance: `"squared"`, `"euclidean"`, `"cosine"` or `"huber"`; see `distances`.
        delta: Where `"huber"` turns from a parabola into a line, > 0.
        **kwargs: Keras's own: `name`, `dtype`, `trainable`.

    Attributes:
        prototypes: The means `(classes, dims)`, float32 unless the policy is float64.
        counts: How many embeddings each class has had, `(classes,)`.

    Raises:
        ValueError: If an argument is not one of the above, the embeddings do not have `dims`
            numbers, or the labels are not one an embedding. A label in an array or a list that is
            no class; in a tensor, it is not counted.

    Example:

    >>> import mhe
    >>> import numpy as np
    >>> head = mhe.layers.NearestClassMean(2, 1)
    >>> _ = head(np.array([[1.0], [3.0], [10.0]]), labels=[0, 0, 1], training=True)
    >>> keras.ops.convert_to_numpy(head(np.array([[3.0]])))
    array([[ -1., -49.]], dtype=float32)

    Reference:
        Guerriero, Caputo and Mensink, DeepNCM: deep nearest class mean classifiers, ICLR 2018
        workshop ([openreview](https://openreview.net/forum?id=rkPLZ4JPM)).
    """

    def __init__(
        self,
        classes: int,
        dims: int,
        decay: float | None = None,
        accumulate: int = 1,
        distance: str = "squared",
        delta: float = 1.0,
        **kwargs: Any,
    ) -> None:
        checks.check_count("classes", classes, 2)
        checks.check_count("dims", dims, 1)
        checks.check_count("accumulate", accumulate, 1)
        is_real = isinstance(decay, numbers.Real) and not isinstance(decay, bool)
        if decay is not None and not (is_real and 0 <= decay < 1):
            raise ValueError(f"`decay` must be None or in [0, 1). Received: decay={decay!r}")
        check_distance(distance, delta)
        super().__init__(int(dims), int(classes), **kwargs)
        self.classes = int(classes)
        self.dims = int(dims)
        self.decay = None if decay is None else float(decay)
        self.accumulate = int(accumulate)
        self.distance = distance
        self.delta = float(delta)
        self.prototypes = self._state("prototypes", (self.classes, self.dims))
        self.counts = self._state("counts", (self.classes,))
        # What is held back.
        self._sums = self._state("sums", (self.classes, self.dims))
        self._held = self._state("held", (self.classes,))
        self._calls = self._state("calls", ())

    def _state(self, name: str, shape: tuple[int, ...]) -> Any:
        # The mean over TensorFlow's replicas is the same factor on sums and counts, which leaves
        # means as they are; a sum could not be set back.
        return self.add_weight(
            name=name,
            shape=shape,
            dtype=self.output_dtype,
            initializer="zeros",
            trainable=False,
            autocast=False,
            aggregation="mean",
        )

    def __call__(
        self, inputs: Any, labels: Any = None, training: bool | None = None, **kwargs: Any
    ) -> Any:
        # Keras makes tensors of arrays, which cannot be read while a step is traced.
        if is_readable(labels):
            checks.check_labels(labels, self.classes)
            labels = np.asarray(labels)
        return super().__call__(inputs, labels=labels, training=training, **kwargs)

    def call(self, inputs: Any, labels: Any = None, training: bool | None = None) -> Any:
        """Embeddings `(..., dims)`, in training with labels `(...)` → logits `(..., classes)`."""
        inputs = ops.cast(inputs, self.output_dtype)
        # A copy: PyTorch changes weights in place, before the gradient is taken.
        means = ops.copy(ops.convert_to_tensor(self.prototypes))
        if training and labels is not None:
            self._count(ops.stop_gradient(inputs), labels)
        return -distances(inputs, means, self.distance, self.delta)

    def compute_output_spec(
        self, inputs: Any, labels: Any = None, training: bool | None = None
    ) -> keras.KerasTensor:
        return super().compute_output_spec(inputs)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "classes": self.classes,
            "dims": self.dims,
            "decay": self.decay,
            "accumulate": self.accumulate,
            "distance": self.distance,
            "delta": self.delta,
        }

    def _count(self, inputs: Any, labels: Any) -> None:
        sums, counts = class_sums(inputs, labels, self.classes)
        self._sums.assign_add(sums)
        self._held.assign_add(counts)
        sums, counts = ops.convert_to_tensor(self._sums), ops.convert_to_tensor(self._held)
        before, means = ops.convert_to_tensor(self.counts), ops.convert_to_tensor(self.prototypes)
        if self.decay is None:
            share = ops.divide_no_nan(counts, before + counts)
        else:
            share = ops.where(before > 0, 1.0 - self.decay, 1.0)
        there = counts > 0
        new = means + share[:, None] * (ops.divide_no_nan(sums, counts[:, None]) - means)
        # No branch: a device could not wait for the others inside one.
        full = self._calls + 1.0 >= self.accumulate
        counted = ops.logical_and(there, full)
        self.prototypes.assign(ops.where(counted[:, None], new, means))
        self.counts.assign(ops.where(counted, before + counts, before))
        self._sums.assign(ops.where(full, 0.0, sums))
        self._held.assign(ops.where(full, 0.0, counts))
        self._calls.assign(ops.where(full, 0.0, self._calls + 1.0))


def class_sums(embeddings: Any, labels: Any, classes: int) -> tuple[Any, Any]:
    """Sum and number of the embeddings of each class.

    Args:
        embeddings: Tensor `(..., dims)`; those that are not finite do not count.
        labels: Integers `(...)` or `(..., 1)`, in any dtype; those that are no class do not count.
        classes: How many there are.

    Returns:
        Sums `(classes, dims)` and counts `(classes,)`, in the dtype of the embeddings.

    Raises:
        ValueError: If the labels are not one an embedding.

    Example:

    >>> import numpy as np
    >>> sums, counts = class_sums(np.array([[1.0], [2.0], [4.0]], "float32"), [1, 1, 9], classes=2)
    >>> np.asarray(sums).tolist(), np.asarray(counts).tolist()
    ([[0.0], [3.0]], [0.0, 2.0])
    """
    embeddings = ops.convert_to_tensor(embeddings)
    index, known, _ = (
        ops.reshape(each, (-1,)) for each in read_labels(labels, embeddings, classes)
    )
    rows = ops.reshape(embeddings, (-1, embeddings.shape[-1]))
    known = ops.logical_and(known, ops.all(ops.isfinite(rows), axis=1))
    rows = ops.where(known[:, None], rows, 0.0)
    sums = ops.segment_sum(rows, index, num_segments=classes)
    return sums, ops.segment_sum(ops.cast(known, rows.dtype), index, num_segments=classes)
