"""Distances of an embedding to running means of the classes."""

from typing import Any

import keras
import numpy as np
from keras import ops

from mhe import checks
from mhe.labels import is_readable, read_labels
from mhe.layers.distance import check_distance, distances
from mhe.layers.head import Head
from mhe.types import Tensor


@keras.saving.register_keras_serializable(package="mhe")
class NearestClassMean(Head):
    """Logits of an embedding: minus its distances to running means of the classes' embeddings.

    In training, a call with labels updates the means with its embeddings, without a gradient. The
    logits use the means before the update, as in the authors' code, so that no embedding is
    compared with itself. `mhe.HeadModel` passes the labels inside `fit`; without labels, or outside
    training, the means do not change.

    With S_c the sum of the n_c embeddings of class c in a batch, N_c the number counted before, and
    m_c the mean, a class that is in the batch is updated by

        decay=None    m_c ← (N_c · m_c + S_c) / (N_c + n_c),    the mean of all embeddings so far
        decay=α       m_c ← α · m_c + (1 - α) · S_c / n_c,      or S_c / n_c the first time

    and other classes keep their means. Means are 0 until their first update. (Garnot and Landrieu's
    code updates before the logits, and weighs the means of all batches equally.)

    Under gradient accumulation over k batches, `accumulate=k` collects sums and counts over k calls
    with labels and then updates once. Logits, gradients and means are those of one large batch, in
    both variants. With `accumulate=1`, the means of all embeddings would be the same in the end,
    but the logits would see them change between batches, and a decay would apply k times.

    Means are those of the whole batch also if it is split among devices, under
    `keras.distribution.DataParallel` or TensorFlow's `MirroredStrategy` (where counts are those of
    an average replica). Embeddings that are not finite, as in a step that loss scaling skips, do
    not count.

    Args:
        classes: Number of classes, at least 2.
        dims: Size of an embedding.
        decay: Fraction of a mean that an update keeps, in [0, 1); None for the mean of all
            embeddings.
        accumulate: Number of calls per update.
        distance: `"squared"`, `"euclidean"`, `"cosine"` or `"huber"`; see `distances`.
        delta: Where `"huber"` turns from a parabola into a line, > 0.
        **kwargs: `name`, `dtype` and `trainable`, as for every Keras layer.

    Attributes:
        prototypes: The means `(classes, dims)`, float32 unless the policy is float64.
        counts: Number of embeddings of each class so far, `(classes,)`.

    Raises:
        ValueError: If an argument is not as described, embeddings have another size, there is not
            one label per embedding, or a label in an array or a list is not a class; in a tensor it
            does not count.

    Example:

    >>> import keras, mhe
    >>> import numpy as np
    >>> head = mhe.layers.NearestClassMean(2, 1)
    >>> _ = head(np.array([[1.0], [3.0], [10.0]]), labels=[0, 0, 1], training=True)
    >>> keras.ops.convert_to_numpy(head(np.array([[3.0]])))
    array([[ -1., -49.]], dtype=float32)
    >>> backbone = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    >>> model = mhe.HeadModel(backbone, head)  # passes the labels in training

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
        checks.check_number("decay", decay, least=0, below=1, optional=True)
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
        # What has accumulated since the last update.
        self._sums = self._state("sums", (self.classes, self.dims))
        self._pending = self._state("held", (self.classes,))
        self._calls = self._state("calls", ())

    def _state(self, name: str, shape: tuple[int, ...]) -> keras.Variable:
        # Averaging over TensorFlow's replicas scales sums and counts alike, which does not affect
        # the means; sums over replicas could not be reset.
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
        self, inputs: Tensor, labels: Tensor = None, training: bool | None = None, **kwargs: Any
    ) -> Tensor:
        # Keras turns arrays into tensors, which cannot be read while a step is traced.
        if is_readable(labels):
            checks.check_labels(labels, self.classes)
            labels = np.asarray(labels)
        return super().__call__(inputs, labels=labels, training=training, **kwargs)

    def call(self, inputs: Tensor, labels: Tensor = None, training: bool | None = None) -> Tensor:
        """Embeddings `(..., dims)`, and labels `(...)` in training → logits `(..., classes)`."""
        inputs = ops.cast(inputs, self.output_dtype)
        # A copy: PyTorch changes weights in place, before it computes the gradient.
        means = ops.copy(ops.convert_to_tensor(self.prototypes))
        if training and labels is not None:
            self._count(ops.stop_gradient(inputs), labels)
        return -distances(inputs, means, self.distance, self.delta)

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

    def _count(self, inputs: Tensor, labels: Tensor) -> None:
        sums, counts = class_sums(inputs, labels, self.classes)
        self._sums.assign_add(sums)
        self._pending.assign_add(counts)
        sums, counts = ops.convert_to_tensor(self._sums), ops.convert_to_tensor(self._pending)
        before, means = ops.convert_to_tensor(self.counts), ops.convert_to_tensor(self.prototypes)
        if self.decay is None:
            share = ops.divide_no_nan(counts, before + counts)
        else:
            share = ops.where(before > 0, 1.0 - self.decay, 1.0)
        is_present = counts > 0
        new = means + share[:, None] * (ops.divide_no_nan(sums, counts[:, None]) - means)
        # Not a branch, inside which a device could not wait for the others.
        full = self._calls + 1.0 >= self.accumulate
        updated = ops.logical_and(is_present, full)
        self.prototypes.assign(ops.where(updated[:, None], new, means))
        self.counts.assign(ops.where(updated, before + counts, before))
        self._sums.assign(ops.where(full, 0.0, sums))
        self._pending.assign(ops.where(full, 0.0, counts))
        self._calls.assign(ops.where(full, 0.0, self._calls + 1.0))


def class_sums(embeddings: Tensor, labels: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Returns the sum and the number of the embeddings of each class.

    Args:
        embeddings: Tensor `(..., dims)`. Embeddings that are not finite do not count.
        labels: Integers `(...)` or `(..., 1)`, in any dtype. Others than classes do not count.
        classes: Number of classes.

    Returns:
        Sums `(classes, dims)` and counts `(classes,)`, in the dtype of the embeddings.

    Raises:
        ValueError: If there is not one label per embedding.

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
