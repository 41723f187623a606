"""Constraints on weights."""

from typing import Any

import keras
from keras import ops

from mhe import checks
from mhe.types import Tensor


@keras.saving.register_keras_serializable(package="mhe")
class PixelRange(keras.constraints.Constraint):
    """Clips weights that are images to the range of pixel values after every step.

    Args:
        low: The smallest pixel value.
        high: The largest pixel value.

    Raises:
        ValueError: If either is not a finite number, or `low` is not less than `high`.

    Example:

    >>> import numpy as np
    >>> np.asarray(PixelRange(-1, 1)(np.array([-3.0, 0.5], "float32")))
    array([-1. ,  0.5], dtype=float32)
    >>> layer = keras.layers.Dense(3, kernel_constraint=PixelRange(-1, 1))
    >>> model = keras.Sequential([keras.Input((4,)), layer])
    """

    def __init__(self, low: float = -1.0, high: float = 1.0) -> None:
        checks.check_range(low, high)
        self.low, self.high = float(low), float(high)

    def __call__(self, w: Tensor) -> Tensor:
        """Returns `w` clipped to the range."""
        return ops.clip(w, self.low, self.high)

    def get_config(self) -> dict[str, Any]:
        return {"low": self.low, "high": self.high}
