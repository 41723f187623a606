"""From each neuron to the one nearest to it."""

import math
from typing import NamedTuple

import keras
import numpy as np
from keras import ops

from mhe.directions import unit_vectors
from mhe.energy.pullback import Pullback, differentiable
from mhe.energy.units import inverse_norms
from mhe.regularizers.distances import lengths
from mhe.regularizers.neurons import count_rows, neuron_rows, same_row
from mhe.tracing import branch
from mhe.types import Tensor

# Float32 cosines are known to about 1e-7: below 0.98, at distances above 0.2, that is enough.
_NEAR = 0.98


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

    Which one is nearest follows from cosines, and so does its distance, in the time of an energy.
    Where a pair is nearer than 0.2, of which a cosine tells little, all distances come from the
    differences of the vectors, in two to four times that. A zero vector counts as orthogonal to
    every other, and equal vectors have no gradient.

    Example:

    >>> import keras
    >>> nearest, _ = nearest_neuron(keras.ops.eye(3), "full", axis=0)
    >>> round(float(nearest.chord[0]) ** 2, 4), round(math.degrees(float(nearest.angle[0])), 3)
    (2.0, 90.0)
    """
    rows = neuron_rows(weights, axis)
    cosine = nearest_cosine(rows, space)
    is_extreme = ops.any(ops.absolute(ops.stop_gradient(cosine)) > _NEAR)
    nearest = branch(
        is_extreme,
        lambda: tuple(_of_differences(rows, space)),
        lambda: tuple(_of_cosines(cosine)),
    )
    return Nearest(*nearest), count_rows(rows) > 1.0


def nearest_cosine(rows: Tensor, space: str) -> Tensor:
    """The cosine of each neuron with the one nearest to it, `(N,)`, its magnitude in half space.

    Value and gradient take one product of N×N×D each. With no other neuron it is 0.

    Example:

    >>> import keras
    >>> rows = keras.ops.convert_to_tensor([[2.0, 0.0], [3.0, 4.0]])
    >>> [round(float(each), 6) for each in nearest_cosine(rows, "full")]
    [0.6, 0.6]
    """

    def evaluate(rows: Tensor) -> tuple[Tensor, Pullback]:
        products = ops.matmul(rows, ops.transpose(rows))
        inverse = inverse_norms(ops.diagonal(products))
        itself = same_row(rows)
        # In place of its own, less than any cosine.
        c = ops.where(itself, 0.0, products * (inverse[:, None] * inverse[None, :]))
        closeness = ops.where(itself, -2.0, ops.absolute(c) if space == "half" else c)
        index = ops.argmax(closeness, axis=1)
        value = ops.take_along_axis(c, index[:, None], axis=1)[:, 0]
        sign = ops.where(value < 0, -1.0, 1.0) if space == "half" else ops.ones_like(value)

        def pullback(upstream: Tensor) -> Tensor:
            columns = ops.cast(ops.cumsum(ops.ones_like(value)) - 1.0, index.dtype)
            slope = ops.where(columns[None, :] == index[:, None], (upstream * sign)[:, None], 0.0)
            slope = slope + ops.transpose(slope)
            radial = ops.where(itself, ops.sum(slope * c, axis=1)[:, None], 0.0)
            coefficients = (slope - radial) * inverse[:, None] * inverse[None, :]
            # Slopes between very short neurons exceed any float32.
            limit = float(np.finfo(keras.backend.standardize_dtype(rows.dtype)).max)
            return ops.matmul(ops.clip(coefficients, -limit, limit), rows)

        return value * sign, pullback

    return differentiable(evaluate, rows)


def _of_cosines(cosine: Tensor) -> Nearest:
    """Distances that a cosine tells: none of them near 0 or that of opposite neurons."""
    # Where the other branch is taken, this one must not overflow.
    inside = ops.clip(cosine, -_NEAR, _NEAR)
    return Nearest(ops.sqrt(2.0 - 2.0 * inside), ops.arccos(inside))


def _of_differences(rows: Tensor, space: str) -> Nearest:
    """Distances from the differences of unit vectors, which keep the digits of small ones."""
    units = unit_vectors(rows)
    fixed = ops.stop_gradient(units)
    itself = same_row(units)
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
    return Nearest(chord, 2.0 * ops.arctan2(chord, across))
