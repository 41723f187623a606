"""SphereFace+: SphereFace with class vectors spread over the sphere."""

import math
from typing import Any

import keras
from keras import ops

import mhe
from mhe.energy import check_options
from mhe.layers import unit_vectors
from mhe.losses.targets import label_losses
from mhe.precision import at_least_float32
from mhe.types import Tensor
from sphereface_plus.heads.base import class_products, softmax_loss_of, true_class
from sphereface_plus.heads.sphereface import SphereFace

OVER = ("all", "batch")
# Smaller squared distances count as this one, as in `mhe.hyperspherical_energy`.
_CLOSEST = 1e-6
# Keeps the slope of an angle of π finite.
_TINY = 1e-12


def class_energies(
    labels: Tensor,
    kernel: Tensor,
    s: float = 2,
    distance: str = "angle",
    space: str = "full",
) -> Tensor:
    """Energy of each sample's class vector among all others, mean_{j≠y} f_s(ρ(ŵ_y, ŵ_j)).

    Its mean over the samples is the published approximation of the energy of all class vectors, at
    a cost of B × classes pairs. In half space the mean is over the 2·classes - 1 other points of
    {±ŵ_j}. Pairs closer than 1e-3 count as at that distance and do not move each other; see
    `mhe.hyperspherical_energy`.

    Args:
        labels: Integers in [0, classes), `(B,)`.
        kernel: Class vectors `(dims, classes)` of any length.
        s: Power of the potential, at least 0.
        distance: `"euclidean"` or `"angle"`.
        space: `"full"` or `"half"`.

    Returns:
        A tensor `(B,)` of at least float32.

    Raises:
        ValueError: If an option is invalid.

    Example:

    >>> import numpy as np
    >>> kernel = np.array([[1.0, 0.0, -1.0], [0.0, 1.0, 0.0]], "float32")
    >>> energies = class_energies([0, 1], kernel, s=1)  # angles π/2 and π; π/2 twice
    >>> (np.asarray(energies) * np.pi).round(4)
    array([1.5, 2. ], dtype=float32)

    Reference:
        Liu et al., Learning towards Minimum Hyperspherical Energy, NeurIPS 2018
        ([arXiv:1805.09298](https://arxiv.org/abs/1805.09298)), sections 3.6 and 5.2.
    """
    check_options(s, distance, space)
    kernel = at_least_float32(kernel)
    index = ops.convert_to_tensor(labels, "int32")
    own = ops.transpose(ops.take(kernel, index, axis=1))
    cosines = class_products(unit_vectors(own), kernel)
    classes = int(kernel.shape[1])
    _, is_own = true_class(index, cosines)
    # A harmless cosine for each vector with itself, as the gradient of 0 · ∞ is NaN.
    cosines = ops.where(is_own, 0.0, cosines)
    potentials = _potential(cosines, s, distance)
    points = classes
    if space == "half":
        potentials = potentials + _potential(-cosines, s, distance)
        points = 2 * classes
    total = ops.sum(ops.where(is_own, 0.0, potentials), axis=1)
    if space == "half":
        farthest = math.pi if distance == "angle" else 2.0
        total = total + (-math.log(farthest) if s == 0 else farthest**-s)
    return total / (points - 1)


def _potential(cosines: Tensor, s: float, distance: str) -> Tensor:
    """f_s of the distance between unit vectors with the given cosines."""
    # The slope goes with ρ^(-s - 2) and must leave room in float32 for a sum over many pairs.
    closest = max(_CLOSEST, 10.0 ** (-24.0 / (s / 2 + 1)))
    squared = ops.maximum(2.0 - 2.0 * cosines, closest)
    if distance == "angle":
        angles = 2.0 * ops.arctan2(
            ops.sqrt(squared), ops.sqrt(ops.maximum(2.0 + 2.0 * cosines, _TINY))
        )
        return -ops.log(angles) if s == 0 else ops.power(angles, -s)
    return -0.5 * ops.log(squared) if s == 0 else ops.power(squared, -s / 2)


