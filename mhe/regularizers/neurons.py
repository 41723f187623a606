"""Neurons, or features, as the rows of a matrix, in the differentiable steps of the family.

Unlike `mhe.energy.layout`, the number of rows may be unknown until a batch comes, as it is for
an `activity_regularizer`.
"""

import math

from keras import ops

from mhe.energy import neuron_axes
from mhe.energy.pullback import Pullback, differentiable
from mhe.energy.units import inverse_norms
from mhe.precision import at_least_float32
from mhe.types import Tensor


def neuron_rows(weights: Tensor, axis: int | tuple[int, ...]) -> Tensor:
    """The neurons as the rows of a matrix `(N, D)` of at least float32.

    Example:

    >>> import numpy as np
    >>> neuron_rows(np.ones((3, 3, 2, 5), "float16"), axis=-1).shape == (5, 18)
    True
    """
    weights = at_least_float32(weights)
    rank = len(weights.shape)
    axes = neuron_axes(axis, rank)
    others = tuple(a for a in range(rank) if a not in axes)
    sizes = ops.shape(weights)
    dims = math.prod(sizes[a] for a in others)
    if axes + others != tuple(range(rank)):
        weights = ops.transpose(weights, axes + others)
    return ops.reshape(weights, (math.prod(sizes[a] for a in axes), dims))


def gram(rows: Tensor) -> Tensor:
    """All dot products of rows, `(N, N)`; the gradient takes one matrix product instead of two.

    Example:

    >>> import keras, numpy as np
    >>> np.asarray(gram(keras.ops.convert_to_tensor([[1.0, 0.0], [2.0, 1.0]])))
    array([[1., 2.],
           [2., 5.]], dtype=float32)
    """

    def evaluate(rows: Tensor) -> tuple[Tensor, Pullback]:
        def pullback(upstream: Tensor) -> Tensor:
            return ops.matmul(upstream + ops.transpose(upstream), rows)

        return ops.matmul(rows, ops.transpose(rows)), pullback

    return differentiable(evaluate, rows)


def cosines(rows: Tensor) -> Tensor:
    """All cosines of rows, `(N, N)`: 0 for a zero row, also with itself.

    Scaling N² products is faster than scaling the rows, and so is its gradient. Lengths may be up
    to 1e19 in float32; below 1e-19 they count as zero.

    Example:

    >>> import keras, numpy as np
    >>> np.asarray(cosines(keras.ops.convert_to_tensor([[2.0, 0.0], [3.0, 4.0]]))).round(6)
    array([[1. , 0.6],
           [0.6, 1. ]], dtype=float32)
    """
    products = gram(rows)
    inverse = inverse_norms(ops.diagonal(products))
    return products * (inverse[:, None] * inverse[None, :])


def count_rows(rows: Tensor) -> Tensor:
    """N as a float scalar."""
    return ops.sum(ops.ones_like(rows[:, 0]))


def same_row(rows: Tensor) -> Tensor:
    """The identity matrix `(N, N)`, as booleans."""
    index = ops.cumsum(ops.ones_like(rows[:, 0]))
    return index[:, None] == index[None, :]
