"""The hyperspherical energy of neurons that are projected to fewer dimensions."""

from typing import Any

import keras
from keras import ops

from mhe.checks import check_choice, check_count
from mhe.directions import unit_vectors
from mhe.energy import block_size, check_options, hyperspherical_energy
from mhe.energy.layout import Layout
from mhe.energy.pairs import excess_and_slope
from mhe.energy.potential import Variant
from mhe.regularizers.base import OfNeurons
from mhe.regularizers.inner import Objective, descend
from mhe.regularizers.neurons import neuron_rows, same_row
from mhe.seeds import fresh_seed
from mhe.types import Tensor

PROJECTIONS = ("random", "angle", "adversarial")


def compressed_energy(
    weights: Tensor,
    projection: str = "random",
    dims: int = 30,
    projections: int = 1,
    s: float = 2,
    distance: str = "euclidean",
    space: str = "full",
    axis: int | tuple[int, ...] = -1,
    steps: int = 5,
    seed: int = 0,
) -> Tensor:
    """The mean energy of neurons after a linear map to `dims` dimensions, averaged over maps.

    - `"random"`: normal numbers, drawn anew whenever a step moves the weights, or with `seed`.
    - `"angle"`: such a map, moved for a few steps toward keeping the cosines, in the least-squares
      sense.
    - `"adversarial"`: such a map, moved for a few steps toward a large energy.

    The gradient is that for maps held fixed.

    Args:
        weights: Tensor or variable of any shape and floating dtype.
        projection: One of the above.
        dims: Dimensions to project to, no more than a neuron has numbers.
        projections: Number of maps.
        s: As in `mhe.hyperspherical_energy`.
        distance: As in `mhe.hyperspherical_energy`.
        space: As in `mhe.hyperspherical_energy`.
        axis: As in `mhe.hyperspherical_energy`.
        steps: Number of steps that move a map.
        seed: Integer ≥ 0.

    Returns:
        A scalar tensor.

    Raises:
        ValueError: If an argument is not one of the above, or a neuron has fewer than `dims`
            numbers.

    Example:

    >>> import numpy as np
    >>> weights = np.random.default_rng(0).normal(size=(64, 10)).astype("float32")
    >>> energies = [float(compressed_energy(weights, each, 8)) for each in PROJECTIONS]
    >>> energies[2] > energies[0] > energies[1]
    True
    """
    _check(projection, dims, projections, s, distance, space, steps)
    rows = neuron_rows(weights, axis)
    if 0 in rows.shape:
        return ops.sum(rows)
    if rows.shape[1] < dims:
        raise ValueError(
            "`dims` must be at most the numbers in a neuron. "
            f"Received: dims={dims} for neurons of {rows.shape[1]}"
        )
    fixed = ops.stop_gradient(rows)
    options: dict[str, Any] = {"s": s, "distance": distance, "space": space, "axis": 0}
    total: Tensor = 0.0
    for number in range(projections):
        source = fresh_seed(fixed[:, 0], seed * projections + number)
        drawn = keras.random.normal((rows.shape[1], dims), seed=source)
        matrix = ops.cast(drawn, rows.dtype)
        if projection != "random" and rows.shape[0] != 1:
            moved = (
                _loss_of_angles(fixed, dims)
                if projection == "angle"
                else _negative_energy(fixed, dims, Variant.of(s, distance, space))
            )
            matrix = ops.reshape(
                descend(moved, ops.reshape(matrix, (-1,)), steps), (rows.shape[1], dims)
            )
        total = total + hyperspherical_energy(ops.matmul(rows, matrix), **options)
    return total / projections


def _check(
    projection: str,
    dims: int,
    projections: int,
    s: float,
    distance: str,
    space: str,
    steps: int,
) -> None:
    check_choice("projection", projection, PROJECTIONS)
    check_count("dims", dims, 1)
    check_count("projections", projections, 1)
    check_options(s, distance, space)
    check_count("steps", steps, 1)


