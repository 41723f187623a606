"""Angles of neurons, and what class costs make of scores and prototypes, by float64 formulas."""

import itertools
import json
import math
import tracemalloc

import keras
import numpy as np
import pytest
from keras import ops

import mhe
from mhe import metrics
from mhe.metrics import pairwise_angles


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
    monkeypatch.setattr(metrics, "_BLOCK", 60)  # two rows a block
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


# --- distances and distortion -------------------------------------------------------------------

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


# --- metrics of scores --------------------------------------------------------------------------


def metrics_of_scores():
    return [
        metrics.AverageCost(COSTS, ignore_class=9),
        metrics.HierarchicalDistance(COSTS, k=3, ignore_class=9),
        metrics.LevelError(TREE, 1, ignore_class=9),
        metrics.LevelError(TREE, 2, ignore_class=9),
        metrics.LevelError(TREE, 3, ignore_class=9),
    ]


def sample_values(label, scores):
    """What each of `metrics_of_scores` makes of one sample, from the names of the classes."""
    paths = ["animal/dog/poodle", "animal/dog/husky", "animal/cat", "oak"]
    order = np.argsort(-np.asarray(scores, "float64"), kind="stable")

    def cost(one, other):
        a, b = paths[one].split("/"), paths[other].split("/")
        same = sum(x == y for x, y in zip(a, b, strict=False))
        return sum([3.0, 2.0, 0.5][same : len(a)]) + sum([3.0, 2.0, 0.5][same : len(b)])

    best = order[0]
    errors = [
        paths[label].split("/")[:level] != paths[best].split("/")[:level] for level in (1, 2, 3)
    ]
    return [cost(label, best), sum(cost(label, c) for c in order[:3]) / 3, *errors]


@pytest.mark.parametrize("shape", [(), (2, 3)], ids=["flat", "dense"])
def test_metrics_over_uneven_batches(shape):
    rng = np.random.default_rng(5)
    counted = metrics_of_scores()
    expected, weights = [], []
    for batch, weighting in ((3, None), (1, "sample"), (2, "place")):
        labels = rng.choice([0, 1, 2, 3, 9], (batch, *shape))
        labels.flat[0] = 3
        scores = rng.normal(size=(batch, *shape, 4)).astype("float32")
        factors = rng.uniform(0.5, 2, labels.shape if weighting == "place" else batch)
        given = None if weighting is None else factors
        if weighting is None:
            factors = np.ones(batch)
        every = np.broadcast_to(
            factors.reshape(factors.shape + (1,) * (labels.ndim - factors.ndim)), labels.shape
        )
        for metric in counted:
            metric.update_state(ops.convert_to_tensor(labels), scores, given)
        for index in np.ndindex(labels.shape):
            if labels[index] != 9:
                expected.append(sample_values(labels[index], scores[index]))
                weights.append(every[index])
    expected = np.average(expected, axis=0, weights=weights)
    found = [float(metric.result()) for metric in counted]
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    for metric in counted:
        metric.reset_state()
        assert float(metric.result()) == 0


def test_metrics_in_fit_and_in_half_precision():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(10, 3)).astype("float32"), rng.integers(0, 4, (10, 1))
    for policy in ("float32", "mixed_float16"):
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4, dtype=policy)])
        model.compile(
            "sgd",
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=metrics_of_scores(),
        )
        found = model.evaluate(x, y, batch_size=4, verbose=0, return_dict=True)
        rows = model.predict(x, verbose=0)
        expected = np.mean(
            [sample_values(label, row) for label, row in zip(y[:, 0], rows, strict=True)], axis=0
        )
        names = ["average_cost", "hierarchical_distance_at_3"]
        names += [f"error_at_level_{level}" for level in (1, 2, 3)]
        np.testing.assert_allclose([found[name] for name in names], expected, rtol=1e-3)


def test_json_gives_the_same_metrics_back():
    for metric in metrics_of_scores():
        config = json.loads(json.dumps(keras.saving.serialize_keras_object(metric)))
        copy = keras.saving.deserialize_keras_object(config)
        assert type(copy) is type(metric)
        assert copy.get_config() == metric.get_config()
        scores = [[0.1, 0.2, 0.3, 0.0], [0.5, 0.2, 0.3, 0.4]]
        for each in (metric, copy):
            each.update_state([0, 3], scores)
        assert float(copy.result()) == float(metric.result()) > 0


def test_wrong_labels_and_shapes():
    scores = np.eye(4, dtype="float32")[:2]
    for metric in metrics_of_scores():
        with pytest.raises(ValueError, match=r"from 0 to 3.*Received: label 4"):
            metric.update_state([0, 4], scores)
        with pytest.raises(ValueError, match=r"each of the 4 classes.*Received: shape \(2, 3\)"):
            metric.update_state([0, 1], scores[:, :3])
        with pytest.raises(ValueError, match=r"one target per sample.*Received: targets \(1, 2\)"):
            metric.update_state([[0, 1]], scores)
        with pytest.raises(ValueError, match=r"Received: targets \(1,\), predictions \(2, 4\)"):
            metric.update_state([0], scores)
        for wrong in ([0, 4], [0, 1.5]):
            metric.reset_state()
            metric.update_state(ops.convert_to_tensor(np.array(wrong, "float32")), scores)
            assert math.isnan(float(metric.result()))


def test_bad_arguments():
    for k in (0, 5, 1.0, True):
        with pytest.raises(ValueError, match=r"from 1 to 4. Received: k="):
            metrics.HierarchicalDistance(COSTS, k=k)
    with pytest.raises(ValueError, match=r"from 1 to 3.*Received: level=4"):
        metrics.LevelError(TREE, 4)
    with pytest.raises(ValueError, match="Costs must be symmetric"):
        metrics.AverageCost([[0, 1], [2, 0]])
