"""What regularizers with a strength have in common."""

from typing import Any

import keras
from keras import ops

from mhe.checks import check_choice, check_number
from mhe.energy import SPACES, check_axis
from mhe.types import Tensor


class Weighted(keras.regularizers.Regularizer):
    """A regularizer that adds `strength` times a value to the loss.

    Args:
        strength: Finite factor ≥ 0.
    """

    def __init__(self, strength: float = 1.0) -> None:
        check_number("strength", strength, least=0)
        self.strength = float(strength)
        # What a `mhe.StrengthSchedule` multiplies the strength by; None without one.
        self.scale: keras.Variable | None = None

    def value(self, x: Tensor) -> Tensor:
        """What `strength` multiplies, a scalar."""
        raise NotImplementedError

    def __call__(self, x: Tensor) -> Tensor:
        """Returns `strength` times the value of `x`, a scalar of Keras's `floatx`."""
        loss = self.strength * self.value(x)
        if self.scale is not None:
            loss = loss * ops.cast(ops.convert_to_tensor(self.scale), loss.dtype)
        return ops.cast(loss, keras.config.floatx())

    def get_config(self) -> dict[str, Any]:
        return {"strength": self.strength}


class OfNeurons(Weighted):
    """A regularizer of the directions of neurons, which lie along an axis.

    Args:
        strength: Finite factor ≥ 0.
        space: `"full"`, or `"half"` to count every neuron's opposite as well.
        axis: The axis, or axes, of the weight that count its neurons.
    """

    def __init__(
        self, strength: float = 1.0, space: str = "full", axis: int | tuple[int, ...] = -1
    ) -> None:
        super().__init__(strength)
        check_choice("space", space, SPACES)
        self.space = space
        self.axis = check_axis(axis)

    def with_axis(self, axis: int | tuple[int, ...]) -> "OfNeurons":
        """Returns a copy for weights whose neurons lie along another axis."""
        return type(self)(**{**self.get_config(), "axis": axis})

    def own_config(self) -> dict[str, Any]:
        """The arguments between `strength` and `space`, by name."""
        return {}

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            **self.own_config(),
            "space": self.space,
            "axis": self.axis,
        }

    def __repr__(self) -> str:
        own = [
            value if isinstance(value, str) else f"{name}={value}"
            for name, value in self.own_config().items()
        ]
        return f"{type(self).__name__}({', '.join([f'{self.strength:g}', *own, self.space])})"
