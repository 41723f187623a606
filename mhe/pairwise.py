"""Functions of two matrices with a hand-derived gradient along both."""

from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import ops

from mhe.keras_internals import differentiates_again
from mhe.tracing import is_traced
from mhe.types import Tensor

# From two matrices to the value, and what the way back needs besides.
Forward = Callable[[Tensor, Tensor], tuple[Tensor, Any]]
# From the upstream gradient, the value, the rest, the matrices, and whether each needs its gradient
# to their gradients; None for one that does not.
Backward = Callable[[Tensor, Tensor, Any, Tensor, Tensor, Sequence[bool]], tuple[Any, Any]]


def pairwise(rows: Tensor, others: Tensor, forward: Forward, backward: Backward) -> Tensor:
    """The value of `forward`, with `backward` as its gradient.

    The gradient can be differentiated again; PyTorch then computes the value once more. Where
    `forward` chooses between branches, `backward` repeats the choice, so that the one not taken
    stores nothing.

    Args:
        rows: A tensor, for instance one vector per sample.
        others: A tensor, for instance one vector per class.
        forward: From both to a tensor, and what else `backward` needs.
        backward: From the upstream gradient, the value, the rest and both tensors to the gradients
            along both; those not needed, as the last argument tells, may be None.

    Example:

    >>> product = pairwise(
    ...     ops.ones((1, 2)),
    ...     ops.ones((2, 3)),
    ...     lambda rows, others: (ops.matmul(rows, others), None),
    ...     lambda upstream, value, rest, rows, others, needed: (
    ...         ops.matmul(upstream, ops.transpose(others)),
    ...         ops.matmul(ops.transpose(rows), upstream),
    ...     ),
    ... )
    >>> keras.ops.convert_to_numpy(product)
    array([[2., 2., 2.]], dtype=float32)
    """
    if is_traced():
        # A program has no way back, and OpenVINO refuses a function of Python's in it.
        return forward(rows, others)[0]

    @ops.custom_gradient
    def function(rows: Tensor, others: Tensor) -> tuple[Tensor, Callable[..., Any]]:
        value, saved = forward(rows, others)
        # Not the output itself in PyTorch: it owns this function, which would own it. The other
        # backends record how it was computed, and so differentiate the gradient again.
        is_torch = keras.backend.backend() == "torch"
        output = ops.stop_gradient(value) if is_torch else value
        # PyTorch tells which gradients are needed. The other backends drop what nobody reads.
        needed = [getattr(each, "requires_grad", True) for each in (rows, others)]

        def pullback(*args: Tensor, upstream: Tensor = None) -> tuple[Any, Any]:
            # TensorFlow and JAX pass the upstream gradient by position, PyTorch by name.
            if upstream is None:
                (upstream,) = args
            elif differentiates_again(*args):
                again, rest = forward(args[0], args[1])
                return backward(upstream, again, rest, args[0], args[1], needed)
            return backward(upstream, output, saved, rows, others, needed)

        return value, pullback

    return function(rows, others)
