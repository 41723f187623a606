"""What decisions by cost are compared with, image by image."""

import numpy as np
import pytest

import mhe

pytestmark = pytest.mark.one_backend

TREE = mhe.ClassTree.from_paths(["animal/dog/poodle", "animal/dog/husky", "animal/cat", "oak"])


@pytest.fixture
def decisions(load_task):
    return load_task("decisions")


def test_metrics_of_all_three_decisions(decisions):
    rng = np.random.default_rng(1)
    labels = np.arange(80) % 4
    scores = 5 * (rng.normal(size=(80, 4)) + np.eye(4)[labels]).astype("float32")
    found = decisions.compare(scores, labels, TREE)
    # The halves: every other image of a class, starting with the first of even classes.
    half = (np.arange(80) // 4 + labels) % 2
    temperatures = [mhe.calibrate(scores[half == own], labels[half == own]) for own in (1, 0)]
    assert found["temperature"] == pytest.approx(np.mean(temperatures))
    names = TREE.nodes
    costs, inner = TREE.cost_matrix(), TREE.cost_matrix(inner=True)
    above = [{"/"} for _ in range(4)]
    for label, node in enumerate(TREE.leaves):
        while node:
            above[label].add(names[node])
            node = TREE.parents[node]
    leaves = {name: sum(name in each for each in above) for name in names}
    rows = {"": [], "decided_": [], "nodes_": []}
    for row, label, own in zip(scores.astype("float64"), labels, half, strict=True):
        p = np.exp(row / temperatures[own])
        p /= p.sum()
        best, least = row.argmax(), (p @ costs).argmin()
        node = (p @ inner).argmin()
        rows[""].append((best != label, costs[label, best]))
        rows["decided_"].append((least != label, costs[label, least]))
        told = 1 - np.log(leaves[names[node]]) / np.log(4)
        rows["nodes_"].append((names[node] not in above[label], inner[label, node], told))
    for prefix, values in rows.items():
        error, cost = np.mean(values, axis=0)[:2]
        assert found[f"{prefix}error"] == pytest.approx(error)
        assert found[f"{prefix}average_cost"] == pytest.approx(cost)
        if prefix != "nodes_":
            severity = cost / error
            assert found[f"{prefix}mistake_severity"] == pytest.approx(severity)
    assert found["nodes_specificity"] == pytest.approx(np.mean(rows["nodes_"], axis=0)[2])
    assert found["calibrated_calibration_error"] < found["calibration_error"]
    lines = decisions.table(found).splitlines()
    assert lines[1].split()[2] == f"{100 * found['error']:.2f}"
    assert lines[3].split()[-1] == f"{found['nodes_specificity']:.3f}"


def test_cost_of_the_first_five(decisions):
    tree = mhe.ClassTree.from_paths([f"{top}/{top}{leaf}" for top in "abc" for leaf in range(4)])
    labels = np.arange(48) % 12
    rng = np.random.default_rng(4)
    scores = (2 * rng.normal(size=(48, 12)) + 3 * np.eye(12)[labels]).astype("float32")
    found = decisions.compare(scores, labels, tree)
    costs, half = tree.cost_matrix(), (np.arange(48) // 12 + labels) % 2
    temperatures = [mhe.calibrate(scores[half == own], labels[half == own]) for own in (1, 0)]
    paid = {"": [], "decided_": []}
    for row, label, own in zip(scores.astype("float64"), labels, half, strict=True):
        p = np.exp(row / temperatures[own])
        p /= p.sum()
        for prefix, ranks in (("", -p), ("decided_", costs @ p)):
            paid[prefix].append(np.mean([costs[label, each] for each in np.argsort(ranks)[:5]]))
    for prefix, values in paid.items():
        assert found[f"{prefix}cost_at_5"] == pytest.approx(np.mean(values), rel=1e-6)
    assert found["decided_cost_at_5"] < found["cost_at_5"]


def test_scores_without_a_mistake_and_without_anything_learnt(decisions):
    labels = np.arange(8) % 4
    sure = decisions.compare(9 * np.eye(4, dtype="float32")[labels], labels, TREE)
    assert sure["temperature"] == 1
    assert sure["decided_error"] == sure["mistake_severity"] == sure["nodes_error"] == 0
    blank = decisions.compare(np.zeros((8, 4), "float32"), labels, TREE)
    assert blank["temperature"] == 1
    assert blank["nodes_specificity"] < 1


def test_costs_of_the_surest_answers(decisions):
    rng = np.random.default_rng(3)
    tree = mhe.ClassTree.from_paths(["a/b/c", "a/b/d", "a/e", "f"])
    labels = rng.integers(0, 4, 80)
    scores = 2.0 * np.eye(4)[labels] + rng.normal(size=(80, 4))
    scores[40:60] = scores[20:40]  # as sure as each other, and answered together
    curves = decisions.coverage_curves(scores, labels, tree)
    assert list(curves) == ["largest score", "least expected cost"]
    calibrated, _ = decisions._calibrated(scores, labels)
    p = np.exp(calibrated) / np.exp(calibrated).sum(axis=1, keepdims=True)
    costs = tree.cost_matrix()
    risks = {"largest score": 1 - p.max(axis=1), "least expected cost": (p @ costs).min(axis=1)}
    answers = {"largest score": p.argmax(axis=1), "least expected cost": (p @ costs).argmin(axis=1)}
    for name, (shares, averages) in curves.items():
        assert (shares[-1], np.diff(shares).min() > 0) == (1.0, True)
        paid = costs[labels, answers[name]]
        assert averages[-1] == pytest.approx(paid.mean())
        for share, average in zip(shares[::9], averages[::9], strict=True):
            surest = np.argsort(risks[name], kind="stable")[: round(80 * share)]
            assert average == pytest.approx(paid[surest].mean())