# The length of a map changes neither cosines nor energies, so maps are points on a sphere too.
def _loss_of_angles(rows: Tensor, dims: int) -> Objective:
    """A quarter of Σ_{i≠j} (cos_ij - cos'_ij)², as a function of a map, flattened."""
    units = unit_vectors(rows)
    pairs = 1.0 - ops.cast(same_row(rows), rows.dtype)
    cosines = ops.matmul(units, ops.transpose(units))

    def objective(flat: Tensor) -> tuple[Tensor, Tensor]:
        mapped = ops.matmul(units, ops.reshape(flat, (-1, dims)))
        squares = ops.sum(ops.square(mapped), axis=1, keepdims=True)
        inverse = ops.rsqrt(ops.maximum(squares, 1e-12))
        directions = mapped * inverse
        errors = (ops.matmul(directions, ops.transpose(directions)) - cosines) * pairs
        pulls = ops.matmul(errors, directions)
        pulls = pulls - directions * ops.sum(pulls * directions, axis=1, keepdims=True)
        slope = ops.matmul(ops.transpose(units), pulls * inverse)
        return 0.25 * ops.sum(ops.square(errors)), ops.reshape(slope, (-1,))

    return objective


def _negative_energy(rows: Tensor, dims: int, variant: Variant) -> Objective:
    """Minus the energy of mapped neurons, as a function of a map, flattened."""
    units = unit_vectors(rows)
    layout = Layout(in_columns=False)
    block = block_size(int(rows.shape[0])) if layout.is_counted(rows) else 1

    def objective(flat: Tensor) -> tuple[Tensor, Tensor]:
        mapped = ops.matmul(units, ops.reshape(flat, (-1, dims)))
        value, pulls = excess_and_slope(mapped, layout, variant, block)
        return -value, -ops.reshape(ops.matmul(ops.transpose(units), pulls), (-1,))

    return objective


@keras.saving.register_keras_serializable(package="mhe")
class CoMHE(OfNeurons):
    """Compressive MHE: spreads neurons by their energy in fewer dimensions.

    In many dimensions random neurons are nearly orthogonal, and the energy has little slope; after
    a projection it has more. See `compressed_energy` for the projections, which hold no state: they
    depend on the weights and, for random ones, on the number of calls.

    Args:
        strength: Finite factor ≥ 0.
        projection: `"random"`, `"angle"` or `"adversarial"`.
        dims: Dimensions to project to, at least 1; the published number is 30. Layers whose neurons
            have fewer numbers are refused.
        projections: Number of projections to average over, at least 1.
        s: Real number ≥ 0, the power of the potential.
        distance: `"euclidean"` or `"angle"`.
        steps: Number of steps that move a projection which is not random, at least 1.
        space: `"full"`, or `"half"` to count every neuron's opposite as well.
        axis: The axis, or axes, of the weight that count its neurons; 0 for features. `mhe.attach`
            knows it for every layer.

    Raises:
        ValueError: If an argument is not one of the above; when called, if a neuron has fewer than
            `dims` numbers.

    Example:

    >>> import keras, mhe
    >>> layer = keras.layers.Dense(100, kernel_regularizer=mhe.regularizers.CoMHE(dims=20))
    >>> layer.build((None, 64))
    >>> len(layer.losses)
    1

    Reference:
        Lin et al., Regularizing neural networks via minimizing hyperspherical energy, CVPR 2020
        ([arXiv:1906.04892](https://arxiv.org/abs/1906.04892)). The angle-preserving and the
        adversarial projection are there found by alternating steps over the training; here by a few
        steps within each call.
    """

    def __init__(
        self,
        strength: float = 1.0,
        projection: str = "random",
        dims: int = 30,
        projections: int = 1,
        s: float = 2,
        distance: str = "euclidean",
        steps: int = 5,
        space: str = "full",
        axis: int | tuple[int, ...] = -1,
    ) -> None:
        super().__init__(strength, space, axis)
        _check(projection, dims, projections, s, distance, space, steps)
        self.projection = projection
        self.dims = dims
        self.projections = projections
        self.s = s
        self.distance = distance
        self.steps = steps
        self._calls = 0

    def value(self, x: Tensor) -> Tensor:
        """The mean energy of the projected neurons of `x`."""
        energy = compressed_energy(
            *(x, self.projection, self.dims, self.projections, self.s, self.distance, self.space),
            axis=self.axis,
            steps=self.steps,
            seed=self._calls,
        )
        # What a search ends at should change with the weights alone.
        self._calls += self.projection == "random"
        return energy

    def own_config(self) -> dict[str, Any]:
        return {
            "projection": self.projection,
            "dims": self.dims,
            "projections": self.projections,
            "s": self.s,
            "distance": self.distance,
            "steps": self.steps,
        }
