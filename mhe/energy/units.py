"""Unit vectors, and gradients along the sphere."""

import keras
import numpy as np
from keras import ops

from mhe.energy.layout import Layout
from mhe.types import Tensor


def inverse_norms(squares: Tensor) -> Tensor:
    """1/‖w‖ of each ‖w‖², and 0 for a zero vector, without a gradient there."""
    nonzero = squares > float(np.finfo(keras.backend.standardize_dtype(squares.dtype)).tiny)
    return ops.where(nonzero, ops.rsqrt(ops.where(nonzero, squares, 1.0)), 0.0)


def tangential(pull: Tensor, units: Tensor, layout: Layout) -> Tensor:
    """The part of each vector of `pull` that is orthogonal to the unit vector."""
    radial = ops.sum(pull * units, axis=1 - layout.axis)
    return pull - units * layout.per_vector(radial)


def sum_by_rows(values: Tensor) -> Tensor:
    """The sum of a matrix. A running float32 sum over all of it would lose digits."""
    return ops.sum(ops.sum(values, axis=1))
