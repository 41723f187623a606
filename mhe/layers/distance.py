"""Distances of embeddings to prototypes: one matrix product, exact near zero."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import ops

from mhe import checks
from mhe.directions import unit_vectors
from mhe.pairwise import pairwise
from mhe.precision import at_least_float32
from mhe.tracing import branch, is_recorded_by_tensorflow, keeps_one_branch
from mhe.types import Tensor

DISTANCES = ("euclidean", "squared", "cosine", "huber")

# A squared distance from a product is accurate to about 1e-7 of the squared lengths. If all exceed
# this fraction of them, the error is a few 1e-5 at worst; else they are computed with care.
_ACCURATE = 0.01
# With care, those nearest to each embedding come from differences. Any other that is nearer than
# this fraction of the squared lengths counts as being that far away, and has no gradient.
_NEAREST = 8
_CLOSEST = 1e-6
# This many prototypes are enough to find their middle.
_SAMPLE = 64
# Squares beyond these overflow, or lose digits to underflow.
_SMALLEST, _LARGEST = 1e-30, 1e30
# From here on √(1 + t²) is t in any precision, and t² may overflow.
_LINEAR = 1e18


def distances(
    embeddings: Tensor, prototypes: Tensor, distance: str = "euclidean", delta: float = 1.0
) -> Tensor:
    """Returns the distance of every embedding to every prototype.

    With d = ‖x - p‖ the distances are

        euclidean   d
        squared     d²
        cosine      1 - cos(x, p)
        huber       δ (√(1 + d²/δ²) - 1), pseudo-Huber: d²/2δ near zero, d - δ far away

    They come from one matrix product, ‖x‖² + ‖p‖² - 2 x·p, as long as that is accurate: while no
    squared distance is below a hundredth of the squared lengths. Otherwise, and if squares would
    overflow or vanish, everything is shifted to the middle of the prototypes and scaled before the
    product, and the distances of each embedding to its 8 nearest prototypes come from differences,
    however small they are. If more prototypes than that are within a thousandth of their lengths,
    the others count as being that far away, without a gradient.

    The gradient takes one more product for each of the two arguments. It can be differentiated
    again; PyTorch then computes the distances once more.

    An embedding that equals a prototype has distance 0 and gradient 0. The cosine with a zero
    vector is 0, and its gradient is that of the vector itself; see `unit_vectors`.

    Args:
        embeddings: Tensor `(..., dims)`.
        prototypes: `(classes, dims)`.
        distance: `"euclidean"`, `"squared"`, `"cosine"` or `"huber"`.
        delta: Where `"huber"` turns from a parabola into a line, > 0, in the units of d.

    Returns:
        A tensor `(..., classes)`: float64 for float64 embeddings, else float32.

    Raises:
        ValueError: If there is no such distance, `delta` is not a finite number > 0, or the shapes
            do not fit.

    Example:

    >>> import numpy as np
    >>> embeddings = np.array([[3.0, 4.0], [0.0, 1e-9]], "float32")
    >>> np.asarray(distances(embeddings, np.array([[0.0, 0.0], [3.0, 0.0]], "float32"))).round(12)
    array([[5.e+00, 4.e+00],
           [1.e-09, 3.e+00]], dtype=float32)

    Reference:
        Garnot and Landrieu, Leveraging class hierarchies with metric-guided prototype learning
        ([arXiv:2007.03047](https://arxiv.org/abs/2007.03047)); pseudo-Huber as in the code
        published with it.
    """
    check_distance(distance, delta)
    embeddings = at_least_float32(embeddings)
    prototypes = ops.cast(prototypes, embeddings.dtype)
    if len(prototypes.shape) != 2 or embeddings.shape[-1] != prototypes.shape[1]:
        raise ValueError(
            "Embeddings (..., dims) need prototypes (classes, dims). Received: shapes "
            f"{tuple(embeddings.shape)} and {tuple(prototypes.shape)}"
        )
    classes, dims = (int(side) for side in prototypes.shape)
    rows = ops.reshape(embeddings, (-1, dims))
    if distance == "cosine":
        pairs = _cosine_distances(rows, prototypes)
    else:
        pairs = _distances(rows, prototypes, distance, delta)
    return ops.reshape(pairs, (*ops.shape(embeddings)[:-1], classes))


def distances_by_pairs(
    embeddings: Tensor, prototypes: Tensor, distance: str = "euclidean", delta: float = 1.0
) -> Tensor:
    """Returns `distances` from the difference of each pair, for any number of prototypes.

    With `N·classes·dims` numbers in memory, for few prototypes whose number is not known, as in a
    program that is exported. The shapes are not checked.

    Example:

    >>> import numpy as np
    >>> embeddings, prototypes = np.ones((1, 2), "float32"), np.eye(2, dtype="float32")
    >>> np.asarray(distances_by_pairs(embeddings, prototypes))
    array([[1., 1.]], dtype=float32)
    """
    embeddings = at_least_float32(embeddings)
    prototypes = ops.cast(prototypes, embeddings.dtype)
    if distance == "cosine":
        units, others = unit_vectors(embeddings), unit_vectors(prototypes)
        halves = ops.expand_dims(_half_if_zero(units), -1) + _half_if_zero(others)
        differences = ops.expand_dims(units, -2) - others
        return 0.5 * ops.sum(ops.square(differences), axis=-1) + halves
    differences = ops.expand_dims(embeddings, -2) - prototypes
    return _of_length(ops.sum(differences * unit_vectors(differences), axis=-1), distance, delta)


def check_distance(distance: str, delta: float) -> None:
    """Raises a `ValueError` unless there is such a distance, and `delta` is a finite number > 0.

    Example:

    >>> check_distance("huber", delta=0.5)
    """
    checks.check_choice("distance", distance, DISTANCES)
    checks.check_number("delta", delta, above=0)


def _either(
    condition: Tensor, usual: Callable[[], Any], careful: Callable[[], Any]
) -> tuple[Tensor, Tensor]:
    """The result of `usual` if the condition holds, else that of `careful`, which is always right.

    A program that keeps one branch keeps the latter.
    """
    return careful() if keeps_one_branch() else branch(condition, usual, careful)


def _distances(rows: Tensor, prototypes: Tensor, distance: str, delta: float) -> Tensor:
    def forward(rows: Tensor, prototypes: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        own = ops.sum(ops.square(rows), axis=1, keepdims=True)
        others = _squares(prototypes)
        # Every pass over all pairs counts: the factor is applied to the embeddings, the row sum is
        # added with the product, and the column sum only where it is needed.
        partial = ops.matmul(-2.0 * rows, ops.transpose(prototypes)) + others
        lengths = own + ops.max(others)
        # False for infinity and NaN, too.
        is_accurate = ops.all(
            ops.logical_and(
                _least(partial) + own > _ACCURATE * lengths + _SMALLEST, lengths < _LARGEST
            )
        )
        none = ops.zeros((ops.shape(rows)[0], min(_NEAREST, prototypes.shape[0])), "int32")

        def careful() -> tuple[Tensor, Tensor]:
            exact, near = _careful_lengths(rows, prototypes)
            return _of_length(exact, distance, delta), near

        pairs, near = _either(
            is_accurate, lambda: (_of_square(partial + own, distance, delta), none), careful
        )
        return pairs, (is_accurate, near)

    def backward(
        upstream: Tensor,
        pairs: Tensor,
        saved: Tensor,
        rows: Tensor,
        prototypes: Tensor,
        needed: Sequence[bool],
    ) -> tuple[Tensor, Tensor]:
        is_accurate, near = saved
        return branch(
            is_accurate,
            lambda: _spread(upstream * _slope(pairs, distance, delta), rows, prototypes, needed),
            lambda: _careful_spread(
                upstream, pairs, near, rows, prototypes, needed, distance, delta
            ),
        )

    return pairwise(rows, prototypes, forward, backward)


def _cosine_distances(rows: Tensor, prototypes: Tensor) -> Tensor:
    def forward(rows: Tensor, prototypes: Tensor) -> tuple[Tensor, Tensor]:
        units = unit_vectors(rows)
        norms = ops.sqrt(_squares(prototypes))
        # Clamped to where the inverse is finite; outside, distances are computed with care.
        clamped = ops.clip(norms, math.sqrt(_SMALLEST), math.sqrt(_LARGEST))
        partial = ops.matmul(-units, ops.transpose(prototypes)) + clamped
        pairs = partial * (1.0 / clamped)
        usual = ops.all(ops.equal(norms, clamped))

        def careful() -> tuple[Tensor, Tensor]:
            others = unit_vectors(prototypes)
            # For unit vectors; a zero vector has distance 1 to any other, not 1/2.
            pairs = 0.5 * ops.square(_careful_lengths(units, others)[0])
            return pairs + _half_if_zero(units)[:, None] + _half_if_zero(others), _lengths(
                prototypes
            )[:, 0]

        return _either(
            ops.logical_and(usual, ops.all(_least(pairs) > _ACCURATE)),
            lambda: (pairs, clamped),
            careful,
        )

    def backward(
        upstream: Tensor,
        pairs: Tensor,
        saved: Tensor,
        rows: Tensor,
        prototypes: Tensor,
        needed: Sequence[bool],
    ) -> tuple[Tensor, Tensor]:
        # With u = x/‖x‖ and v = p/‖p‖ the cosine's gradient is (v - u cos) / ‖x‖ along x.
        lengths = _lengths(rows)
        units = unit_vectors(rows)
        pull = upstream - upstream * pairs
        row_gradient = prototype_gradient = None
        if needed[0]:
            scaled = upstream * (1.0 / saved)
            turned = ops.sum(pull, axis=1, keepdims=True) * units
            row_gradient = (turned - ops.matmul(scaled, prototypes)) / lengths
        if needed[1]:
            inverse = (1.0 / saved)[:, None]
            turned = prototypes * (ops.sum(pull, axis=0)[:, None] * inverse)
            prototype_gradient = (turned - ops.matmul(ops.transpose(upstream), units)) * inverse
        return row_gradient, prototype_gradient

    return pairwise(rows, prototypes, forward, backward)


def _squares(prototypes: Tensor) -> Tensor:
    """Squared lengths of the rows, `(classes,)`; inexact for very short or long rows."""
    # Not by a norm: that of TensorFlow is in no format to export to.
    return ops.sum(ops.square(prototypes), axis=1)


def _least(pairs: Tensor) -> Tensor:
    """The smallest number of each row, `(N, classes)` → `(N, 1)`."""
    if keras.backend.backend() == "tensorflow":
        # TensorFlow reduces many short rows in half the time of a few long ones.
        classes = int(pairs.shape[1])
        parts = math.gcd(classes, 16)
        least = ops.min(ops.reshape(pairs, (-1, classes // parts)), axis=1, initial=math.inf)
        pairs = ops.reshape(least, (-1, parts))
    return ops.min(pairs, axis=1, keepdims=True, initial=math.inf)


def _lengths(vectors: Tensor) -> Tensor:
    """What `unit_vectors` divides by, `(N, 1)`: 1 for vectors that it does not change."""
    before, after = (
        ops.max(ops.absolute(each), axis=1, keepdims=True)
        for each in (vectors, unit_vectors(vectors))
    )
    return ops.where(after > 0, before / ops.where(after > 0, after, 1.0), 1.0)


def _half_if_zero(units: Tensor) -> Tensor:
    """1/2 for vectors without a direction, 0 for those of unit length, `(..., D)` → `(...)`."""
    lengths = ops.sum(ops.square(units), axis=-1)
    return ops.where(lengths < 0.5, 0.5, ops.zeros_like(lengths))


def _of_square(squares: Tensor, distance: str, delta: float) -> Tensor:
    """Distances from d² > 0."""
    if distance == "squared":
        return squares
    if distance == "euclidean":
        return ops.sqrt(squares)
    # √(1 + u) - 1 would lose the digits of a small u.
    return squares / (delta + ops.sqrt(squares + delta**2))


def _of_length(lengths: Tensor, distance: str, delta: float) -> Tensor:
    """Distances from d, which may be 0 or so large that its square overflows."""
    if distance == "squared":
        return ops.square(lengths)
    if distance == "euclidean":
        return lengths
    clamped = ops.minimum(lengths / delta, _LINEAR)
    return lengths * (clamped / (1.0 + ops.sqrt(1.0 + ops.square(clamped))))


def _careful_lengths(rows: Tensor, prototypes: Tensor) -> tuple[Tensor, Tensor]:
    """‖x - p‖ of all pairs, `(N, classes)`, and the nearest prototypes of each row, `(N, 8)`."""
    x, p, largest = _centred(rows, prototypes)
    sums = _sums(x, p)
    squares = sums - 2.0 * ops.matmul(x, ops.transpose(p))
    clamped = ops.maximum(squares, _CLOSEST * sums + _SMALLEST)
    near = _nearest(squares, min(_NEAREST, int(prototypes.shape[0])))
    # From the original rows: shifting and scaling rounds.
    differences = rows[:, None] - ops.take(prototypes, near, axis=0)
    exact = ops.sum(differences * unit_vectors(differences), axis=-1)
    lengths = ops.sqrt(clamped) * largest
    return ops.scatter_update(lengths, _places(near), ops.reshape(exact, (-1,))), near


def _nearest(squares: Tensor, count: int) -> Tensor:
    """Indices of the smallest numbers of each row, `(N, classes)` → `(N, count)`."""
    if not is_recorded_by_tensorflow():
        return ops.cast(ops.top_k(-squares, count)[1], "int32")
    # TensorFlow does not know the operation of a newer JAX that finds several.
    places, found = ops.arange(int(squares.shape[1]), dtype="int32"), []
    for _ in range(count):
        found.append(ops.cast(ops.argmin(squares, axis=1), "int32"))
        squares = ops.where(ops.equal(places, found[-1][:, None]), math.inf, squares)
    return ops.stack(found, axis=1)


def _centred(rows: Tensor, prototypes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Both shifted to the middle of the prototypes and scaled to at most 1, and the scale."""
    # The mean of some will do, and every pass over all prototypes counts.
    some = prototypes[:: -(-int(prototypes.shape[0]) // _SAMPLE)]
    centre = ops.sum(_finite(some) / int(some.shape[0]), axis=0)
    x, p = rows - centre, prototypes - centre
    # By rows first, so that only rows are searched for values that are not finite.
    largest = ops.maximum(
        *(ops.max(_finite(ops.max(ops.absolute(each), axis=1)), initial=0.0) for each in (x, p))
    )
    largest = ops.where(largest > 0, largest, 1.0)
    return x / largest, p / largest, largest


def _sums(x: Tensor, p: Tensor) -> Tensor:
    """‖x‖² + ‖p‖² of all pairs."""
    return ops.sum(ops.square(x), axis=1, keepdims=True) + _squares(p)


def _places(near: Tensor) -> Tensor:
    """Indices of the nearest pairs, `(8 N, 2)`."""
    itself = ops.arange(ops.shape(near)[0], dtype=near.dtype)[:, None] + ops.zeros_like(near)
    return ops.stack([ops.reshape(each, (-1,)) for each in (itself, near)], axis=1)


def _slope(pairs: Tensor, distance: str, delta: float) -> Tensor:
    """The weight of x - p in the gradient along x, from distances > 0."""
    if distance == "squared":
        return 2.0
    # √(δ² + d²) is δ plus the pseudo-Huber distance.
    return 1.0 / (pairs if distance == "euclidean" else delta + pairs)


def _spread(
    weights: Tensor, rows: Tensor, prototypes: Tensor, needed: Sequence[bool]
) -> tuple[Tensor, Tensor]:
    """Σ w (x - p) along x, and Σ w (p - x) along p; None if not needed."""
    row_gradient = prototype_gradient = None
    if needed[0]:
        pushed = ops.sum(weights, axis=1, keepdims=True) * rows
        row_gradient = pushed - ops.matmul(weights, prototypes)
    if needed[1]:
        pushed = ops.sum(weights, axis=0)[:, None] * prototypes
        prototype_gradient = pushed - ops.matmul(ops.transpose(weights), rows)
    return row_gradient, prototype_gradient


def _careful_spread(
    upstream: Tensor,
    pairs: Tensor,
    near: Tensor,
    rows: Tensor,
    prototypes: Tensor,
    needed: Sequence[bool],
    distance: str,
    delta: float,
) -> tuple[Tensor, Tensor]:
    """The gradient of `_careful_lengths`: from differences for the nearest."""
    x, p, largest = _centred(rows, prototypes)
    places = _places(near)
    if distance == "euclidean":
        # Clamped distances have no gradient.
        known = pairs > ops.sqrt(_CLOSEST * _sums(x, p) + _SMALLEST) * largest
        weights = ops.where(known, upstream / ops.where(known, pairs / largest, 1.0), 0.0)
    else:
        weights = upstream * (_slope(pairs, distance, delta) * largest)
    weights = ops.scatter_update(
        weights, places, ops.zeros_like(ops.reshape(near, (-1,)), dtype=weights.dtype)
    )
    row_gradient, prototype_gradient = _spread(weights, x, p, needed)
    exact = ops.take_along_axis(pairs, near, axis=1)
    if distance == "euclidean":
        # If it is 0, so is the difference.
        exact = ops.where(exact > _SMALLEST, exact, 1.0)
    slopes = ops.take_along_axis(upstream, near, axis=1) * _slope(exact, distance, delta)
    pulls = slopes[:, :, None] * (rows[:, None] - ops.take(prototypes, near, axis=0))
    if needed[0]:
        row_gradient = row_gradient + ops.sum(pulls, axis=1)
    if needed[1]:
        each = ops.reshape(pulls, (-1, int(prototypes.shape[1])))
        prototype_gradient = prototype_gradient - ops.segment_sum(
            each, ops.reshape(near, (-1,)), int(prototypes.shape[0])
        )
    return row_gradient, prototype_gradient


def _finite(values: Tensor) -> Tensor:
    """Values, 0 where they are not finite, so that a bad row does not affect the others."""
    return ops.where(ops.isfinite(values), values, 0.0)
