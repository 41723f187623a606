"""SphereFace (A-Softmax): an integer multiplicative margin on the angle to the true class."""

import math
from typing import Any

import keras
from keras import ops

from mhe import checks
from mhe.precision import at_least_float32
from mhe.types import Tensor
from sphereface_plus.heads.base import cosines_of, lengths, with_margin
from sphereface_plus.heads.softmax import SoftmaxHead

MARGINS = (1, 2, 3, 4)


def multiplied_angle(cosines: Tensor, m: int) -> Tensor:
    """ψ(θ) = (-1)^k cos(mθ) - 2k for θ in [kπ/m, (k + 1)π/m], which falls from 1 to 1 - 2m.

    Args:
        cosines: cos θ, a tensor of any shape.
        m: 1, 2, 3 or 4.

    Returns:
        A tensor of the same shape. It is a piecewise polynomial in cos θ, so its gradient is exact
        everywhere: m² at θ = 0 and at π, and 0 where two pieces meet.

    Example:

    >>> import numpy as np
    >>> np.asarray(multiplied_angle(np.array([1.0, 0.0, -1.0], "float32"), 2))
    array([ 1., -1., -3.], dtype=float32)

    Reference:
        Liu et al., SphereFace: deep hypersphere embedding for face recognition, CVPR 2017
        ([arXiv:1704.08063](https://arxiv.org/abs/1704.08063)), equation 7.
    """
    cosines = at_least_float32(cosines)
    # cos(mθ) is the Chebyshev polynomial T_m of cos θ.
    before, chebyshev = 1.0, cosines
    for _ in range(m - 1):
        before, chebyshev = chebyshev, 2.0 * cosines * chebyshev - before
    k = ops.zeros_like(cosines)
    for piece in range(1, m):
        k = k + ops.cast(cosines < math.cos(piece * math.pi / m), cosines.dtype)
    sign = 1.0 - 2.0 * (k - 2.0 * ops.floor(k / 2.0))
    return sign * chebyshev - 2.0 * k


def sphereface_logits(
    products: Tensor,
    norms: Tensor,
    labels: Tensor | None = None,
    m: int = 4,
    annealing: Tensor = 0.0,
) -> Tensor:
    """‖x‖·(λ cos θ_y + ψ(θ_y))/(1 + λ) for the true class y, ‖x‖ cos θ_j for the others.

    Args:
        products: ‖x‖ cos θ_j `(B, classes)`, as returned by `class_products`.
        norms: ‖x‖ `(B,)`.
        labels: Integers `(B,)` or `(B, 1)`, or None for no margin.
        m: 1, 2, 3 or 4; see `multiplied_angle` for ψ.
        annealing: λ ≥ 0, the weight of the plain cosine.

    Returns:
        A tensor `(B, classes)`, float64 for float64 products where Keras computes in it, else
        float32. A zero feature has logits of 0.

    Raises:
        ValueError: If there is not one label per sample, or a label in an array or list is not a
            class.

    Example:

    >>> import numpy as np
    >>> products, norms = np.array([[0.0, 2.0]], "float32"), np.array([2.0], "float32")
    >>> np.asarray(sphereface_logits(products, norms, [0], m=2, annealing=3))
    array([[-0.5,  2. ]], dtype=float32)

    Reference:
        Liu et al., SphereFace: deep hypersphere embedding for face recognition, CVPR 2017
        ([arXiv:1704.08063](https://arxiv.org/abs/1704.08063)), equation 7 and appendix G.
    """
    norms = at_least_float32(norms)

    def margin(product: Tensor) -> Tensor:
        cosine = cosines_of(product, norms)
        return product + norms * (multiplied_angle(cosine, m) - cosine) / (1.0 + annealing)

    return with_margin(at_least_float32(products), labels, margin)


def annealed(step: Tensor, start: float, end: float, gamma: float, power: float) -> Tensor:
    """λ at a training step, max(end, start·(1 + γ·step)^(-power)).

    Args:
        step: Number of training steps so far, including this one.
        start: λ before the first step.
        end: Smallest λ.
        gamma: γ ≥ 0.
        power: Exponent of the decay, at least 0.

    Returns:
        λ, with the type and shape of `step`.

    Example:

    >>> round(float(annealed(100.0, start=1000, end=5, gamma=0.12, power=1)), 3)
    76.923
    """
    return ops.maximum(start * ops.power(1.0 + gamma * step, -power), end)


