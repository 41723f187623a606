"""Neurons around the emptiest place of the sphere: polarization and covering."""

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from mhe.checks import check_choice, check_count
from mhe.directions import unit_vectors
from mhe.energy import DISTANCES, check_options
from mhe.regularizers.base import OfNeurons
from mhe.regularizers.inner import descend
from mhe.regularizers.neurons import neuron_rows
from mhe.seeds import fresh_seed
from mhe.types import Tensor

# Neurons closer than this to a place count as being that far from it, and do not move it.
CLOSEST = 1e-3
# Random directions among which a search in half space starts at the best.
_DRAWS = 32
# How much more a place moves away from nearer neurons.
_SHARPNESS = 30.0


def polarization(
    weights: Tensor,
    s: float = 2,
    distance: str = "euclidean",
    space: str = "full",
    axis: int | tuple[int, ...] = -1,
    steps: int = 10,
) -> Tensor:
    """The least mean potential of the neurons over the sphere, min_v (1/N) Σ_i f_s(ρ(v, û_i)).

    The search starts at the best of the neurons' opposites; in half space, where these are crowded
    too, at the best of 32 random directions, which differ from step to step. It finds the pole only
    approximately; for the pole that it finds the gradient is exact. Angles have a kink at a
    neuron's opposite: if the pole is exactly there, that neuron has no gradient.

    Args:
        weights: Tensor or variable of any shape and floating dtype.
        s: Real number ≥ 0, the power of the potential z^(-s), or log(1/z) for 0.
        distance: `"euclidean"`, or `"angle"` in radians.
        space: `"full"`, or `"half"` to count every neuron's opposite as well.
        axis: The axis, or axes, that count the neurons.
        steps: Number of steps of the search.

    Returns:
        A scalar tensor; 0 for no neurons.

    Example:

    >>> import numpy as np
    >>> one = np.array([[1.0], [0.0]], "float32")
    >>> round(float(polarization(one)), 4)  # at a distance of 2
    0.25
    """
    rows = neuron_rows(weights, axis)
    if 0 in rows.shape:
        return ops.sum(rows)
    units = unit_vectors(rows)
    both = _with_opposites(units, space)
    fixed = ops.stop_gradient(both)

    def objective(v: Tensor) -> tuple[Tensor, Tensor]:
        chords = _chords(fixed, v)
        slope = ops.matmul(_slopes(chords, s, distance)[None, :], fixed)[0]
        return ops.mean(_potential(chords, s, distance)), slope

    start = _emptiest(
        ops.stop_gradient(units), space, lambda chords: ops.mean(_potential(chords, s, distance), 0)
    )
    v = descend(objective, start, steps)
    return ops.mean(_potential(_chords(both, v), s, distance))


def covering_distance(
    weights: Tensor,
    distance: str = "euclidean",
    space: str = "full",
    axis: int | tuple[int, ...] = -1,
    steps: int = 10,
) -> Tensor:
    """How far from all neurons a place on the sphere can be, max_v min_i ρ(v, û_i).

    The search starts like that of `polarization` and moves away from the nearest neurons, among
    which the gradient is shared.

    Args:
        weights: Tensor or variable of any shape and floating dtype.
        distance: `"euclidean"`, or `"angle"` in radians.
        space: `"full"`, or `"half"` to count every neuron's opposite as well.
        axis: The axis, or axes, that count the neurons.
        steps: Number of steps of the search.

    Returns:
        A scalar tensor; 0 for no neurons.

    Example:

    >>> import numpy as np
    >>> one = np.array([[1.0], [0.0]], "float32")
    >>> round(float(covering_distance(one)), 4)
    2.0
    """
    rows = neuron_rows(weights, axis)
    if 0 in rows.shape:
        return ops.sum(rows)
    units = unit_vectors(rows)
    both = _with_opposites(units, space)
    fixed = ops.stop_gradient(both)

    def shares(v: Tensor) -> Tensor:
        """How much each neuron counts: at the place looked for, several are equally near."""
        cosines = ops.matmul(fixed, v[:, None])[:, 0]
        near = ops.exp(_SHARPNESS * (cosines - ops.max(cosines)))
        return near / ops.sum(near)

    def objective(v: Tensor) -> tuple[Tensor, Tensor]:
        return -ops.min(_chords(fixed, v)), ops.matmul(shares(v)[None, :], fixed)[0]

    start = _emptiest(ops.stop_gradient(units), space, lambda chords: -ops.min(chords, axis=0))
    v = descend(objective, start, steps)
    rho = _rho(_chords(both, v), distance)
    # The value is the smallest distance; the gradient is shared by all that are nearly as small.
    shared = ops.sum(shares(v) * rho)
    return shared + ops.stop_gradient(ops.min(rho) - shared)


