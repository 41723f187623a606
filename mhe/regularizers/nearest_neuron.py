"""From each neuron to the one nearest to it."""

import math
from typing import NamedTuple

from keras import ops

from mhe.directions import unit_vectors
from mhe.regularizers.distances import lengths
from mhe.regularizers.neurons import neuron_rows, same_row
from mhe.types import Tensor


class Nearest(NamedTuple):
    """Between each neuron and the one nearest to it, `(N,)` each.

    Attributes:
        chord: The Euclidean distance of the unit vectors, at most 2.
        angle: The angle in radians, at most π.
    """

    chord: Tensor
    angle: Tensor


def nearest_neuron(
    weights: Tensor, space: str, axis: int | tuple[int, ...]
) -> tuple[Nearest, Tensor]:
    """Distances to the nearest, and whether there is another neuron at all.

    Which one is nearest follows from cosines, without a gradient; its distance from the difference
    of the vectors, which keeps the digits of small ones. A zero vector counts as orthogonal to
    every other, and equal vectors have no gradient.

    Example:

    >>> import keras
    >>> nearest, _ = nearest_neuron(keras.ops.eye(3), "full", axis=0)
    >>> round(float(nearest.chord[0]) ** 2, 4), round(math.degrees(float(nearest.angle[0])), 3)
    (2.0, 90.0)
    """
    units = unit_vectors(neuron_rows(weights, axis))
    itself = same_row(units)
    fixed = ops.stop_gradient(units)
    cosines = ops.matmul(fixed, ops.transpose(fixed))
    closeness = ops.absolute(cosines) if space == "half" else cosines
    # Less than any cosine.
    index = ops.argmax(ops.where(itself, -2.0, closeness), axis=1)
    other = ops.take(units, index, axis=0)
    if space == "half":
        cosine = ops.sum(fixed * ops.stop_gradient(other), axis=1, keepdims=True)
        other = ops.where(cosine < 0, -other, other)
    nonzero = ops.any(fixed != 0, axis=1)
    known = ops.logical_and(nonzero, ops.take(nonzero, index, axis=0))
    chord = ops.where(known, lengths(units - other), math.sqrt(2.0))
    across = ops.where(known, lengths(units + other), math.sqrt(2.0))
    return Nearest(chord, 2.0 * ops.arctan2(chord, across)), ops.any(ops.logical_not(itself))
