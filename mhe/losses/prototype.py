"""The loss of an embedding's cosine with the prototype of its class."""

from typing import Any

import keras
from keras import ops

from mhe.losses.targets import ClassWeight, LabelLoss, label_losses, of_class
from mhe.types import Tensor


def prototype_loss(
    labels: Tensor,
    cosines: Tensor,
    ignore_class: int | None = None,
    class_weight: ClassWeight = None,
) -> Tensor:
    """Squared distance of a cosine from 1, `(1 - cos_y)²`, for the class y of each sample.

    Args:
        labels: Integers `(...)` or `(..., 1)`, in any dtype.
        cosines: Tensor `(..., classes)`, as `mhe.layers.PrototypeHead` returns them.
        ignore_class: A label whose samples have no loss and no gradient, such as 255 or -1.
        class_weight: A factor per class, `(classes,)`, or for some classes: `{class: factor}`.

    Returns:
        A tensor `(...)`: float64 for float64 cosines, else float32. See `mhe.losses` for wrong
        labels.

    Raises:
        ValueError: If an argument is not as described, or the shapes do not fit.

    Example:

    >>> import numpy as np
    >>> cosines = np.array([[0.5, -0.5], [0.0, 1.0], [0.3, 0.1]], "float32")
    >>> np.asarray(prototype_loss([0, 1, -1], cosines, ignore_class=-1))
    array([0.25, 0.  , 0.  ], dtype=float32)

    Reference:
        Mettes et al., Hyperspherical Prototype Networks, NeurIPS 2019
        ([arXiv:1901.10514](https://arxiv.org/abs/1901.10514)), on classification.
    """
    return label_losses(labels, cosines, _squared_distance, ignore_class, class_weight)


def _squared_distance(index: Tensor, cosines: Tensor) -> Tensor:
    return ops.square(1.0 - of_class(cosines, index))


@keras.saving.register_keras_serializable(package="mhe")
class PrototypeLoss(LabelLoss):
    """`(1 - cos_y)²` of the cosines that a `mhe.layers.PrototypeHead` returns.

    Labels are integers `(B,)` or `(B, 1)` for cosines `(B, classes)`, and `(B, H, W)` for dense
    predictions `(B, H, W, classes)`. Sample weights may have fewer axes than the labels: the weight
    of an image applies to all its pixels. For the accuracy, use Keras's own
    `keras.metrics.SparseCategoricalAccuracy`, which picks the largest cosine.

    A label that is not a class raises a `ValueError` if labels are an array or a list. Inside `fit`
    they are tensors, and the loss becomes NaN; `mhe.checks.check_labels` checks them beforehand.

    Args:
        ignore_class: As in `keras.losses.SparseCategoricalCrossentropy`: samples with this label,
            such as 255 or -1, have no loss, and the mean is over the others.
        class_weight: A factor for the loss of each class, `(classes,)`, or of some classes:
            `{class: factor}`. As with `fit(class_weight=...)`, the mean is not divided by them;
            unlike there, it works for dense predictions.
        reduction: As in Keras's losses.
        name: Name of the loss.
        dtype: As in Keras's losses, but at least float32.

    Raises:
        ValueError: If `ignore_class` is not an int, or a class weight is negative or not finite.

    Example:

    >>> import keras, mhe
    >>> loss = mhe.losses.PrototypeLoss()
    >>> round(float(loss([0, 1], [[0.5, -0.5], [0.0, 1.0]])), 6)
    0.125
    >>> head = mhe.layers.PrototypeHead(mhe.prototypes.place(5, 3))
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3), head])
    >>> model.compile("sgd", loss)

    Reference:
        Mettes et al., Hyperspherical Prototype Networks, NeurIPS 2019
        ([arXiv:1901.10514](https://arxiv.org/abs/1901.10514)), on classification.
    """

    def __init__(
        self,
        ignore_class: int | None = None,
        class_weight: ClassWeight = None,
        reduction: str | None = "sum_over_batch_size",
        name: str | None = "prototype_loss",
        dtype: Any = None,
    ) -> None:
        super().__init__(_squared_distance, ignore_class, class_weight, reduction, name, dtype)
