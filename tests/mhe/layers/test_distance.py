"""Distances to prototypes: values and gradients against float64 formulas, near zero and far out."""

import math

import keras
import numpy as np
import pytest
from keras import ops

from mhe import layers
from mhe.layers import distances
from mhe.layers.distance import DISTANCES, distances_by_pairs

DELTA = 0.7
array = ops.convert_to_numpy


def reference(x, prototypes, distance):
    """The four formulas in float64, a pair at a time."""
    found = np.zeros((len(x), len(prototypes)))
    for i, j in np.ndindex(found.shape):
        one, other = x[i].astype("float64"), prototypes[j].astype("float64")
        d = np.linalg.norm(one - other)
        found[i, j] = {
            "euclidean": d,
            "squared": d**2,
            "cosine": 1 - one @ other / np.linalg.norm(one) / np.linalg.norm(other),
            "huber": DELTA * (math.sqrt(1 + d**2 / DELTA**2) - 1),
        }[distance]
    return found


@pytest.fixture
def by_the_operation():
    """Whether to compute eagerly: not on JAX, which would compile every operation by itself."""
    return keras.backend.backend() != "jax"


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("spread", [5.0, 1.0], ids=["apart", "near"])
def test_values_and_gradients_along_both(
    distance, spread, draw, value_and_gradient, reference_gradient
):
    both, pull = draw(13, 4), draw(3, 10, seed=1)
    both[:3] *= spread
    if spread == 1.0:
        both[0] = both[5] + np.array([1e-3, 0, 0, 0], "float32")

    def total(both):
        return np.sum(pull * reference(both[:3], both[3:], distance))

    def function(both):
        found = distances(both[:3], both[3:], distance, DELTA)
        return ops.sum(ops.multiply(found, pull))

    jit_compile = keras.backend.backend() != "torch"
    value, gradient = value_and_gradient(function, both, jit_compile=jit_compile)
    assert value == pytest.approx(total(both.astype("float64")), rel=1e-5)
    expected = reference_gradient(total, both, 1e-6)
    np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=2e-5)


@pytest.mark.one_backend
@pytest.mark.parametrize("distance", DISTANCES)
def test_pairs_one_by_one(distance, draw):
    x, prototypes = draw(2, 3, 4), draw(5, 4, seed=1)
    x[0, 0] = prototypes[2]
    found = array(distances_by_pairs(x, prototypes, distance, DELTA))
    assert found[0, 0, 2] == 0
    expected = reference(x.reshape(-1, 4), prototypes, distance).reshape(2, 3, 5)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)
    if distance == "cosine":
        zeros = np.zeros((1, 4), "float32")
        found = distances_by_pairs(np.concatenate([zeros, x[0]]), zeros, distance)
        np.testing.assert_allclose(array(found), 1, rtol=2e-7)


@pytest.mark.parametrize("offset", [0.0, 300.0])
def test_digits_near_zero_and_far_from_the_origin(offset, draw):
    prototypes = draw(20, 6, seed=1) + np.float32(offset)
    x = draw(4, 6) + np.float32(offset)
    x[0] = prototypes[3]
    x[1] = np.nextafter(prototypes[4], np.float32(np.inf))
    for distance in ("euclidean", "squared", "huber"):
        found = array(distances(x, prototypes, distance, DELTA))
        assert found[0, 3] == 0
        expected = reference(x, prototypes, distance)
        if distance == "huber":
            # The formula itself loses digits here.
            expected[1, 4] = np.sum((x[1].astype("float64") - prototypes[4]) ** 2) / (2 * DELTA)
        np.testing.assert_allclose(found, expected, rtol=2e-5)
    found = array(distances(x, prototypes, "cosine"))
    assert found[0, 3] < 1e-14
    np.testing.assert_allclose(found, reference(x, prototypes, "cosine"), atol=1e-9, rtol=2e-4)


