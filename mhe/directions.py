"""Directions of vectors."""

from keras import ops

from mhe.precision import at_least_float32
from mhe.types import Tensor

# Embeddings without an entry above this count as zero: their gradient, which goes as the inverse
# of the length, would leave float32.
_SHORTEST = 1e-30


def unit_vectors(vectors: Tensor) -> Tensor:
    """Returns vectors scaled to unit length, in at least float32.

    The largest entry is divided out first, so that squares neither overflow nor vanish, and no ε
    distorts short vectors. A zero vector stays zero, as does one without an entry above 1e-30; its
    gradient is that of the vector itself, so that it can leave zero.

    Args:
        vectors: Tensor `(..., D)`.

    Returns:
        A tensor `(..., D)`: float64 for float64 vectors, else float32.

    Example:

    >>> import numpy as np
    >>> np.asarray(unit_vectors(np.array([[3e-20, 4e-20], [0.0, 0.0]], "float32"))).round(6)
    array([[0.6, 0.8], [0. , 0. ]], dtype=float32)
    """
    vectors = at_least_float32(vectors)
    largest = ops.stop_gradient(ops.max(ops.absolute(vectors), axis=-1, keepdims=True))
    has_direction = largest > _SHORTEST
    scaled = vectors / ops.where(has_direction, largest, 1.0)
    squares = ops.sum(ops.square(scaled), axis=-1, keepdims=True)
    return scaled / ops.sqrt(ops.where(has_direction, squares, 1.0))
