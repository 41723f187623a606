"""Heads over an embedding: cosines with fixed prototypes, and a value between two poles."""

import base64
import numbers
from typing import Any

import keras
import numpy as np
from keras import ops

from mhe import checks
from mhe.precision import at_least_float32

# Embeddings without an entry above this count as zero: their gradient, which goes as the inverse
# of the length, would leave float32.
_SHORTEST = 1e-30
# How far from 1 the length of a prototype may be: float16, in which the file may have been kept,
# rounds by 5e-4. What float32 itself rounds is left as it is, so that nothing changes on the way
# from layer to layer.
_ROUNDED_LENGTH = 1e-3
_EXACT_LENGTH = 1e-6


def unit_vectors(vectors: Any) -> Any:
    """Vectors scaled to unit length, in at least float32.

    The largest entry is divided out first: squares neither overflow nor vanish, and no ε bends
    short vectors. A zero vector stays zero, as does one without an entry above 1e-30; its gradient
    is that of the vector itself, so that it can leave zero.

    Args:
        vectors: Tensor `(..., D)`.

    Returns:
        A tensor `(..., D)`: float64 for float64 vectors, else float32.

    Example:

    >>> import numpy as np
    >>> np.asarray(unit_vectors(np.array([[3e-20, 4e-20], [0.0, 0.0]], "float32"))).round(6)
    array([[0.6, 0.8], [0. , 0. ]], dtype=float32)
    """
    vectors = at_least_float32(vectors)
    largest = ops.stop_gradient(ops.max(ops.absolute(vectors), axis=-1, keepdims=True))
    has_direction = largest > _SHORTEST
    scaled = vectors / ops.where(has_direction, largest, 1.0)
    squares = ops.sum(ops.square(scaled), axis=-1, keepdims=True)
    return scaled / ops.sqrt(ops.where(has_direction, squares, 1.0))


def prototype_cosines(embeddings: Any, prototypes: Any) -> Any:
    """Cosine of every embedding with every prototype.

    Args:
        embeddings: Tensor `(..., dims)` of any length; a zero embedding has cosines of 0.
        prototypes: Unit rows `(classes, dims)`.

    Returns:
        A tensor `(..., classes)`: float64 for float64 embeddings, else float32.

    Example:

    >>> import numpy as np
    >>> embeddings = np.array([[0.0, 5.0], [-2.0, 0.0]], "float32")
    >>> np.asarray(prototype_cosines(embeddings, np.eye(2, dtype="float32")))
    array([[ 0.,  1.], [-1.,  0.]], dtype=float32)

    Reference:
        Mettes et al., Hyperspherical Prototype Networks, NeurIPS 2019
        ([arXiv:1901.10514](https://arxiv.org/abs/1901.10514)), on classification.
    """
    units = unit_vectors(embeddings)
    return ops.matmul(units, ops.transpose(ops.cast(prototypes, units.dtype)))


def polar_value(embeddings: Any, low: float, high: float) -> Any:
    """The value that the cosine of an embedding with the first axis stands for.

    The first axis, e_1, is the pole of `high`, and -e_1 that of `low`:
    `low + (cos + 1) / 2 · (high - low)`.

    Args:
        embeddings: Tensor `(..., dims)` of any length; a zero embedding is halfway.
        low: The value at a cosine of -1.
        high: The value at a cosine of 1.

    Returns:
        A tensor `(..., 1)`: float64 for float64 embeddings, else float32.

    Example:

    >>> import numpy as np
    >>> embeddings = np.array([[2.0, 0.0], [0.0, 0.3], [-1.0, 0.0]], "float32")
    >>> np.asarray(polar_value(embeddings, low=1600, high=2000))
    array([[2000.], [1800.], [1600.]], dtype=float32)

    Reference:
        Mettes et al., Hyperspherical Prototype Networks, NeurIPS 2019
        ([arXiv:1901.10514](https://arxiv.org/abs/1901.10514)), on regression.
    """
    cosine = unit_vectors(embeddings)[..., :1]
    return low + (cosine + 1.0) / 2.0 * (high - low)


class _Head(keras.layers.Layer):
    """A layer over embeddings of `dims` numbers that computes in at least float32."""

    def __init__(self, dims: int, units: int, **kwargs: Any) -> None:
        # Without autocast: half precision would cost the cosines most of their digits.
        super().__init__(autocast=False, **kwargs)
        self.input_spec = keras.layers.InputSpec(min_ndim=1, axes={-1: dims})
        self.supports_masking = True
        self._units = units

    @property
    def output_dtype(self) -> str:
        """Float64 under a float64 policy, else float32."""
        return keras.backend.result_type(self.compute_dtype, "float32")

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return (*input_shape[:-1], self._units)

    def compute_output_spec(self, inputs: Any) -> keras.KerasTensor:
        return keras.KerasTensor(self.compute_output_shape(inputs.shape), self.output_dtype)


