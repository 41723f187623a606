"""The energy against a float64 evaluation of the paper's formula, everywhere it could go wrong."""

import itertools
import math

import keras
import numpy as np
import pytest
from keras import ops

import mhe
from mhe.energy import REDUCTIONS

VARIANTS = list(itertools.product((0, 1, 2, 0.5, 3), ("euclidean", "angle"), ("full", "half")))


def draw(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
@pytest.mark.parametrize("dims", [3, 11])
def test_value_and_gradient(dims, variant, check_energy):
    check_energy(draw(dims, 7), 1, None, variant, eager=True)


@pytest.mark.parametrize("axis", [0, 1, -1, (0, 1), (2, 3), (3, 0), (-2, -4)], ids=str)
def test_axes_of_a_kernel(axis, reference_energy):
    weights = draw(2, 3, 4, 5)
    value = mhe.hyperspherical_energy(weights, 1, "angle", "half", axis)
    expected = reference_energy(weights, 1, "angle", "half", axis=axis)
    assert abs(float(value) - expected) <= 1e-5 * abs(expected)


@pytest.mark.parametrize("variant", VARIANTS[:12], ids=str)
def test_sum_counts_ordered_pairs(variant, check_energy):
    check_energy(draw(9, 5), 1, None, variant, reduction="sum", eager=True)


def test_half_space_is_full_space_of_both_signs():
    weights = draw(12, 6)
    half = mhe.hyperspherical_energy(weights, 2, "euclidean", "half")
    both = mhe.hyperspherical_energy(np.concatenate([weights, -weights], 1), 2, "euclidean")
    # The doubled set holds exactly opposite points, which full space allows.
    np.testing.assert_allclose(float(half), float(both), rtol=1e-5)


def test_known_configurations():
    simplex = np.eye(4, dtype="float32") - 0.25  # all cosines -1/3
    apart = math.sqrt(8 / 3)
    np.testing.assert_allclose(float(mhe.hyperspherical_energy(simplex)), apart**-2, rtol=1e-6)
    angles = mhe.hyperspherical_energy(simplex, 1, "angle")
    np.testing.assert_allclose(float(angles), 1 / math.acos(-1 / 3), rtol=1e-6)
    cross = mhe.hyperspherical_energy(np.eye(3, dtype="float32"), 0, space="half")
    # 30 ordered pairs of ±e_i: 6 antipodal at 2, 24 at √2.
    expected = -(6 * math.log(2) + 24 * math.log(math.sqrt(2))) / 30
    np.testing.assert_allclose(float(cross), expected, rtol=1e-6)


def degenerate():
    v = draw(12)
    zero = np.zeros_like(v)
    sets = {
        "equal": [v, v, v],
        "opposite": [v, -v],
        "collinear": [v, 2 * v, -3 * v],
        "zero": [v, zero, draw(12, seed=1)],
        "all zero": [zero, zero],
        "axes": [*np.eye(12, dtype="float32")[:3], -np.eye(12, dtype="float32")[0]],
        "nearly equal": [v, v * np.float32(1 + 1e-6), v + np.float32(1e-7)],
        "one": [v],
        "tiny": [v * np.float32(1e-15), draw(12, seed=1) * np.float32(1e-15)],
        "huge": [v * np.float32(1e15), draw(12, seed=1) * np.float32(1e15)],
        "tiny and near": [v * np.float32(1e-15), (v + np.eye(12)[0] / 200) * np.float32(1e-15)],
        "tiny and equal": [v * np.float32(1e-15), v * np.float32(1e-15)],
        "tiny and collinear": [v * np.float32(1e-15), v * np.float32(-3e-15), v],
    }
    return {name: np.stack(vectors, axis=1).astype("float32") for name, vectors in sets.items()}


@pytest.mark.parametrize("name", list(degenerate()))
def test_degenerate_neurons_stay_finite(name, value_and_gradient):
    variants = [*VARIANTS[:12], (0.5, "angle", "full"), (20, "euclidean", "half")]
    for dims, block in ((12, None), (2, None), (12, 2)):
        weights = degenerate()[name][:dims]
        # Nothing but the order of summation is other here, and each takes its time to compile.
        is_same = keras.backend.backend() != "torch" and (dims, block) != (12, None)
        for variant in variants[::5] if is_same else variants:
            value, gradient = value_and_gradient(
                lambda w, v=variant, b=block: mhe.hyperspherical_energy(w, *v, block=b),
                weights,
                eager=True,
            )
            assert np.isfinite(value), variant
            assert np.all(np.isfinite(gradient)), variant


@pytest.mark.parametrize("dims", [3, 40])
@pytest.mark.parametrize("variant", VARIANTS[:12], ids=str)
def test_equal_and_opposite_neurons_do_not_move_each_other(variant, dims, value_and_gradient):
    # There is no direction in which they could part: whatever came out would be rounding.
    v = draw(dims)
    others = [v, -v] if variant[2] == "half" else [v]
    weights = np.stack([v, *others], axis=1)
    _, gradient = value_and_gradient(
        lambda w: mhe.hyperspherical_energy(w, *variant), weights, eager=True
    )
    assert np.linalg.norm(gradient) < 1e-3


def test_equal_neurons_among_others_get_the_same_gradient(value_and_gradient):
    v = draw(40)
    weights = np.concatenate([np.stack([v, v], axis=1), draw(40, 3, seed=1)], axis=1)
    for block in (None, 2):
        _, gradient = value_and_gradient(
            lambda w, b=block: mhe.hyperspherical_energy(w, block=b), weights, eager=True
        )
        np.testing.assert_allclose(gradient[:, 0], gradient[:, 1], rtol=1e-4, atol=1e-7)
        assert np.abs(np.sum(gradient * weights, axis=0)).max() < 1e-6


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_weights(dtype, value_and_gradient, reference_energy):
    weights = keras.ops.cast(draw(40, 9), dtype)
    energy, slope = value_and_gradient(
        lambda w: mhe.hyperspherical_energy(w, 2, "euclidean", "half"), weights
    )
    value = mhe.hyperspherical_energy(weights, 2, "euclidean", "half")
    assert keras.backend.standardize_dtype(value.dtype) == "float32"
    np.testing.assert_allclose(float(value), energy, rtol=1e-6)
    _, expected = value_and_gradient(
        lambda w: mhe.hyperspherical_energy(w, 2, "euclidean", "half"), ops.cast(weights, "float32")
    )
    np.testing.assert_allclose(slope, expected, atol=1e-2 * np.abs(expected).max())
    neurons = ops.convert_to_numpy(ops.cast(weights, "float32")).T
    expected = reference_energy(neurons, 2, "euclidean", "half")
    assert abs(energy - expected) <= 1e-5 * abs(expected)

    # Equal neurons have the steepest gradient, and loss scaling makes it steeper still.
    equal = ops.concatenate([weights[:, :1], weights[:, :1]], axis=1)
    for variant in VARIANTS[:12]:
        value, gradient = value_and_gradient(
            lambda w, v=variant: 2.0**15 * mhe.hyperspherical_energy(w, *v), equal, eager=True
        )
        assert np.isfinite(value)
        assert np.all(np.isfinite(gradient))


@pytest.mark.skipif(
    keras.backend.backend() != "tensorflow",
    reason="Keras computes float64 in float32 on PyTorch, and on JAX unless JAX is told not to",
)
def test_float64_weights_are_computed_in_float64(reference_energy):
    weights = ops.convert_to_tensor(np.random.default_rng(0).normal(size=(12, 30)), "float64")
    for s, distance, space in VARIANTS:
        value = mhe.hyperspherical_energy(weights, s, distance, space)
        assert keras.backend.standardize_dtype(value.dtype) == "float64"
        expected = reference_energy(ops.convert_to_numpy(weights).T, s, distance, space)
        assert abs(float(value) - expected) <= 1e-12 * max(abs(expected), 1)


def test_near_neurons_of_few_dimensions_keep_their_digits(check_energy):
    angles = np.array([0.0, 0.01, 0.03, 1.5, 3.13])
    weights = np.stack([np.cos(angles), np.sin(angles)]).astype("float32")
    check_energy(weights, 1, None, (2, "euclidean", "half"), eager=True)
    check_energy(weights, 1, None, (1, "angle", "half"), eager=True)


def test_no_pair_no_energy(value_and_gradient):
    for shape in ((5, 1), (5, 0)):
        for reduction in REDUCTIONS:
            value, gradient = value_and_gradient(
                lambda w, r=reduction: mhe.hyperspherical_energy(w, reduction=r), draw(*shape)
            )
            assert value == 0
            assert np.all(gradient == 0)
    one_with_its_opposite = mhe.hyperspherical_energy(draw(5, 1), s=2, space="half")
    assert float(one_with_its_opposite) == pytest.approx(0.25)


def test_scale_of_a_neuron_does_not_matter():
    weights = draw(12, 5)
    scaled = weights * np.array([1e-6, 1, 3, 1e4, 50], "float32")
    first, second = (float(mhe.hyperspherical_energy(w)) for w in (weights, scaled))
    assert second == pytest.approx(first, rel=1e-6)


def test_integers_are_weights_too():
    value = mhe.hyperspherical_energy(np.array([[1, 0], [0, 3]]))
    assert float(value) == pytest.approx(0.5)


def test_descending_the_energy_spreads_neurons(gradient_step):
    step = gradient_step(mhe.hyperspherical_energy)
    weights = draw(3, 4)
    for _ in range(150):
        weights = weights - 0.3 * step(weights)[1]
    units = weights / np.linalg.norm(weights, axis=0)
    # The optimum of four points in space is the tetrahedron.
    np.testing.assert_allclose((units.T @ units)[~np.eye(4, dtype=bool)], -1 / 3, atol=0.02)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"s": -1}, "`s` must be .* >= 0. Received: s=-1"),
        ({"s": float("nan")}, "Received: s=nan"),
        ({"s": float("inf")}, "Received: s=inf"),
        ({"s": "a0"}, "Received: s='a0'"),
        ({"s": True}, "Received: s=True"),
        ({"distance": "cosine"}, '"euclidean" or "angle". Received: distance=\'cosine\''),
        ({"space": "quarter"}, '"full" or "half". Received: space='),
        ({"reduction": "max"}, '"mean" or "sum". Received: reduction='),
        ({"axis": 2}, "out of range .* 2 axes, which allows -2 to 1. Received: axis=2"),
        ({"axis": -3}, "out of range"),
        ({"axis": (0, -2)}, "twice"),
        ({"axis": ()}, "int or a tuple of ints"),
        ({"axis": 0.5}, "int or a tuple of ints"),
        ({"block": 0}, "`block` must be None or an integer >= 1. Received: block=0"),
        ({"block": 2.5}, "`block` must be None or an integer >= 1. Received: block=2.5"),
    ],
    ids=str,
)
def test_bad_arguments(options, words):
    with pytest.raises(ValueError, match=words):
        mhe.hyperspherical_energy(draw(3, 4), **options)


def test_a_scalar_is_no_weight():
    with pytest.raises(ValueError, match="must have axes"):
        mhe.hyperspherical_energy(1.0)
