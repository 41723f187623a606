"""Near neurons, whose cosine holds few digits of their distance."""

import keras
import numpy as np
import pytest

import mhe
from mhe.energy import near, pairs

VARIANTS = [
    (0, "euclidean", "full"),
    (2, "euclidean", "full"),
    (1, "euclidean", "half"),
    (2, "euclidean", "half"),
    (1, "angle", "full"),
    (2, "angle", "half"),
]


def neurons(distance, space, dims=12, count=7):
    """Neuron 1 is near to 0, and so are 2 and 4 to 3; in half space 1 and 4 are turned around."""
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(count, dims))
    for one, other in ((0, 1), (3, 2), (3, 4)):
        unit = weights[one] / np.linalg.norm(weights[one])
        aside = rng.normal(size=dims)
        aside -= (aside @ unit) * unit
        weights[other] = 1.5 * (unit + distance * aside / np.linalg.norm(aside))
    if space == "half":
        weights[[1, 4]] *= -1
    return weights.astype("float32")


@pytest.mark.parametrize("dims", [3, 12])
@pytest.mark.parametrize("distance", [0.1, 0.01, 0.0011])
@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_near_neurons_keep_their_digits(dims, distance, variant, check_energy):
    check_energy(neurons(distance, variant[2], dims), 0, None, variant, eager=True)


@pytest.mark.parametrize("block", [None, 3])
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize(
    "jit_compile", [False, True] if keras.backend.backend() == "tensorflow" else [False]
)
def test_in_blocks_and_compiled(block, axis, jit_compile, check_energy):
    # XLA takes seconds to compile each.
    variants = ((2, "euclidean", "half"), (1, "angle", "full"))[jit_compile:]
    for variant in variants:
        weights = neurons(0.0011, variant[2])
        weights = weights.T if axis else weights
        check_energy(weights, axis, block, variant, jit_compile=jit_compile)


def test_in_a_loop_over_blocks(check_energy, monkeypatch):
    monkeypatch.setattr(pairs, "_UNROLLED_BLOCKS", 1)
    for dims in (3, 12):
        check_energy(neurons(0.0011, "half", dims), 0, 3, (2, "euclidean", "half"))


def test_more_near_neurons_than_are_mended_stay_as_they_were(check_energy, monkeypatch):
    monkeypatch.setattr(near, "_NEIGHBORS", 1)
    check_energy(neurons(0.2, "full"), 0, None, (2, "euclidean", "full"), eager=True)


def test_equal_and_zero_neurons_among_near_ones(value_and_gradient):
    weights = neurons(0.01, "half")
    weights[5], weights[6] = weights[0], 0
    for block in (None, 3):
        value, gradient = value_and_gradient(
            lambda w, b=block: mhe.hyperspherical_energy(w, space="half", axis=0, block=b), weights
        )
        assert np.isfinite(value)
        assert np.all(np.isfinite(gradient))
        # The near neuron is pushed away from both.
        assert np.linalg.norm(gradient[1]) > np.linalg.norm(gradient[0]) > 0
        assert not gradient[6].any()
