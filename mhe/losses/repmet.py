"""The losses of RepMet: embeddings near representatives of their class, far from all others."""

import dataclasses
from typing import Any

import keras
from keras import ops

from mhe import checks
from mhe.losses.targets import ClassWeight, LabelLoss, label_losses, of_class
from mhe.types import Tensor

VERSIONS = (1, 2)

# The exponent of a representative that does not count: no distance comes near it.
_NEVER = -1e38


@dataclasses.dataclass(frozen=True)
class RepMetTerm:
    """The hinge of both versions; see `repmet_loss`."""

    version: int
    alpha: float
    sigma: float

    def __post_init__(self) -> None:
        checks.check_choice("version", self.version, VERSIONS)
        checks.check_number("alpha", self.alpha)
        checks.check_number("sigma", self.sigma, above=0)

    def __call__(self, index: Tensor, distances: Tensor) -> Tensor:
        """Classes `(...)` and squared distances `(..., classes, per_class)` → losses `(...)`."""
        exponents = distances / (-2.0 * float(self.sigma) ** 2)
        # Only their differences count, which are exact; far from all representatives, logarithms of
        # sums would not be.
        exponents = exponents - ops.stop_gradient(ops.max(exponents, axis=(-2, -1), keepdims=True))
        of_classes = ops.logsumexp(exponents, axis=-1)
        if self.version == 1:
            # By its place: the gradient of a maximum looks for an equal number, which a compiler
            # that computes the exponents twice may not find.
            place = ops.argmax(exponents, axis=-1)
            is_nearest = ops.one_hot(place, int(exponents.shape[-1]), dtype="bool")
            own = of_class(ops.sum(ops.where(is_nearest, exponents, 0.0), axis=-1), index)
            is_own = ops.one_hot(index, int(of_classes.shape[-1]), dtype="bool")
            of_classes = ops.where(is_own, _NEVER, of_classes)
        else:
            own = of_class(of_classes, index)
        return ops.relu(float(self.alpha) - own + ops.logsumexp(of_classes, axis=-1))


def repmet_loss(
    labels: Tensor,
    distances: Tensor,
    version: int = 1,
    alpha: float = 1.0,
    sigma: float = 0.5,
    ignore_class: int | None = None,
    class_weight: ClassWeight = None,
) -> Tensor:
    """How poorly the representatives of its own class explain an embedding, compared to the others.

    With the representatives R_ij, j = 1…K, of every class i, an embedding E of class y and
    g_ij = exp(-‖E - R_ij‖²/(2σ²)), the loss is

        version 1:  {α - log(max_j g_yj / Σ_{i≠y} Σ_j g_ij)}₊
        version 2:  {α - log(Σ_j g_yj / Σ_i Σ_j g_ij)}₊

    Version 1 is the paper's: the closest representative of its own class over those of all others.
    For small σ, and up to a factor 1/(2σ²), it is the margin of the CVPR edition, in squared
    distances: the closest own one, minus the closest other one, plus 2σ²α. Version 2 is the
    modification that its authors gave to users: the share of the class in the mixture, so that
    several representatives may explain one embedding, and those of a class never compete. As no
    share exceeds 1, the hinge of version 2 closes only for α < 0, at a share of exp(α); any α ≥ 0
    is a constant that does not affect training.

    Everything is computed from differences of exponents, so distances may be arbitrarily large.

    Args:
        labels: Integers `(...)` or `(..., 1)`, in any dtype.
        distances: Squared distances `(..., classes, per_class)`, as `mhe.layers.Representatives`
            returns them.
        version: 1 or 2.
        alpha: The margin α, in units of the logarithm.
        sigma: σ, the standard deviation of the Gaussian around each representative.
        ignore_class: A label whose samples have no loss and no gradient, such as background.
        class_weight: A factor per class, `(classes,)`, or for some classes: `{class: factor}`.

    Returns:
        A tensor `(...)`: float64 for float64 distances, else float32. See `mhe.losses` for wrong
        labels.

    Raises:
        ValueError: If an argument is not as described, or the shapes do not fit.

    Example:

    >>> import numpy as np
    >>> distances = np.array([[[0.5, 2.0], [1.0, 3.0]]], "float32")  # two of each of two classes
    >>> np.asarray(repmet_loss([0], distances, sigma=1.0)).round(4)
    array([1.0633], dtype=float32)
    >>> np.asarray(repmet_loss([0], distances, version=2, sigma=1.0)).round(4)
    array([1.5444], dtype=float32)

    Reference:
        Karlinsky et al., RepMet: Representative-based metric learning for classification and
        few-shot object detection, CVPR 2019 ([arXiv:1806.04728](https://arxiv.org/abs/1806.04728)),
        equations 1 and 4.
    """
    term = RepMetTerm(version, alpha, sigma)
    scores = _one_per_class(distances)
    return label_losses(labels, distances, term, ignore_class, class_weight, scores=scores)