@keras.saving.register_keras_serializable(package="sphereface_plus")
class SphereFacePlus(SphereFace):
    """SphereFace with an energy on the class vectors, which keeps classes apart.

    The energy is either that of all class vectors, exact or sampled with `mhe.MHE(sample=k)`: then
    it is a regularizer of the kernel and appears in `losses`. Or it is that of each sample's true
    class among all classes, as published: then it is part of the per-sample losses
    `head.loss(labels, logits)`; see `class_energies`.

    The published model was fine-tuned from a trained SphereFace. The Caffe layer published with it
    computes another loss than the paper: the inverse of a mean, α·N / Σ‖w_i - w_y‖², over the
    classes of a batch only, where the paper and this class take the mean of inverses.

    Args:
        classes: Number of classes, at least 2.
        m: The margin: 1 (none), 2, 3 or 4.
        energy: A `mhe.MHE` with its strength; by default
            `mhe.MHE(1.0, s=2, distance="angle", space="full")`.
        energy_over: `"all"` for all class vectors, `"batch"` for those of the batch among all.
        lambda_start: As in `SphereFace`.
        lambda_end: As in `SphereFace`.
        gamma: As in `SphereFace`.
        power: As in `SphereFace`.
        kernel_regularizer: A regularizer of the kernel besides the energy.
        **kwargs: `kernel_initializer`, see `MarginHead`, and Keras's own.

    Raises:
        ValueError: If an argument is out of range, the energy's neurons are not the columns of the
            kernel, the energy samples with `energy_over="batch"`, or the labels do not match the
            features.

    Example:

    >>> import keras, mhe, sphereface_plus
    >>> head = sphereface_plus.heads.SphereFacePlus(10, energy=mhe.MHE(0.5, s=1, space="full"))
    >>> logits = head(keras.ops.ones((2, 16)), labels=[3, 4], training=True)
    >>> len(head.losses)
    1
    >>> backbone = keras.Sequential([keras.Input((4,)), keras.layers.Dense(16)])
    >>> model = sphereface_plus.FaceModel(backbone, head)
    >>> model.compile("sgd")  # its loss is the head's own

    Reference:
        Liu et al., Learning towards Minimum Hyperspherical Energy, NeurIPS 2018
        ([arXiv:1805.09298](https://arxiv.org/abs/1805.09298)), section 5.2.
    """

    def __init__(
        self,
        classes: int,
        m: int = 4,
        energy: mhe.MHE | None = None,
        energy_over: str = "all",
        lambda_start: float = 1000,
        lambda_end: float = 5,
        gamma: float = 0.12,
        power: float = 1,
        kernel_regularizer: Any = None,
        **kwargs: Any,
    ) -> None:
        if energy is None:
            energy = mhe.MHE(1.0, s=2, distance="angle", space="full")
        if not isinstance(energy, mhe.MHE) or energy.axis not in (-1, 1, (-1,), (1,)):
            raise ValueError(
                "`energy` must be an mhe.MHE over the kernel's columns, axis=-1. "
                f"Received: energy={energy!r}" + _axis_of(energy)
            )
        if energy_over not in OVER:
            raise ValueError(
                f'`energy_over` must be "all" or "batch". Received: energy_over={energy_over!r}'
            )
        if energy_over == "batch" and energy.sample is not None:
            raise ValueError(
                '`energy_over="batch"` takes the classes of the batch: `energy` must not sample. '
                f"Received: energy={energy!r}"
            )
        if energy_over == "all":
            kernel_regularizer = (
                energy if kernel_regularizer is None else mhe.Sum(kernel_regularizer, energy)
            )
        super().__init__(
            classes,
            m,
            lambda_start,
            lambda_end,
            gamma,
            power,
            kernel_regularizer=kernel_regularizer,
            **kwargs,
        )
        self.energy = energy
        self.energy_over = energy_over

    def loss(self, labels: Tensor, logits: Tensor) -> Tensor:
        """Labels `(B,)` and logits `(B, classes)` → per-sample losses `(B,)`."""
        if self.energy_over == "all":
            return super().loss(labels, logits)
        energy = self.energy

        def with_energy(index: Tensor, logits: Tensor) -> Tensor:
            energies = class_energies(index, self.kernel, energy.s, energy.distance, energy.space)
            return softmax_loss_of(index, logits) + energy.strength * energies

        return label_losses(labels, logits, with_energy)

    def get_config(self) -> dict[str, Any]:
        others = _without(self.kernel_regularizer, self.energy)
        return {
            **super().get_config(),
            "kernel_regularizer": keras.regularizers.serialize(others),
            "energy": keras.saving.serialize_keras_object(self.energy),
            "energy_over": self.energy_over,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "SphereFacePlus":
        energy = keras.saving.deserialize_keras_object(config["energy"])
        return super().from_config({**config, "energy": energy})


def _axis_of(energy: Any) -> str:
    return f" with axis={energy.axis}" if isinstance(energy, mhe.MHE) else ""


def _without(regularizer: Any, energy: mhe.MHE) -> Any:
    """A regularizer without the energy in it, which the config holds separately."""
    if regularizer is energy:
        return None
    if not isinstance(regularizer, mhe.Sum):
        return regularizer
    others = [_without(each, energy) for each in regularizer.regularizers]
    others = [each for each in others if each is not None]
    return mhe.Sum(*others) if len(others) > 1 else (others[0] if others else None)
