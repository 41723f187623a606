"""Gradients outside of a training step."""

from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import ops

from mhe.types import Tensor


def gradients(function: Callable[[list[Tensor]], Tensor], at: Sequence[Tensor]) -> list[Tensor]:
    """The gradient of a scalar function with respect to each of its arguments.

    Args:
        function: Called with a list of tensors; returns a scalar tensor.
        at: The values of the tensors.

    Returns:
        A gradient of the shape of each; zeros for one on which the function does not depend.

    Example:

    >>> squares, none = gradients(lambda w: ops.sum(w[0] * w[0]), [ops.ones(2), ops.ones(1)])
    >>> [float(each) for each in squares], [float(each) for each in none]
    ([2.0, 2.0], [0.0])
    """
    # The one spot where Keras has no equivalent.
    if keras.backend.backend() == "jax":
        import jax

        return jax.grad(function)([ops.convert_to_tensor(each) for each in at])
    if keras.backend.backend() == "torch":
        import torch

        with torch.enable_grad():
            leaves = [ops.convert_to_tensor(each).detach().clone() for each in at]
            for leaf in leaves:
                leaf.requires_grad_(True)
            value = function(leaves)
            found: Any = [None] * len(leaves)
            if value.requires_grad:
                found = torch.autograd.grad(value, leaves, allow_unused=True)
    else:
        import tensorflow as tf

        leaves = [tf.identity(each) for each in at]
        with tf.GradientTape() as tape:
            tape.watch(leaves)
            value = function(leaves)
        found = tape.gradient(value, leaves)
    return [
        ops.zeros_like(leaf) if each is None else ops.convert_to_tensor(each)
        for each, leaf in zip(found, leaves, strict=True)
    ]