@keras.saving.register_keras_serializable(package="mhe")
class Polarization(OfNeurons):
    """Maximum hyperspherical polarization (MHP): adds minus the least potential over the sphere.

    See `polarization`. A step moves all neurons toward the emptiest place. As the potential there
    is positive for s > 0, so is what is made large: neurons around every place.

    Args:
        strength: Finite factor ≥ 0.
        s: Real number ≥ 0, the power of the potential.
        distance: `"euclidean"`, or `"angle"` in radians.
        steps: Number of steps of the search for the pole, at least 1.
        space: `"full"`, or `"half"` to count every neuron's opposite as well.
        axis: The axis, or axes, of the weight that count its neurons; `mhe.attach` knows it.

    Raises:
        ValueError: If an argument is not one of the above.

    Example:

    >>> import numpy as np
    >>> round(float(Polarization(2.0)(np.array([[1.0], [0.0]], "float32"))), 4)
    -0.5

    Reference:
        Liu et al., Learning with hyperspherical uniformity, AISTATS 2021
        ([arXiv:2103.01649](https://arxiv.org/abs/2103.01649)), section 3.
    """

    def __init__(
        self,
        strength: float = 1.0,
        s: float = 2,
        distance: str = "euclidean",
        steps: int = 10,
        space: str = "full",
        axis: int | tuple[int, ...] = -1,
    ) -> None:
        super().__init__(strength, space, axis)
        check_options(s, distance, space)
        check_count("steps", steps, 1)
        self.s = s
        self.distance = distance
        self.steps = steps

    def value(self, x: Tensor) -> Tensor:
        """Minus the least potential of the neurons of `x`."""
        return -polarization(x, self.s, self.distance, self.space, self.axis, self.steps)

    def own_config(self) -> dict[str, Any]:
        return {"s": self.s, "distance": self.distance, "steps": self.steps}


@keras.saving.register_keras_serializable(package="mhe")
class Covering(OfNeurons):
    """Minimum hyperspherical covering (MHC): adds the largest distance of a place to all neurons.

    See `covering_distance`. A step moves the neurons that are nearest to the emptiest place toward
    it.

    Args:
        strength: Finite factor ≥ 0.
        distance: `"euclidean"`, or `"angle"` in radians.
        steps: Number of steps of the search for the place, at least 1.
        space: `"full"`, or `"half"` to count every neuron's opposite as well.
        axis: The axis, or axes, of the weight that count its neurons; `mhe.attach` knows it.

    Raises:
        ValueError: If an argument is not one of the above.

    Example:

    >>> import numpy as np
    >>> round(float(Covering(0.5)(np.array([[1.0], [0.0]], "float32"))), 4)
    1.0

    Reference:
        Liu et al., Learning with hyperspherical uniformity, AISTATS 2021
        ([arXiv:2103.01649](https://arxiv.org/abs/2103.01649)), section 3.
    """

    def __init__(
        self,
        strength: float = 1.0,
        distance: str = "euclidean",
        steps: int = 10,
        space: str = "full",
        axis: int | tuple[int, ...] = -1,
    ) -> None:
        super().__init__(strength, space, axis)
        check_choice("distance", distance, DISTANCES)
        check_count("steps", steps, 1)
        self.distance = distance
        self.steps = steps

    def value(self, x: Tensor) -> Tensor:
        """The covering distance of the neurons of `x`."""
        return covering_distance(x, self.distance, self.space, self.axis, self.steps)

    def own_config(self) -> dict[str, Any]:
        return {"distance": self.distance, "steps": self.steps}


def _with_opposites(units: Tensor, space: str) -> Tensor:
    return ops.concatenate([units, -units], axis=0) if space == "half" else units


def _emptiest(units: Tensor, space: str, score: Callable[[Tensor], Tensor]) -> Tensor:
    """Where a search starts: the candidate of the smallest score.

    Args:
        units: `(N, D)`.
        space: In full space the candidates are the neurons' opposites, in half space draws.
        score: From the distances of points to candidates, `(N or 2N, K)`, to `(K,)`.
    """
    if space == "full":
        candidates = -units
    else:
        draws = keras.random.normal((_DRAWS, units.shape[1]), seed=fresh_seed(units[:, 0], 0))
        candidates = unit_vectors(ops.cast(draws, units.dtype))
    cosines = ops.matmul(_with_opposites(units, space), ops.transpose(candidates))
    chords = ops.sqrt(ops.maximum(2.0 - 2.0 * cosines, CLOSEST**2))
    return ops.take(candidates, ops.argmin(score(chords)), axis=0)


def _chords(units: Tensor, v: Tensor) -> Tensor:
    squares = ops.sum(ops.square(units - v[None, :]), axis=1)
    return ops.sqrt(ops.maximum(squares, CLOSEST**2))


def _rho(chords: Tensor, distance: str) -> Tensor:
    return chords if distance == "euclidean" else 2.0 * ops.arctan2(chords, _other_chords(chords))


def _other_chords(chords: Tensor) -> Tensor:
    """The distances to the opposites, none below 0.001."""
    return ops.sqrt(ops.maximum(4.0 - ops.square(chords), CLOSEST**2))


def _potential(chords: Tensor, s: float, distance: str) -> Tensor:
    rho = _rho(chords, distance)
    return -ops.log(rho) if s == 0 else ops.power(rho, -s)


def _slopes(chords: Tensor, s: float, distance: str) -> Tensor:
    """The slopes of the potentials along the cosines."""
    rho = _rho(chords, distance)
    along = 1.0 / rho if s == 0 else s * ops.power(rho, -s - 1)
    # dρ/dc: -1/‖u - v‖ for the distance, -1/sin θ for the angle.
    sine = chords if distance == "euclidean" else 0.5 * chords * _other_chords(chords)
    return along / sine
