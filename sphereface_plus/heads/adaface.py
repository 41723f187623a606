"""AdaFace: margins by the quality of an image, which is told by the norm of its feature."""

from typing import Any

import keras
from keras import ops

from mhe import checks
from mhe.precision import at_least_float32
from mhe.types import Tensor
from sphereface_plus.heads.base import lengths, turn, with_scaled_margin
from sphereface_plus.heads.cosine import CosineHead
from sphereface_plus.heads.softmax import check_angle

# As in the authors' code: norms are clipped to this range, and their deviation is never 0.
_SHORTEST, _LONGEST, _EPSILON = 1e-3, 100.0, 1e-3


def adaface_logits(
    cosines: Tensor,
    qualities: Tensor,
    labels: Tensor | None = None,
    scale: float = 64,
    m: float = 0.4,
) -> Tensor:
    """s·(cos(θ_y - m·q) - m·q - m) for the true class y, s·cos θ_j for the others.

    For q = -1 this is an added angle, as in ArcFace; for q = 0 an added cosine, as in CosFace; for
    q = 1 the angle is reduced and twice the margin is subtracted from the cosine, which weighs hard
    samples more. The angle is clipped to [0, π].

    Args:
        cosines: Tensor `(B, classes)`.
        qualities: q in [-1, 1], `(B,)`. They get no gradient.
        labels: Integers `(B,)` or `(B, 1)`, or None for no margin.
        scale: s.
        m: The margin.

    Returns:
        A tensor `(B, classes)`, float64 for float64 cosines where Keras computes in it, else
        float32.

    Raises:
        ValueError: If there is not one label per sample, or a label in an array or list is not a
            class.

    Example:

    >>> import numpy as np
    >>> cosines, qualities = np.array([[0.5, 0.25]], "float32"), np.array([0.0], "float32")
    >>> np.asarray(adaface_logits(cosines, qualities, [0], scale=4, m=0.5))
    array([[0., 1.]], dtype=float32)

    Reference:
        Kim et al., AdaFace: quality adaptive margin for face recognition, CVPR 2022
        ([arXiv:2204.00964](https://arxiv.org/abs/2204.00964)), its adaptive margin function.
    """
    return _with_margin(scale * at_least_float32(cosines), qualities, labels, scale, m)


def _with_margin(
    products: Tensor, qualities: Tensor, labels: Tensor | None, scale: float, m: float
) -> Tensor:
    """`adaface_logits` of s·cos θ_j."""
    qualities = ops.stop_gradient(at_least_float32(qualities))

    def adapted(cosine: Tensor) -> Tensor:
        q = ops.cast(qualities, cosine.dtype)
        angle = -m * q
        turned = turn(cosine, angle)
        # cos of the angle at which θ + angle leaves [0, π] on one side or the other.
        end = ops.cos(angle)
        turned = ops.where(ops.logical_and(angle > 0, cosine < -end), -1.0, turned)
        turned = ops.where(ops.logical_and(angle < 0, cosine > end), 1.0, turned)
        return turned - m * q - m

    return with_scaled_margin(products, labels, scale, adapted)


def norm_qualities(norms: Tensor, mean: Tensor, deviation: Tensor, h: float = 0.333) -> Tensor:
    """h·(‖x‖ - mean)/deviation clipped to [-1, 1]: the standardised norms of features.

    Args:
        norms: ‖x‖ `(B,)`.
        mean: Their mean, a scalar.
        deviation: Their standard deviation, a scalar.
        h: The slope: with 0.333, q is clipped beyond 3 deviations from the mean.

    Returns:
        A tensor `(B,)` of at least float32.

    Example:

    >>> import numpy as np
    >>> norms = np.array([10.0, 20.0, 90.0], "float32")
    >>> np.asarray(norm_qualities(norms, 20.0, 5.0, h=0.25)).round(3)
    array([-0.5,  0. ,  1. ], dtype=float32)

    Reference:
        Kim et al., AdaFace, CVPR 2022 ([arXiv:2204.00964](https://arxiv.org/abs/2204.00964)), its
        image quality indicator; the 1e-3 added to the deviation is the authors' code's.
    """
    norms = at_least_float32(norms)
    return ops.clip((norms - mean) / (deviation + _EPSILON) * h, -1.0, 1.0)


