"""Hyperspherical energy of the neurons in a weight."""

from mhe.energy.hyperspherical import (
    DISTANCES,
    REDUCTIONS,
    SPACES,
    block_size,
    check_axis,
    check_count,
    check_options,
    check_strength,
    fresh_seed,
    hyperspherical_energy,
    neuron_axes,
    sampled_energy,
)

__all__ = [
    "DISTANCES",
    "REDUCTIONS",
    "SPACES",
    "block_size",
    "check_axis",
    "check_count",
    "check_options",
    "check_strength",
    "fresh_seed",
    "hyperspherical_energy",
    "neuron_axes",
    "sampled_energy",
]
