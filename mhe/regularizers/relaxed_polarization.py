"""Polarization with a potential whose pole is known: how far neurons are from balance."""

from keras import ops

from mhe.directions import unit_vectors
from mhe.regularizers.distances import lengths
from mhe.regularizers.neurons import neuron_rows
from mhe.types import Tensor


def relaxed_polarization(weights: Tensor, axis: int | tuple[int, ...] = -1) -> Tensor:
    """The length of the mean of the neurons' directions, ‖(1/N) Σ_i û_i‖.

    It is what polarization comes to for the potential -ρ², Riesz's with a power of -2 instead of s:

        min_v (1/N) Σ_i -‖v - û_i‖² = -2 - 2·‖(1/N) Σ_i û_i‖

    at the pole v = -Σ_i û_i / ‖Σ_i û_i‖, so no search is needed, and time is O(N·D). It is 1 if all
    neurons are equal, and 0, without a gradient, if they are in balance. Many placements are, such
    as pairs of opposite neurons: it does not tell how evenly they are spread.

    Args:
        weights: Tensor or variable of any shape and floating dtype.
        axis: The axis, or axes, that count the neurons; 0 for features `(B, dims)`.

    Returns:
        A scalar tensor: float64 for float64 weights, else float32; 0 for no neurons.

    Raises:
        ValueError: If an axis is out of range or given twice.

    Example:

    >>> import keras
    >>> round(float(relaxed_polarization(keras.ops.eye(4))), 4)
    0.5

    Reference:
        Liu et al., Learning with hyperspherical uniformity, AISTATS 2021
        ([arXiv:2103.01649](https://arxiv.org/abs/2103.01649)), relaxed MHP. The published code
        takes ‖Σ_i w_i‖ of the neurons as they are, with a strength of 0.01 on hidden layers and
        0.1 on the output layer; like the rest of the family, this one sees directions alone and
        does not grow with the layer.
    """
    rows = neuron_rows(weights, axis)
    if 0 in rows.shape:
        return ops.sum(rows)
    return lengths(ops.mean(unit_vectors(rows), axis=0))