@keras.saving.register_keras_serializable(package="mhe")
class PrototypeHead(_Head):
    """Cosines of an embedding with fixed prototypes, one a class.

    The prototypes are a weight that no training changes. They travel with the config too, as the
    very bits of their float32 numbers, so that clones and models made from JSON have them.

    Cosines are computed and returned in float32 under `mixed_float16` and `mixed_bfloat16` as
    well. A zero embedding has cosines of 0 and a finite gradient; see `unit_vectors`. Train with
    `mhe.losses.PrototypeLoss`; the predicted class is that of the largest cosine, which is what
    `keras.metrics.SparseCategoricalAccuracy` takes.

    Args:
        prototypes: Unit rows `(classes, dims)`, as `mhe.prototypes.place` gives them: at least two
            classes and two dimensions. Rows that were rounded to float16 are brought back to unit
            length.
        **kwargs: Keras's own: `name`, `dtype`, `trainable`.

    Raises:
        ValueError: If the prototypes are not such rows, or the embeddings do not have their
            dimensions.

    Example:

    >>> import keras, mhe
    >>> import numpy as np
    >>> head = mhe.layers.PrototypeHead(np.eye(3))
    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(3), head])
    >>> model.compile("sgd", mhe.losses.PrototypeLoss(), metrics=["sparse_categorical_accuracy"])
    >>> model.output_shape, len(head.trainable_weights)
    ((None, 3), 0)

    Reference:
        Mettes et al., Hyperspherical Prototype Networks, NeurIPS 2019
        ([arXiv:1901.10514](https://arxiv.org/abs/1901.10514)), on classification.
    """

    def __init__(self, prototypes: Any, **kwargs: Any) -> None:
        prototypes = _unit_rows(prototypes)
        classes, dims = prototypes.shape
        super().__init__(dims, classes, **kwargs)
        self.classes = classes
        self.dims = dims
        self.prototypes = self.add_weight(
            name="prototypes",
            shape=prototypes.shape,
            dtype="float32",
            initializer=lambda shape, dtype: ops.convert_to_tensor(prototypes, dtype),
            trainable=False,
            autocast=False,
        )

    def call(self, inputs: Any) -> Any:
        """Embeddings `(..., dims)` → cosines `(..., classes)`."""
        return prototype_cosines(ops.cast(inputs, self.output_dtype), self.prototypes)

    def get_config(self) -> dict[str, Any]:
        prototypes = np.asarray(ops.convert_to_numpy(self.prototypes), "<f4")
        text = base64.b64encode(prototypes.tobytes()).decode("ascii")
        return {
            **super().get_config(),
            "prototypes": {"shape": list(prototypes.shape), "base64_float32": text},
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "PrototypeHead":
        stored = config["prototypes"]
        numbers = np.frombuffer(base64.b64decode(stored["base64_float32"]), "<f4")
        return super().from_config({**config, "prototypes": numbers.reshape(stored["shape"])})


@keras.saving.register_keras_serializable(package="mhe")
class PolarHead(_Head):
    """A value in [low, high], read off the cosine of an embedding with the first axis.

    The first axis is the pole of `high`, its opposite that of `low`; see `polar_value`. Values are
    computed and returned in float32 under `mixed_float16` and `mixed_bfloat16` as well. A zero
    embedding is halfway, with a finite gradient. Train with `mhe.losses.PolarLoss`; errors are in
    the units of the value, so that `keras.metrics.MeanAbsoluteError` reports them. Where the range
    is narrow beside its ends, as in [1e6, 1e6 + 1], float32 rounds values: shift them towards 0.

    For joint training, a `PrototypeHead` looks at the other axes of the same embedding: with the
    first among them, a value near a pole would keep the cosines of the classes low.

    Args:
        low: The value at the pole -e_1.
        high: The value at the pole e_1, more than `low`.
        dims: How many numbers an embedding has, at least 2.
        **kwargs: Keras's own: `name`, `dtype`, `trainable`.

    Raises:
        ValueError: If `low < high` does not hold, `dims` is no int of at least 2, or the embeddings
            do not have `dims` numbers.

    Example:

    >>> import keras, mhe
    >>> import numpy as np
    >>> images = keras.Input((8,))
    >>> embedding = keras.layers.Dense(11)(images)
    >>> year = mhe.layers.PolarHead(low=1600, high=1950, dims=11, name="year")(embedding)
    >>> school = mhe.layers.PrototypeHead(np.eye(10), name="school")(embedding[:, 1:])
    >>> model = keras.Model(images, {"year": year, "school": school})

    Reference:
        Mettes et al., Hyperspherical Prototype Networks, NeurIPS 2019
        ([arXiv:1901.10514](https://arxiv.org/abs/1901.10514)), on regression and on both at once.
    """

    def __init__(self, low: float, high: float, dims: int, **kwargs: Any) -> None:
        checks.check_range(low, high)
        if isinstance(dims, bool) or not isinstance(dims, numbers.Integral) or dims < 2:
            raise ValueError(f"`dims` must be an int >= 2. Received: dims={dims!r}")
        super().__init__(int(dims), 1, **kwargs)
        self.low = float(low)
        self.high = float(high)
        self.dims = int(dims)

    def call(self, inputs: Any) -> Any:
        """Embeddings `(..., dims)` → values `(..., 1)`."""
        return polar_value(ops.cast(inputs, self.output_dtype), self.low, self.high)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "low": self.low,
            "high": self.high,
            "dims": self.dims,
        }


def _unit_rows(prototypes: Any) -> np.ndarray:
    """Prototypes as float32 unit rows, or a `ValueError`."""
    rows = np.asarray(ops.convert_to_numpy(prototypes)).astype(np.float32)
    if rows.ndim != 2 or rows.shape[0] < 2 or rows.shape[1] < 2:
        raise ValueError(
            "`prototypes` must be an array (classes, dims) of at least 2 classes and 2 dimensions. "
            f"Received: shape {rows.shape}"
        )
    lengths = np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)
    off = np.abs(lengths - 1.0)
    if not np.all(off <= _ROUNDED_LENGTH):
        worst = int(np.argmax(np.where(np.isnan(off), np.inf, off)))
        raise ValueError(
            "`prototypes` must be rows of length 1. "
            f"Received: row {worst} of length {lengths[worst, 0]:g}"
        )
    return np.where(off <= _EXACT_LENGTH, rows, rows / lengths).astype(np.float32)
