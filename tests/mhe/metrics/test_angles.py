"""Angles of neurons, by a float64 formula."""

import itertools
import math
import tracemalloc

import keras
import numpy as np
import pytest

from mhe.metrics import angles as module
from mhe.metrics import pairwise_angles
from mhe.metrics.angles import unit_rows


def reference(weights, axes):
    """The angle of every pair, one at a time, by the law of the chord."""
    axes = tuple(a % weights.ndim for a in axes)
    neurons = []
    for index in itertools.product(*(range(weights.shape[a]) for a in axes)):
        key = tuple(index[axes.index(a)] if a in axes else slice(None) for a in range(weights.ndim))
        neuron = weights[key].ravel()
        neurons.append(neuron / math.sqrt(sum(float(x) ** 2 for x in neuron)))
    return [
        2 * math.asin(min(1.0, math.dist(u, v) / 2)) for u, v in itertools.combinations(neurons, 2)
    ]


@pytest.mark.parametrize(
    ("shape", "axis"),
    [((5, 7), -1), ((5, 7), 0), ((3, 3, 4, 6), -1), ((3, 3, 4, 6), -2), ((3, 3, 4, 2), (-2, -1))],
)
def test_angles_follow_the_float64_formula(shape, axis):
    weights = np.random.default_rng(0).normal(size=shape)
    axes = (axis,) if isinstance(axis, int) else axis
    angles = pairwise_angles(weights, axis)
    assert angles.dtype == np.float32
    np.testing.assert_allclose(angles, reference(weights, axes), rtol=1e-6)


def test_blocks_join_in_the_order_of_the_pairs(monkeypatch):
    weights = np.random.default_rng(1).normal(size=(4, 23))
    whole = pairwise_angles(weights)
    monkeypatch.setattr(module, "_BLOCK", 60)  # two rows a block
    np.testing.assert_allclose(pairwise_angles(weights), whole, rtol=1e-6)
    np.testing.assert_allclose(whole, reference(weights, (1,)), rtol=1e-6)


@pytest.mark.parametrize("tilt", [1e-3, 1e-6, 1e-9])
def test_tiny_angles_keep_their_digits(tilt):
    weights = np.array([[1.0, 1.0, -1.0], [0.0, tilt, tilt]])
    expected = [math.atan(tilt), math.pi - math.atan(tilt), math.pi - 2 * math.atan(tilt)]
    np.testing.assert_allclose(pairwise_angles(weights), expected, rtol=1e-6)


def test_equal_and_opposite_are_exact():
    neuron = np.random.default_rng(2).normal(size=50)
    angles = pairwise_angles(np.stack([neuron, neuron, -neuron, 1e-30 * neuron], axis=1))
    assert angles[0] == 0
    assert angles[1] == np.float32(np.pi)
    assert angles[2] < 1e-15
    assert angles[3] == np.float32(np.pi)


def test_zero_neurons_stand_at_a_right_angle():
    angles = pairwise_angles(np.array([[0.0, 1.0, 0.0], [0.0, 1.0, 0.0]]))
    np.testing.assert_array_equal(angles, np.full(3, np.pi / 2, np.float32))


def test_sizes_at_the_ends_of_the_range():
    angles = pairwise_angles(np.array([[1e-300, 1e300], [0.0, 1e300]]))
    np.testing.assert_allclose(angles, [np.pi / 4], rtol=1e-6)


@pytest.mark.parametrize("count", [0, 1])
def test_no_pair_no_angle(count):
    assert pairwise_angles(np.ones((3, count))).shape == (0,)


def test_variables_of_every_float_are_read():
    weights = np.array([[1.0, 0.0, 1.0], [0.0, 1.0, 1.0]])
    for dtype in ("float32", "float16", "bfloat16"):
        variable = keras.Variable(weights, dtype=dtype)
        np.testing.assert_allclose(
            pairwise_angles(variable), [np.pi / 2, np.pi / 4, np.pi / 4], rtol=1e-6
        )


def test_memory_stays_bounded_even_when_all_neurons_are_collinear():
    weights = np.ones((64, 2000))
    tracemalloc.start()
    angles = pairwise_angles(weights)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert angles.max() == 0
    # The Gram matrix and its differences in one piece would take 32 MB and 1 GB.
    assert peak < angles.nbytes + 100e6


@pytest.mark.parametrize("axis", [2, -3, (0, 0), (0, -2), ()])
def test_bad_axes_are_refused(axis):
    with pytest.raises(ValueError, match=r"`axis` .* Received: axis="):
        pairwise_angles(np.ones((2, 2)), axis)


def test_unit_rows_at_the_ends_of_the_range():
    rows = np.array([[3.0, -4.0], [3e300, -4e300], [3e-300, -4e-300], [0.0, 0.0]])
    expected = [[0.6, -0.8]] * 3 + [[0.0, 0.0]]
    np.testing.assert_allclose(unit_rows(rows), expected, rtol=1e-15)
    assert unit_rows(rows[:1].astype("float32")).dtype == np.float64
    assert unit_rows(np.zeros((0, 3))).shape == (0, 3)
