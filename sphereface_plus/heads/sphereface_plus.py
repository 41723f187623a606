"""SphereFace+: SphereFace whose class vectors spread over the sphere."""

import math
from typing import Any

import keras
from keras import ops

import mhe
from mhe.energy import check_options
from mhe.layers import unit_vectors
from mhe.losses.targets import label_losses
from mhe.precision import at_least_float32
from sphereface_plus.heads.base import class_products, softmax_loss_of, true_class
from sphereface_plus.heads.sphereface import SphereFace

OVER = ("all", "batch")
# Squared distance below which pairs count as being at it, as in `mhe.hyperspherical_energy`.
_CLOSEST = 1e-6
# Keeps the slope of an angle of π finite.
_TINY = 1e-12


def class_energies(
    labels: Any,
    kernel: Any,
    s: float = 2,
    distance: str = "angle",
    space: str = "full",
) -> Any:
    """Energy of the class vector of each sample among all others, mean_{j≠y} f_s(ρ(ŵ_y, ŵ_j)).

    Its mean over the samples is the published approximation of the energy of all class vectors, at
    a cost of B × classes pairs. In half space the mean runs over the 2·classes - 1 other points of
    {±ŵ_j}. Pairs closer than a distance of 1e-3 count as being at it and do not move each other;
    see `mhe.hyperspherical_energy`.

    Args:
        labels: Numbers of classes, `(B,)`.
        kernel: Class vectors `(dims, classes)` of any length.
        s: Real number ≥ 0, the power of the potential.
        distance: `"euclidean"` or `"angle"`.
        space: `"full"` or `"half"`.

    Returns:
        A tensor `(B,)` of at least float32.

    Raises:
        ValueError: If an option is not one of the above.

    Example:

    >>> import numpy as np
    >>> kernel = np.array([[1.0, 0.0, -1.0], [0.0, 1.0, 0.0]], "float32")
    >>> energies = class_energies([0, 1], kernel, s=1)  # of angles π/2 and π, and of two π/2
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
    # A class vector's own place is given a harmless cosine first: 0 · ∞ has no gradient.
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


def _potential(cosines: Any, s: float, distance: str) -> Any:
    """f_s of the distance between unit vectors with these cosines."""
    # A slope goes as ρ^(-s - 2); it must leave room in float32 for a sum over many pairs.
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
    """SphereFace with an energy on the class vectors, so that classes stand apart from each other.

    The energy can be that of all class vectors, exact or with `mhe.MHE(sample=k)` of k drawn at
    every step: then it is a regularizer of the kernel, and appears in `losses`. Or it is that of
    the true class of each sample among all classes, as published: then it is part of the samples'
    losses, `head.loss(labels, logits)`; see `class_energies`.

    The published model was not trained from nothing, but from a trained SphereFace.

    Args:
        classes: How many, at least 2.
        m: The margin: 1 (none), 2, 3 or 4.
        energy: A `mhe.MHE` with its strength; by default
            `mhe.MHE(1.0, s=2, distance="angle", space="full")`.
        energy_over: `"all"` class vectors, or those of the `"batch"` among all.
        lambda_start: As in `SphereFace`.
        lambda_end: As in `SphereFace`.
        gamma: As in `SphereFace`.
        power: As in `SphereFace`.
        **kwargs: `kernel_initializer` and `kernel_regularizer`, to which the energy is added, see
            `MarginHead`; Keras's own.

    Raises:
        ValueError: If an argument is not one of the above, the energy's neurons are not the columns
            of the kernel, it samples for `energy_over="batch"`, or the labels do not fit.

    Example:

    >>> import keras, mhe, sphereface_plus
    >>> head = sphereface_plus.heads.SphereFacePlus(10, energy=mhe.MHE(0.5, s=1, space="full"))
    >>> logits = head(keras.ops.ones((2, 16)), labels=[3, 4], training=True)
    >>> len(head.losses)
    1

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
                "`energy` must be a mhe.MHE of the kernel's columns, axis=-1. "
                f"Received: energy={energy!r}" + _axis_of(energy)
            )
        if energy_over not in OVER:
            raise ValueError(
                f'`energy_over` must be "all" or "batch". Received: energy_over={energy_over!r}'
            )
        if energy_over == "batch" and energy.sample is not None:
            raise ValueError(
                '`energy_over="batch"` takes the classes that are in the batch, so that `energy` '
                f"cannot draw any. Received: energy={energy!r}"
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

    def loss(self, labels: Any, logits: Any) -> Any:
        """Labels `(B,)` and logits `(B, classes)` → the losses of the samples `(B,)`."""
        if self.energy_over == "all":
            return super().loss(labels, logits)
        energy = self.energy

        def with_energy(index: Any, logits: Any) -> Any:
            energies = class_energies(index, self.kernel, energy.s, energy.distance, energy.space)
            return softmax_loss_of(index, logits) + energy.strength * energies

        return label_losses(labels, at_least_float32(logits), with_energy)

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
    """A regularizer less the energy in it, which a config names by itself."""
    if regularizer is energy:
        return None
    if not isinstance(regularizer, mhe.Sum):
        return regularizer
    others = [_without(each, energy) for each in regularizer.regularizers]
    others = [each for each in others if each is not None]
    return mhe.Sum(*others) if len(others) > 1 else (others[0] if others else None)
