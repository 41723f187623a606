"""Distances of prototypes and their distortion, by float64 formulas."""

import itertools
import json
import math

import keras
import numpy as np
import pytest
from keras import ops

import mhe
from mhe import metrics

TREE = mhe.ClassTree.from_paths(["animal/dog/poodle", "animal/dog/husky", "animal/cat", "oak"])
COSTS = TREE.cost_matrix([3.0, 2.0, 0.5])


def drawn_costs(classes, seed=0):
    costs = np.random.default_rng(seed).uniform(1, 5, (classes, classes))
    return np.triu(costs, 1) + np.triu(costs, 1).T


def by_definition(prototypes, costs, scale):
    """The published average, a pair at a time."""
    terms = [
        abs(scale * math.dist(prototypes[k], prototypes[m]) - costs[k][m]) / costs[k][m]
        for k, m in itertools.permutations(range(len(costs)), 2)
    ]
    return sum(terms) / len(terms)


@pytest.mark.parametrize("classes", [2, 3, 4, 7])
def test_distortion_is_least_at_the_weighted_median(classes):
    prototypes = np.random.default_rng(classes).normal(size=(classes, 3))
    costs = drawn_costs(classes)
    fixed = metrics.distortion(prototypes, costs, scale_free=False)
    assert fixed == pytest.approx(by_definition(prototypes, costs, 1.0), rel=1e-12)
    free = metrics.distortion(prototypes, costs)
    # The least of a sum of |s·r - 1| is at one of its kinks, s = 1/r.
    kinks = [
        costs[k][m] / math.dist(prototypes[k], prototypes[m])
        for k, m in itertools.combinations(range(classes), 2)
    ]
    assert free == pytest.approx(min(by_definition(prototypes, costs, s) for s in kinks), rel=1e-12)
    for factor in (1e-3, 1.0, 1e5):
        assert metrics.distortion(factor * prototypes, costs) == pytest.approx(free, rel=1e-9)


def test_the_scale_is_not_the_mean_of_ratios():
    prototypes = np.array([[0.0], [1.0], [2.0], [12.0]])
    costs = np.array([[0, 1, 2, 3], [1, 0, 1, 2], [2, 1, 0, 1], [3, 2, 1, 0.0]])
    distances = metrics.pairwise_distances(prototypes)
    upper = np.triu_indices(4, 1)
    mean = np.mean(costs[upper] / distances[upper])
    assert metrics.distortion(prototypes, costs) < by_definition(prototypes, costs, mean) - 0.05


def test_distortion_of_equal_prototypes():
    assert metrics.distortion(np.ones((4, 2)), COSTS) == 1
    assert metrics.distortion(np.ones((4, 2)), COSTS, scale_free=False) == 1
    two = np.array([[0.0, 0.0], [0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    assert math.isfinite(metrics.distortion(two, COSTS))


def test_distances_keep_their_digits():
    rows = np.random.default_rng(0).normal(size=(6, 4)) + 100
    rows[3] = rows[0] + 1e-9
    rows[5] = rows[1]
    distances = metrics.pairwise_distances(rows)
    expected = [[math.dist(a, b) for b in rows] for a in rows]
    np.testing.assert_allclose(distances, expected, rtol=1e-12)
    assert distances[1, 5] == 0
    assert 1.5e-9 < distances[0, 3] < 2.5e-9
    assert metrics.pairwise_distances(np.zeros((3, 2))).tolist() == [[0.0] * 3] * 3


def test_distortion_takes_weights_of_layers():
    layer = keras.layers.Embedding(4, 3)
    layer.build()
    metric = metrics.Distortion(COSTS, scale_free=False)
    assert float(metric.result()) == 0
    metric.update_state(layer.embeddings)
    expected = metrics.distortion(ops.convert_to_numpy(layer.embeddings), COSTS, False)
    assert float(metric.result()) == pytest.approx(expected, rel=1e-6)
    copy = metrics.Distortion.from_config(json.loads(json.dumps(metric.get_config())))
    copy.update_state(layer.embeddings)
    assert float(copy.result()) == float(metric.result())
    assert keras.saving.get_registered_object("mhe.metrics>Distortion") is metrics.Distortion


@pytest.mark.parametrize(
    ("prototypes", "costs", "message"),
    [
        (np.zeros((3, 2)), COSTS, "each of the 4 classes. Received: 3 rows"),
        (np.full((4, 2), np.nan), COSTS, "finite prototype"),
        (np.zeros(4), COSTS, r"rows \(N, D\). Received: shape \(4,\)"),
        (np.eye(2), [[0, 0], [0, 0]], "more than 0 for every mistake. Received: 0.0 of 0 for 1"),
    ],
)
def test_bad_prototypes(prototypes, costs, message):
    with pytest.raises(ValueError, match=message):
        metrics.distortion(prototypes, costs)
