"""CurricularFace: ArcFace's margin, and hard classes that count the more the longer one trains."""

import math
from typing import Any

import keras
from keras import ops

from mhe import checks
from mhe.precision import at_least_float32
from mhe.types import Tensor
from sphereface_plus.heads.base import add_angle
from sphereface_plus.heads.cosine import CosineHead
from sphereface_plus.heads.logits import apart, known_classes, together
from sphereface_plus.heads.softmax import check_angle


def curricularface_logits(
    cosines: Tensor,
    labels: Tensor | None = None,
    t: Tensor = 0.0,
    scale: float = 64,
    m: float = 0.5,
) -> Tensor:
    """s·cos(θ_y + m) for the true class y, s·N(cos θ_j) for the others.

        N(c) = c              if c is at most cos(θ_y + m): an easy class for this sample
        N(c) = c·(t + c)      else: a hard one

    Beyond θ_y = π - m, cos(θ_y + m) is replaced by cos θ_y - m·sin m, as in `arcface_logits`.

    Args:
        cosines: Tensor `(B, classes)`.
        labels: Integers `(B,)` or `(B, 1)`, or None for no margin and no hard class. If a label in
            a tensor is not a class, the sample has neither.
        t: How much hard classes count, a scalar.
        scale: s.
        m: The margin in radians, in [0, π/2].

    Returns:
        A tensor `(B, classes)`, float64 for float64 cosines where Keras computes in it, else
        float32.

    Raises:
        ValueError: If there is not one label per sample, or a label in an array or list is not a
            class.

    Example:

    >>> import math
    >>> import numpy as np
    >>> cosines = np.array([[0.5, 0.25, -0.25]], "float32")  # cos(θ + m) = 0
    >>> np.asarray(curricularface_logits(cosines, [0], t=0.25, scale=8, m=math.pi / 6)).round(5) + 0
    array([[ 0.,  1., -2.]], dtype=float32)

    Reference:
        Huang et al., CurricularFace: adaptive curriculum learning loss for deep face recognition,
        CVPR 2020 ([arXiv:2004.00288](https://arxiv.org/abs/2004.00288)), its modulated negative
        cosines.
    """
    return _modulated(scale * at_least_float32(cosines), labels, t, scale, m)


def _modulated(
    products: Tensor, labels: Tensor | None, t: Tensor, scale: float, m: float
) -> Tensor:
    """`curricularface_logits` of s·cos θ_j."""
    if labels is None:
        return products
    index, known = known_classes(labels, products)
    own, others = apart(products, index)
    target = scale * add_angle(own / scale, m)
    easiest = ops.where(known, target, math.inf)[:, None]
    others = ops.where(others > easiest, others * (t + others / scale), others)
    return together(others, ops.where(known, target, own), index)


@keras.saving.register_keras_serializable(package="sphereface_plus")
class CurricularFace(CosineHead):
    """ArcFace with hard classes that count by a moving t; see `curricularface_logits`.

    t is the moving average of the mean cosine of a batch with its true classes, starting from 0:
    hard classes count less at first, and more as training goes on. The batch at hand moves it
    before it is used, as in the authors' code. It moves in calls with labels and `training=True`,
    and is saved with the weights.

    Args:
        classes: Number of classes, at least 2.
        scale: s > 0, or `"auto"` for √2·log(classes - 1), which needs at least 3 classes.
        m: The margin in radians, in [0, π/2].
        momentum: What the average keeps in a step, in [0, 1).
        **kwargs: As in `SoftmaxHead`.

    Attributes:
        t: The moving mean of the cosines, a scalar.

    Raises:
        ValueError: If an argument is out of range, or the labels do not match the features.

    Example:

    >>> import keras, sphereface_plus
    >>> head = sphereface_plus.heads.CurricularFace(2, kernel_initializer="identity")
    >>> features = keras.ops.convert_to_tensor([[1.0, 0.0]])
    >>> logits = head(features, labels=[0], training=True)
    >>> round(float(head.t), 4)
    0.01
    >>> backbone = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    >>> model = sphereface_plus.FaceModel(backbone, head)
    >>> model.compile("sgd")  # its loss is the head's own

    Reference:
        Huang et al., CurricularFace: adaptive curriculum learning loss for deep face recognition,
        CVPR 2020 ([arXiv:2004.00288](https://arxiv.org/abs/2004.00288)).
    """

    def __init__(
        self,
        classes: int,
        scale: float | str = 64,
        m: float = 0.5,
        momentum: float = 0.99,
        **kwargs: Any,
    ) -> None:
        check_angle(m)
        checks.check_number("momentum", momentum, least=0, below=1)
        super().__init__(classes, scale, **kwargs)
        self.m = float(m)
        self.momentum = float(momentum)
        self.t = self.moving_average("t", 0.0)

    def logits(
        self, products: Tensor, features: Tensor, labels: Tensor | None, training: bool | None
    ) -> Tensor:
        """Scaled cosines and labels → `curricularface_logits`; moves t in training."""
        if labels is not None and training:
            index, known = known_classes(labels, products)
            own, _ = apart(ops.stop_gradient(products), index)
            count = ops.sum(ops.cast(known, products.dtype))
            mean = ops.sum(ops.where(known, own, 0.0)) / (self.scale * ops.maximum(count, 1.0))
            t = ops.where(count > 0, mean, ops.convert_to_tensor(self.t))
            self.move(self.t, t, self.momentum)
        return _modulated(products, labels, ops.convert_to_tensor(self.t), self.scale, self.m)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "m": self.m,
            "momentum": self.momentum,
        }
