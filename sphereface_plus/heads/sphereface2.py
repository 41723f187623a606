"""SphereFace2: one binary classifier per class instead of a softmax."""

import math
from typing import Any

import keras
import numpy as np
from keras import ops

from mhe import checks
from mhe.precision import at_least_float32
from mhe.types import Tensor
from sphereface_plus.heads.base import MarginHead, class_losses, true_class


def adjusted(cosines: Tensor, t: float) -> Tensor:
    """g(z) = 2·((z + 1)/2)^t - 1, which for t > 1 spreads high similarities apart.

    Args:
        cosines: z, a tensor of any shape; may exceed ±1 by a rounding error.
        t: At least 1, which changes nothing.

    Returns:
        A tensor of the same shape, in [-1, 1].

    Example:

    >>> import numpy as np
    >>> np.asarray(adjusted(np.array([-1.0, 0.0, 1.0], "float32"), 3))
    array([-1.  , -0.75,  1.  ], dtype=float32)

    Reference:
        Wen et al., SphereFace2: binary classification is all you need for deep face recognition,
        ICLR 2022 ([arXiv:2108.01513](https://arxiv.org/abs/2108.01513)), section 3.2.
    """
    return 2.0 * ops.power(ops.maximum((cosines + 1.0) / 2.0, 0.0), t) - 1.0


def sphereface2_logits(
    cosines: Tensor,
    bias: Tensor,
    labels: Tensor | None = None,
    scale: float = 40,
    m: float = 0.4,
    t: float = 3,
    detach: bool = False,
) -> Tensor:
    """r·(g(cos θ_y) - m) + b for the true class y, r·(g(cos θ_j) + m) + b for the others.

    Args:
        cosines: Tensor `(B, classes)`.
        bias: b, a scalar.
        labels: Integers `(B,)` or `(B, 1)`, or None for no margin.
        scale: r.
        m: The margin.
        t: Exponent in g; see `adjusted`.
        detach: Whether g(cos θ) gets the gradient of cos θ, as in the authors' code, instead of its
            own.

    Returns:
        A tensor `(B, classes)`, float64 for float64 cosines where Keras computes in it, else
        float32. If a label in a tensor is not a class, every class counts as another.

    Raises:
        ValueError: If there is not one label per sample, or a label in an array or list is not a
            class.

    Example:

    >>> import numpy as np
    >>> cosines = np.array([[1.0, 0.0]], "float32")
    >>> np.asarray(sphereface2_logits(cosines, 2.0, [0], scale=4, m=0.5))
    array([[4., 1.]], dtype=float32)

    Reference:
        Wen et al., SphereFace2: binary classification is all you need for deep face recognition,
        ICLR 2022 ([arXiv:2108.01513](https://arxiv.org/abs/2108.01513)), equation 5.
    """
    cosines = at_least_float32(cosines)
    similarities = adjusted(cosines, t)
    if detach:
        similarities = cosines + ops.stop_gradient(similarities - cosines)
    if labels is not None:
        _, is_true = true_class(labels, cosines)
        margins = ops.full_like(similarities, m)
        similarities = similarities + ops.where(is_true, -margins, margins)
    return scale * similarities + bias


def binary_losses(labels: Tensor, logits: Tensor, scale: float = 40, weight: float = 0.7) -> Tensor:
    """λ/r·log(1 + e^(-z_y)) + (1 - λ)/r·Σ_{j≠y} log(1 + e^(z_j)), of logits z.

    Args:
        labels: Integers `(B,)` or `(B, 1)`, in any dtype.
        logits: z `(B, classes)`.
        scale: r.
        weight: λ, the weight of the true class, in (0, 1).

    Returns:
        A tensor `(B,)` of at least float32; NaN where a label in a tensor is not a class.

    Raises:
        ValueError: If there is not one label per sample, or a label in an array or list is not a
            class.

    Example:

    >>> import numpy as np
    >>> losses = binary_losses([0], np.array([[0.0, -1e4, 1e4]], "float32"), scale=1, weight=0.5)
    >>> np.asarray(losses).round(1)
    array([5000.3], dtype=float32)

    Reference:
        Wen et al., SphereFace2: binary classification is all you need for deep face recognition,
        ICLR 2022 ([arXiv:2108.01513](https://arxiv.org/abs/2108.01513)), equation 5.
    """
    return class_losses(
        labels, logits, lambda index, logits: binary_loss_of(index, logits, scale, weight)
    )


def binary_loss_of(index: Tensor, logits: Tensor, scale: float, weight: float) -> Tensor:
    """`binary_losses` for labels known to be classes, int32 `(B,)`."""
    _, is_true = true_class(index, logits)
    losses = ops.softplus(ops.where(is_true, -logits, logits))
    true, other = (ops.full_like(losses, each / scale) for each in (weight, 1.0 - weight))
    return ops.sum(losses * ops.where(is_true, true, other), axis=-1)


