"""What class costs and levels make of scores, sample by sample from the names of the classes."""

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


def metrics_of_scores():
    return [
        metrics.AverageCost(COSTS, ignore_class=9),
        metrics.HierarchicalDistance(COSTS, k=3, ignore_class=9),
        metrics.LevelError(TREE, 1, ignore_class=9),
        metrics.LevelError(TREE, 2, ignore_class=9),
        metrics.LevelError(TREE, 3, ignore_class=9),
        metrics.TopKCost(COSTS, k=3, ignore_class=9),
        metrics.TopKCost(COSTS, k=1, ignore_class=9),
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
    of_three = sum(cost(label, c) for c in order[:3]) / 3
    return [cost(label, best), of_three, *errors, of_three, cost(label, best)]


@pytest.mark.parametrize(
    "shape", [(), pytest.param((2, 3), marks=pytest.mark.one_backend)], ids=["flat", "dense"]
)
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


def test_severity_is_the_mean_cost_of_mistakes():
    rng = np.random.default_rng(2)
    uneven = rng.uniform(1, 3, (4, 4)) * (1 - np.eye(4))
    metric = metrics.MistakeSeverity(uneven, ignore_class=9)
    assert float(metric.result()) == 0
    costs, weights = [], []
    for size in (7, 1, 12):
        labels = rng.choice([0, 1, 2, 3, 9], size)
        scores = rng.normal(size=(size, 4)).astype("float32") + 2 * np.eye(5, 4)[labels % 5]
        factors = rng.uniform(0.5, 2, size)
        metric.update_state(ops.convert_to_tensor(labels), scores, factors)
        for label, best, factor in zip(labels, scores.argmax(axis=1), factors, strict=True):
            if label not in (best, 9):
                costs.append(uneven[label, best])
                weights.append(factor)
    assert float(metric.result()) == pytest.approx(np.average(costs, weights=weights), rel=1e-5)
    metric.reset_state()
    metric.update_state([0, 1], np.eye(4)[:2])
    assert float(metric.result()) == 0
    metric.update_state(ops.convert_to_tensor([0, 4]), np.eye(4)[:2])
    assert math.isnan(float(metric.result()))


def test_costs_of_answers_that_are_nodes():
    costs = TREE.cost_matrix(inner=True)
    metric = metrics.TopKCost(costs, k=2)
    scores = np.random.default_rng(0).normal(size=(6, 7)).astype("float32")
    labels = np.arange(6) % 4
    metric.update_state(labels, scores)
    best = np.argsort(-scores, axis=1)[:, :2]
    expected = np.mean([costs[label, row] for label, row in zip(labels, best, strict=True)])
    assert float(metric.result()) == pytest.approx(expected, rel=1e-6)
    with pytest.raises(ValueError, match=r"each of the 7 answers.*Received: shape \(6, 4\)"):
        metric.update_state(labels, scores[:, :4])
    with pytest.raises(ValueError, match="from 0 to 3"):
        metric.update_state(labels + 1, scores)


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
        names += ["top_3_cost", "top_1_cost"]
        np.testing.assert_allclose([found[name] for name in names], expected, rtol=1e-3)


def test_json_gives_the_same_metrics_back():
    for metric in [*metrics_of_scores(), metrics.MistakeSeverity(COSTS)]:
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
        with pytest.raises(ValueError, match=r"from 1 to 4. Received: k="):
            metrics.TopKCost(COSTS, k=k)
    with pytest.raises(ValueError, match=r"square matrix.*Received: shape \(4, 7\)"):
        metrics.MistakeSeverity(TREE.cost_matrix(inner=True))
    with pytest.raises(ValueError, match=r"must cost 0. Received: 1.0 for class 0"):
        metrics.MistakeSeverity(np.ones((2, 2)))
    with pytest.raises(ValueError, match=r"from 1 to 3.*Received: level=4"):
        metrics.LevelError(TREE, 4)
    with pytest.raises(ValueError, match="Costs must be symmetric"):
        metrics.AverageCost([[0, 1], [2, 0]])
