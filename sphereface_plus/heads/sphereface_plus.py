"""SphereFace+: SphereFace with class vectors spread over the sphere."""

from typing import Any

import keras

import mhe
from sphereface_plus.heads.energies import OVER, class_energies
from sphereface_plus.heads.sphereface import SphereFace

__all__ = ["OVER", "SphereFacePlus", "class_energies"]


@keras.saving.register_keras_serializable(package="sphereface_plus")
class SphereFacePlus(SphereFace):
    """SphereFace with an energy on the class vectors, which keeps classes apart.

    Every head takes the same `energy` and `energy_over`, see `MarginHead`; this one has the
    published energy by default.

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
        **kwargs: As in `SoftmaxHead`; a `kernel_regularizer` adds to the energy.

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
        **kwargs: Any,
    ) -> None:
        if energy is None:
            energy = mhe.MHE(1.0, s=2, distance="angle", space="full")
        super().__init__(
            classes,
            m,
            lambda_start,
            lambda_end,
            gamma,
            power,
            energy=energy,
            energy_over=energy_over,
            **kwargs,
        )
