"""What heads over an embedding share: given weights, a layer in float32."""

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from mhe.types import Tensor


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
