"""From products to logits and losses: lengths, margins on the true class, the softmax."""

import math
from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from mhe.labels import check_readable, read_labels
from mhe.layers import unit_vectors
from mhe.losses.targets import of_class
from mhe.precision import at_least_float32
from mhe.types import Tensor

# Features below this length have no cosine: their squares leave float32.
_SHORTEST_FEATURE = 1e-18


def lengths(vectors: Tensor) -> Tensor:
    """Euclidean lengths, without overflow; the gradient at a zero vector is 0.

    Args:
        vectors: Tensor `(..., D)`.

    Returns:
        A tensor `(...)`, float64 for float64 vectors where Keras computes in it, else float32.

    Example:

    >>> import numpy as np
    >>> np.asarray(lengths(np.array([[3e20, 4e20], [0.0, 0.0]], "float32"))) / 1e20
    array([5., 0.], dtype=float32)
    """
    vectors = at_least_float32(vectors)
    # The projection of a vector on its own direction is its length, with that direction as slope.
    return ops.sum(vectors * ops.stop_gradient(unit_vectors(vectors)), axis=-1)


def cosines_of(products: Tensor, norms: Tensor) -> Tensor:
    """Cosines from products ρ cos θ and norms ρ; near 0 for features shorter than 1e-18.

    Example:

    >>> import numpy as np
    >>> np.asarray(cosines_of(np.array([1.0, 0.0], "float32"), np.array([2.0, 0.0], "float32")))
    array([0.5, 0. ], dtype=float32)
    """
    products, norms = at_least_float32(products), at_least_float32(norms)
    return products / ops.where(norms > _SHORTEST_FEATURE, norms, 1.0)


