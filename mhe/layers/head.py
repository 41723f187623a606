"""What heads over an embedding share: unit vectors, given weights, a layer in float32."""

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from mhe.precision import at_least_float32
from mhe.types import Tensor

# Embeddings without an entry above this count as zero: their gradient, which goes as the inverse
# of the length, would leave float32.
_SHORTEST = 1e-30


def unit_vectors(vectors: Tensor) -> Tensor:
    """Returns vectors scaled to unit length, in at least float32.

    The largest entry is divided out first, so that squares neither overflow nor vanish, and no ε
    distorts short vectors. A zero vector stays zero, as does one without an entry above 1e-30; its
    gradient is that of the vector itself, so that it can leave zero.

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


def initial_value(array: Tensor) -> Callable[..., Tensor]:
    """An initializer that returns a given array, regardless of the requested shape."""
    return lambda shape, dtype=None: ops.convert_to_tensor(array, dtype)


class Float32Layer(keras.layers.Layer):
    """A layer that computes in at least float32, also under half-precision policies."""

    def __init__(self, **kwargs: Any) -> None:
        # Without autocast: half precision would cost inputs most of their digits.
        super().__init__(autocast=False, **kwargs)

    @property
    def output_dtype(self) -> str:
        """Float64 under a float64 policy, else float32."""
        return keras.backend.result_type(self.compute_dtype, "float32")

    def compute_output_spec(self, inputs: Tensor, *args: Any, **kwargs: Any) -> keras.KerasTensor:
        return keras.KerasTensor(self.compute_output_shape(inputs.shape), self.output_dtype)


class Head(Float32Layer):
    """A layer from embeddings `(..., dims)` to `(..., units)`; None for any number of dims."""

    def __init__(self, dims: int | None, units: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.input_spec = keras.layers.InputSpec(min_ndim=1, axes={-1: dims})
        self.supports_masking = True
        self._units = units

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return (*input_shape[:-1], self._units)
