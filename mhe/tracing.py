"""Conditions on tensors, and programs that are recorded from one run."""

import sys
from collections.abc import Callable
from typing import TypeVar

import keras

from mhe.types import Tensor

T = TypeVar("T")


def branch(condition: Tensor, if_true: Callable[[], T], if_false: Callable[[], T]) -> T:
    """Returns the result of one of two functions, as `ops.cond` does.

    On PyTorch `ops.cond` takes 40 µs to come to a Python `if`; on JAX it compiles both branches in
    every call that is not compiled as a whole.

    Args:
        condition: A boolean scalar.
        if_true: Called if it is true.
        if_false: Called if it is false.

    Example:

    >>> float(branch(keras.ops.ones(()) > 2.0, lambda: 1.0, lambda: 2.0))
    2.0
    """
    if _has_value(condition):
        return if_true() if condition else if_false()
    return keras.ops.cond(condition, if_true, if_false)


def _has_value(condition: Tensor) -> bool:
    if keras.backend.backend() == "torch":
        # A tensor on the device "meta", with which Keras infers shapes, has none.
        return getattr(condition, "is_meta", True) is False
    if keras.backend.backend() == "jax":
        import jax

        return isinstance(condition, jax.Array) and not isinstance(condition, jax.core.Tracer)
    return False


def not_translated(function: Callable[..., T]) -> Callable[..., T]:
    """A function whose source TensorFlow does not translate, since it holds no Python control flow.

    `ops.map` translates its function, and all that this calls, wherever it is not part of a
    compiled step: that takes longer than most energies do.

    Example:

    >>> not_translated(abs)(-2)
    2
    """
    if keras.backend.backend() != "tensorflow":
        return function
    # Keras has no name for this.
    import tensorflow as tf

    return tf.autograph.experimental.do_not_convert(function)


def keeps_one_branch() -> bool:
    """Whether what runs now is recorded for an export that cannot hold both branches.

    On PyTorch `ops.cond` is a Python `if`: `torch.jit.trace`, with which Keras exports to ONNX,
    silently keeps the branch of its sample, and `torch.export` refuses it. The other backends
    record both branches.

    Example:

    >>> keeps_one_branch()
    False
    """
    if keras.backend.backend() != "torch":
        return False
    # Keras has no name for this.
    import torch

    # PyTorch 2.5 has no name for exporting alone.
    is_exporting = getattr(torch.compiler, "is_exporting", torch.compiler.is_compiling)
    return is_traced() or is_exporting()


def is_traced() -> bool:
    """Whether what runs now is recorded by `torch.jit.trace`, with which Keras exports programs.

    Example:

    >>> is_traced()
    False
    """
    if keras.backend.backend() != "torch":
        return False
    # Keras has no name for this.
    import torch

    return torch.jit.is_tracing()


def is_recorded_by_tensorflow() -> bool:
    """Whether JAX runs inside a function of TensorFlow, from which Keras makes a SavedModel.

    Example:

    >>> is_recorded_by_tensorflow()
    False
    """
    if keras.backend.backend() != "jax" or "tensorflow" not in sys.modules:
        return False
    # Keras has no name for this.
    import tensorflow as tf

    return tf.inside_function()