def true_class(labels: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
    """Locates the true class of each sample.

    Args:
        labels: Integers `(B,)` or `(B, 1)`, in any dtype.
        logits: Tensor `(B, classes)` of at least float32.

    Returns:
        The true class, int32 `(B,)`, and whether each logit belongs to it, bool `(B, classes)`.
        If a label in a tensor is not a class, the index is 0 and no logit belongs to it.

    Raises:
        ValueError: If there is not one label per sample, or a label in an array or list is not a
            class.

    Example:

    >>> import numpy as np
    >>> index, is_true = true_class([1, 0], np.zeros((2, 3), "float32"))
    >>> np.asarray(index).tolist(), np.asarray(is_true).astype(int).tolist()
    ([1, 0], [[0, 1, 0], [1, 0, 0]])
    """
    index, known = known_classes(labels, logits)
    classes = ops.arange(int(logits.shape[-1]), dtype="int32")
    return index, ops.equal(ops.where(known, index, -1)[:, None], classes[None, :])


def with_margin(logits: Tensor, labels: Tensor, margin: Callable[[Tensor], Tensor]) -> Tensor:
    """Applies a margin to the logit of the true class.

    Args:
        logits: Tensor `(B, classes)` of at least float32.
        labels: Integers `(B,)` or `(B, 1)`, or None for no margin.
        margin: From the logits of the true classes `(B,)` to those with the margin.

    Returns:
        A tensor `(B, classes)`. If a label in a tensor is not a class, no logit gets a margin.

    Raises:
        ValueError: As `true_class`.

    Example:

    >>> import numpy as np
    >>> np.asarray(with_margin(np.ones((2, 3), "float32"), [2, 0], lambda logit: logit - 0.5))
    array([[1. , 1. , 0.5],
           [0.5, 1. , 1. ]], dtype=float32)
    """
    logits = ops.convert_to_tensor(logits)
    if labels is None:
        return logits
    index, known = known_classes(labels, logits)
    own, others = apart(logits, index)
    return together(others, ops.where(known, margin(own), own), index)


def with_scaled_margin(
    logits: Tensor, labels: Tensor, scale: float, margin: Callable[[Tensor], Tensor]
) -> Tensor:
    """Applies a margin to the cosine of the true class, where logits are scaled cosines.

    Args:
        logits: s·cos θ_j, a tensor `(B, classes)` of at least float32.
        labels: As in `with_margin`.
        scale: s.
        margin: From the cosines of the true classes `(B,)` to those with the margin.

    Returns:
        A tensor `(B, classes)`, as `with_margin` does.

    Example:

    >>> import numpy as np
    >>> logits = np.array([[2.0, 4.0]], "float32")
    >>> np.asarray(with_scaled_margin(logits, [1], 4, lambda cosine: cosine - 0.5))
    array([[2., 2.]], dtype=float32)
    """
    return with_margin(logits, labels, lambda logit: scale * margin(logit / scale))


def known_classes(labels: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
    """The true class of each sample, 0 where the label is none, and whether it is a class.

    Example:

    >>> import numpy as np
    >>> index, known = known_classes(ops.convert_to_tensor([1, 2]), np.zeros((2, 2), "float32"))
    >>> np.asarray(index).tolist(), np.asarray(known).tolist()
    ([1, 0], [True, False])
    """
    classes = int(logits.shape[-1])
    check_readable(labels, classes)
    index, known, _ = read_labels(labels, logits, classes)
    return index, known


def apart(logits: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    """The logits of the true classes `(B,)`, and the logits in which `together` replaces them.

    The latter may go through functions of each logit in between, along nothing else of which there
    is a gradient, and nowhere else.
    TensorFlow goes through all logits for the gradient of either function, and once more to add
    the two: so there the gradient of one is written into that of the other. XLA does so by itself.
    """
    if keras.backend.backend() != "tensorflow":
        return of_class(logits, index), logits

    @ops.custom_gradient
    def function(logits: Tensor) -> tuple[Any, Callable[..., Tensor]]:
        def backward(own: Tensor, others: Tensor) -> Tensor:
            return replaced(others, index, own)

        return (_values_of(logits, index), logits), backward

    return function(logits)


def together(others: Tensor, own: Tensor, index: Tensor) -> Tensor:
    """The logits that `apart` took apart, with other ones for the true classes."""
    if keras.backend.backend() != "tensorflow":
        return replaced(others, index, own)

    @ops.custom_gradient
    def function(others: Tensor, own: Tensor) -> tuple[Tensor, Callable[..., Any]]:
        def backward(upstream: Tensor) -> tuple[Tensor, Tensor]:
            # `apart` overwrites what is of the true classes.
            return upstream, _values_of(upstream, index)

        return replaced(others, index, own), backward

    return function(others, own)


def replaced(values: Tensor, index: Tensor, own: Tensor) -> Tensor:
    """Values `(B, classes)` with other ones `(B,)` for the classes `index`, int32 `(B,)`.

    Example:

    >>> import numpy as np
    >>> index, own = np.array([1, 0], "int32"), np.array([5.0, 7.0], "float32")
    >>> np.asarray(replaced(np.zeros((2, 2), "float32"), index, own))
    array([[0., 5.],
           [7., 0.]], dtype=float32)
    """
    values = ops.convert_to_tensor(values)
    if keras.backend.backend() == "jax":
        # Is fused with what is computed next to it, and works where devices share the classes.
        classes = ops.arange(int(values.shape[-1]), dtype="int32")
        return ops.where(ops.equal(index[:, None], classes[None, :]), own[:, None], values)
    places = ops.arange(ops.shape(values)[0], dtype="int32")
    return ops.scatter_update(values, ops.stack([places, index], axis=1), own)


def _values_of(values: Tensor, index: Tensor) -> Tensor:
    """As `of_class`, for which TensorFlow copies all values."""
    batch, classes = ops.shape(values)
    # In int64, as there may be more values than int32 counts.
    starts = ops.arange(batch, dtype="int64") * ops.cast(classes, "int64")
    return ops.take(ops.reshape(values, (-1,)), starts + ops.cast(index, "int64"))


def sine(cosines: Tensor) -> Tensor:
    """Sine of the angle in [0, π] with a given cosine, with slope 0 where it would be infinite.

    At 0 and π the angle between two vectors has no direction in which to grow, so no gradient.

    Args:
        cosines: Tensor of any shape; may exceed ±1 by a rounding error.

    Returns:
        A tensor of the same shape.

    Example:

    >>> import numpy as np
    >>> np.asarray(sine(np.array([1.0, 0.6, -1.0], "float32"))).round(6)
    array([0. , 0.8, 0. ], dtype=float32)
    """
    squares = (1.0 - cosines) * (1.0 + cosines)
    positive = squares > 0
    return ops.where(positive, ops.sqrt(ops.where(positive, squares, 1.0)), 0.0)


def add_angle(cosines: Tensor, m: Tensor) -> Tensor:
    """cos(θ + m), and cos θ - m·sin m beyond θ = π - m, where cos(θ + m) would grow again.

    Args:
        cosines: cos θ, a tensor of any shape; may exceed ±1 by a rounding error.
        m: The angle added, in radians, in [0, π/2]: a number, or a tensor of the same shape.

    Returns:
        A tensor of the same shape, which falls with θ everywhere, with a step down at π - m.

    Example:

    >>> import math
    >>> import numpy as np
    >>> cosines = np.array([1.0, 0.5, -1.0], "float32")
    >>> np.asarray(add_angle(cosines, math.pi / 6)).round(4)
    array([ 0.866 ,  0.    , -1.2618], dtype=float32)
    """
    cosines = at_least_float32(cosines)
    m = ops.convert_to_tensor(m, cosines.dtype)
    return ops.where(cosines > -ops.cos(m), turn(cosines, m), cosines - m * ops.sin(m))


def turn(cosines: Tensor, m: Tensor) -> Tensor:
    """cos(θ + m) at every θ, as cos θ cos m - sin θ sin m; arguments as in `add_angle`.

    Example:

    >>> import math
    >>> import numpy as np
    >>> np.asarray(turn(np.array([0.0, -1.0], "float32"), math.pi / 2)).round(4)
    array([-1.,  0.], dtype=float32)
    """
    cosines = at_least_float32(cosines)
    m = ops.convert_to_tensor(m, cosines.dtype)
    return cosines * ops.cos(m) - sine(cosines) * ops.sin(m)


def softmax_losses(labels: Tensor, logits: Tensor) -> Tensor:
    """Softmax cross-entropy of each sample, -log p_y.

    Args:
        labels: Integers `(B,)` or `(B, 1)`, in any dtype.
        logits: Tensor `(B, classes)`.

    Returns:
        A tensor `(B,)` of at least float32; NaN where a label in a tensor is not a class.

    Raises:
        ValueError: If there is not one label per sample, or a label in an array or list is not a
            class.

    Example:

    >>> import numpy as np
    >>> np.asarray(softmax_losses([0, 1], np.array([[0.0, 0.0], [1e4, 0.0]], "float32"))).round(4)
    array([6.931e-01, 1.000e+04], dtype=float32)
    """
    return class_losses(labels, logits, softmax_loss_of)


def softmax_loss_of(index: Tensor, logits: Tensor) -> Tensor:
    """`softmax_losses` for labels known to be classes, int32 `(B,)`."""
    if keras.backend.backend() == "tensorflow":
        # One pass for the loss and its gradient; the other backends make one-hot vectors for it.
        return ops.sparse_categorical_crossentropy(index, logits, from_logits=True)
    return -of_class(ops.log_softmax(logits, axis=-1), index)


def class_losses(
    labels: Tensor, logits: Tensor, term: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    """The losses of samples by a function of their classes, NaN where a label is not a class.

    Args:
        labels: Integers `(B,)` or `(B, 1)`, in any dtype.
        logits: Tensor `(B, classes)`.
        term: From classes, int32 `(B,)`, and logits of at least float32 to losses `(B,)`.

    Raises:
        ValueError: As `true_class`.

    Example:

    >>> import numpy as np
    >>> logits = np.zeros((2, 2), "float32")
    >>> losses = class_losses(ops.convert_to_tensor([0, 2]), logits, softmax_loss_of)
    >>> np.asarray(losses).round(4)
    array([0.6931,    nan], dtype=float32)
    """
    logits = at_least_float32(logits)
    index, known = known_classes(labels, logits)
    return ops.where(known, term(index, logits), math.nan)