@keras.saving.register_keras_serializable(package="sphereface_plus")
class SphereFace(SoftmaxHead):
    """A-Softmax: logits ‖x‖ cos θ_j, with ‖x‖ ψ(θ_y) for the true class y, and ψ ≈ cos(mθ).

    Features keep their length. Since ψ alone is hard to train from scratch, the true class gets
    ‖x‖·(λ cos θ_y + ψ(θ_y))/(1 + λ), where λ decreases from step to step:
    λ = max(lambda_end, lambda_start·(1 + gamma·step)^(-power)), with the defaults of the authors'
    code. The step counts calls with labels and `training=True`, and is saved with the weights.
    Evaluation with labels uses the λ that training reached, without counting.

    The gradient is that of the formula; the authors' code deliberately rescales it per sample.

    Args:
        classes: Number of classes, at least 2.
        m: The margin: 1 (none), 2, 3 or 4.
        lambda_start: λ before the first step, at least 0.
        lambda_end: Smallest λ, at least 0.
        gamma: γ, how fast λ decreases, at least 0.
        power: Exponent of the decay of λ, at least 0.
        **kwargs: As in `SoftmaxHead`.

    Attributes:
        step: Number of training steps counted so far.

    Raises:
        ValueError: If an argument is out of range, or the labels do not match the features.

    Example:

    >>> import keras, sphereface_plus
    >>> head = sphereface_plus.heads.SphereFace(10)
    >>> logits = head(keras.ops.ones((2, 16)), labels=[3, 4], training=True)
    >>> int(head.step), round(float(head.annealing()), 2)
    (1, 892.86)
    >>> backbone = keras.Sequential([keras.Input((4,)), keras.layers.Dense(16)])
    >>> model = sphereface_plus.FaceModel(backbone, head)
    >>> model.compile("sgd")  # its loss is the head's own

    Reference:
        Liu et al., SphereFace: deep hypersphere embedding for face recognition, CVPR 2017
        ([arXiv:1704.08063](https://arxiv.org/abs/1704.08063)).
    """

    def __init__(
        self,
        classes: int,
        m: int = 4,
        lambda_start: float = 1000,
        lambda_end: float = 5,
        gamma: float = 0.12,
        power: float = 1,
        **kwargs: Any,
    ) -> None:
        if isinstance(m, bool) or m not in MARGINS:
            raise ValueError(f"`m` must be 1, 2, 3 or 4. Received: m={m!r}")
        for name, value in (
            ("lambda_start", lambda_start),
            ("lambda_end", lambda_end),
            ("gamma", gamma),
            ("power", power),
        ):
            checks.check_number(name, value, least=0)
        super().__init__(classes, **kwargs)
        self.m = int(m)
        self.lambda_start = float(lambda_start)
        self.lambda_end = float(lambda_end)
        self.gamma = float(gamma)
        self.power = float(power)
        self.step = self.add_weight(
            name="step",
            shape=(),
            dtype="int32",
            initializer="zeros",
            trainable=False,
            aggregation="only_first_replica",
        )

    def annealing(self) -> Tensor:
        """λ after the steps counted so far: a float32 scalar, float64 under that policy."""
        step = ops.cast(self.step, self.output_dtype)
        return annealed(step, self.lambda_start, self.lambda_end, self.gamma, self.power)

    def directions(self, features: Tensor) -> Tensor:
        """The features, which keep their length."""
        return features

    def logits(
        self, products: Tensor, features: Tensor, labels: Tensor | None, training: bool | None
    ) -> Tensor:
        """Products, features and labels → `sphereface_logits`; counts steps in training."""
        if labels is None:
            return products
        if training:
            self.step.assign_add(1)
        return sphereface_logits(products, lengths(features), labels, self.m, self.annealing())

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "m": self.m,
            "lambda_start": self.lambda_start,
            "lambda_end": self.lambda_end,
            "gamma": self.gamma,
            "power": self.power,
        }
