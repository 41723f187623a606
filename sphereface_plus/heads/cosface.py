"""CosFace: an additive margin on the cosine of the true class."""

from typing import Any

import keras

from mhe import checks
from mhe.precision import at_least_float32
from mhe.types import Tensor
from sphereface_plus.heads.base import with_margin
from sphereface_plus.heads.cosine import CosineHead


def cosface_logits(
    cosines: Tensor, labels: Tensor | None = None, scale: float = 64, m: float = 0.35
) -> Tensor:
    """s·(cos θ_y - m) for the true class y, s·cos θ_j for the others.

    Args:
        cosines: Tensor `(B, classes)`.
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
    >>> np.asarray(cosface_logits(np.array([[0.5, 0.25]], "float32"), [0], scale=4, m=0.5))
    array([[0., 1.]], dtype=float32)

    Reference:
        Wang et al., CosFace: large margin cosine loss for deep face recognition, CVPR 2018
        ([arXiv:1801.09414](https://arxiv.org/abs/1801.09414)), equation 4.
    """
    return _with_margin(scale * at_least_float32(cosines), labels, scale, m)


def _with_margin(products: Tensor, labels: Tensor | None, scale: float, m: float) -> Tensor:
    """`cosface_logits` of s·cos θ_j."""
    return with_margin(products, labels, lambda product: product - scale * m)


@keras.saving.register_keras_serializable(package="sphereface_plus")
class CosFace(CosineHead):
    """Logits s·cos θ_j, with s·(cos θ_y - m) for the true class y; see `cosface_logits`.

    Args:
        classes: Number of classes, at least 2.
        scale: s > 0, or `"auto"` for √2·log(classes - 1), which needs at least 3 classes.
        m: The margin, at least 0.
        **kwargs: As in `SoftmaxHead`.

    Raises:
        ValueError: If an argument is out of range, or the labels do not match the features.

    Example:

    >>> import keras, sphereface_plus
    >>> head = sphereface_plus.heads.CosFace(10)
    >>> features = keras.ops.ones((1, 16))
    >>> margin = head(features) - head(features, labels=[3])
    >>> round(float(keras.ops.convert_to_numpy(margin)[0, 3]), 3)
    22.4
    >>> backbone = keras.Sequential([keras.Input((4,)), keras.layers.Dense(16)])
    >>> model = sphereface_plus.FaceModel(backbone, head)
    >>> model.compile("sgd")  # its loss is the head's own

    Reference:
        Wang et al., CosFace: large margin cosine loss for deep face recognition, CVPR 2018
        ([arXiv:1801.09414](https://arxiv.org/abs/1801.09414)).
    """

    def __init__(
        self, classes: int, scale: float | str = 64, m: float = 0.35, **kwargs: Any
    ) -> None:
        checks.check_number("m", m, least=0)
        super().__init__(classes, scale, **kwargs)
        self.m = float(m)

    def logits(
        self, products: Tensor, features: Tensor, labels: Tensor | None, training: bool | None
    ) -> Tensor:
        """Scaled cosines and labels → `cosface_logits`."""
        return _with_margin(products, labels, self.scale, self.m)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "m": self.m}
