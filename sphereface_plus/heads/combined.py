"""Combined margins: multiplied and added to the angle, and subtracted from the cosine."""

from typing import Any

import keras

from mhe import checks
from mhe.precision import at_least_float32
from mhe.types import Tensor
from sphereface_plus.heads.base import add_angle, with_scaled_margin
from sphereface_plus.heads.cosine import CosineHead
from sphereface_plus.heads.softmax import check_angle
from sphereface_plus.heads.sphereface_r import cosine_of_multiple


def combined_logits(
    cosines: Tensor,
    labels: Tensor | None = None,
    scale: float = 64,
    m1: float = 1.0,
    m2: float = 0.3,
    m3: float = 0.2,
) -> Tensor:
    """s·(cos(m1·θ_y + m2) - m3) for the true class y, s·cos θ_j for the others.

    (m1, 0, 0) is the first margin of `sphereface_r_logits`, (1, m2, 0) is `arcface_logits`, and
    (1, 0, m3) is `cosface_logits`. Where the angle leaves [0, π], the parts go on as there: m1·θ_y
    stays at π, and beyond π - m2, cos(φ + m2) is replaced by cos φ - m2·sin m2 for φ = m1·θ_y.

    Args:
        cosines: Tensor `(B, classes)`.
        labels: Integers `(B,)` or `(B, 1)`, or None for no margin.
        scale: s.
        m1: The factor on the angle, above 0.
        m2: The angle added, in radians, in [0, π/2].
        m3: What is subtracted from the cosine.

    Returns:
        A tensor `(B, classes)`, float64 for float64 cosines where Keras computes in it, else
        float32.

    Raises:
        ValueError: If there is not one label per sample, or a label in an array or list is not a
            class.

    Example:

    >>> import math
    >>> import numpy as np
    >>> cosines = np.array([[math.cos(math.pi / 8), 0.25]], "float32")
    >>> np.asarray(combined_logits(cosines, [0], scale=4, m1=2, m2=math.pi / 4, m3=0.5)).round(5)
    array([[-2.,  1.]], dtype=float32)

    Reference:
        Deng et al., ArcFace: additive angular margin loss for deep face recognition, CVPR 2019
        ([arXiv:1801.07698](https://arxiv.org/abs/1801.07698)), its united margins.
    """
    return _with_margin(scale * at_least_float32(cosines), labels, scale, m1, m2, m3)


def _with_margin(
    products: Tensor, labels: Tensor | None, scale: float, m1: float, m2: float, m3: float
) -> Tensor:
    """`combined_logits` of s·cos θ_j."""

    def combined(cosine: Tensor) -> Tensor:
        return add_angle(cosine_of_multiple(cosine, m1), m2) - m3

    return with_scaled_margin(products, labels, scale, combined)


@keras.saving.register_keras_serializable(package="sphereface_plus")
class CombinedMargin(CosineHead):
    """Logits s·cos θ_j, with s·(cos(m1·θ_y + m2) - m3) for the true class; see `combined_logits`.

    The defaults combine two smaller margins, one on the angle and one on the cosine.

    Args:
        classes: Number of classes, at least 2.
        scale: s > 0, or `"auto"` for √2·log(classes - 1), which needs at least 3 classes.
        m1: The factor on the angle, above 0.
        m2: The angle added, in radians, in [0, π/2].
        m3: What is subtracted from the cosine, at least 0.
        **kwargs: As in `SoftmaxHead`.

    Raises:
        ValueError: If an argument is out of range, or the labels do not match the features.

    Example:

    >>> import keras, sphereface_plus
    >>> head = sphereface_plus.heads.CombinedMargin(2, 1, kernel_initializer="identity")
    >>> features = keras.ops.convert_to_tensor([[1.0, 0.0]])
    >>> logits = keras.ops.convert_to_numpy(head(features, labels=[0]))
    >>> round(float(logits[0, 0]), 4)  # cos 0.3 - 0.2
    0.7553
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
        m1: float = 1.0,
        m2: float = 0.3,
        m3: float = 0.2,
        **kwargs: Any,
    ) -> None:
        checks.check_number("m1", m1, above=0)
        check_angle(m2, "m2")
        checks.check_number("m3", m3, least=0)
        super().__init__(classes, scale, **kwargs)
        self.m1, self.m2, self.m3 = float(m1), float(m2), float(m3)

    def logits(
        self, products: Tensor, features: Tensor, labels: Tensor | None, training: bool | None
    ) -> Tensor:
        """Scaled cosines and labels → `combined_logits`."""
        return _with_margin(products, labels, self.scale, self.m1, self.m2, self.m3)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "m1": self.m1,
            "m2": self.m2,
            "m3": self.m3,
        }
