"""ArcFace: an additive margin on the angle to the true class."""

from typing import Any

import keras
from keras import ops

from mhe.precision import at_least_float32
from mhe.types import Tensor
from sphereface_plus.heads.base import add_angle, turn, with_scaled_margin
from sphereface_plus.heads.cosine import CosineHead
from sphereface_plus.heads.softmax import check_angle


def arcface_logits(
    cosines: Tensor,
    labels: Tensor | None = None,
    scale: float = 64,
    m: float = 0.5,
    easy_margin: bool = False,
    detach: bool = False,
) -> Tensor:
    """s·cos(θ_y + m) for the true class y, s·cos θ_j for the others.

    Beyond θ_y + m = π the cosine would grow with the angle again. There the authors' code replaces
    it with

        easy_margin=False    cos θ_y - m·sin m    for θ_y > π - m
        easy_margin=True     cos θ_y              for θ_y > π/2

    Without the easy margin the logit always falls with the angle, with a step down at π - m; with
    it, there is a step up at π/2.

    InsightFace's code for large data sets does neither: it takes cos(θ_y + m) at every angle, and
    gives it the gradient of cos θ_y. That is `detach=True`.

    Args:
        cosines: Tensor `(B, classes)`.
        labels: Integers `(B,)` or `(B, 1)`, or None for no margin.
        scale: s.
        m: The margin in radians, in [0, π/2].
        easy_margin: Whether only features within a right angle of their class get a margin.
        detach: Whether cos(θ_y + m) - cos θ_y gets no gradient, and is taken beyond π - m, too.

    Returns:
        A tensor `(B, classes)`, float64 for float64 cosines where Keras computes in it, else
        float32. Its gradient is finite at θ = 0 and π, too; see `sine`.

    Raises:
        ValueError: If there is not one label per sample, or a label in an array or list is not a
            class, or if `detach` and `easy_margin` are combined.

    Example:

    >>> import math
    >>> import numpy as np
    >>> cosines = np.array([[0.5, 0.25]], "float32")
    >>> np.asarray(arcface_logits(cosines, [0], scale=4, m=math.pi / 6)).round(6)
    array([[0., 1.]], dtype=float32)

    Reference:
        Deng et al., ArcFace: additive angular margin loss for deep face recognition, CVPR 2019
        ([arXiv:1801.07698](https://arxiv.org/abs/1801.07698)), equation 3.
    """
    _check_combination(easy_margin, detach)
    products = scale * at_least_float32(cosines)
    return _with_margin(products, labels, scale, m, easy_margin, detach)


def _with_margin(
    products: Tensor,
    labels: Tensor | None,
    scale: float,
    m: float,
    easy_margin: bool,
    detach: bool,
) -> Tensor:
    """`arcface_logits` of s·cos θ_j."""

    def with_angle_added(cosine: Tensor) -> Tensor:
        if detach:
            return cosine + ops.stop_gradient(turn(cosine, m) - cosine)
        if easy_margin:
            return ops.where(cosine > 0, turn(cosine, m), cosine)
        return add_angle(cosine, m)

    return with_scaled_margin(products, labels, scale, with_angle_added)


@keras.saving.register_keras_serializable(package="sphereface_plus")
class ArcFace(CosineHead):
    """Logits s·cos θ_j, with s·cos(θ_y + m) for the true class y; see `arcface_logits`.

    Args:
        classes: Number of classes, at least 2.
        scale: s > 0, or `"auto"` for √2·log(classes - 1), which needs at least 3 classes.
        m: The margin in radians, in [0, π/2].
        easy_margin: Whether only features within a right angle of their class get a margin; see
            `arcface_logits` for what happens beyond π.
        detach: Whether the margin gets no gradient and has no end, as in InsightFace's code; see
            `arcface_logits`.
        **kwargs: As in `SoftmaxHead`.

    Raises:
        ValueError: If an argument is out of range, or the labels do not match the features.

    Example:

    >>> import keras, sphereface_plus
    >>> head = sphereface_plus.heads.ArcFace(2, scale=1, kernel_initializer="identity")
    >>> features = keras.ops.convert_to_tensor([[1.0, 0.0]])
    >>> logits = keras.ops.convert_to_numpy(head(features, labels=[0]))
    >>> round(float(logits[0, 0]), 4)  # cos 0.5
    0.8776
    >>> backbone = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    >>> model = sphereface_plus.FaceModel(backbone, head)
    >>> model.compile("sgd")  # its loss is the head's own

    Reference:
        Deng et al., ArcFace: additive angular margin loss for deep face recognition, CVPR 2019
        ([arXiv:1801.07698](https://arxiv.org/abs/1801.07698)).
    """

    def __init__(
        self,
        classes: int,
        scale: float | str = 64,
        m: float = 0.5,
        easy_margin: bool = False,
        detach: bool = False,
        **kwargs: Any,
    ) -> None:
        check_angle(m)
        _check_combination(easy_margin, detach)
        super().__init__(classes, scale, **kwargs)
        self.m = float(m)
        self.easy_margin = bool(easy_margin)
        self.detach = bool(detach)

    def logits(
        self, products: Tensor, features: Tensor, labels: Tensor | None, training: bool | None
    ) -> Tensor:
        """Scaled cosines and labels → `arcface_logits`."""
        return _with_margin(products, labels, self.scale, self.m, self.easy_margin, self.detach)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "m": self.m,
            "easy_margin": self.easy_margin,
            "detach": self.detach,
        }


def _check_combination(easy_margin: bool, detach: bool) -> None:
    if easy_margin and detach:
        raise ValueError(
            "`detach` takes the margin at every angle. Received: easy_margin=True, detach=True"
        )
