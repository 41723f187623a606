"""Magnet loss: images near their own cluster's center and far from clusters of other classes."""

from typing import Any

import keras
from keras import ops

from mhe import checks
from mhe.losses.targets import at_least_float32_name
from mhe.precision import at_least_float32
from mhe.types import Tensor

# The exponent of a cluster that does not count: no distance comes near it.
_NEVER = -1e38

# Squared distances from a matrix product are accurate to this fraction of the batch's spread.
_ROUNDING = 1e-7
# Smaller variances count as zero: float32 has no digits for their squares, which slopes contain.
_SMALLEST = 1e-18


def magnet_loss(
    classes: Tensor, clusters: Tensor, embeddings: Tensor, alpha: float = 1.0
) -> Tensor:
    """The loss of each image in a batch of neighboring clusters.

    With μ_m the mean of the batch's images of cluster m, C its class, and B images r_n of
    clusters m(n) in total,

        L_n = {α + ‖r_n - μ_m(n)‖²/(2σ²) + log Σ_{m: C(m) ≠ C(r_n)} exp(-‖r_n - μ_m‖²/(2σ²))}₊
        σ² = 1/(B - 1) · Σ_n ‖r_n - μ_m(n)‖²

    as in the paper, where σ² itself divides the distances. (Many public implementations square it
    again and divide by 2σ⁴. Then the loss depends on the embedding's scale: a network lowers it by
    scaling its output, which the normalization is meant to prevent.) The gradient flows through
    the means and the variance as well, so no embedding gains by scaling either.

    If σ² is zero, with one image per cluster or equal embeddings, it counts as 1e-7 of the batch's
    spread around its mean, about the resolution of float32. Images have no loss if the batch holds
    no cluster of another class.

    Args:
        classes: Class of each image `(B,)`.
        clusters: Cluster of each image `(B,)`, numbered arbitrarily; all images of a cluster have
            the same class. Clusters may differ in size.
        embeddings: Tensor `(B, dims)`.
        alpha: The desired separation α between clusters of different classes, in units of the
            logarithm.

    Returns:
        A tensor `(B,)`: float64 for float64 embeddings, else float32.

    Raises:
        ValueError: If the shapes do not fit, or α is not a finite number.

    Example:

    >>> import numpy as np
    >>> embeddings = np.array([[0.0, 1.0], [0.0, -1.0], [2.0, 1.0], [2.0, -1.0]], "float32")
    >>> np.asarray(magnet_loss([0, 0, 1, 1], [0, 0, 1, 1], embeddings, alpha=2.0)).round(6)
    array([0.5, 0.5, 0.5, 0.5], dtype=float32)

    Reference:
        Rippel et al., Metric learning with adaptive density discrimination, ICLR 2016
        ([arXiv:1511.05939](https://arxiv.org/abs/1511.05939)), equation 5.
    """
    checks.check_number("alpha", alpha)
    embeddings = at_least_float32(embeddings)
    classes, clusters = ops.convert_to_tensor(classes), ops.convert_to_tensor(clusters)
    if len(embeddings.shape) != 2 or len(classes.shape) != 1 or len(clusters.shape) != 1:
        raise ValueError(
            "Classes and clusters must be (B,) and embeddings (B, dims). Received: classes "
            f"{tuple(classes.shape)}, clusters {tuple(clusters.shape)}, embeddings "
            f"{tuple(embeddings.shape)}"
        )
    # Around their mean embeddings are small: fewer digits cancel in the distances.
    embeddings = embeddings - ops.mean(embeddings, axis=0, keepdims=True)
    squares = ops.sum(ops.square(embeddings), axis=-1)
    together = ops.cast(clusters[:, None] == clusters[None, :], embeddings.dtype)
    members = ops.sum(together, axis=-1)
    # The center of each image's cluster: one row per image, not per cluster.
    centers = ops.matmul(together, embeddings) / members[:, None]
    own = ops.sum(ops.square(embeddings - centers), axis=-1)
    count = ops.shape(embeddings)[0]
    others = ops.cast(ops.maximum(count - 1, 1), embeddings.dtype)
    spread = ops.stop_gradient(ops.sum(squares)) / others
    variance, least = ops.sum(own) / others, ops.maximum(_ROUNDING * spread, _SMALLEST)
    variance = ops.where(variance > least, variance, least)
    distances = squares[:, None] + ops.sum(ops.square(centers), axis=-1)[None, :]
    distances = ops.relu(distances - 2.0 * ops.matmul(embeddings, ops.transpose(centers)))
    exponents = -distances / (2.0 * variance) - ops.log(members)[None, :]
    impostors = classes[:, None] != classes[None, :]
    exponents = ops.where(impostors, exponents, _NEVER)
    return ops.relu(alpha + own / (2.0 * variance) + ops.logsumexp(exponents, axis=-1))


@keras.saving.register_keras_serializable(package="mhe")
class MagnetLoss(keras.losses.Loss):
    """Magnet loss of embeddings, in batches of neighboring clusters.

    Targets are pairs `(B, 2)` of each image's class and cluster, as `mhe.clusters.MagnetBatches`
    yields them; predictions are embeddings `(B, dims)`, the output of a model without a head. See
    `magnet_loss` for the formula. An image's loss depends on the rest of its batch.

    Args:
        alpha: The desired separation α between clusters of different classes, in units of the
            logarithm.
        reduction: As in Keras's losses; the mean over the batch is the paper's.
        name: Name of the loss.
        dtype: As in Keras's losses, but at least float32.

    Raises:
        ValueError: If α is not a finite number, or the targets are not pairs.

    Example:

    >>> import keras, mhe
    >>> import numpy as np
    >>> embeddings = np.array([[0.0, 1.0], [0.0, -1.0], [2.0, 1.0], [2.0, -1.0]], "float32")
    >>> pairs = np.array([[0, 5], [0, 5], [1, 7], [1, 7]])  # clusters 5 and 7 of classes 0 and 1
    >>> round(float(mhe.losses.MagnetLoss(alpha=2.0)(pairs, embeddings)), 6)
    0.5
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    >>> model.compile("sgd", mhe.losses.MagnetLoss())  # and fit it on `mhe.clusters.MagnetBatches`

    Reference:
        Rippel et al., Metric learning with adaptive density discrimination, ICLR 2016
        ([arXiv:1511.05939](https://arxiv.org/abs/1511.05939)), equation 5.
    """

    def __init__(
        self,
        alpha: float = 1.0,
        reduction: str | None = "sum_over_batch_size",
        name: str | None = "magnet_loss",
        dtype: Any = None,
    ) -> None:
        checks.check_number("alpha", alpha)
        super().__init__(name=name, reduction=reduction, dtype=at_least_float32_name(dtype))
        self.alpha = float(alpha)

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """Pairs of class and cluster `(B, 2)` and embeddings → the loss of each image."""
        if len(y_true.shape) != 2 or y_true.shape[-1] not in (2, None):
            raise ValueError(
                "Targets must be pairs (B, 2) of class and cluster. "
                f"Received: shape {tuple(y_true.shape)}"
            )
        return magnet_loss(y_true[:, 0], y_true[:, 1], y_pred, self.alpha)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "alpha": self.alpha, "dtype": self.dtype}
