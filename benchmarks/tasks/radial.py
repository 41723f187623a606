"""A force to compare MHE with: it lengthens neurons instead of turning them."""

from typing import Any

import keras
from keras import ops

from mhe.precision import at_least_float32
from mhe.types import Tensor


@keras.saving.register_keras_serializable(package="mhe_benchmarks")
class RadialForce(keras.regularizers.Regularizer):
    """The negative mean logarithm of the neurons' lengths, times a strength.

    Its gradient with respect to a neuron w is -strength · w / (N · ‖w‖²). Like MHE's it is
    inversely proportional to ‖w‖, and as large for a potential whose slope is 1; but it points
    along w, while MHE's is orthogonal to w. So it keeps weight decay from shrinking the norms and
    leaves all angles as they are.

    Args:
        strength: Factor of the mean.

    Example:

    >>> round(float(RadialForce()(keras.ops.ones((4, 3)))), 4)  # three neurons of length 2
    -0.6931
    """

    def __init__(self, strength: float = 1.0) -> None:
        self.strength = float(strength)

    def __call__(self, x: Tensor) -> Tensor:
        """The value for a kernel whose last axis counts the neurons."""
        squares = ops.square(at_least_float32(x))
        lengths = ops.sum(squares, axis=tuple(range(len(x.shape) - 1)))
        value = -0.5 * self.strength * ops.mean(ops.log(lengths + 1e-12))
        return ops.cast(value, keras.config.floatx())

    def get_config(self) -> dict[str, Any]:
        return {"strength": self.strength}
