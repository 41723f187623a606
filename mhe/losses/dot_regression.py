"""The dot-regression loss: pulls features to fixed class vectors, and pushes them from none."""

from dataclasses import dataclass
from typing import Any

import keras
from keras import ops

from mhe import checks
from mhe.losses.targets import ClassWeight, LabelLoss, label_losses, of_class
from mhe.types import Tensor


@dataclass(frozen=True)
class DotRegressionTerm:
    """The loss of samples whose class is known, see `dot_regression_loss`."""

    length: float

    def __post_init__(self) -> None:
        checks.check_number("length", self.length, above=0)

    def __call__(self, index: Tensor, products: Tensor) -> Tensor:
        """Classes `(...)` and dot products `(..., classes)` → losses `(...)`."""
        return ops.square(of_class(products, index) - self.length) / (2 * self.length)


def dot_regression_loss(
    labels: Tensor,
    products: Tensor,
    length: float = 1.0,
    ignore_class: int | None = None,
    class_weight: ClassWeight = None,
) -> Tensor:
    """Half the squared distance of a dot product from the largest it can be.

    With w_y the fixed vector of the class y, h the feature of a sample, and ℓ = ‖w_y‖·‖h‖ the
    product of their lengths, the same for all classes and samples, the loss is

        (w_y·h - ℓ)² / (2ℓ)

    which for unit vectors is (1 - cos_y)² / 2. Its gradient with respect to h, -(1 - cos_y)·w_y,
    pulls the feature to its class. Unlike that of cross-entropy, it has no part that pushes the
    feature from the vectors of other classes, which in imbalanced training is how the many samples
    of large classes squeeze small ones. Nothing but the fixed vectors keeps classes apart: take
    those of a simplex, `mhe.prototypes.place(classes, dims)` with dims ≥ classes - 1.

    Args:
        labels: Integers `(...)` or `(..., 1)`, in any dtype.
        products: Dot products `(..., classes)`, such as the cosines of a
            `mhe.layers.PrototypeHead`.
        length: ℓ > 0, what the product of a feature with its class is at most; 1 for cosines.
        ignore_class: A label whose samples have no loss and no gradient, such as 255 or -1.
        class_weight: A factor per class, `(classes,)`, or for some classes: `{class: factor}`.

    Returns:
        A tensor `(...)`: float64 for float64 products, else float32. See `mhe.losses` for wrong
        labels.

    Raises:
        ValueError: If an argument is not as described, or the shapes do not fit.

    Example:

    >>> import numpy as np
    >>> cosines = np.array([[0.5, -0.5], [0.0, 1.0]], "float32")
    >>> np.asarray(dot_regression_loss([0, 1], cosines))
    array([0.125, 0.   ], dtype=float32)
    >>> np.asarray(dot_regression_loss([0, 1], 16 * cosines, length=16))
    array([2., 0.], dtype=float32)

    Reference:
        Yang et al., Inducing neural collapse in imbalanced learning: do we really need a learnable
        classifier at the end of deep neural network?, NeurIPS 2022
        ([arXiv:2203.09081](https://arxiv.org/abs/2203.09081)), on the dot-regression loss. There
        ℓ is √(E_W·E_H), and 1 in the experiments.
    """
    return label_losses(labels, products, DotRegressionTerm(length), ignore_class, class_weight)


@keras.saving.register_keras_serializable(package="mhe")
class DotRegressionLoss(LabelLoss):
    """`(1 - cos_y)² / 2` of the cosines that a `mhe.layers.PrototypeHead` returns.

    See `dot_regression_loss` for the formula, and `mhe.losses.PrototypeLoss` for labels and sample
    weights. Of cosines it is half of `PrototypeLoss`, which Mettes et al. sum over the batch: the
    two differ by what suits their learning rates, and in the prototypes and the normalization of
    features that they were published with.

    Args:
        length: ℓ > 0, what the product of a feature with its class is at most; 1 for cosines.
        ignore_class, class_weight, reduction, name, dtype: As in `mhe.losses.PrototypeLoss`.

    Raises:
        ValueError: If an argument is not as described.

    Example:

    >>> import keras, mhe
    >>> loss = mhe.losses.DotRegressionLoss()
    >>> float(loss([0, 1], [[0.5, -0.5], [0.0, 1.0]]))
    0.0625
    >>> simplex = mhe.layers.PrototypeHead(mhe.prototypes.place(10, 16))
    >>> features = [keras.layers.Dense(16), keras.layers.BatchNormalization()]
    >>> model = keras.Sequential([keras.Input((4,)), *features, simplex])
    >>> model.compile("sgd", loss)

    Reference:
        Yang et al., Inducing neural collapse in imbalanced learning: do we really need a learnable
        classifier at the end of deep neural network?, NeurIPS 2022
        ([arXiv:2203.09081](https://arxiv.org/abs/2203.09081)), on the dot-regression loss.
    """

    def __init__(
        self,
        length: float = 1.0,
        ignore_class: int | None = None,
        class_weight: ClassWeight = None,
        reduction: str | None = "sum_over_batch_size",
        name: str | None = "dot_regression_loss",
        dtype: Any = None,
    ) -> None:
        term = DotRegressionTerm(length)
        super().__init__(term, ignore_class, class_weight, reduction, name, dtype)
        self.length = float(length)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "length": self.length}
