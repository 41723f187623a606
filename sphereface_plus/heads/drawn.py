"""Classes drawn for a step, and their vectors out of a kernel with very many."""

from typing import Any

import keras
from keras import ops

from mhe.energy.pullback import Pullback, differentiable
from mhe.types import Tensor


def draw_classes(index: Tensor, classes: int, count: int, seed: Any = None) -> Tensor:
    """Draws distinct classes: those of a batch first, then others at random.

    Args:
        index: Classes of the samples of a batch, int32 `(B,)`.
        classes: Number of classes.
        count: How many to draw. If the batch has more, some of its classes are drawn.
        seed: An int or a `keras.random.SeedGenerator`.

    Returns:
        Classes in ascending order, int32 `(count,)`.

    Example:

    >>> import keras, numpy as np
    >>> drawn = draw_classes(keras.ops.convert_to_tensor([3, 7, 3]), 10, 4, seed=0)
    >>> len(set(np.asarray(drawn).tolist())), {3, 7} <= set(np.asarray(drawn).tolist())
    (4, True)

    Reference:
        An et al., Killing two birds with one stone: efficient and robust training of face
        recognition CNNs by Partial FC, CVPR 2022
        ([arXiv:2203.15565](https://arxiv.org/abs/2203.15565)).
    """
    keys = keras.random.uniform((classes,), dtype="float32", seed=seed)
    index = ops.convert_to_tensor(index, "int32")
    in_batch = ops.scatter_update(
        ops.zeros((classes,), "float32"), index[:, None], ops.ones_like(index, dtype="float32")
    )
    _, drawn = ops.top_k(keys + in_batch, count)
    # In order, the columns of a large kernel are read several times faster.
    return ops.sort(ops.cast(drawn, "int32"))


def drawn_vectors(kernel: Tensor, drawn: Tensor, index: Tensor, subcenters: int = 1) -> Tensor:
    """The vectors of classes drawn, and of the classes of a batch.

    The gradient is gathered too, by the place of each class among these vectors, instead of
    scattered: with 1,000,000 classes the gradients of two gathers, and their transposes, would each
    take as much memory as the kernel.

    Args:
        kernel: Class vectors `(dims, classes·subcenters)`.
        drawn: Different classes, int32 `(n,)`.
        index: Classes of the samples, int32 `(B,)`, drawn or not.
        subcenters: Vectors per class.

    Returns:
        Tensor `(dims, (n + B)·subcenters)`, those of the classes drawn first.

    Example:

    >>> kernel = ops.convert_to_tensor([[0.0, 1.0, 2.0, 3.0]])
    >>> keras.ops.convert_to_numpy(drawn_vectors(kernel, ops.arange(2), ops.arange(2) + 1))
    array([[0., 1., 1., 2.]], dtype=float32)
    """
    firsts, owns = _columns(drawn, subcenters), _columns(index, subcenters)
    count = ops.shape(firsts)[0]

    def evaluate(kernel: Tensor) -> tuple[Tensor, Pullback]:
        places, last = _places(firsts, owns, int(kernel.shape[1]))

        def pullback(upstream: Tensor) -> Tensor:
            first, own = upstream[:, :count], upstream[:, count:]
            nothing = ops.zeros_like(upstream[:, :1])
            # Each vector of the batch stands for all that are equal to it.
            equal = ops.equal(owns[:, None], owns[None, :])
            own = ops.matmul(own, ops.cast(equal, own.dtype))
            own = own + ops.take(ops.concatenate([first, nothing], axis=1), last, axis=1)
            return ops.take(ops.concatenate([first, own, nothing], axis=1), places, axis=1)

        return ops.take(kernel, ops.concatenate([firsts, owns]), axis=1), pullback

    return differentiable(evaluate, ops.convert_to_tensor(kernel))


def _places(firsts: Tensor, owns: Tensor, columns: int) -> tuple[Tensor, Tensor]:
    """The place of each column in `firsts`, `owns` or beyond, and of `owns` in or beyond `firsts`.

    Columns that are in both have their place in `owns`.
    """
    count, batch = ops.shape(firsts)[0], ops.shape(owns)[0]
    places = ops.zeros((columns,), "int32") + (count + batch)
    places = ops.scatter_update(places, firsts[:, None], ops.arange(count, dtype="int32"))
    last = ops.minimum(ops.take(places, owns), count)
    own_places = ops.arange(batch, dtype="int32") + count
    return ops.scatter_update(places, owns[:, None], own_places), last


def _columns(classes: Tensor, subcenters: int) -> Tensor:
    """The columns of some classes."""
    if subcenters == 1:
        return classes
    of_one = ops.arange(subcenters, dtype="int32")[None, :]
    return ops.reshape(classes[:, None] * subcenters + of_one, (-1,))
