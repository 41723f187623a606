"""Functions of vectors with a hand-derived gradient."""

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from mhe.keras_internals import differentiates_again
from mhe.precision import at_least_float32
from mhe.types import Tensor

# From the gradient along a value to the gradient along what it was computed from.
Pullback = Callable[[Tensor], Tensor]


def differentiable(
    evaluate: Callable[..., tuple[Tensor, Pullback]], vectors: Tensor, *constants: Tensor
) -> Tensor:
    """The value of a function, differentiable along `vectors` by the pullback it returns.

    Args:
        evaluate: Called with the vectors, in at least float32, and the constants; returns a tensor
            and its pullback.
        vectors: A tensor of floats.
        *constants: Tensors that get no gradient.
    """

    @ops.custom_gradient
    def function(vectors: Tensor, *constants: Tensor) -> tuple[Tensor, Callable[..., Any]]:
        def at(vectors: Tensor, *constants: Tensor) -> tuple[Tensor, Pullback]:
            return evaluate(at_least_float32(vectors), *constants)

        value, pullback = at(vectors, *constants)

        def backward(*args: Any, upstream: Tensor = None) -> Any:
            # TensorFlow and JAX pass the upstream gradient alone, PyTorch by name.
            back = pullback
            if upstream is None:
                (upstream,) = args
            elif differentiates_again(*args):
                _, back = at(*args)
            gradient = _saturating_cast(back(ops.cast(upstream, value.dtype)), vectors.dtype)
            return (gradient, *map(ops.zeros_like, constants)) if constants else gradient

        return value, backward

    return function(vectors, *constants)


def _saturating_cast(values: Tensor, dtype: Any) -> Tensor:
    """A cast that clips to the range of float16."""
    if keras.backend.standardize_dtype(dtype) == "float16":
        values = ops.clip(values, -65504.0, 65504.0)
    return ops.cast(values, dtype)
