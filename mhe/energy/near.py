"""Pairs that are too near for their cosine, which holds half the digits of a small distance."""

from collections.abc import Callable

from keras import ops

from mhe.energy.potential import Measures, Variant, measures_of_distances
from mhe.tracing import branch
from mhe.types import Tensor

# Float32 cosines are known to about 1e-7. Below 0.98, at distances above 0.2, that is enough.
_NEAR = 0.98
# The nearest of each vector; more of them are rarely near.
_NEIGHBORS = 8


def has_near(c: Tensor, variant: Variant) -> Tensor:
    """Whether any pair is too near for its cosine, a boolean scalar."""
    return ops.max(_closeness(c, variant)) > _NEAR


def mended(
    c: Tensor,
    measures: Measures,
    units: Callable[[], tuple[Tensor, Tensor]],
    variant: Variant,
) -> tuple[Tensor, Measures]:
    """Cosines and measures, those of near pairs from differences of the vectors.

    That is done for up to eight neighbors of each vector of the first block, and takes time only
    where there are any.

    Args:
        c: Cosines `(Na, Nb)`.
        measures: Their measures.
        units: Returns the unit vectors of the two blocks, `(Na, D)` and `(Nb, D)`.
        variant: Which energy.
    """
    known = (c, *measures)
    first, *others = branch(
        has_near(c, variant),
        lambda: _from_differences(known, *units(), variant),
        lambda: known,
    )
    return first, tuple(others)


def _from_differences(known: Measures, a: Tensor, b: Tensor, variant: Variant) -> Measures:
    count, others = (int(size) for size in known[0].shape)
    neighbors = min(_NEIGHBORS, others)
    closeness, index = ops.top_k(_closeness(known[0], variant), neighbors, sorted=False)
    vectors = ops.reshape(ops.take(b, ops.reshape(index, (-1,)), axis=0), (count, neighbors, -1))
    x = 0.5 * ops.sum(ops.square(a[:, None] - vectors), axis=-1)
    y = 0.5 * ops.sum(ops.square(a[:, None] + vectors), axis=-1)
    exact = (0.5 * (y - x), *measures_of_distances(x, y, variant))
    is_near = ops.reshape(closeness > _NEAR, (-1,))
    places = ops.reshape(others * ops.arange(count, dtype=index.dtype)[:, None] + index, (-1,))
    results = []
    for old, new in zip(known, exact, strict=True):
        flat = ops.reshape(old, (-1,))
        values = ops.where(is_near, ops.reshape(new, (-1,)), ops.take(flat, places))
        flat = ops.scatter_update(flat, places[:, None], values)
        results.append(ops.reshape(flat, (count, others)))
    return tuple(results)


def _closeness(c: Tensor, variant: Variant) -> Tensor:
    """The cosine; its magnitude where a pair near to opposite needs care, too."""
    return ops.absolute(c) if variant.half else c
