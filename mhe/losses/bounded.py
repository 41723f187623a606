"""Cross-entropy with smoothed labels and a bound, as in the published MHE experiments."""

from dataclasses import dataclass
from typing import Any

import keras
from keras import ops

from mhe import checks
from mhe.losses.targets import ClassWeight, LabelLoss, label_losses, of_class
from mhe.types import Tensor


@dataclass(frozen=True)
class BoundedTerm:
    """The loss of samples whose class is known, see `bounded_cross_entropy`."""

    smoothing: float
    floor: float
    from_logits: bool

    def __post_init__(self) -> None:
        checks.check_number("smoothing", self.smoothing, least=0)
        if self.smoothing > 1:
            raise ValueError(
                f"`smoothing` must be at most 1. Received: smoothing={self.smoothing!r}"
            )
        checks.check_number("floor", self.floor, above=0)

    def probabilities(self, predictions: Tensor) -> Tensor:
        """Predictions `(..., classes)` → probabilities."""
        return ops.softmax(predictions, axis=-1) if self.from_logits else predictions

    def __call__(self, index: Tensor, predictions: Tensor) -> Tensor:
        """Classes `(...)` and predictions `(..., classes)` → losses `(...)`."""
        logarithms = ops.log(self.probabilities(predictions) + self.floor)
        own = (1 - self.smoothing) * of_class(logarithms, index)
        return -(own + self.smoothing * ops.mean(logarithms, axis=-1))


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

    Plain cross-entropy acts on a confidently wrong sample with full force: its gradient with
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
            list is not a class, or a class weight is negative or not finite.

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
    term = BoundedTerm(smoothing, floor, from_logits)
    return label_losses(labels, predictions, term, ignore_class, class_weight)


def saturation(
    labels: Tensor, predictions: Tensor, floor: float = 1e-4, from_logits: bool = False
) -> Tensor:
    """Marks the samples for which the gradient of `bounded_cross_entropy` has vanished.

    These are the samples whose true class has a probability below the floor: the gradient is then
    less than half of that of plain cross-entropy, and tends to zero. The mean over samples, as a
    metric, distinguishes a dead network (near 1, with the loss at its ceiling) from one that
    learns.

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
    term = BoundedTerm(0.0, floor, from_logits)

    def below(index: Tensor, predictions: Tensor) -> Tensor:
        own = of_class(term.probabilities(predictions), index)
        return ops.cast(own < floor, predictions.dtype)

    return label_losses(labels, predictions, below)


@keras.saving.register_keras_serializable(package="mhe")
class BoundedCrossEntropy(LabelLoss):
    """Cross-entropy with smoothed labels and a floor inside the logarithm.

    See `bounded_cross_entropy` for the formula and for what its vanishing gradient means, and
    `mhe.losses.PrototypeLoss` for labels and sample weights.

    Args:
        smoothing: Share of each target that is spread over all classes, in [0, 1].
        floor: What is added to each probability inside the logarithm, positive.
        from_logits: Whether the predictions are logits.
        ignore_class, class_weight, reduction, name, dtype: As in `mhe.losses.PrototypeLoss`.

    Raises:
        ValueError: If an argument is not as described.

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
        term = BoundedTerm(smoothing, floor, from_logits)
        super().__init__(term, ignore_class, class_weight, reduction, name, dtype)
        self.smoothing = float(smoothing)
        self.floor = float(floor)
        self.from_logits = bool(from_logits)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "smoothing": self.smoothing,
            "floor": self.floor,
            "from_logits": self.from_logits,
        }
