"""What regularizers with a strength have in common."""

from typing import Any

import keras
from keras import ops

from mhe.checks import check_number
from mhe.types import Tensor


class Weighted(keras.regularizers.Regularizer):
    """A regularizer that adds `strength` times a value to the loss.

    Args:
        strength: Finite factor ≥ 0.
    """

    def __init__(self, strength: float = 1.0) -> None:
        check_number("strength", strength, least=0)
        self.strength = float(strength)

    def value(self, x: Tensor) -> Tensor:
        """What `strength` multiplies, a scalar."""
        raise NotImplementedError

    def __call__(self, x: Tensor) -> Tensor:
        """Returns `strength` times the value of `x`, a scalar of Keras's `floatx`."""
        return ops.cast(self.strength * self.value(x), keras.config.floatx())

    def get_config(self) -> dict[str, Any]:
        return {"strength": self.strength}