def balanced_bias(classes: int, scale: float, m: float, t: float, weight: float) -> float:
    """The initial bias, at which the true class and all others pull on it equally.

    There the derivative of the loss with respect to b is 0 if all cosines are 0:
    λ·σ(-r(g(0) - m) - b) = (1 - λ)(classes - 1)·σ(r(g(0) + m) + b), a quadratic equation in e^b.

    Args:
        classes: Number of classes, at least 2.
        scale: r.
        m: The margin.
        t: Exponent in g; see `adjusted`.
        weight: λ, in (0, 1).

    Returns:
        b, a finite number.

    Example:

    >>> round(balanced_bias(10_000, scale=40, m=0.4, t=3, weight=0.7), 3)
    5.637

    Reference:
        Wen et al., SphereFace2: binary classification is all you need for deep face recognition,
        ICLR 2022 ([arXiv:2108.01513](https://arxiv.org/abs/2108.01513)), its initialisation of b.
    """
    # Solves A·B·u² + B(1 - z)·u - z = 0 for u = e^b in logarithms, as A and B may be huge.
    true = scale * (2.0 * 0.5**t - 1.0 - m)  # log A
    other = scale * (2.0 * 0.5**t - 1.0 + m)  # log B
    z = weight / ((1.0 - weight) * (classes - 1))
    gap = math.log(abs(1.0 - z)) if z != 1 else -math.inf
    root = 0.5 * np.logaddexp(2.0 * gap, math.log(4.0 * z) + true - other)
    both = float(np.logaddexp(gap, root))
    # The form of the positive root in which nothing cancels.
    return math.log(2.0 * z) - other - both if z <= 1 else both - math.log(2.0) - true


@keras.saving.register_keras_serializable(package="sphereface_plus")
class SphereFace2(MarginHead):
    """One binary classifier per class, with a shared bias; see `sphereface2_logits`.

    The loss is a sum over classes, without a softmax. The bias is trained, starting from
    `balanced_bias`.

    Args:
        classes: Number of classes, at least 2.
        scale: r > 0.
        m: The margin, at least 0.
        t: Exponent that adjusts similarities, at least 1.
        weight: λ, the weight of the true class relative to all others, in (0, 1).
        detach: Whether the adjusted similarities get the gradient of the cosines, as in the
            authors' code, instead of that of the formula.
        **kwargs: As in `MarginHead`.

    Attributes:
        bias: b, a scalar.

    Raises:
        ValueError: If an argument is out of range, or the labels do not match the features.

    Example:

    >>> import keras, sphereface_plus
    >>> head = sphereface_plus.heads.SphereFace2(10_000)
    >>> head.build((None, 16))
    >>> round(float(head.bias.numpy()), 3)
    5.637
    >>> backbone = keras.Sequential([keras.Input((4,)), keras.layers.Dense(16)])
    >>> model = sphereface_plus.FaceModel(backbone, head)
    >>> model.compile("sgd")  # its loss is the head's own

    Reference:
        Wen et al., SphereFace2: binary classification is all you need for deep face recognition,
        ICLR 2022 ([arXiv:2108.01513](https://arxiv.org/abs/2108.01513)).
    """

    def __init__(
        self,
        classes: int,
        scale: float = 40,
        m: float = 0.4,
        t: float = 3,
        weight: float = 0.7,
        detach: bool = False,
        **kwargs: Any,
    ) -> None:
        checks.check_number("scale", scale, above=0)
        checks.check_number("m", m, least=0)
        checks.check_number("t", t, least=1)
        checks.check_number("weight", weight, above=0)
        if weight >= 1:
            raise ValueError(f"`weight` must be less than 1. Received: weight={weight!r}")
        super().__init__(classes, **kwargs)
        self.scale = float(scale)
        self.m = float(m)
        self.t = float(t)
        self.weight = float(weight)
        self.detach = bool(detach)

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        super().build(input_shape)
        bias = balanced_bias(self.classes, self.scale, self.m, self.t, self.weight)
        self.bias = self.add_weight(
            name="bias",
            shape=(),
            dtype=self.output_dtype,
            initializer=keras.initializers.Constant(bias),
            autocast=False,
        )

    def call(
        self, features: Tensor, labels: Tensor | None = None, training: bool | None = None
    ) -> Tensor:
        """Features `(B, dims)`, and labels `(B,)` for the margin → logits `(B, classes)`."""
        return sphereface2_logits(
            self.cosines(features),
            self.bias,
            labels,
            self.scale,
            self.m,
            self.t,
            self.detach,
        )

    def loss_of(self, index: Tensor, logits: Tensor) -> Tensor:
        """`binary_losses` for labels known to be classes, int32 `(B,)`."""
        return binary_loss_of(index, logits, self.scale, self.weight)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "scale": self.scale,
            "m": self.m,
            "t": self.t,
            "weight": self.weight,
            "detach": self.detach,
        }
