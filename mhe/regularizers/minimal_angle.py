"""The mean angle between each neuron and the one nearest to it."""

import math

import keras
from keras import ops

from mhe.checks import check_choice
from mhe.energy import SPACES
from mhe.regularizers.base import OfNeurons
from mhe.regularizers.nearest_neuron import nearest_neuron
from mhe.regularizers.neurons import neuron_rows
from mhe.types import Tensor


def minimal_angle(weights: Tensor, space: str = "full", axis: int | tuple[int, ...] = -1) -> Tensor:
    """The mean angle between each neuron and the one nearest to it, in radians.

        1/N · Σ_i min_{j≠i} arccos(û_i · û_j)

    In half space the nearest is among the other neurons and their opposites. Only the nearest of
    each neuron has a gradient, and equal neurons have none. A zero vector counts as orthogonal to
    every other. One neuron has no other in full space, and the value is 0; in half space it has
    its own opposite, at π. Memory is that of N² numbers.

    Args:
        weights: Tensor or variable of any shape and numeric dtype.
        space: `"full"` or `"half"`.
        axis: The axis, or axes, that count the neurons; 0 for features `(B, dims)`.

    Returns:
        A scalar tensor: float64 for float64 weights, else float32.

    Raises:
        ValueError: If an argument is not one of the above.

    Example:

    >>> import keras, math
    >>> angle = minimal_angle(keras.ops.convert_to_tensor([[1.0, 0.0, -1.0], [0.0, 1.0, 0.0]]))
    >>> round(math.degrees(float(angle)), 3)
    90.0

    Reference:
        Wang et al., MMA regularization: decorrelating weights of neural networks by maximizing the
        minimal angles, NeurIPS 2020 ([arXiv:2006.06527](https://arxiv.org/abs/2006.06527)),
        equation 6.
    """
    check_choice("space", space, SPACES)
    rows = neuron_rows(weights, axis)
    if 0 in rows.shape:
        return ops.sum(rows)
    nearest, exists = nearest_neuron(rows, space, axis=0)
    alone = math.pi if space == "half" else 0.0
    return ops.where(exists, ops.mean(nearest.angle), alone)


@keras.saving.register_keras_serializable(package="mhe")
class MinimalAngle(OfNeurons):
    """Turns each neuron away from the one nearest to it (MMA).

    Adds minus `strength` times `minimal_angle` to the loss. The paper uses a strength of 0.07, and
    0.03 in networks with skip connections.

    Args:
        strength: Finite factor ≥ 0.
        space: `"full"`, or `"half"` to count every neuron's opposite as well.
        axis: The axis, or axes, of the weight that count its neurons; 0 for features. `mhe.attach`
            knows it for every layer.

    Raises:
        ValueError: If an argument is not one of the above.

    Example:

    >>> import keras, mhe
    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
    >>> table = mhe.attach(model, mhe.regularizers.MinimalAngle(0.07))

    Reference:
        Wang et al., MMA regularization: decorrelating weights of neural networks by maximizing the
        minimal angles, NeurIPS 2020 ([arXiv:2006.06527](https://arxiv.org/abs/2006.06527)).
    """

    def value(self, x: Tensor) -> Tensor:
        """Minus the mean angle to the nearest neuron."""
        return -minimal_angle(x, self.space, self.axis)
