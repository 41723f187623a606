"""Random draws without state."""

import keras
from keras import ops

from mhe.types import Tensor


class _TensorSeed(keras.random.SeedGenerator):
    """A seed computed in the graph: Keras's random functions accept no seed tensor as such."""

    def __init__(self, seed: Tensor) -> None:
        self._seed = seed

    def next(self, ordered: bool = True) -> Tensor:
        return self._seed


def fresh_seed(numbers: Tensor, seed: int) -> keras.random.SeedGenerator:
    """A seed that changes whenever a training step moves `numbers`, or with `seed`.

    It has no state, so it changes from step to step of a compiled training loop, too.

    Args:
        numbers: Tensor `(N,)` of trained weights or features.
        seed: Integer ≥ 0.

    Returns:
        A seed for Keras's random functions.

    Example:

    >>> draw = keras.random.randint((8,), 0, 100, seed=fresh_seed(keras.ops.ones(3), seed=0))
    >>> draw.shape[0]
    8
    """
    # Multiplying exposes the last digits, the first to change.
    digits = ops.cast(ops.stop_gradient(numbers), "float32") * 8191.0
    count = ops.cast(ops.shape(numbers)[0], "float32")
    digits = ops.sum(digits - ops.floor(digits)) * (2.0**20 / count)
    key = ops.stack([ops.cast(digits, "uint32"), ops.cast(seed % 2**32, "uint32")])
    return _TensorSeed(key)
