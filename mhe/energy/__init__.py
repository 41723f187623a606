"""Hyperspherical energy of a set of neurons, with a hand-derived gradient in bounded memory.

Notation, shared by every file here: N neurons of D numbers, `w` the neurons, `u = w / ‖w‖`,
`c = u_i · u_j` a cosine, `x = 1 - c` and `y = 1 + c`, so that `‖u_i - u_j‖² = 2x` and
`‖u_i + u_j‖² = 2y`. The energy is a sum over pairs of a potential `h(c)`. What is summed is the
excess `h(c) - h(0)`, whose value and slope vanish for orthogonal neurons where they can: trained
neurons are nearly orthogonal, so sums of millions of pairs keep their digits in float32, and a
zero vector (a cosine of 0 with everything) adds nothing, which makes padding free.
"""

from mhe.energy.hyperspherical import hyperspherical_energy
from mhe.energy.options import (
    DISTANCES,
    REDUCTIONS,
    SPACES,
    check_axis,
    check_options,
    neuron_axes,
)
from mhe.energy.pairs import block_size
from mhe.energy.sampling import sampled_energy

# Importable from here for backward compatibility.
from mhe.seeds import fresh_seed

__all__ = [
    "DISTANCES",
    "REDUCTIONS",
    "SPACES",
    "block_size",
    "check_axis",
    "check_options",
    "fresh_seed",
    "hyperspherical_energy",
    "neuron_axes",
    "sampled_energy",
]
