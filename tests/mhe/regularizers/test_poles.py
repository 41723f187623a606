"""Polarization and covering: values by a search over the circle, gradients for a fixed pole."""

import math

import numpy as np
import pytest

from mhe.regularizers import covering_distance, polarization

# Compiling the searches takes minutes; `test_family.py` does that for short ones.
pytestmark = pytest.mark.one_backend
# A fine grid of the circle.
GRID = np.stack(
    [np.cos(np.linspace(0, 2 * np.pi, 20001)), np.sin(np.linspace(0, 2 * np.pi, 20001))]
)


def rho(units, distance):
    cosines = np.clip(units @ GRID, -1, 1)
    return np.arccos(cosines) if distance == "angle" else np.sqrt(2 - 2 * cosines)


def points(rows, space):
    units = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return np.concatenate([units, -units]) if space == "half" else units


def least_potential(rows, s, distance, space):
    distances = np.maximum(rho(points(rows, space), distance), 1e-9)
    potentials = -np.log(distances) if s == 0 else distances ** -float(s)
    return potentials.mean(axis=0).min()


def covered(rows, distance, space):
    return rho(points(rows, space), distance).min(axis=0).max()


@pytest.mark.parametrize("space", ["full", "half"])
@pytest.mark.parametrize("distance", ["euclidean", "angle"])
def test_values_on_the_circle(distance, space, value_and_gradient, reference_gradient):
    rows = np.array([[1.0, 0.1], [0.3, 1.0], [0.6, 0.8]], "float32")
    for s in (0, 1, 2):
        value, gradient = value_and_gradient(
            lambda x, s=s: polarization(x, s, distance, space, 0, steps=40), rows
        )
        expected = least_potential(rows.astype("float64"), s, distance, space)
        assert value == pytest.approx(expected, rel=1e-3, abs=1e-4)
        if (distance, space) == ("angle", "full"):
            continue  # the pole is opposite to a neuron, where its angle has a kink
        slope = reference_gradient(
            lambda x, s=s: least_potential(x, s, distance, space), rows, 1e-4
        )
        np.testing.assert_allclose(gradient, slope, atol=0.03 * np.abs(slope).max())
    value, gradient = value_and_gradient(
        lambda x: covering_distance(x, distance, space, 0, steps=40), rows
    )
    assert value == pytest.approx(covered(rows.astype("float64"), distance, space), rel=0.02)


def test_the_default_steps_come_near_in_many_dimensions():
    rows = np.random.default_rng(0).normal(size=(50, 20)).astype("float32")
    for space in ("full", "half"):
        near = float(polarization(rows, space=space, axis=0))
        best = float(polarization(rows, space=space, axis=0, steps=100))
        assert near == pytest.approx(best, rel=0.02)


def test_one_neuron():
    one = np.array([[0.0, 2.0]], "float32")
    assert float(polarization(one, 0, "angle", axis=0)) == pytest.approx(-math.log(math.pi), 1e-3)
    assert float(covering_distance(one, "angle", axis=0)) == pytest.approx(math.pi, rel=1e-3)
    assert float(covering_distance(one, space="half", axis=0)) == pytest.approx(
        math.sqrt(2), rel=0.02
    )
