"""Distances between prototypes, one row per class."""

import numpy as np
from keras import ops

from mhe import checks
from mhe.precision import at_least_float32
from mhe.types import Tensor

# Up to this many numbers (256 KiB), the differences of all pairs of rows are held at once, which is
# exact. More would take ten times as long as a matrix product.
_DIFFERENCES = 2**16
# A squared distance from a matrix product is known to about 1e-7 of the squared lengths. Pairs
# nearer than this fraction count as being that far apart and do not move each other, except for
# the `_NEAREST` rows nearest to each row, whose distances come from differences after all.
_CLOSEST = 1e-6
_NEAREST = 8


def prototype_distances(prototypes: Tensor) -> Tensor:
    """Euclidean distance between every two prototypes, with a finite gradient everywhere.

    Up to 2¹⁶ numbers (classes² · dims), distances come from the differences of rows and keep their
    digits however small they are. Above that they come from one matrix product, and only those from
    a row to its 8 nearest come from differences; if more rows than that are within a thousandth of
    their lengths, the others count as being that far apart, without a gradient. Equal rows have no
    gradient, since there is no direction in which to part.

    Args:
        prototypes: `(classes, dims)`.

    Returns:
        A tensor `(classes, classes)`, symmetric with a zero diagonal: float64 for float64
        prototypes, else float32.

    Example:

    >>> import numpy as np
    >>> np.asarray(prototype_distances(np.array([[0.0, 0.0], [3.0, 4.0]], "float32")))
    array([[0., 5.], [5., 0.]], dtype=float32)
    """
    rows = at_least_float32(prototypes)
    count, dims = (int(side) for side in rows.shape)
    if count * count * dims <= _DIFFERENCES:
        return lengths(rows[:, None] - rows[None])
    centred = rows - ops.mean(rows, axis=0)
    largest = largest_entry(centred)
    centred = centred / largest
    norms = ops.sum(ops.square(centred), axis=1)
    norms = norms[:, None] + norms
    squares = norms - 2.0 * ops.matmul(centred, ops.transpose(centred))
    distances = ops.sqrt(ops.maximum(squares, _CLOSEST * ops.stop_gradient(norms) + 1e-30))
    others = ops.convert_to_tensor(1.0 - np.eye(count), rows.dtype)
    # Squares are at most 4 · dims, so no row is the nearest to itself.
    ranked = ops.stop_gradient(squares) * others + (1.0 - others) * (8.0 * dims)
    nearest = min(_NEAREST, count - 1)
    near = ops.reshape(ops.top_k(-ranked, nearest)[1], (count * nearest,))
    itself = ops.convert_to_tensor(np.repeat(np.arange(count), nearest), near.dtype)
    exact = lengths(ops.take(rows, itself, axis=0) - ops.take(rows, near, axis=0))
    places = ops.stack([itself, near], axis=1)
    return ops.scatter_update(distances * others * largest, places, exact)


def lengths(vectors: Tensor) -> Tensor:
    """Length along the last axis; no gradient where it is 0."""
    # Dividing by the largest entry keeps squares from overflowing or vanishing.
    scale = ops.stop_gradient(ops.max(ops.absolute(vectors), axis=-1, keepdims=True))
    nonzero = scale > 0
    scaled = vectors / ops.where(nonzero, scale, 1.0)
    squares = ops.sum(ops.square(scaled), axis=-1)
    nonzero, scale = ops.squeeze(nonzero, -1), ops.squeeze(scale, -1)
    return ops.where(nonzero, ops.sqrt(ops.where(nonzero, squares, 1.0)) * scale, 0.0)


def largest_entry(rows: Tensor) -> Tensor:
    """The largest absolute entry, or 1 if all are 0; without a gradient."""
    largest = ops.stop_gradient(ops.max(ops.absolute(rows)))
    return ops.where(largest > 0, largest, 1.0)


def rows_and_costs(prototypes: Tensor, costs: Tensor, positive: bool) -> tuple[Tensor, np.ndarray]:
    """Prototypes in at least float32 and their checked costs in float64."""
    costs = checks.check_costs(costs, positive=positive)
    rows = at_least_float32(prototypes)
    if len(rows.shape) != 2 or rows.shape[0] != len(costs):
        raise ValueError(
            f"Costs of {len(costs)} classes need as many prototypes, (classes, dims). "
            f"Received: shape {tuple(rows.shape)}"
        )
    return rows, costs
