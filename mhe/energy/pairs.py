"""The sum of potentials over all pairs of neurons, with its gradient, in blocks."""

import functools
import math

import keras
import numpy as np
from keras import ops

from mhe.energy.layout import Layout
from mhe.energy.near import Block, has_near, split_near
from mhe.energy.potential import (
    Variant,
    measures_of_cosines,
    measures_of_distances,
    potential,
)
from mhe.energy.pullback import Pullback, differentiable
from mhe.energy.units import inverse_norms, sum_by_rows, tangential
from mhe.tracing import branch, not_translated
from mhe.types import Tensor

# Up to this many dimensions distances come from differences instead of cosines: near pairs are
# common there, and a cosine holds half the digits of a small distance.
_EXACT_DIMS = 8
# Above this many blocks a loop visits the pairs of blocks instead of being unrolled. Unrolled, half
# of the first product is enough; but a row of pairs is in memory at once, and all are compiled.
_UNROLLED_BLOCKS = 12
# Two arrays of this many neurons squared fit into a core's cache.
_CACHED_BLOCK = 512
# float32 arrays of one block × block that are alive at the same time.
_LIVE_ARRAYS = 8


def block_size(neurons: int, memory: int = 2**25) -> int:
    """The default number of neurons per block in `hyperspherical_energy`.

    Args:
        neurons: Number of neurons N.
        memory: Bytes available to the arrays of one pair of blocks.

    Returns:
        N itself if everything fits into one block, else a power of two: 512, which stays in a
        processor's cache, as long as that makes few blocks, and otherwise more, up to what fits.
        At least 128.

    Example:

    >>> block_size(512), block_size(4096), block_size(100_000), block_size(100_000, memory=2**29)
    (512, 512, 1024, 4096)
    """
    fits = max(1, math.isqrt(memory // (4 * _LIVE_ARRAYS)))
    block = max(128, 2 ** (fits.bit_length() - 1))
    if neurons <= block:
        return neurons
    while block > _CACHED_BLOCK and neurons <= _UNROLLED_BLOCKS * (block // 2):
        block //= 2
    return block


def sum_of_excesses(vectors: Tensor, layout: Layout, variant: Variant, block: int) -> Tensor:
    """Σ_{i≠j} h(c_ij) - h(0) over ordered pairs, differentiable along `vectors`.

    Where the number of vectors is not known, all are in one block.
    """
    return differentiable(lambda vectors: _evaluate(vectors, layout, variant, block), vectors)


def excess_and_slope(
    vectors: Tensor, layout: Layout, variant: Variant, block: int
) -> tuple[Tensor, Tensor]:
    """The value and gradient of `sum_of_excesses`, for the inner steps of another problem."""
    value, pullback = _evaluate(vectors, layout, variant, block)
    return value, pullback(ops.ones((), vectors.dtype))


def _evaluate(
    vectors: Tensor, layout: Layout, variant: Variant, block: int
) -> tuple[Tensor, Pullback]:
    if not layout.is_counted(vectors):
        return _whole(vectors, layout, variant)
    count, dims = layout.count_and_dims(vectors)
    if block >= count and dims > _EXACT_DIMS:
        return _whole(vectors, layout, variant)
    return _blocked(vectors, layout, variant, block)


def _whole(vectors: Tensor, layout: Layout, variant: Variant) -> tuple[Tensor, Pullback]:
    """The value and its pullback in one block.

    Norms are the Gram matrix's diagonal, and scaling and projection act on N×N numbers, so that the
    gradient is the vectors times one symmetric N×N matrix. That product waits for the pullback: the
    value alone costs one product.
    """
    gram = layout.gram(vectors, vectors)
    inverse = inverse_norms(ops.diagonal(gram))
    off_diagonal = 1.0 - ops.eye(ops.shape(gram)[0], dtype=gram.dtype)
    c = gram * (ops.expand_dims(inverse, -1) * (inverse * off_diagonal))

    is_near = has_near(c, variant)

    def near() -> tuple[Tensor, Tensor, Tensor]:
        block = Block(layout.rows(vectors), inverse)
        far, excess, pull = split_near(c, block, block, variant)
        return far, excess, layout.rows(pull)

    # Where no pair is near the third is not used: the vectors cost nothing.
    far, excess_of_near, near_pull = branch(
        is_near, near, lambda: (c, ops.zeros((), c.dtype), vectors)
    )
    excess, slope = potential(far, measures_of_cosines(far, variant), variant)
    slope = slope * off_diagonal

    def pullback(upstream: Tensor) -> Tensor:
        projected = slope - ops.diag(ops.sum(slope * far, axis=1))
        scale = 2.0 * upstream * inverse
        coefficients = _finite(projected * ops.expand_dims(scale, -1) * inverse)

        def without_near() -> Tensor:
            # Symmetric, so neither layout needs a transpose.
            if layout.in_columns:
                return ops.matmul(vectors, coefficients)
            return ops.matmul(coefficients, vectors)

        def with_near() -> Tensor:
            near = _finite(near_pull * layout.per_vector(scale))
            return layout.mix(coefficients, vectors) + near

        return branch(is_near, with_near, without_near)

    return sum_by_rows(excess) + excess_of_near, pullback


def _finite(values: Tensor) -> Tensor:
    """The values, clipped: steep slopes between very short neurons exceed any float32."""
    limit = float(np.finfo(keras.backend.standardize_dtype(values.dtype)).max)
    return ops.clip(values, -limit, limit)


def _blocked(
    vectors: Tensor, layout: Layout, variant: Variant, block: int
) -> tuple[Tensor, Pullback]:
    """The value and its pullback, block by block, with the gradient in the same pass.

    `pull = Σ_j slope_ij u_j` adds up over the blocks.
    """
    squares = ops.sum(vectors * vectors, axis=1 - layout.axis)
    inverse = inverse_norms(squares)
    units = vectors * layout.per_vector(inverse)
    count, _ = layout.count_and_dims(vectors)
    looped = functools.partial(_looped, vectors, units, inverse, layout, variant, block)
    if -(-count // block) <= _UNROLLED_BLOCKS:
        sums, near = _unrolled(units, inverse, layout, variant, block)
        # Care for near pairs in each pair of blocks would take as long to trace as all else.
        value, pull = branch(ops.any(ops.stack(near)), looped, lambda: sums)
    else:
        value, pull = looped()
    tangent = tangential(pull, units, layout)
    return value, lambda upstream: tangent * layout.per_vector(2.0 * upstream * inverse)


def _unrolled(
    units: Tensor, inverse: Tensor, layout: Layout, variant: Variant, block: int
) -> tuple[tuple[Tensor, Tensor], list[Tensor]]:
    """Every pair of blocks once: the Gram matrix is symmetric, so its upper half is enough.

    Returns also whether a pair of neurons is too near, see `split_near`, for each pair of blocks.
    """
    count, _ = layout.count_and_dims(units)
    starts = range(0, count, block)
    parts = [layout.block(units, start, block) for start in starts]
    scales = [inverse[start : start + block] for start in starts]
    value: Tensor = 0.0
    pulls: list[Tensor] = [0.0] * len(parts)
    near = []
    for i, part in enumerate(parts):
        # One row of pairs after the other: XLA would compute all of them first, and hold them.
        part = part + 0.0 * value if i else part
        for j in range(i, len(parts)):
            same = i == j
            diagonal = ops.eye(scales[i].shape[0], dtype=inverse.dtype) if same else None
            scale = scales[i], scales[j]
            c, halves = _pairs_of(part, parts[j], *scale, layout, diagonal)
            near.append(has_near(c, variant, in_differences=halves is not None))
            excess, slope = _masked_potential(c, halves, variant, diagonal)
            value = value + (1.0 if same else 2.0) * sum_by_rows(excess)
            pulls[i] = pulls[i] + layout.mix(slope, parts[j])
            if not same:
                pulls[j] = pulls[j] + layout.mix(ops.transpose(slope), part)
    return (value, ops.concatenate(pulls, axis=layout.axis)), near


def _looped(
    vectors: Tensor, units: Tensor, inverse: Tensor, layout: Layout, variant: Variant, block: int
) -> tuple[Tensor, Tensor]:
    """Every ordered pair of blocks, in two nested loops that hold one pair at a time.

    A single block needs no loop, which would take longer to trace than all else.
    """
    count, dims = layout.count_and_dims(units)
    blocks = -(-count // block)
    padding = blocks * block - count
    vectors, units = layout.pad(vectors, padding), layout.pad(units, padding)
    inverse = ops.pad(inverse, ((0, padding),))
    dtype = units.dtype
    eye = ops.eye(block, dtype=dtype)
    in_differences = dims <= _EXACT_DIMS

    def units_at(i: Tensor) -> Tensor:
        return layout.dynamic_block(units, i * block, block)

    def block_at(i: Tensor) -> Block:
        start = i * block
        rows = layout.rows(layout.dynamic_block(vectors, start, block))
        return Block(rows, ops.slice(inverse, (start,), (block,)))

    def row(i: Tensor) -> tuple[Tensor, Tensor]:
        mine, my_block = units_at(i), block_at(i)

        def add(j: Tensor, carry: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
            value, pull = carry
            other, other_block = units_at(j), block_at(j)
            diagonal = eye * ops.cast(ops.equal(i, j), dtype)
            scales = my_block.inverse_norms, other_block.inverse_norms
            c, halves = _pairs_of(mine, other, *scales, layout, diagonal)
            far, excess_of_near, pull_of_near = branch(
                has_near(c, variant, in_differences),
                lambda: split_near(c, my_block, other_block, variant, in_differences),
                lambda: (c, ops.zeros((), dtype), ops.zeros_like(layout.rows(mine))),
            )
            if halves is not None:
                halves = tuple(ops.where(ops.equal(far, c), half, 1.0) for half in halves)
            excess, slope = _masked_potential(far, halves, variant, diagonal)
            value = value + sum_by_rows(excess) + excess_of_near
            return value, pull + layout.mix(slope, other) + layout.rows(pull_of_near)

        nothing = ops.zeros((), dtype), ops.zeros_like(mine)
        return ops.fori_loop(0, blocks, add, nothing) if blocks > 1 else add(i, nothing)

    if blocks == 1:
        value, pull = row(ops.zeros((), "int32"))
        return value, layout.block(pull, 0, count)
    values, pulls = ops.map(not_translated(row), ops.arange(blocks, dtype="int32"))
    return ops.sum(values), layout.join(pulls, count)


def _pairs_of(
    a: Tensor,
    b: Tensor,
    a_scale: Tensor,
    b_scale: Tensor,
    layout: Layout,
    masked: Tensor | None,
) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
    """Cosines c of all pairs of two blocks of unit vectors; in few dimensions also 1 - c and 1 + c.

    A scale of 0 marks a zero vector. Pairs that a mask marks by a 1 count as orthogonal.
    """
    _, dims = layout.count_and_dims(a)
    if dims > _EXACT_DIMS:
        c = layout.gram(a, b)
        return (c if masked is None else c * (1.0 - masked)), None
    apart = _is_zero(a_scale)[:, None] + _is_zero(b_scale)[None, :]
    x = y = 0.5 * apart
    for k in range(dims):
        first = layout.component(a, k)[:, None]
        second = layout.component(b, k)[None, :]
        x = x + 0.5 * ops.square(first - second)
        y = y + 0.5 * ops.square(first + second)
    if masked is not None:
        x, y = (half * (1.0 - masked) + masked for half in (x, y))
    return 0.5 * (y - x), (x, y)


def _is_zero(scale: Tensor) -> Tensor:
    return ops.cast(ops.equal(scale, 0.0), scale.dtype)


def _masked_potential(
    c: Tensor, halves: tuple[Tensor, Tensor] | None, variant: Variant, masked: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Excess and slope; orthogonal pairs have no excess, masked ones no slope."""
    if halves is None:
        measures = measures_of_cosines(c, variant)
    else:
        measures = measures_of_distances(*halves, variant)
    excess, slope = potential(c, measures, variant)
    return excess, slope if masked is None else slope * (1.0 - masked)
