"""Distances between prototypes: float64 distances, few and many classes, equal rows."""

import math

import numpy as np
import pytest
from keras import ops

import mhe
from mhe.regularizers import distances as distances_module
from mhe.regularizers import prototype_distances, squared_distortion

COSTS = mhe.ClassTree.from_paths(
    ["animal/dog/poodle", "animal/dog/husky", "animal/cat", "oak"]
).cost_matrix([3.0, 2.0, 0.5])


def drawn(seed=0, dims=3):
    return np.random.default_rng(seed).normal(size=(len(COSTS), dims)).astype("float32")


@pytest.mark.parametrize("most", [2**24, 0], ids=["differences", "product"])
def test_distances_keep_their_digits_and_push_apart(most, monkeypatch, value_and_gradient):
    monkeypatch.setattr(distances_module, "_DIFFERENCES", most)
    rows = drawn(dims=2)
    rows[2] = rows[0] + np.array([3e-6, 0], "float32")
    expected = [[math.dist(a, b) for b in rows.astype("float64")] for a in rows.astype("float64")]
    np.testing.assert_allclose(ops.convert_to_numpy(prototype_distances(rows)), expected, rtol=1e-6)
    _, gradient = value_and_gradient(lambda x: prototype_distances(x)[0, 2], rows)
    np.testing.assert_allclose(gradient[[0, 2]], [[-1, 0], [1, 0]], atol=1e-6)
    assert not gradient[[1, 3]].any()


def test_many_classes_go_by_one_matrix_product(monkeypatch, value_and_gradient):
    rows = drawn() + 10
    exact = value_and_gradient(lambda x: squared_distortion(x, COSTS), rows)
    monkeypatch.setattr(distances_module, "_DIFFERENCES", 0)
    value, gradient = value_and_gradient(lambda x: squared_distortion(x, COSTS), rows)
    assert value == pytest.approx(exact[0], rel=1e-5)
    np.testing.assert_allclose(gradient, exact[1], rtol=1e-4, atol=1e-6)
    # Of three equal rows each knows one of the others as equal; from the third it is not pushed.
    monkeypatch.setattr(distances_module, "_NEAREST", 1)
    rows = np.array([[1, 0], [1, 0], [1, 0], [-3, 0]], "float32")
    distances = ops.convert_to_numpy(prototype_distances(rows))
    assert (distances[:3, :3] == 0).sum() == 3 + 3
    assert distances[:3, :3].max() < 5e-3
    np.testing.assert_allclose(distances[3], [4, 4, 4, 0], rtol=1e-6)
    value, gradient = value_and_gradient(lambda x: squared_distortion(x, COSTS), rows)
    assert math.isfinite(value)
    assert np.all(np.isfinite(gradient))
