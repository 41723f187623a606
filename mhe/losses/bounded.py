"""Cross-entropy with smoothed labels and a bound, with which the MHE results were published."""

from typing import Any

import keras
from keras import ops

from mhe import checks
from mhe.losses.targets import ClassWeight, LabelLoss, label_losses, of_class
from mhe.precision import at_least_float32
from mhe.types import Tensor


def bounded_cross_entropy(
    labels: Tensor,
    predictions: Tensor,
    smoothing: float = 0.01,
    floor: float = 1e-4,
    from_logits: bool = False,
    ignore_class: int | None = None,
    class_weight: ClassWeight = None,
) -> Tensor:
    """Cross-entropy whose logarithm has a floor, so that no sample loses more than -log(floor).

    With p the probabilities, y the label and C classes the loss is

        -Σ_k t_k · log(p_k + floor),    t_k = (1 - smoothing)·[k = y] + smoothing / C

    Plain cross-entropy draws a sample that is confidently wrong with full force: its gradient with
    respect to the logit of the true class tends to -1 as p_y → 0. Here that part of the gradient is
    multiplied by p_y / (p_y + floor), so it *vanishes* where the softmax saturates on a wrong
    class. A network whose logits have exploded therefore gets no signal at all: see `saturation`.

    Args:
        labels: Integers `(...)` or `(..., 1)`, of any dtype.
        predictions: Tensor `(..., classes)`: probabilities, or logits with `from_logits`.
        smoothing: Share of each target that is spread over all classes, in [0, 1].
        floor: What is added to each probability inside the logarithm, positive.
        from_logits: Whether the predictions are logits.
        ignore_class: A label whose samples have no loss and no gradient, such as 255 or -1.
        class_weight: A factor per class, `(classes,)`, or for some classes: `{class: factor}`.

    Returns:
        A tensor `(...)`, float64 for float64 predictions, else float32. It is NaN for a label
        outside [0, classes) in a tensor, and the gradient there is zero.

    Raises:
        ValueError: If a number is out of range, the shapes do not match, a label in an array or a
            list is no class, or a class weight is negative or not finite.

    Example:

    >>> import numpy as np
    >>> logits = np.array([[0.0, 0.0], [-1000.0, 1000.0]], "float32")
    >>> np.asarray(bounded_cross_entropy([0, 0], logits, from_logits=True)).round(3)
    array([0.693, 9.164], dtype=float32)

    Reference:
        The code published with Liu et al., Learning towards Minimum Hyperspherical Energy,
        NeurIPS 2018 ([arXiv:1805.09298](https://arxiv.org/abs/1805.09298)). The paper does not
        mention the smoothing or the floor.
    """
    checks.check_number("smoothing", smoothing, least=0)
    if smoothing > 1:
        raise ValueError(f"`smoothing` must be at most 1. Received: smoothing={smoothing!r}")
    checks.check_number("floor", floor, above=0)

    def losses_of(index: Tensor, predictions: Tensor) -> Tensor:
        probabilities = ops.softmax(predictions, axis=-1) if from_logits else predictions
        logarithms = ops.log(probabilities + floor)
        own = (1 - smoothing) * of_class(logarithms, index)
        return -(own + smoothing * ops.mean(logarithms, axis=-1))

    predictions = at_least_float32(predictions)
    return label_losses(labels, predictions, losses_of, ignore_class, class_weight)


def saturation(
    labels: Tensor, predictions: Tensor, floor: float = 1e-4, from_logits: bool = False
) -> Tensor:
    """Tells for each sample whether the gradient of `bounded_cross_entropy` has vanished.

    It has where the probability of the true class is below the floor: the gradient is then less
    than half of that of plain cross-entropy, and tends to zero. The mean over samples, as a metric,
    tells a network that is dead (near 1, a loss at its ceiling) from one that learns.

    Args:
        labels: Integers `(...)` or `(..., 1)`, of any dtype.
        predictions: Tensor `(..., classes)`: probabilities, or logits with `from_logits`.
        floor: See `bounded_cross_entropy`.
        from_logits: Whether the predictions are logits.

    Returns:
        A tensor `(...)` of zeros and ones.

    Example:

    >>> import numpy as np
    >>> logits = np.array([[0.0, 0.0], [-1000.0, 1000.0]], "float32")
    >>> np.asarray(saturation([0, 0], logits, from_logits=True))
    array([0., 1.], dtype=float32)
    """

    def below(index: Tensor, predictions: Tensor) -> Tensor:
        probabilities = ops.softmax(predictions, axis=-1) if from_logits else predictions
        return ops.cast(of_class(probabilities, index) < floor, predictions.dtype)

    return label_losses(labels, at_least_float32(predictions), below)


@keras.saving.register_keras_serializable(package="mhe")
class BoundedCrossEntropy(LabelLoss):
    """Cross-entropy with smoothed labels and a floor inside the logarithm.

    See `bounded_cross_entropy` for the formula and for what its vanishing gradient means. Labels
    are integers `(B,)` or `(B, 1)` for predictions `(B, classes)`, and `(B, H, W)` for dense
    predictions `(B, H, W, classes)`.

    Args:
        smoothing: Share of each target that is spread over all classes, in [0, 1].
        floor: What is added to each probability inside the logarithm, positive.
        from_logits: Whether the predictions are logits.
        ignore_class: As in `keras.losses.SparseCategoricalCrossentropy`.
        class_weight: A factor per class, `(classes,)`, or for some classes: `{class: factor}`.
        reduction: As in Keras's losses.
        name: Name of the loss.
        dtype: As in Keras's losses, but at least float32.

    Raises:
        ValueError: If a number is out of range, `ignore_class` is not an int, or a class weight is
            negative or not finite.

    Example:

    >>> import keras, mhe
    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(3)])
    >>> loss = mhe.losses.BoundedCrossEntropy(smoothing=0.01, floor=1e-4, from_logits=True)
    >>> model.compile("sgd", loss)
    >>> round(float(loss([0], [[-99.0, 99.0, 99.0]])), 3)
    9.154

    Reference:
        The code published with Liu et al., Learning towards Minimum Hyperspherical Energy,
        NeurIPS 2018 ([arXiv:1805.09298](https://arxiv.org/abs/1805.09298)).
    """

    def __init__(
        self,
        smoothing: float = 0.01,
        floor: float = 1e-4,
        from_logits: bool = False,
        ignore_class: int | None = None,
        class_weight: ClassWeight = None,
        reduction: str | None = "sum_over_batch_size",
        name: str | None = "bounded_cross_entropy",
        dtype: Any = None,
    ) -> None:
        super().__init__(ignore_class, class_weight, reduction, name, dtype)
        checks.check_number("smoothing", smoothing, least=0)
        if smoothing > 1:
            raise ValueError(f"`smoothing` must be at most 1. Received: smoothing={smoothing!r}")
        checks.check_number("floor", floor, above=0)
        self.smoothing = float(smoothing)
        self.floor = float(floor)
        self.from_logits = bool(from_logits)

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """Labels and predictions → the loss of each sample."""
        return bounded_cross_entropy(
            y_true,
            y_pred,
            self.smoothing,
            self.floor,
            self.from_logits,
            self.ignore_class,
            self.class_weight,
        )

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "smoothing": self.smoothing,
            "floor": self.floor,
            "from_logits": self.from_logits,
        }
