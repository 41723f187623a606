"""The smallest distance between two neurons."""

import math
from typing import Any

import keras
from keras import ops

from mhe.checks import check_choice
from mhe.energy import DISTANCES, SPACES
from mhe.regularizers.base import OfNeurons
from mhe.regularizers.nearest_neuron import nearest_neuron
from mhe.regularizers.neurons import neuron_rows
from mhe.types import Tensor


def smallest_distance(
    weights: Tensor,
    distance: str = "euclidean",
    space: str = "full",
    axis: int | tuple[int, ...] = -1,
) -> Tensor:
    """The distance between the two neurons that are nearest to one another.

        min_{i≠j} ρ(û_i, û_j)

    where ρ is the Euclidean distance of unit vectors or the angle in radians. In half space the
    points are the 2N neurons and opposites ±û_i. Pairs that are equally near share the gradient;
    equal neurons have none. A zero vector counts as orthogonal to every other. One neuron has no
    other in full space, and the value is 0; in half space it has its own opposite. Memory is that
    of N² numbers.

    Args:
        weights: Tensor or variable of any shape and numeric dtype.
        distance: `"euclidean"` or `"angle"`.
        space: `"full"` or `"half"`.
        axis: The axis, or axes, that count the neurons; 0 for features `(B, dims)`.

    Returns:
        A scalar tensor: float64 for float64 weights, else float32.

    Raises:
        ValueError: If an argument is not one of the above.

    Example:

    >>> import keras
    >>> round(float(smallest_distance(keras.ops.eye(3))) ** 2, 6)
    2.0

    Reference:
        Liu et al., Learning with hyperspherical uniformity, AISTATS 2021
        ([arXiv:2103.01649](https://arxiv.org/abs/2103.01649)), maximum hyperspherical separation.
    """
    check_choice("distance", distance, DISTANCES)
    check_choice("space", space, SPACES)
    rows = neuron_rows(weights, axis)
    if 0 in rows.shape:
        return ops.sum(rows)
    nearest, exists = nearest_neuron(rows, space, axis=0)
    farthest = 2.0 if distance == "euclidean" else math.pi
    distances = nearest.chord if distance == "euclidean" else nearest.angle
    return ops.where(exists, ops.min(distances), farthest if space == "half" else 0.0)


@keras.saving.register_keras_serializable(package="mhe")
class Separation(OfNeurons):
    """Makes the smallest distance between two neurons as large as possible (MHS).

    Adds minus `strength` times `smallest_distance` to the loss. Only the nearest pair moves at each
    step; `MinimalAngle` moves the nearest of every neuron.

    Args:
        strength: Finite factor ≥ 0.
        distance: `"euclidean"` or `"angle"`.
        space: `"full"`, or `"half"` to count every neuron's opposite as well.
        axis: The axis, or axes, of the weight that count its neurons; 0 for features. `mhe.attach`
            knows it for every layer.

    Raises:
        ValueError: If an argument is not one of the above.

    Example:

    >>> import keras, mhe
    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
    >>> table = mhe.attach(model, mhe.regularizers.Separation(space="half"))

    Reference:
        Liu et al., Learning with hyperspherical uniformity, AISTATS 2021
        ([arXiv:2103.01649](https://arxiv.org/abs/2103.01649)).
    """

    def __init__(
        self,
        strength: float = 1.0,
        distance: str = "euclidean",
        space: str = "full",
        axis: int | tuple[int, ...] = -1,
    ) -> None:
        super().__init__(strength, space, axis)
        check_choice("distance", distance, DISTANCES)
        self.distance = distance

    def value(self, x: Tensor) -> Tensor:
        """Minus the smallest distance."""
        return -smallest_distance(x, self.distance, self.space, self.axis)

    def own_config(self) -> dict[str, Any]:
        return {"distance": self.distance}
