"""Cross-entropy of logits that are adjusted by how frequent the classes are."""

import dataclasses
from typing import Any

import keras
import numpy as np
from keras import ops

from mhe import checks
from mhe.losses.targets import ClassWeight, LabelLoss, label_losses
from mhe.types import Tensor


@dataclasses.dataclass(frozen=True, eq=False)
class LogitAdjustedTerm:
    """Cross-entropy of adjusted logits, see `logit_adjusted_cross_entropy`.

    Attributes:
        priors: Frequencies of the classes `(classes,)`, up to a common factor.
        tau: τ, how much of the adjustment is made.
    """

    priors: np.ndarray
    tau: float

    def __post_init__(self) -> None:
        checks.check_number("tau", self.tau, least=0)

    def __call__(self, index: Tensor, logits: Tensor) -> Tensor:
        """Classes `(...)` and logits `(..., classes)` → losses `(...)`."""
        # Relative to the most frequent class, so that counts are as good as shares.
        offsets = self.tau * np.log(self.priors / self.priors.max())
        adjusted = logits + ops.convert_to_tensor(offsets, logits.dtype)
        own = ops.take_along_axis(ops.log_softmax(adjusted), ops.expand_dims(index, -1), axis=-1)
        return -ops.squeeze(own, -1)


def logit_adjusted_cross_entropy(
    labels: Tensor,
    logits: Tensor,
    priors: Any,
    tau: float = 1.0,
    ignore_class: int | None = None,
    class_weight: ClassWeight = None,
) -> Tensor:
    """Cross-entropy that asks more of rare classes: a margin by how much rarer they are.

    With z the logits of a sample, y its class, and π_k how frequent class k is in the training set,
    the loss is

        -log [exp(z_y + τ·log π_y) / Σ_k exp(z_k + τ·log π_k)]

    In training the adjustment accounts for the frequencies, so that the logits themselves need not:
    for τ = 1 their softmax estimates the probabilities among classes that are equally frequent, and
    the largest of them, unadjusted, minimizes the mean of the error rates of all classes. A loss
    evaluated on a balanced set has no use for the adjustment: measure accuracy there.

    Args:
        labels: Integers `(...)` or `(..., 1)`, in any dtype.
        logits: Tensor `(..., classes)`.
        priors: Frequencies of the classes `(classes,)`, more than 0: shares or counts, as a common
            factor makes no difference.
        tau: τ ≥ 0; 0 is plain cross-entropy.
        ignore_class: A label whose samples have no loss and no gradient, such as 255 or -1.
        class_weight: A factor per class, `(classes,)`, or for some classes: `{class: factor}`.

    Returns:
        A tensor `(...)`: float64 for float64 logits, else float32. See `mhe.losses` for wrong
        labels.

    Raises:
        ValueError: If an argument is not as described, or the shapes do not fit.

    Example:

    >>> import numpy as np
    >>> logits = np.zeros((2, 2), "float32")
    >>> np.asarray(logit_adjusted_cross_entropy([0, 1], logits, priors=[900, 100])).round(3)
    array([0.105, 2.303], dtype=float32)

    Reference:
        Menon et al., Long-tail learning via logit adjustment, ICLR 2021
        ([arXiv:2007.07314](https://arxiv.org/abs/2007.07314)), on the logit adjusted softmax
        cross-entropy.
    """
    term = LogitAdjustedTerm(_check_priors(priors), tau)
    return label_losses(labels, logits, term, ignore_class, class_weight, len(term.priors))


@keras.saving.register_keras_serializable(package="mhe")
class LogitAdjustedCrossEntropy(LabelLoss):
    """Softmax cross-entropy of logits plus τ times the logarithm of the class frequencies.

    See `logit_adjusted_cross_entropy` for the formula, and `mhe.losses.PrototypeLoss` for labels
    and sample weights. Predict with the logits as they are, without the adjustment.

    Args:
        priors: Frequencies of the classes `(classes,)` in the training set, more than 0: shares or
            counts, as a common factor makes no difference.
        tau: τ ≥ 0; 0 is plain cross-entropy.
        ignore_class, class_weight, reduction, name, dtype: As in `mhe.losses.PrototypeLoss`.

    Raises:
        ValueError: If an argument is not as described.

    Example:

    >>> import keras, mhe
    >>> import numpy as np
    >>> labels = np.array([0, 0, 0, 1, 2, 2])
    >>> loss = mhe.losses.LogitAdjustedCrossEntropy(np.bincount(labels))
    >>> round(float(loss([1], [[0.0, 0.0, 0.0]])), 3)  # log 6, not log 3
    1.792
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    >>> model.compile("sgd", loss)

    Reference:
        Menon et al., Long-tail learning via logit adjustment, ICLR 2021
        ([arXiv:2007.07314](https://arxiv.org/abs/2007.07314)), on the logit adjusted softmax
        cross-entropy.
    """

    def __init__(
        self,
        priors: Any,
        tau: float = 1.0,
        ignore_class: int | None = None,
        class_weight: ClassWeight = None,
        reduction: str | None = "sum_over_batch_size",
        name: str | None = "logit_adjusted_cross_entropy",
        dtype: Any = None,
    ) -> None:
        self.priors = _check_priors(priors)
        term = LogitAdjustedTerm(self.priors, tau)
        options = (ignore_class, class_weight, reduction, name, dtype)
        super().__init__(term, *options, classes=len(self.priors))
        self.tau = float(tau)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "priors": self.priors.tolist(), "tau": self.tau}


def _check_priors(priors: Any) -> np.ndarray:
    """Frequencies of classes in float64, or a `ValueError`."""
    expected = "`priors` must be numbers (classes,), of at least two classes."
    try:
        array = np.array(priors, np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{expected} Received: {error}") from error
    if array.ndim != 1 or len(array) < 2:
        raise ValueError(f"{expected} Received: shape {array.shape}")
    wrong = np.flatnonzero(~((array > 0) & np.isfinite(array)))
    if len(wrong):
        raise ValueError(
            "`priors` must be finite and more than 0, as a class that never occurs cannot be "
            f"learnt. Received: {array[wrong[0]]:g} of class {wrong[0]}"
        )
    return array
