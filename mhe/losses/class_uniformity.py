"""The hyperspherical energy of the class means of a batch."""

from typing import Any

import keras
from keras import ops

from mhe.directions import unit_vectors
from mhe.energy import check_options
from mhe.energy.potential import Variant, excess_of_cosines
from mhe.losses.targets import at_least_float32_name
from mhe.precision import at_least_float32
from mhe.types import Tensor


def class_uniformity(
    labels: Tensor,
    features: Tensor,
    s: float = 2,
    distance: str = "euclidean",
    space: str = "full",
) -> Tensor:
    """The mean hyperspherical energy between the class means of a batch.

    With û_n the features scaled to unit length, each of the K classes in the batch has the mean
    m_k = Σ_{n of k} û_n / N_k, and the value is

        1/(K(K-1)) · Σ_{k≠l} f_s(ρ(m_k/‖m_k‖, m_l/‖m_l‖))

    with the f_s and ρ of `mhe.hyperspherical_energy`, and in half space over the 2K points and
    opposites. Classes count alike, however many samples each has. The gradient is of first order.

    Equal means have the energy of points at a distance of 1e-3 and no gradient; a mean of zero
    counts as orthogonal to every other. A single class has no pair, and the value is 0 in full
    space. Distances come from cosines, so that in float32 they have few digits below 0.01.

    Args:
        labels: The class of each sample, `(B,)` or `(B, 1)`, numbered arbitrarily.
        features: Tensor `(B, dims)`.
        s: Real number ≥ 0, the power of the potential.
        distance: `"euclidean"` or `"angle"`.
        space: `"full"` or `"half"`.

    Returns:
        A scalar tensor: float64 for float64 features, else float32.

    Raises:
        ValueError: If an option is not one of the above, or the shapes do not fit.

    Example:

    >>> import keras
    >>> features = keras.ops.convert_to_tensor([[3.0, 0.0], [0.0, 2.0], [0.0, 1.0]])
    >>> float(class_uniformity([7, 4, 4], features))  # two classes at a distance of √2
    0.5

    Reference:
        Liu et al., Learning towards Minimum Hyperspherical Energy, NeurIPS 2018
        ([arXiv:1805.09298](https://arxiv.org/abs/1805.09298)), of class means.
    """
    check_options(s, distance, space)
    features, labels = at_least_float32(features), ops.convert_to_tensor(labels)
    if len(features.shape) != 2 or tuple(labels.shape[1:]) not in ((), (1,)):
        raise ValueError(
            "Labels must be (B,) or (B, 1), and features (B, dims). Received: labels "
            f"{tuple(labels.shape)}, features {tuple(features.shape)}"
        )
    labels = ops.reshape(labels, (-1,))
    variant = Variant.of(s, distance, space)
    together = ops.cast(labels[:, None] == labels[None, :], features.dtype)
    share = 1.0 / ops.sum(together, axis=1)
    # The mean of each sample's class: one row per sample, not per class. Its length is no matter.
    means = unit_vectors(ops.matmul(together, unit_vectors(features)))
    cosines = ops.matmul(means, ops.transpose(means)) * (1.0 - together)
    weights = (1.0 - together) * share[:, None] * share[None, :]
    total = ops.sum(ops.sum(weights * excess_of_cosines(cosines, variant), axis=1))
    classes = ops.sum(share)
    pairs = classes * (classes - 1.0)
    if not variant.half:
        # Sums of shares are whole only to rounding.
        total = total + pairs * variant.orthogonal
        return ops.where(pairs > 0.5, total / ops.maximum(pairs, 1.0), 0.0)
    total = total + 2.0 * pairs * variant.orthogonal + classes * variant.antipodal
    return total / (classes * (2.0 * classes - 1.0))


@keras.saving.register_keras_serializable(package="mhe")
class ClassUniformity(keras.losses.Loss):
    """Spreads the class means of each batch over the sphere.

    Targets are labels `(B,)` or `(B, 1)`, predictions are features `(B, dims)`; see
    `class_uniformity` for the formula. Every sample has the energy of its batch for a loss, so
    that the mean over the batch is that energy. It says nothing about samples of the same class:
    add it to a loss that draws them together.

    Args:
        s: Real number ≥ 0, the power of the potential.
        distance: `"euclidean"` or `"angle"`.
        space: `"full"`, or `"half"` to count the opposites of means as well.
        reduction: As in Keras's losses.
        name: Name of the loss.
        dtype: As in Keras's losses, but at least float32.

    Raises:
        ValueError: If an option is not one of the above, or the shapes do not fit.

    Example:

    >>> import keras, mhe
    >>> inputs = keras.Input((8,))
    >>> features = keras.layers.Dense(4, name="features")(inputs)
    >>> logits = keras.layers.Dense(3, name="logits")(features)
    >>> model = keras.Model(inputs, {"features": features, "logits": logits})
    >>> model.compile(
    ...     "sgd",
    ...     {
    ...         "features": mhe.losses.ClassUniformity(),
    ...         "logits": keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    ...     },
    ...     loss_weights={"features": 0.1, "logits": 1.0},
    ... )  # and fit it on targets {"features": labels, "logits": labels}

    Reference:
        Liu et al., Learning towards Minimum Hyperspherical Energy, NeurIPS 2018
        ([arXiv:1805.09298](https://arxiv.org/abs/1805.09298)).
    """

    def __init__(
        self,
        s: float = 2,
        distance: str = "euclidean",
        space: str = "full",
        reduction: str | None = "sum_over_batch_size",
        name: str | None = "class_uniformity",
        dtype: Any = None,
    ) -> None:
        check_options(s, distance, space)
        super().__init__(name=name, reduction=reduction, dtype=at_least_float32_name(dtype))
        self.s = s
        self.distance = distance
        self.space = space

    def __call__(self, y_true: Tensor, y_pred: Tensor, sample_weight: Tensor = None) -> Tensor:
        """The reduced loss, a scalar unless `reduction` is None."""
        # Keras would mistake a list for a structure of scalars.
        y_true, y_pred = ops.convert_to_tensor(y_true), ops.convert_to_tensor(y_pred)
        return super().__call__(y_true, y_pred, sample_weight)

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """Labels and features → the energy of the batch, once for each sample."""
        energy = class_uniformity(y_true, y_pred, self.s, self.distance, self.space)
        return energy * ops.ones_like(y_pred[:, 0])

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "s": self.s,
            "distance": self.distance,
            "space": self.space,
            "dtype": self.dtype,
        }
