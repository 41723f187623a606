"""Products of features with class vectors of unit length: one matrix product, no second kernel."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from mhe.pairwise import pairwise
from mhe.precision import at_least_float32
from mhe.types import Tensor

# Class vectors below this length count as zero: the gradient of their inverse length, which goes
# with the third power, would leave float32.
_SHORTEST = 1e-12
# Kernels with more numbers than this are gone through in parts: temporaries of their size take
# longer to allocate than to compute. XLA needs none.
_LARGE = 2**22
_PARTS = 32
_ROWS = 64


def class_products(features: Tensor, kernel: Tensor) -> Tensor:
    """Inner products of features with class vectors of unit length, ‖x‖ cos θ_j.

    For unit features these are the cosines. The products, not the class vectors, are divided by the
    lengths, so no second matrix of the kernel's size is made, and each column depends on its own
    class vector alone: the kernel may be split by classes among devices. So may the gradient, which
    is hand-derived: with upstream gradients g and products p

        ∂/∂x = Σ_j g_j ŵ_j        ∂/∂w_j = (x g_j - ŵ_j p_j g_j)/‖w_j‖, summed over the batch

    Args:
        features: Tensor `(B, dims)`.
        kernel: Class vectors `(dims, classes)` of any length. A zero vector has products of 0, and
            a gradient with which it can leave 0.

    Returns:
        A tensor `(B, classes)`, float64 for float64 features where Keras computes in it, else
        float32.

    Example:

    >>> import numpy as np
    >>> kernel = np.array([[3.0, 0.0, 0.0], [0.0, -2.0, 0.0]], "float32")
    >>> np.asarray(class_products(np.array([[5.0, 1.0]], "float32"), kernel))
    array([[ 5., -1.,  0.]], dtype=float32)
    """
    features = at_least_float32(features)
    return pairwise(features, ops.cast(kernel, features.dtype), _forward, _backward)


def inverse_lengths(kernel: Tensor) -> tuple[Tensor, Tensor]:
    """Inverse lengths of columns `(classes,)`, 1 for a zero vector; and their squares, 0 for it.

    Example:

    >>> inverse, squares = inverse_lengths(ops.convert_to_tensor([[2.0, 0.0]]))
    >>> [keras.ops.convert_to_numpy(each).tolist() for each in (inverse, squares)]
    [[0.5, 1.0], [0.25, 0.0]]
    """
    squares = _squared_lengths(kernel)
    has_direction = squares > _SHORTEST**2
    inverse = ops.rsqrt(ops.where(has_direction, squares, 1.0))
    return inverse, ops.where(has_direction, ops.square(inverse), 0.0)


def _forward(features: Tensor, kernel: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    inverse, inverse_square = inverse_lengths(kernel)
    products = ops.matmul(features, kernel) * inverse[None, :]
    return products, (inverse, inverse_square)


def _backward(
    upstream: Tensor,
    products: Tensor,
    saved: tuple[Tensor, Tensor],
    features: Tensor,
    kernel: Tensor,
    needed: Sequence[bool],
) -> tuple[Any, Any]:
    inverse, inverse_square = saved
    along_features = along_class_vectors = None
    if needed[1]:
        shares = ops.sum(upstream * products, axis=0) * inverse_square
    upstream = upstream * inverse[None, :]
    if needed[0]:
        along_features = along_vectors(upstream, kernel)
    if needed[1]:
        along_class_vectors = along_kernel([(features, upstream)], kernel, shares)
    return along_features, along_class_vectors


def _squared_lengths(kernel: Tensor) -> Tensor:
    """Squared lengths of the columns, `(classes,)`."""
    if not is_large(kernel):
        return ops.sum(ops.square(kernel), axis=0)
    columns = int(kernel.shape[1])
    width = -(-columns // _PARTS)
    parts = [kernel[:, start : start + width] for start in range(0, columns, width)]
    return ops.concatenate([ops.sum(ops.square(part), axis=0) for part in parts])


def along_vectors(upstream: Tensor, kernel: Tensor) -> Tensor:
    """`upstream` `kernel`ᵀ, `(B, dims)`.

    Example:

    >>> found = along_vectors(ops.ones((1, 3)), ops.ones((2, 3)))
    >>> keras.ops.convert_to_numpy(found)
    array([[3., 3.]], dtype=float32)
    """
    # TensorFlow on a CPU takes 1.6 times as long the other way around.
    return ops.transpose(ops.matmul(kernel, ops.transpose(upstream)))


def along_kernel(
    factors: Sequence[tuple[Tensor, Tensor]],
    kernel: Tensor,
    shares: Tensor,
    columns: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Gradient along class vectors, Σ `features`ᵀ `upstream` - `kernel`·`shares`, in one pass.

    Args:
        factors: Pairs of features `(B, dims)` and upstream gradients `(B, classes)`.
        kernel: Class vectors `(dims, classes)`.
        shares: How much of each class vector is subtracted, `(classes,)`.
        columns: Some classes, int32 `(B,)`, and vectors `(dims, B)` to add to theirs.

    Returns:
        A tensor `(dims, classes)`.

    Example:

    >>> ones = ops.ones((1, 2))
    >>> found = along_kernel([(ones, 5.0 * ones)], ops.ones((2, 2)), ones[0])
    >>> keras.ops.convert_to_numpy(found)
    array([[4., 4.],
           [4., 4.]], dtype=float32)
    """
    if columns is not None:
        index, added = columns
        # Columns that occur more than once get the sum of all each time.
        equal = ops.cast(ops.equal(index[:, None], index[None, :]), added.dtype)
        added = ops.matmul(added, equal)
        is_first = ops.equal(ops.argmax(equal, axis=1), ops.arange(ops.shape(index)[0]))

    def of_rows(rows: slice) -> Tensor:
        product = sum(ops.matmul(ops.transpose(each[:, rows]), up) for each, up in factors)
        product = product - kernel[rows] * shares[None, :]
        if columns is None:
            return product
        changed = ops.take(product, index, axis=1) + added[rows]
        if keras.backend.backend() != "jax":
            # In a second derivative one of equal columns stands for all. JAX sees to that itself.
            changed = ops.where(is_first[None, :], changed, ops.stop_gradient(changed))
        return _with_columns(product, index, changed)

    if not is_large(kernel):
        return of_rows(slice(None))
    starts = range(0, int(kernel.shape[0]), _ROWS)
    return ops.concatenate([of_rows(slice(start, start + _ROWS)) for start in starts])


def _with_columns(values: Tensor, index: Tensor, columns: Tensor) -> Tensor:
    """Values `(rows, classes)` with other columns `(rows, B)` for the classes `index`."""
    rows = ops.arange(int(values.shape[0]), dtype="int32")
    places = ops.stack(ops.meshgrid(rows, index, indexing="ij"), axis=-1)
    return ops.scatter_update(values, ops.reshape(places, (-1, 2)), ops.reshape(columns, (-1,)))


def is_large(kernel: Tensor) -> bool:
    """Whether a kernel is gone through in parts.

    Example:

    >>> is_large(ops.ones((2, 2)))
    False
    """
    if keras.backend.backend() == "jax" or None in tuple(kernel.shape):
        return False
    rows, columns = kernel.shape
    return rows * columns > _LARGE