def test_embeddings_on_prototypes_and_zeros_have_finite_gradients(
    draw, gradient_step, by_the_operation
):
    both = draw(7, 3)
    both[0] = both[4]
    both[1] = both[6] = 0.0
    for distance in DISTANCES:

        def pulled(z, distance=distance):
            # Rows of numbers behind the vectors say which pairs are summed.
            pull = ops.reshape(ops.reshape(z[7:], (-1,))[:10], (2, 5))
            return ops.sum(pull * distances(z[:2], z[2:7], distance))

        step = gradient_step(pulled, eager=by_the_operation)
        every = np.ones((4, 3), "float32")
        assert np.isfinite(step(np.concatenate([both, every]))[1][:7]).all()
        one = np.zeros((4, 3), "float32")
        one[0, 2] = 1
        value, gradient = step(np.concatenate([both, one]))
        assert abs(value) < 1e-14
        np.testing.assert_allclose(gradient[:7], 0, atol=1e-6)
    found = array(distances(both[:2], both[2:], "cosine"))
    np.testing.assert_allclose(found[1], 1, rtol=2e-7)
    np.testing.assert_allclose(found[:, 4], 1, rtol=2e-7)


def test_many_equal_prototypes_are_near_and_finite(draw, value_and_gradient, by_the_operation):
    prototypes = np.repeat(draw(2, 5), 10, axis=0)
    value, gradient = value_and_gradient(
        lambda x: ops.sum(distances(x, prototypes)),
        prototypes[:1].copy(),
        eager=by_the_operation,
    )
    far = 10 * math.dist(prototypes[0], prototypes[10])
    assert value == pytest.approx(far, rel=1e-2)
    expected = 10 * (prototypes[0] - prototypes[10]) / (far / 10)
    np.testing.assert_allclose(gradient[0], expected, rtol=1e-4)


def test_sizes_whose_squares_leave_float32(draw, gradient_step, by_the_operation):
    for distance in ("euclidean", "cosine"):
        step = gradient_step(
            lambda z, d=distance: ops.sum(distances(z[:3], z[3:], d)), eager=by_the_operation
        )
        for size in (1e-25, 1e25):
            both = (draw(9, 4).astype("float64") * size).astype("float32")
            value, gradient = step(both)
            expected = reference(both[:3], both[3:], distance).sum()
            assert value == pytest.approx(expected, rel=1e-5)
            assert np.isfinite(gradient).all()
            assert gradient.any()


def test_what_is_not_finite_stays_in_its_row(draw):
    # Of the shapes that digits are tested with: JAX compiles every operation once a shape.
    x, prototypes = draw(4, 6), draw(20, 6, seed=1)
    x[0, 0], x[1, 1] = np.inf, np.nan
    for distance in DISTANCES:
        found = array(distances(x, prototypes, distance, DELTA))
        assert not np.isfinite(found[:2]).any()
        expected = reference(x[2:], prototypes, distance)
        np.testing.assert_allclose(found[2:], expected, rtol=1e-5)


def test_dense_and_half_precision_and_empty(draw):
    x, prototypes = draw(2, 3, 5, 4), draw(6, 4, seed=1)
    found = array(distances(x, prototypes))
    assert found.shape == (2, 3, 5, 6)
    np.testing.assert_allclose(
        found.reshape(-1, 6), reference(x.reshape(-1, 4), prototypes, "euclidean"), rtol=1e-5
    )
    half = (1000 * x).astype("float16")
    head = layers.LearntPrototypes(6, 4, prototypes=prototypes, dtype="mixed_float16")
    logits = head(half)
    assert keras.backend.standardize_dtype(logits.dtype) == "float32"
    expected = -reference(half.reshape(-1, 4), prototypes, "euclidean").reshape(2, 3, 5, 6)
    np.testing.assert_allclose(array(logits), expected, rtol=1e-5)
    assert tuple(distances(x[:0], prototypes).shape) == (0, 3, 5, 6)
    assert head(keras.KerasTensor((None, 7, 4))).shape == (None, 7, 6)


def test_embeddings_that_do_not_fit():
    with pytest.raises(ValueError, match=r"Received: shapes \(2, 3\) and \(5, 4\)"):
        distances(np.ones((2, 3), "float32"), np.ones((5, 4), "float32"))
    with pytest.raises(ValueError, match="have value 4, but received"):
        layers.LearntPrototypes(5, 4)(np.ones((2, 3), "float32"))