def _one_per_class(distances: Tensor) -> Tensor:
    """Distances `(..., classes, per_class)` → those to the first representatives."""
    distances = ops.convert_to_tensor(distances)
    if len(distances.shape) < 2 or distances.shape[-2] is None or distances.shape[-2] < 2:
        raise ValueError(
            "Distances must be (..., classes, per_class) of at least two classes. "
            f"Received: shape {tuple(distances.shape)}"
        )
    return distances[..., 0]


@keras.saving.register_keras_serializable(package="mhe")
class RepMetLoss(LabelLoss):
    """RepMet's loss of the distances that `mhe.layers.Representatives` returns.

    Labels are integers `(B,)` or `(B, 1)` for distances `(B, classes, per_class)`, and `(B, H, W)`
    for dense ones. See `repmet_loss` for both versions and the effect of α and σ. The predicted
    class is the one with the largest `mhe.layers.mixture_posterior`.

    Args:
        version: 1, the closest representative of the class over those of all others; or 2, the
            share of the class in the mixture of all representatives.
        alpha: The margin α, in units of the logarithm.
        sigma: σ, the standard deviation of the Gaussian around each representative.
        ignore_class: A label whose samples, such as background, have no loss.
        class_weight, reduction, name, dtype: As in `mhe.losses.PrototypeLoss`.

    Raises:
        ValueError: If an argument is not as described.

    Example:

    >>> import keras, mhe
    >>> head = mhe.layers.Representatives(classes=10, per_class=3, dims=8)
    >>> model = keras.Sequential([keras.Input((20,)), keras.layers.Dense(8), head])
    >>> model.compile("adam", mhe.losses.RepMetLoss(version=2))
    >>> model.output_shape
    (None, 10, 3)

    Reference:
        Karlinsky et al., RepMet: Representative-based metric learning for classification and
        few-shot object detection, CVPR 2019 ([arXiv:1806.04728](https://arxiv.org/abs/1806.04728)),
        equations 1 and 4.
    """

    def __init__(
        self,
        version: int = 1,
        alpha: float = 1.0,
        sigma: float = 0.5,
        ignore_class: int | None = None,
        class_weight: ClassWeight = None,
        reduction: str | None = "sum_over_batch_size",
        name: str | None = "repmet_loss",
        dtype: Any = None,
    ) -> None:
        term = RepMetTerm(version, alpha, sigma)
        super().__init__(term, ignore_class, class_weight, reduction, name, dtype)
        self.version = int(version)
        self.alpha = float(alpha)
        self.sigma = float(sigma)

    def scores(self, y_pred: Tensor) -> Tensor:
        """Distances `(..., classes, per_class)` → one per class, `(..., classes)`."""
        return _one_per_class(y_pred)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "version": self.version,
            "alpha": self.alpha,
            "sigma": self.sigma,
        }
