"""Pairs that are too near for the difference of rounded unit vectors, or even for their cosine."""

from typing import NamedTuple

import keras
import numpy as np
from keras import ops

from mhe.energy.potential import Variant, measures_of_distances, potential
from mhe.types import Tensor

# Float32 cosines of matrix products are known to about 1e-7, which is enough at distances above
# 0.2. Differences of float32 unit vectors are, too; that is enough at distances above 0.006.
_NEAR_IN_PRODUCTS = 0.98
_NEAR_IN_DIFFERENCES = 1.0 - 2e-5
# The nearest of each vector; more of them are rarely near.
_NEIGHBORS = 8
# Ratios of norms beyond this would overflow when they are split.
_LARGEST_RATIO = 1e30


class Block(NamedTuple):
    """Vectors as they were given, and the inverse of each norm, 0 for a zero vector."""

    rows: Tensor
    inverse_norms: Tensor


def has_near(c: Tensor, variant: Variant, in_differences: bool = False) -> Tensor:
    """Whether any pair is too near, a boolean scalar. Arguments are those of `split_near`."""
    return ops.max(_closeness(c, variant)) > _least_near(in_differences)


def split_near(
    c: Tensor, a: Block, b: Block, variant: Variant, in_differences: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """Takes near pairs out of cosines, and evaluates them from differences of their vectors.

    That is done for up to eight neighbors of each vector of the first block. It takes so long that
    it belongs behind `has_near`.

    Args:
        c: Cosines `(Na, Nb)`.
        a: The first block, `(Na, D)`.
        b: The second block, `(Nb, D)`.
        variant: Which energy.
        in_differences: Whether cosines come from differences of unit vectors, else from products.

    Returns:
        The cosines, with a 0 for each near pair, and what is then missing from the sums: the near
        pairs' excesses, and the parts of Σ_j slope_ij u_j orthogonal to u_i, `(Na, D)`.
    """
    count, others = ops.shape(c)
    neighbors = min(_NEIGHBORS, others) if c.shape[1] else ops.minimum(_NEIGHBORS, others)
    closeness, index = ops.top_k(_closeness(c, variant), neighbors, sorted=False)
    starts = others * ops.arange(count, dtype=index.dtype)
    flat_index = ops.reshape(ops.expand_dims(starts, -1) + index, (-1,))
    cosines = ops.reshape(ops.take(ops.reshape(c, (-1,)), flat_index), (count, neighbors))
    is_near = closeness > _least_near(in_differences)
    # Of pairs that only fill up the eight, some distance at which everything is finite.
    sign = ops.sign(cosines)
    aside = _aside(a, b, index, sign)
    squared_sine = ops.where(is_near, ops.sum(ops.square(aside), axis=-1), 0.01)
    cosine = ops.sqrt(1.0 - squared_sine)
    x, y = squared_sine / (1.0 + cosine), 1.0 + cosine
    x, y = ops.where(sign < 0, y, x), ops.where(sign < 0, x, y)
    cosine = sign * cosine
    excess, slope = potential(cosine, measures_of_distances(x, y, variant), variant)
    # A pair whose cosine is set to 0 still has the slope at 0.
    left = variant.slope_of_orthogonal
    slope = ops.where(is_near, slope - left, 0.0)
    pull = ops.sum(ops.expand_dims(slope, -1) * aside, axis=1)
    if left:
        along = left * ops.sum(ops.where(is_near, cosine, 0.0), axis=1, keepdims=True)
        pull = pull - along * (a.rows * ops.expand_dims(a.inverse_norms, -1))
    far = ops.scatter_update(
        ops.reshape(c, (-1,)),
        ops.expand_dims(flat_index, -1),
        ops.reshape(ops.where(is_near, 0.0, cosines), (-1,)),
    )
    return ops.reshape(far, (count, others)), ops.sum(ops.where(is_near, excess, 0.0)), pull


def _aside(a: Block, b: Block, index: Tensor, sign: Tensor) -> Tensor:
    """The part of each u_j that is orthogonal to u_i, whose length is the sine of their angle.

    u_j = v_j / ‖v_j‖, so that part is also that of (v_j - r·v_i) / ‖v_j‖ for any r. With an r near
    ±‖v_j‖ / ‖v_i‖ of few bits, products and the difference are exact in floating point: nothing is
    lost, however near the vectors are. Unit vectors would already be rounded.

    Args:
        a: The first block, `(Na, D)`.
        b: The second block, `(Nb, D)`.
        index: For each vector of the first block, some of the second, `(Na, K)`.
        sign: -1 for those near its opposite, else 1, `(Na, K)`.

    Returns:
        Vectors `(Na, K, D)`.
    """
    count, neighbors = ops.shape(index)
    flat = ops.reshape(index, (-1,))
    vectors = ops.reshape(ops.take(b.rows, flat, axis=0), (count, neighbors, -1))
    inverse = ops.reshape(ops.take(b.inverse_norms, flat), (count, neighbors))
    a_inverse = ops.expand_dims(a.inverse_norms, -1)
    ratio = a_inverse / ops.where(inverse > 0, inverse, 1.0)
    ratio = ops.stop_gradient(sign * _leading(ops.minimum(ratio, _LARGEST_RATIO), bits=8))
    high = _leading(a.rows, bits=16)
    low = a.rows - high
    ratio = ops.expand_dims(ratio, -1)
    high, low, units = (ops.expand_dims(each, 1) for each in (high, low, a.rows * a_inverse))
    difference = (vectors - ratio * high) - ratio * low
    difference = difference * ops.expand_dims(inverse, -1)
    return difference - units * ops.sum(difference * units, axis=-1, keepdims=True)


def _leading(values: Tensor, bits: int) -> Tensor:
    """Float32 values rounded to this many bits, or all but as many bits of float64 values.

    Reference:
        Dekker, A floating-point technique for extending the available precision, Numerische
        Mathematik 18, 1971, whose splitting of a number this is.
    """
    all_bits = np.finfo(keras.backend.standardize_dtype(values.dtype)).nmant + 1
    shifted = values * (2.0 ** (min(all_bits, 24) - bits) + 1.0)
    return shifted - (shifted - values)


def _closeness(c: Tensor, variant: Variant) -> Tensor:
    """The cosine; its magnitude where a pair near to opposite needs care, too."""
    return ops.absolute(c) if variant.half else c


def _least_near(in_differences: bool) -> float:
    return _NEAR_IN_DIFFERENCES if in_differences else _NEAR_IN_PRODUCTS
