"""SphereFace2: one binary classifier a class instead of a softmax."""

import math
from typing import Any

import keras
import numpy as np
from keras import ops

from mhe import checks
from mhe.losses.targets import label_losses
from mhe.precision import at_least_float32
from sphereface_plus.heads.base import MarginHead, true_class


def adjusted(cosines: Any, t: float) -> Any:
    """g(z) = 2·((z + 1)/2)^t - 1: spreads the similarities that are high, for t > 1.

    Args:
        cosines: z, a tensor of any shape, also a rounding error beyond ±1.
        t: At least 1; with 1 nothing changes.

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
    cosines: Any,
    bias: Any,
    labels: Any = None,
    scale: float = 40,
    m: float = 0.4,
    t: float = 3,
    detach: bool = False,
) -> Any:
    """r·(g(cos θ_y) - m) + b for the true class y, r·(g(cos θ_j) + m) + b for the others.

    Args:
        cosines: Tensor `(B, classes)`.
        bias: b, a scalar.
        labels: Integers `(B,)` or `(B, 1)`; None for no margin.
        scale: r.
        m: The margin.
        t: The power in g; see `adjusted`.
        detach: Whether g(cos θ) has the gradient of cos θ, as in the authors' code, instead of its
            own.

    Returns:
        A tensor `(B, classes)`: float64 for float64 cosines, else float32. A label in a tensor that
        is no class counts as another class than any.

    Raises:
        ValueError: If there is not one label a sample, or one in an array or a list is no class.

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
        similarities = similarities + ops.where(is_true, -m, m)
    return scale * similarities + bias


def binary_losses(labels: Any, logits: Any, scale: float = 40, weight: float = 0.7) -> Any:
    """λ/r·log(1 + e^(-z_y)) + (1 - λ)/r·Σ_{j≠y} log(1 + e^(z_j)), of logits z.

    Args:
        labels: Integers `(B,)` or `(B, 1)`, in any dtype.
        logits: z `(B, classes)`.
        scale: r.
        weight: λ, the weight of the true class, in (0, 1).

    Returns:
        A tensor `(B,)` of at least float32; NaN for a label in a tensor that is no class.

    Raises:
        ValueError: If there is not one label a sample, or one in an array or a list is no class.

    Example:

    >>> import numpy as np
    >>> losses = binary_losses([0], np.array([[0.0, -1e4, 1e4]], "float32"), scale=1, weight=0.5)
    >>> np.asarray(losses).round(1)
    array([5000.3], dtype=float32)

    Reference:
        Wen et al., SphereFace2: binary classification is all you need for deep face recognition,
        ICLR 2022 ([arXiv:2108.01513](https://arxiv.org/abs/2108.01513)), equation 5.
    """

    def binary(index: Any, logits: Any) -> Any:
        _, is_true = true_class(index, logits)
        losses = ops.softplus(ops.where(is_true, -logits, logits))
        return ops.sum(losses * ops.where(is_true, weight / scale, (1.0 - weight) / scale), axis=-1)

    return label_losses(labels, at_least_float32(logits), binary)


def balanced_bias(classes: int, scale: float, m: float, t: float, weight: float) -> float:
    """The bias with which a training begins: the one true class and all others pull at it alike.

    That is where the derivative of the loss along b is 0 if all cosines are 0:
    λ·σ(-r(g(0) - m) - b) = (1 - λ)(classes - 1)·σ(r(g(0) + m) + b), a quadratic equation in e^b.

    Args:
        classes: How many, at least 2.
        scale: r.
        m: The margin.
        t: The power in g; see `adjusted`.
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
    # Of the equation A·B·u² + B(1 - z)·u - z = 0, u = e^b, in logarithms: A and B may be huge.
    true = scale * (2.0 * 0.5**t - 1.0 - m)  # log A
    other = scale * (2.0 * 0.5**t - 1.0 + m)  # log B
    z = weight / ((1.0 - weight) * (classes - 1))
    gap = math.log(abs(1.0 - z)) if z != 1 else -math.inf
    root = 0.5 * np.logaddexp(2.0 * gap, math.log(4.0 * z) + true - other)
    both = float(np.logaddexp(gap, root))
    # Either form of the positive root, so that nothing cancels.
    return math.log(2.0 * z) - other - both if z <= 1 else both - math.log(2.0) - true


@keras.saving.register_keras_serializable(package="sphereface_plus")
class SphereFace2(MarginHead):
    """A binary classifier for each class, with a bias that all share; see `sphereface2_logits`.

    Its loss is a sum over all classes, each on its own: no softmax. The bias is trained, and begins
    at `balanced_bias`.

    Args:
        classes: How many, at least 2.
        scale: r > 0.
        m: The margin, at least 0.
        t: The power that adjusts similarities, at least 1.
        weight: λ, the weight of the true class against all others, in (0, 1).
        detach: Whether the adjusted similarities have the gradient of cosines, as in the authors'
            code; by default the gradient is that of the formula.
        **kwargs: `kernel_initializer` and `kernel_regularizer`, see `MarginHead`; Keras's own.

    Attributes:
        bias: b, a scalar.

    Raises:
        ValueError: If an argument is not one of the above, or the labels do not fit.

    Example:

    >>> import keras, sphereface_plus
    >>> head = sphereface_plus.heads.SphereFace2(10_000)
    >>> head.build((None, 16))
    >>> round(float(head.bias.numpy()), 3)
    5.637

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

    def call(self, features: Any, labels: Any = None, training: bool | None = None) -> Any:
        """Features `(B, dims)`, with labels `(B,)` for the margin → logits `(B, classes)`."""
        return sphereface2_logits(
            self.cosines(features),
            self.bias,
            labels,
            self.scale,
            self.m,
            self.t,
            self.detach,
        )

    def loss(self, labels: Any, logits: Any) -> Any:
        """Labels `(B,)` and logits `(B, classes)` → the losses of the samples `(B,)`."""
        return binary_losses(labels, logits, self.scale, self.weight)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "scale": self.scale,
            "m": self.m,
            "t": self.t,
            "weight": self.weight,
            "detach": self.detach,
        }
