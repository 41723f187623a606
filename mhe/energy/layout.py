"""Neurons as the rows or the columns of a matrix, whichever needs no transposed copy."""

import math
from typing import NamedTuple

import keras
from keras import ops

from mhe.energy.options import neuron_axes
from mhe.types import Tensor


class Layout(NamedTuple):
    """Whether vectors are the columns of a matrix, else its rows; the operations that depend on it.

    In the methods, N is the number of vectors and D the length of each.
    """

    in_columns: bool

    @property
    def axis(self) -> int:
        """The axis that counts the vectors."""
        return 1 if self.in_columns else 0

    def is_counted(self, vectors: Tensor) -> bool:
        """Whether N is known; where TensorFlow traces a model, that of a batch may not be."""
        return vectors.shape[self.axis] is not None

    def count_and_dims(self, vectors: Tensor) -> tuple[int, int]:
        """N, which must be known, and D."""
        first, second = (int(size) for size in vectors.shape)
        return (second, first) if self.in_columns else (first, second)

    def gram(self, a: Tensor, b: Tensor) -> Tensor:
        """All dot products of the vectors of `a` and of `b`, `(Na, Nb)`."""
        if self.in_columns:
            return ops.matmul(ops.transpose(a), b)
        return ops.matmul(a, ops.transpose(b))

    def mix(self, coefficients: Tensor, vectors: Tensor) -> Tensor:
        """Σ_j coefficients[i, j] · vectors_j for every i."""
        if self.in_columns:
            return ops.matmul(vectors, ops.transpose(coefficients))
        return ops.matmul(coefficients, vectors)

    def rows(self, vectors: Tensor) -> Tensor:
        """The vectors as the rows of a matrix."""
        return ops.transpose(vectors) if self.in_columns else vectors

    def per_vector(self, values: Tensor) -> Tensor:
        """One number per vector, shaped to multiply a matrix of vectors."""
        return values[None, :] if self.in_columns else values[:, None]

    def component(self, vectors: Tensor, k: int) -> Tensor:
        """The k-th number of each vector, `(N,)`."""
        return vectors[k] if self.in_columns else vectors[:, k]

    def block(self, vectors: Tensor, start: int, size: int) -> Tensor:
        """Up to `size` vectors from `start` on."""
        end = start + size
        return vectors[:, start:end] if self.in_columns else vectors[start:end]

    def dynamic_block(self, vectors: Tensor, start: Tensor, size: int) -> Tensor:
        """A block whose start is only known when a loop runs."""
        _, dims = self.count_and_dims(vectors)
        if self.in_columns:
            return ops.slice(vectors, (0, start), (dims, size))
        return ops.slice(vectors, (start, 0), (size, dims))

    def pad(self, vectors: Tensor, padding: int) -> Tensor:
        """The vectors with `padding` zero vectors after them."""
        after = (0, padding)
        return ops.pad(vectors, ((0, 0), after) if self.in_columns else (after, (0, 0)))

    def join(self, blocks: Tensor, count: int) -> Tensor:
        """Stacked blocks as one matrix of `count` vectors."""
        if self.in_columns:
            blocks = ops.transpose(blocks, (1, 0, 2))
            return ops.reshape(blocks, (blocks.shape[0], -1))[:, :count]
        return ops.reshape(blocks, (-1, blocks.shape[-1]))[:count]


def as_matrix(weights: Tensor, axis: int | tuple[int, ...]) -> tuple[Tensor, Layout]:
    """The neurons of a weight as a matrix of floats, and its layout."""
    weights = ops.convert_to_tensor(weights)
    if not keras.backend.is_float_dtype(weights.dtype):
        weights = ops.cast(weights, "float32")
    shape = tuple(weights.shape)
    axes = neuron_axes(axis, len(shape))
    in_order = tuple(range(len(shape)))
    others = tuple(a for a in in_order if a not in axes)
    if any(shape[a] is None for a in others):
        raise ValueError(
            "The numbers in a neuron must be known; for features, the axes that count neurons are "
            f"those of the batch, such as axis=0. Received: axis={axis}, a tensor of shape {shape}"
        )
    is_counted = all(shape[a] is not None for a in axes)
    count = math.prod(shape[a] for a in axes) if is_counted else -1
    dims = math.prod(shape[a] for a in others)
    if axes + others == in_order:
        return ops.reshape(weights, (count, dims)), Layout(in_columns=False)
    if others + axes != in_order:
        weights = ops.transpose(weights, others + axes)
    return ops.reshape(weights, (dims, count)), Layout(in_columns=True)
