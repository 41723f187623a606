"""Energies of samples: unbiased, exact when everything is drawn, redrawn at every step."""

import math

import numpy as np
import pytest

import mhe
from mhe.energy import sampled_energy


def draw(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


@pytest.mark.parametrize("space", ["full", "half"])
def test_sampled_energy_is_unbiased(space):
    # Unequal neurons, so that a bias would show: a tight bunch and some loose ones.
    weights = np.concatenate([draw(12, 1) + 0.4 * draw(12, 10, seed=1), draw(12, 20, seed=2)], 1)
    exact = float(mhe.hyperspherical_energy(weights, space=space))
    draws = np.array([float(sampled_energy(weights, 4, i, space=space)) for i in range(300)])
    standard_error = draws.std() / math.sqrt(len(draws))
    assert standard_error < 0.05 * exact
    assert abs(draws.mean() - exact) < 4 * standard_error
    assert len(np.unique(draws)) > 250


def test_sample_of_all_is_exact():
    weights = draw(6, 9)
    exact = float(mhe.hyperspherical_energy(weights, 0, "angle", "half"))
    for sample in (9, 100):
        value = float(sampled_energy(weights, sample, 3, 0, "angle", "half"))
        assert value == pytest.approx(exact)


def test_sampled_gradient_moves_only_the_drawn_neurons(value_and_gradient):
    for axis, weights in ((1, draw(6, 50)), (0, draw(50, 6))):
        _, gradient = value_and_gradient(
            lambda w, axis=axis: sampled_energy(w, 7, 0, axis=axis), weights
        )
        assert np.count_nonzero(np.any(gradient != 0, axis=1 - axis)) == 7


def test_draw_changes_with_the_weights_inside_compiled_code(gradient_step):
    weights = draw(6, 400)
    exact = float(mhe.hyperspherical_energy(weights))
    step = gradient_step(lambda w: sampled_energy(w, 20, seed=0))
    estimates = set()
    for i in range(5):
        moved = weights + np.float32(1e-6) * draw(6, 400, seed=i)
        assert float(mhe.hyperspherical_energy(moved)) == pytest.approx(exact, rel=1e-4)
        estimates.add(round(float(step(moved)[0]), 4))
    assert len(estimates) == 5


@pytest.mark.parametrize("sample", [1, 0, -1, 2.5])
def test_bad_samples(sample):
    with pytest.raises(ValueError, match=f"`sample` must be .* Received: sample={sample}"):
        sampled_energy(draw(3, 4), sample)
