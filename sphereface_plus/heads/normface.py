"""NormFace: a softmax over scaled cosines."""

from typing import Any

import keras

from mhe.types import Tensor
from sphereface_plus.heads.cosine import CosineHead


@keras.saving.register_keras_serializable(package="sphereface_plus")
class NormFace(CosineHead):
    """Logits s·cos θ_j of unit features and unit class vectors, without a margin.

    The scale s is what lets the softmax become confident: even if the n class vectors are as far
    apart as possible and every feature equals its own, the loss is
    log(1 + (n - 1)·e^(-s·n/(n - 1))).

    Args:
        classes: Number of classes, at least 2.
        scale: s > 0, or `"auto"` for √2·log(classes - 1), which needs at least 3 classes.
        **kwargs: As in `SoftmaxHead`.

    Raises:
        ValueError: If an argument is out of range, or the labels do not match the features.

    Example:

    >>> import keras, sphereface_plus
    >>> head = sphereface_plus.heads.NormFace(10)
    >>> tuple(head(keras.ops.ones((4, 16))).shape), tuple(head.kernel.shape)
    ((4, 10), (16, 10))
    >>> backbone = keras.Sequential([keras.Input((4,)), keras.layers.Dense(16)])
    >>> model = sphereface_plus.FaceModel(backbone, head)
    >>> model.compile("sgd")  # its loss is the head's own

    Reference:
        Wang et al., NormFace: L2 hypersphere embedding for face verification, ACM MM 2017
        ([arXiv:1704.06369](https://arxiv.org/abs/1704.06369)), equation 4 and proposition 2.
    """

    def __init__(self, classes: int, scale: float | str = 30, **kwargs: Any) -> None:
        super().__init__(classes, scale, **kwargs)

    def logits(
        self, products: Tensor, features: Tensor, labels: Tensor | None, training: bool | None
    ) -> Tensor:
        """The products; labels are ignored."""
        return products
