"""The sum over pairs in one block, in unrolled blocks and in a loop."""

import itertools
import math

import keras
import numpy as np
import pytest

import mhe
from mhe.energy import block_size, pairs

VARIANTS = list(itertools.product((0, 1, 2), ("euclidean", "angle"), ("full", "half")))


def draw(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


@pytest.mark.parametrize("block", [None, 3])
@pytest.mark.parametrize("variant", VARIANTS[2::3], ids=str)
@pytest.mark.parametrize(
    "jit_compile", [False, True] if keras.backend.backend() == "tensorflow" else [False]
)
def test_compiled(jit_compile, variant, block, check_energy):
    check_energy(draw(11, 7), 1, block, variant, jit_compile=jit_compile)


@pytest.mark.parametrize("count", [7, 8, 9])
@pytest.mark.parametrize(("dims", "axis"), [(3, 0), (3, 1), (10, 0), (10, 1)])
def test_block_boundaries(dims, axis, count, check_energy):
    weights = draw(count, dims) if axis == 0 else draw(dims, count)
    for variant in ((2, "euclidean", "half"), (0, "angle", "full")):
        check_energy(weights, axis, 4, variant, eager=True)


@pytest.mark.parametrize("count", [7, 8, 9])
@pytest.mark.parametrize(("dims", "axis"), [(3, 0), (10, 1)])
def test_block_boundaries_in_the_loop(dims, axis, count, check_energy, monkeypatch):
    monkeypatch.setattr(pairs, "_UNROLLED_BLOCKS", 1)
    weights = draw(count, dims) if axis == 0 else draw(dims, count)
    check_energy(weights, axis, 4, (1, "euclidean", "half"))
    check_energy(weights, axis, 4, (2, "angle", "full"))


def test_loop_of_many_blocks_equals_one_block(value_and_gradient):
    weights = draw(20, 57)
    for space in ("full", "half"):
        whole, slope = value_and_gradient(
            lambda w, space=space: mhe.hyperspherical_energy(w, space=space), weights
        )
        blocks, block_slope = value_and_gradient(
            lambda w, space=space: mhe.hyperspherical_energy(w, space=space, block=4), weights
        )
        np.testing.assert_allclose(blocks, whole, rtol=1e-6)
        np.testing.assert_allclose(block_slope, slope, atol=1e-5 * np.abs(slope).max())


def test_more_neurons_than_one_block_against_float64(reference_energy):
    weights = draw(64, 150)
    for s, distance, space in VARIANTS:
        value = mhe.hyperspherical_energy(weights, s, distance, space, block=64)
        expected = reference_energy(weights.T, s, distance, space)
        assert abs(float(value) - expected) <= 1e-5 * abs(expected)


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="only JAX tells without running it")
def test_pairs_of_unrolled_blocks_are_not_all_in_memory_at_once():
    import jax

    block, blocks = 64, 12
    step = jax.value_and_grad(lambda w: mhe.hyperspherical_energy(w, block=block))
    program = jax.jit(step).lower(jax.ShapeDtypeStruct((16, block * blocks), "float32")).compile()
    all_pairs = 4 * block * block * blocks * (blocks + 1) // 2
    assert program.memory_analysis().temp_size_in_bytes < 0.6 * all_pairs


def test_block_size():
    assert [block_size(n) for n in (1, 64, 1024)] == [1, 64, 1024]
    for memory in (2**20, 2**25, 2**30):
        size = block_size(10**6, memory)
        assert size == 128 or 4 * 8 * size**2 <= memory
        assert size & (size - 1) == 0
    assert block_size(10**6, memory=1) == 128


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="only JAX shows its arrays' sizes")
@pytest.mark.parametrize("axis", [0, 1])
def test_no_array_grows_with_the_square_of_neurons(axis):
    import jax
    from jax.extend.core import jaxprs_in_params

    count, dims, block = 6400, 16, 64
    weights = draw(count, dims) if axis == 0 else draw(dims, count)

    def sizes(jaxpr):
        for equation in jaxpr.eqns:
            yield from (math.prod(v.aval.shape) for v in equation.outvars)
            for inner in jaxprs_in_params(equation.params):
                yield from sizes(inner)

    traced = jax.make_jaxpr(
        jax.value_and_grad(lambda w: mhe.hyperspherical_energy(w, axis=axis, block=block))
    )(weights)
    assert max(sizes(traced.jaxpr)) <= count * max(dims, block)


@pytest.mark.parametrize("variant", [(2, "euclidean", "half"), (1, "angle", "full")], ids=str)
@pytest.mark.parametrize(("dims", "block"), [(4, None), (12, None), (12, 3)])
def test_second_derivative(
    dims, block, variant, second_derivative, reference_energy, reference_gradient
):
    rows, direction = draw(2, 5, dims)
    found = second_derivative(
        lambda w: mhe.hyperspherical_energy(w, *variant, axis=0, block=block), rows, direction
    )

    def slope(at):
        """The derivative of the energy along the direction."""
        above, below = (reference_energy(at + step * direction, *variant) for step in (1e-3, -1e-3))
        return (above - below) / 2e-3

    expected = reference_gradient(slope, rows, step=1e-4)
    assert np.linalg.norm(found - expected) <= 1e-3 * np.linalg.norm(expected)
