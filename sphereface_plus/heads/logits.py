"""From features and class vectors to logits: products, margins on the true class, losses."""

from collections.abc import Callable

from keras import ops

from mhe.labels import check_readable, read_labels
from mhe.layers import unit_vectors
from mhe.losses.targets import label_losses, of_class
from mhe.precision import at_least_float32
from mhe.types import Tensor

# Class vectors below this length count as zero: the gradient of their inverse length, which goes
# with the third power, would leave float32.
_SHORTEST = 1e-12
# Features below this length have no cosine: their squares leave float32.
_SHORTEST_FEATURE = 1e-18


def class_products(features: Tensor, kernel: Tensor) -> Tensor:
    """Inner products of features with class vectors of unit length, ‖x‖ cos θ_j.

    For unit features these are the cosines. The products, not the class vectors, are divided by the
    lengths, so no second matrix of the kernel's size is made, and each column depends on its own
    class vector alone: the kernel may be split by classes among devices.

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
    kernel = ops.cast(kernel, features.dtype)
    squares = ops.sum(ops.square(kernel), axis=0)
    has_direction = squares > _SHORTEST**2
    inverse = ops.rsqrt(ops.where(has_direction, squares, 1.0))
    return ops.matmul(features, kernel) * inverse[None, :]


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
    classes = int(logits.shape[-1])
    check_readable(labels, classes)
    index, known, _ = read_labels(labels, logits, classes)
    is_true = ops.equal(
        ops.where(known, index, -1)[:, None], ops.arange(classes, dtype="int32")[None, :]
    )
    return index, is_true


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
    index, is_true = true_class(labels, logits)
    return ops.where(is_true, margin(of_class(logits, index))[:, None], logits)


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
    return label_losses(labels, logits, softmax_loss_of)


def softmax_loss_of(index: Tensor, logits: Tensor) -> Tensor:
    """`softmax_losses` for labels known to be classes, int32 `(B,)`."""
    return -of_class(ops.log_softmax(logits, axis=-1), index)
