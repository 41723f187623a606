"""The energy of class vectors, of all or of those in a batch."""

from typing import Any

from keras import ops

import mhe
from mhe.energy import check_options
from mhe.energy.potential import Variant
from mhe.precision import at_least_float32
from mhe.types import Tensor
from sphereface_plus.heads.batch_energies import batch_energies

OVER = ("all", "batch")


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
    variant = Variant.of(s, distance, space)
    index = ops.convert_to_tensor(labels, "int32")
    return batch_energies(at_least_float32(kernel), index, variant)


def check_energy(energy: Any, energy_over: str, subcenters: int = 1) -> None:
    """Raises a `ValueError` unless a head can add an energy of its class vectors.

    Args:
        energy: A `mhe.MHE` over columns, or None.
        energy_over: `"all"` or `"batch"`.
        subcenters: Vectors per class.

    Example:

    >>> check_energy(mhe.MHE(sample=10), "batch")
    Traceback (most recent call last):
    ValueError: `energy_over="batch"` takes the classes of the batch: `energy` must not sample. \
Received: energy=MHE(1, s=2, euclidean, half, sample=10)
    """
    if energy is not None and (
        not isinstance(energy, mhe.MHE) or energy.axis not in (-1, 1, (-1,), (1,))
    ):
        raise ValueError(
            "`energy` must be an mhe.MHE over the kernel's columns, axis=-1. "
            f"Received: energy={energy!r}" + _axis_of(energy)
        )
    if energy_over not in OVER:
        raise ValueError(
            f'`energy_over` must be "all" or "batch". Received: energy_over={energy_over!r}'
        )
    if energy_over == "all":
        return
    if energy is not None and energy.sample is not None:
        raise ValueError(
            '`energy_over="batch"` takes the classes of the batch: `energy` must not sample. '
            f"Received: energy={energy!r}"
        )
    if subcenters > 1:
        raise ValueError(
            f'`energy_over="batch"` needs one vector per class. Received: subcenters={subcenters}'
        )


def with_energy(regularizer: Any, energy: mhe.MHE | None) -> Any:
    """A regularizer, which may be None, and the energy, which may be None too, in one.

    Example:

    >>> with_energy(None, mhe.MHE())
    MHE(1, s=2, euclidean, half)
    """
    if energy is None or regularizer is None:
        return energy or regularizer
    return mhe.Sum(regularizer, energy)


def without_energy(regularizer: Any, energy: mhe.MHE | None) -> Any:
    """A regularizer without the energy in it, which a config holds separately.

    Example:

    >>> energy = mhe.MHE()
    >>> without_energy(with_energy(None, energy), energy) is None
    True
    """
    if energy is None:
        return regularizer
    if regularizer is energy:
        return None
    if not isinstance(regularizer, mhe.Sum):
        return regularizer
    others = [without_energy(each, energy) for each in regularizer.regularizers]
    others = [each for each in others if each is not None]
    return mhe.Sum(*others) if len(others) > 1 else (others[0] if others else None)


def _axis_of(energy: Any) -> str:
    return f" with axis={energy.axis}" if isinstance(energy, mhe.MHE) else ""
