"""Energies of the class vectors of a batch among all, with a hand-derived gradient."""

from collections.abc import Callable
from typing import Any, NamedTuple

import keras
from keras import ops

from mhe.energy.potential import Variant, measures_of_cosines, potential
from mhe.energy.pullback import Pullback, differentiable
from mhe.precision import at_least_float32
from mhe.types import Tensor
from sphereface_plus.heads.logits import replaced
from sphereface_plus.heads.products import (
    along_kernel,
    along_vectors,
    class_products,
    inverse_lengths,
    is_large,
)

# Parts of a batch in which large arrays are gone through: see `is_large`.
_PARTS = 8


def batch_energies(kernel: Tensor, index: Tensor, variant: Variant) -> Tensor:
    """The energies `(B,)` of `sphereface_plus.heads.energies.class_energies`.

    With unit class vectors ŵ, c_j = ŵ_y·ŵ_j, potentials h(c) and upstream gradients g_j = h'(c_j)
    of one sample, the gradient is

        along ŵ_y: Σ_j g_j ŵ_j        along ŵ_j: g_j ŵ_y

    each without its component along the vector itself, and divided by the length of that.

    Args:
        kernel: Class vectors `(dims, classes)`.
        index: Classes of the samples, int32 `(B,)`.
        variant: Which energy.

    Example:

    >>> kernel = ops.convert_to_tensor([[1.0, 0.0, -3.0], [0.0, 1.0, 0.0]])
    >>> index, variant = ops.convert_to_tensor([1], "int32"), Variant.of(2, "euclidean", "full")
    >>> keras.ops.convert_to_numpy(batch_energies(kernel, index, variant)).round(4)
    array([0.5], dtype=float32)
    """

    def evaluate(kernel: Tensor) -> tuple[Tensor, Pullback]:
        inverse, squares = inverse_lengths(kernel)
        found = _Found.of(kernel, index, inverse, squares, variant)

        def pullback(upstream: Tensor) -> Tensor:
            factors, shares, columns = found.gradient(upstream)
            return along_kernel([factors], kernel, shares * squares, columns)

        return found.energies, pullback

    return differentiable(evaluate, kernel)


def products_and_energies(
    vectors: Tensor, kernel: Tensor, index: Tensor, variant: Variant
) -> tuple[Tensor, Tensor]:
    """`class_products` of vectors, and `batch_energies`.

    TensorFlow adds up two gradients along the class vectors in a pass of its own, in memory of its
    own. So there the two are one function, whose gradient is written once.

    Args:
        vectors: Tensor `(B, dims)` of at least float32.
        kernel: As in `batch_energies`.
        index: As in `batch_energies`.
        variant: As in `batch_energies`.

    Returns:
        Tensors `(B, classes)` and `(B,)`.

    Example:

    >>> index, variant = ops.convert_to_tensor([1], "int32"), Variant.of(2, "euclidean", "full")
    >>> products, energies = products_and_energies(ops.ones((1, 2)), ops.eye(2), index, variant)
    >>> keras.ops.convert_to_numpy(products), keras.ops.convert_to_numpy(energies)
    (array([[1., 1.]], dtype=float32), array([0.5], dtype=float32))
    """
    vectors = at_least_float32(vectors)
    kernel = ops.cast(kernel, vectors.dtype)
    if keras.backend.backend() != "tensorflow":
        return class_products(vectors, kernel), batch_energies(kernel, index, variant)

    @ops.custom_gradient
    def function(vectors: Tensor, kernel: Tensor) -> tuple[Any, Callable[..., Any]]:
        inverse, squares = inverse_lengths(kernel)
        products = ops.matmul(vectors, kernel) * inverse[None, :]
        found = _Found.of(kernel, index, inverse, squares, variant)

        def backward(along_products: Tensor, along_energies: Tensor) -> tuple[Tensor, Tensor]:
            factors, shares, columns = found.gradient(along_energies)
            shares = shares + ops.sum(along_products * products, axis=0)
            scaled = along_products * inverse[None, :]
            both = [(vectors, scaled), factors]
            gradient = along_kernel(both, kernel, shares * squares, columns)
            return along_vectors(scaled, kernel), gradient

        return (products, found.energies), backward

    return function(vectors, kernel)


class _Found(NamedTuple):
    """Energies of a batch, and what their gradient needs.

    Attributes:
        energies: Tensor `(B,)`.
        own: Unit class vectors of the samples, `(B, dims)`.
        bounds: Where parts of the batch start and end.
        cosines: Those of `own` with all class vectors, `(part, classes)` for each part.
        slopes: Those of the energies along the cosines, of the same shapes.
        kernel: Class vectors `(dims, classes)`.
        index: Classes of the samples, int32 `(B,)`.
        inverse: Inverse lengths of the class vectors, `(classes,)`.
        squares: Their squares, 0 for a zero vector.
    """

    energies: Tensor
    own: Tensor
    bounds: list[tuple[Any, Any]]
    cosines: list[Tensor]
    slopes: list[Tensor]
    kernel: Tensor
    index: Tensor
    inverse: Tensor
    squares: Tensor

    @classmethod
    def of(
        cls, kernel: Tensor, index: Tensor, inverse: Tensor, squares: Tensor, variant: Variant
    ) -> "_Found":
        """Goes through the energies once."""
        classes = int(kernel.shape[1])
        batch = ops.shape(index)[0]
        parts = _PARTS if is_large(kernel) else 1
        bounds = [(batch * part // parts, batch * (part + 1) // parts) for part in range(parts)]
        own = ops.transpose(ops.take(kernel, index, axis=1) * ops.take(inverse, index)[None, :])
        products = ops.matmul(own, kernel)
        # Potentials are relative to that of right angles.
        points, rest = classes, (classes - 1) * variant.orthogonal
        if variant.half:
            points, rest = 2 * points, 2 * rest + variant.antipodal
        cosines, slopes, energies = [], [], []
        for start, end in bounds:
            # A right angle of each vector with itself, without slope, counts nothing.
            part, nothing = index[start:end], ops.zeros_like(products[start:end, 0])
            cosine = replaced(products[start:end] * inverse[None, :], part, nothing)
            excess, slope = potential(cosine, measures_of_cosines(cosine, variant), variant)
            cosines.append(cosine)
            slopes.append(replaced(slope / (points - 1), part, nothing))
            energies.append((ops.sum(excess, axis=1) + rest) / (points - 1))
        whole = ops.concatenate(energies)
        return cls(whole, own, bounds, cosines, slopes, kernel, index, inverse, squares)

    def gradient(self, upstream: Tensor) -> tuple[Any, Tensor, tuple[Tensor, Tensor]]:
        """What `along_kernel` takes for the gradient along the class vectors.

        Args:
            upstream: Tensor `(B,)`.

        Returns:
            A factor, the shares before they are divided by the squared lengths, and columns.
        """
        parts, shares = [], 0.0
        for (start, end), cosine, slope in zip(self.bounds, self.cosines, self.slopes, strict=True):
            part = slope * upstream[start:end, None]
            shares = shares + ops.sum(part * cosine, axis=0)
            parts.append(part * self.inverse[None, :])
        scaled = ops.concatenate(parts)
        along_own = along_vectors(scaled, self.kernel)
        radial = ops.sum(self.own * along_own, axis=1)
        radial = ops.where(ops.take(self.squares, self.index) > 0, radial, 0.0)
        along_own = along_own - radial[:, None] * self.own
        columns = ops.transpose(along_own) * ops.take(self.inverse, self.index)[None, :]
        return (self.own, scaled), shares, (self.index, columns)