@keras.saving.register_keras_serializable(package="sphereface_plus")
class AdaFace(CosineHead):
    """Logits s·cos θ_j, with a margin by image quality on the true class; see `adaface_logits`.

    The quality of a sample is the norm of its feature, standardised by moving averages of the mean
    and standard deviation of norms over batches; see `norm_qualities`. Hard samples of high
    quality count more; those of low quality, which may not be recognizable, count less. As in the
    authors' code norms are clipped to [0.001, 100], the averages start from 20 and 100, the batch
    at hand moves them before they are used, and a batch's deviation is that of a sample. They move
    in calls with labels and `training=True`, and are saved with the weights.

    Args:
        classes: Number of classes, at least 2.
        scale: s > 0, or `"auto"` for √2·log(classes - 1), which needs at least 3 classes.
        m: The margin, at least 0 and at most π/2.
        h: How strongly quality acts, above 0.
        momentum: What the averages keep in a step, in [0, 1).
        **kwargs: As in `SoftmaxHead`.

    Attributes:
        norm_mean: The moving mean of the norms, a scalar.
        norm_deviation: Their moving standard deviation, a scalar.

    Raises:
        ValueError: If an argument is out of range, or the labels do not match the features.

    Example:

    >>> import keras, sphereface_plus
    >>> head = sphereface_plus.heads.AdaFace(10)
    >>> logits = head(keras.ops.ones((4, 16)), labels=[0, 1, 2, 3], training=True)  # of length 4
    >>> round(float(head.norm_mean), 2), round(float(head.norm_deviation), 2)
    (19.84, 99.0)
    >>> backbone = keras.Sequential([keras.Input((4,)), keras.layers.Dense(16)])
    >>> model = sphereface_plus.FaceModel(backbone, head)
    >>> model.compile("sgd")  # its loss is the head's own

    Reference:
        Kim et al., AdaFace: quality adaptive margin for face recognition, CVPR 2022
        ([arXiv:2204.00964](https://arxiv.org/abs/2204.00964)).
    """

    def __init__(
        self,
        classes: int,
        scale: float | str = 64,
        m: float = 0.4,
        h: float = 0.333,
        momentum: float = 0.99,
        **kwargs: Any,
    ) -> None:
        check_angle(m)
        checks.check_number("h", h, above=0)
        checks.check_number("momentum", momentum, least=0, below=1)
        super().__init__(classes, scale, **kwargs)
        self.m = float(m)
        self.h = float(h)
        self.momentum = float(momentum)
        self.norm_mean = self.moving_average("norm_mean", 20.0)
        self.norm_deviation = self.moving_average("norm_deviation", 100.0)

    def logits(
        self, products: Tensor, features: Tensor, labels: Tensor | None, training: bool | None
    ) -> Tensor:
        """Scaled cosines and features → `adaface_logits`; moves the averages in training."""
        if labels is None:
            return products
        norms = ops.stop_gradient(ops.clip(lengths(features), _SHORTEST, _LONGEST))
        if training:
            mean = ops.mean(norms)
            others = ops.maximum(ops.cast(ops.shape(norms)[0], norms.dtype) - 1.0, 1.0)
            deviation = ops.sqrt(ops.sum(ops.square(norms - mean)) / others)
            self.move(self.norm_mean, mean, self.momentum)
            self.move(self.norm_deviation, deviation, self.momentum)
        mean = ops.convert_to_tensor(self.norm_mean)
        deviation = ops.convert_to_tensor(self.norm_deviation)
        qualities = norm_qualities(norms, mean, deviation, self.h)
        return _with_margin(products, qualities, labels, self.scale, self.m)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "m": self.m,
            "h": self.h,
            "momentum": self.momentum,
        }
