"""Energies of samples: unbiased, close, exact when everything is drawn, redrawn at every step."""

import itertools
import math

import numpy as np
import pytest
from keras import ops

import mhe
from mhe.energy import sampled_energy
from mhe.energy.hyperspherical import energy_of_excess
from mhe.energy.layout import Layout
from mhe.energy.potential import Variant
from mhe.energy.sampling import mean_excess

VARIANTS = [
    (2, "euclidean", "full"),
    (2, "euclidean", "half"),
    (0, "euclidean", "full"),
    (1, "angle", "half"),
    (1.5, "angle", "full"),
    (0, "angle", "half"),
]


def draw(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


@pytest.mark.one_backend
@pytest.mark.parametrize("space", ["full", "half"])
def test_draws_are_unbiased(space):
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


@pytest.mark.one_backend
@pytest.mark.parametrize("dims", [3, 9])
@pytest.mark.parametrize(("s", "distance", "space"), VARIANTS)
def test_mean_over_all_samples_is_exact(value_and_gradient, dims, s, distance, space):
    # Unequal neurons; with 9 dimensions the squares of cosines are not summed.
    weights = draw(6, dims) + np.linspace(0, 1, 6, dtype="float32")[:, None]
    variant, rows = Variant.of(s, distance, space), Layout(in_columns=False)

    def estimate(w, drawn):
        excess = mean_excess(w, ops.convert_to_tensor(drawn), rows, variant, len(drawn))
        return energy_of_excess(excess * 30, 6, variant, "mean")

    drawn = np.array(list(itertools.combinations(range(6), 3)), "int32")
    pairs = [value_and_gradient(lambda w, i=i: estimate(w, i), weights) for i in drawn]
    exact, gradient = value_and_gradient(
        lambda w: mhe.hyperspherical_energy(w, s, distance, space, axis=0), weights
    )
    values, gradients = zip(*pairs, strict=True)
    assert np.std(values) > 1e-4 * abs(exact)
    assert np.mean(values) == pytest.approx(exact, rel=1e-6)
    error = np.linalg.norm(np.mean(gradients, axis=0) - gradient)
    assert error <= 1e-5 * np.linalg.norm(gradient)


@pytest.mark.one_backend
@pytest.mark.parametrize(("s", "distance", "space"), VARIANTS)
def test_samples_lie_closer_than_the_energies_of_their_neurons(s, distance, space):
    weights = draw(64, 1000)
    options = {"s": s, "distance": distance, "space": space}
    exact = float(mhe.hyperspherical_energy(weights, **options))
    estimates = [float(sampled_energy(weights, 64, i, **options)) for i in range(20)]
    generator = np.random.default_rng(0)
    subsets = [generator.choice(1000, 64, replace=False) for _ in range(20)]
    plain = [float(mhe.hyperspherical_energy(weights[:, i], **options)) for i in subsets]
    ratio = 20 if space == "full" else 10
    assert np.std(np.subtract(estimates, exact)) < np.std(plain) / ratio


def test_draw_moves_all_neurons_where_squares_are_summed(value_and_gradient):
    for axis, weights in ((1, draw(6, 50)), (0, draw(50, 6))):
        _, gradient = value_and_gradient(
            lambda w, axis=axis: sampled_energy(w, 7, 0, axis=axis, space="half"), weights
        )
        assert np.all(np.any(gradient != 0, axis=1 - axis))


def test_plain_sample_moves_only_the_drawn_neurons(value_and_gradient):
    for axis, weights in ((1, draw(60, 50)), (0, draw(50, 60))):
        _, gradient = value_and_gradient(
            lambda w, axis=axis: sampled_energy(w, 7, 0, axis=axis, space="half"), weights
        )
        assert np.count_nonzero(np.any(gradient != 0, axis=1 - axis)) == 7


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize(
    ("s", "distance", "space"), [(2, "euclidean", "full"), (1, "angle", "half")]
)
def test_degenerate_neurons_are_finite(gradient_step, s, distance, space, dtype):
    weights = draw(4, 24)
    weights[:, :4] = 0
    weights[:, 4:8] = weights[:, 8:12]
    weights[:, 12:16] = -weights[:, 16:20]
    step = gradient_step(lambda w: sampled_energy(w, 20, 0, s, distance, space))
    for given in (weights, np.ones_like(weights), np.zeros_like(weights), 1e-3 * weights):
        value, gradient = step(given.astype(dtype))
        assert np.isfinite(value)
        assert gradient.dtype == dtype
        assert np.all(np.isfinite(gradient))


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
