"""The losses of RepMet: an embedding near its class's representatives and far from all others."""

from typing import Any

import keras
from keras import ops

from mhe import checks
from mhe.labels import per_sample
from mhe.losses.targets import ClassWeight, LabelLoss, label_losses, of_class
from mhe.precision import at_least_float32

VERSIONS = (1, 2)

# A representative that does not count: no distance comes near it.
_NEVER = -1e38


def repmet_loss(
    labels: Any,
    distances: Any,
    version: int = 1,
    alpha: float = 1.0,
    sigma: float = 0.5,
    ignore_class: int | None = None,
    class_weight: ClassWeight = None,
) -> Any:
    """How little the representatives of its own class explain an embedding, against the others.

    With the representatives R_ij, j = 1…K, of every class i, an embedding E of class y and
    g_ij = exp(-‖E - R_ij‖²/(2σ²)), the loss is

        version 1:  {α - log(max_j g_yj / Σ_{i≠y} Σ_j g_ij)}₊
        version 2:  {α - log(Σ_j g_yj / Σ_i Σ_j g_ij)}₊

    Version 1 is the paper's: the closest representative of its own class over those of all others.
    For small σ it is, but for a factor 1/(2σ²), the margin of its CVPR edition, of squared
    distances: the closest own one, minus the closest other one, plus 2σ²α. Version 2 is the
    modification its authors gave to users: the share of the class in the mixture, so that several
    representatives may explain one embedding, and those of its own class never compete. As no share
    is above 1, the hinge of version 2 only closes for α < 0, at a share of exp(α); any α ≥ 0 is a
    constant that training does not see.

    All of it is computed from differences of exponents: distances may be as large as they like.

    Args:
        labels: Integers `(...)` or `(..., 1)`, in any dtype.
        distances: Squared distances `(..., classes, per_class)`, as `mhe.layers.Representatives`
            gives them.
        version: 1 or 2.
        alpha: The margin α, in units of the logarithm.
        sigma: σ, the standard deviation of the Gaussian around each representative.
        ignore_class: A label whose samples have no loss and no gradient, such as background.
        class_weight: A factor for every class, `(classes,)`, or for some: `{class: factor}`.

    Returns:
        A tensor `(...)`: float64 for float64 distances, else float32. It is NaN for a label outside
        [0, classes) in a tensor, and the gradient there is zero.

    Raises:
        ValueError: If an option is none of those, the shapes do not fit, or a label in an array or
            a list is no class.

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
    check_options(version, alpha, sigma)
    distances = at_least_float32(distances)
    check_distances(distances)
    if ignore_class is not None:
        # What is ignored is out of the gradient's way, be it NaN itself.
        given = per_sample(ops.convert_to_tensor(labels, distances.dtype), distances[..., 0])
        counted = ops.not_equal(given, ignore_class)[..., None, None]
        distances = ops.where(counted, distances, 0.0)
    exponents = distances / (-2.0 * sigma**2)
    # Only their differences count, which are exact; far from all, logarithms of sums would not be.
    exponents = exponents - ops.stop_gradient(ops.max(exponents, axis=(-2, -1), keepdims=True))
    # By its place: the gradient of a maximum looks for an equal number, which a compiler that
    # computes the exponents twice may not find.
    place = ops.argmax(exponents, axis=-1)
    is_nearest = ops.one_hot(place, int(exponents.shape[-1]), dtype="bool")
    nearest = ops.sum(ops.where(is_nearest, exponents, 0.0), axis=-1)

    def hinged(index: Any, of_classes: Any) -> Any:
        if version == 1:
            own = of_class(nearest, index)
            is_own = ops.one_hot(index, int(of_classes.shape[-1]), dtype="bool")
            of_classes = ops.where(is_own, _NEVER, of_classes)
        else:
            own = of_class(of_classes, index)
        return ops.relu(alpha - own + ops.logsumexp(of_classes, axis=-1))

    of_classes = ops.logsumexp(exponents, axis=-1)
    return label_losses(labels, of_classes, hinged, ignore_class, class_weight)


def check_options(version: int, alpha: float, sigma: float) -> None:
    """Raises a `ValueError` unless there is such a version, with such numbers."""
    if version not in VERSIONS or isinstance(version, bool):
        raise ValueError(f"`version` must be 1 or 2. Received: version={version!r}")
    checks.check_number("alpha", alpha)
    checks.check_number("sigma", sigma, above=0)


def check_distances(distances: Any) -> None:
    """Raises a `ValueError` unless distances are `(..., classes, per_class)`."""
    if len(distances.shape) < 2 or distances.shape[-2] is None or distances.shape[-2] < 2:
        raise ValueError(
            "Distances must be (..., classes, per_class) of two classes or more. "
            f"Received: shape {tuple(distances.shape)}"
        )


@keras.saving.register_keras_serializable(package="mhe")
class RepMetLoss(LabelLoss):
    """RepMet's loss of the distances that `mhe.layers.Representatives` gives.

    Labels are integers `(B,)` or `(B, 1)` for distances `(B, classes, per_class)`, and `(B, H, W)`
    for dense ones. See `repmet_loss` for both versions and what α and σ do to them. The class that
    is predicted is that of the largest `mhe.layers.mixture_posterior`.

    Args:
        version: 1, the closest representative of the class over those of all others; or 2, the
            share of the class in the mixture of all representatives.
        alpha: The margin α, in units of the logarithm.
        sigma: σ, the standard deviation of the Gaussian around each representative.
        ignore_class: As in `keras.losses.SparseCategoricalCrossentropy`: samples of this label,
            such as background, have no loss, and the mean is over the others.
        class_weight: A factor for the loss of every class, `(classes,)`, or of some.
        reduction: As in Keras's losses.
        name: Name of the loss.
        dtype: As in Keras's losses, but at least float32.

    Raises:
        ValueError: If an option is none of those.

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
        check_options(version, alpha, sigma)
        super().__init__(ignore_class, class_weight, reduction, name, dtype)
        self.version = int(version)
        self.alpha = float(alpha)
        self.sigma = float(sigma)

    def scores(self, y_pred: Any) -> Any:
        """Distances `(..., classes, per_class)` → one of each class, `(..., classes)`."""
        check_distances(y_pred)
        return y_pred[..., 0]

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Labels and squared distances → the loss of each sample."""
        return repmet_loss(
            *(y_true, y_pred, self.version, self.alpha, self.sigma),
            *(self.ignore_class, self.class_weight),
        )

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "version": self.version,
            "alpha": self.alpha,
            "sigma": self.sigma,
        }
