"""Neurons around the emptiest place of the sphere: polarization and covering."""

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from mhe.checks import check_choice, check_count, check_flag
from mhe.directions import unit_vectors
from mhe.energy import DISTANCES, SPACES, check_options
from mhe.energy.potential import Variant, excess_of_cosines, measures_of_cosines, potential
from mhe.regularizers.base import OfNeurons
from mhe.regularizers.inner import descend
from mhe.regularizers.neurons import neuron_rows
from mhe.regularizers.relaxed_polarization import relaxed_polarization
from mhe.seeds import fresh_seed
from mhe.types import Tensor

# Neurons closer than this (squared distance) to a place count as being that far from it.
_CLOSEST = 1e-6
# Random directions among which a search starts at the best.
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

    The search starts at the best of the neurons' opposites and of 32 random directions, which
    differ from step to step; in half space, where opposites are crowded too, of those directions
    alone. It finds the pole only approximately; for the pole that it finds the gradient is exact.
    Angles have a kink at a neuron's opposite: if the pole is exactly there, that neuron has no
    gradient.

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
    check_options(s, distance, space)
    check_count("steps", steps, 1)
    rows = neuron_rows(weights, axis)
    if 0 in rows.shape:
        return ops.sum(rows)
    units = unit_vectors(rows)
    fixed = ops.stop_gradient(units)
    variant = Variant.of(s, distance, space)

    def potentials(cosines: Tensor) -> tuple[Tensor, Tensor]:
        return potential(cosines, measures_of_cosines(cosines, variant), variant)

    def objective(v: Tensor) -> tuple[Tensor, Tensor]:
        excess, slope = potentials(ops.matmul(fixed, v))
        return ops.mean(excess), ops.matmul(slope, fixed)

    start = _emptiest(fixed, space, lambda cosines: ops.mean(potentials(cosines)[0], axis=0))
    v = descend(objective, start, steps)
    excess = ops.mean(excess_of_cosines(ops.matmul(units, v), variant))
    # In half space an excess is that of two potentials.
    return (0.5 * excess if variant.half else excess) + variant.orthogonal


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
    check_choice("distance", distance, DISTANCES)
    check_choice("space", space, SPACES)
    check_count("steps", steps, 1)
    rows = neuron_rows(weights, axis)
    if 0 in rows.shape:
        return ops.sum(rows)
    units = unit_vectors(rows)
    points = ops.concatenate([units, -units], axis=0) if space == "half" else units
    fixed = ops.stop_gradient(points)

    def shares(v: Tensor) -> Tensor:
        """How much each neuron counts: at the place looked for, several are equally near."""
        cosines = ops.matmul(fixed, v)
        near = ops.exp(_SHARPNESS * (cosines - ops.max(cosines)))
        return near / ops.sum(near)

    def objective(v: Tensor) -> tuple[Tensor, Tensor]:
        return ops.max(ops.matmul(fixed, v)), ops.matmul(shares(v), fixed)

    def closeness(cosines: Tensor) -> Tensor:
        return ops.max(ops.absolute(cosines) if space == "half" else cosines, axis=0)

    start = _emptiest(ops.stop_gradient(units), space, closeness)
    v = descend(objective, start, steps)
    rho = _distances(points, v, distance)
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
        axis: The axis, or axes, of the weight that count its neurons; 0 for features. `mhe.attach`
            knows it for every layer.
        relaxed: Whether to add `relaxed_polarization` instead, which needs no search: `s`,
            `distance` and `steps` do not matter then. In full space alone, as neurons and their
            opposites are always in balance.

    Raises:
        ValueError: If an argument is not one of the above, or `relaxed` is asked for in half space.

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
        *,
        relaxed: bool = False,
    ) -> None:
        super().__init__(strength, space, axis)
        check_options(s, distance, space)
        check_count("steps", steps, 1)
        check_flag("relaxed", relaxed)
        if relaxed and space == "half":
            raise ValueError(
                "`relaxed` needs `space` to be 'full': neurons and their opposites are always in "
                "balance. Received: relaxed=True, space='half'"
            )
        self.s = s
        self.distance = distance
        self.steps = steps
        self.relaxed = relaxed

    def value(self, x: Tensor) -> Tensor:
        """Minus the least potential of the neurons of `x`, or their relaxed polarization."""
        if self.relaxed:
            return relaxed_polarization(x, self.axis)
        return -polarization(x, self.s, self.distance, self.space, self.axis, self.steps)

    def own_config(self) -> dict[str, Any]:
        return {"s": self.s, "distance": self.distance, "steps": self.steps}

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "relaxed": self.relaxed}

    def __repr__(self) -> str:
        if self.relaxed:
            return f"Polarization({self.strength:g}, relaxed, {self.space})"
        return super().__repr__()


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
        axis: The axis, or axes, of the weight that count its neurons; 0 for features. `mhe.attach`
            knows it for every layer.

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


def _emptiest(units: Tensor, space: str, crowding: Callable[[Tensor], Tensor]) -> Tensor:
    """Where a search starts: the least crowded candidate.

    Args:
        units: `(N, D)`.
        space: In half space the candidates are draws, in full space the neurons' opposites, too.
            Draws alone are far from the emptiest place in many dimensions; opposites are all taken
            where neurons are in balance.
        crowding: From cosines of neurons and candidates, `(N, K)`, to `(K,)`.
    """
    draws = keras.random.normal((_DRAWS, units.shape[1]), seed=fresh_seed(units[:, 0], 0))
    candidates = unit_vectors(ops.cast(draws, units.dtype))
    if space == "full":
        # Of equally good ones the first is taken.
        candidates = ops.concatenate([-units, candidates], axis=0)
    cosines = ops.matmul(units, ops.transpose(candidates))
    return ops.take(candidates, ops.argmin(crowding(cosines)), axis=0)


def _distances(units: Tensor, v: Tensor, distance: str) -> Tensor:
    """The distances of unit vectors from another, none below 0.001, without a gradient there."""
    squares = ops.sum(ops.square(units - v), axis=1)
    chords = ops.sqrt(ops.maximum(squares, _CLOSEST))
    if distance == "euclidean":
        return chords
    return 2.0 * ops.arctan2(chords, ops.sqrt(ops.maximum(4.0 - squares, _CLOSEST)))
