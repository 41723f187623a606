"""Prototypes whose distances follow costs: what is reached, gradients, bad input."""

import itertools
import math

import numpy as np
import pytest

import mhe
from mhe import metrics
from mhe.prototypes import embedding
from mhe.prototypes.embedding import classical_scaling, embed, find

pytestmark = pytest.mark.one_backend

UNEVEN = mhe.ClassTree.from_paths(["a/b/c", "a/b/d", "a/e", "f", "g/h", "g/i"]).cost_matrix()


@pytest.mark.parametrize(("dims", "most"), [(16, 0.055), (64, 0.010)])
def test_cifar100(dims, most):
    costs = mhe.ClassTree.ready("cifar100").cost_matrix()
    found = find(costs, dims)
    assert found.prototypes.shape == (100, dims)
    assert found.prototypes.dtype == np.float32
    assert found.distortion <= most
    distances = np.linalg.norm(found.prototypes[:, None] - found.prototypes, axis=-1)
    ratios = (distances + np.eye(100)) / (costs + np.eye(100))
    # At this scale, the best already.
    assert np.abs(ratios - 1).sum() / 9900 == pytest.approx(found.distortion, abs=1e-5)
    assert metrics.distortion(found.prototypes, costs, scale_free=False) == pytest.approx(
        found.distortion, abs=1e-6
    )


def test_a_metric_that_fits_is_met_exactly():
    points = np.random.default_rng(0).normal(size=(8, 3))
    costs = np.linalg.norm(points[:, None] - points, axis=-1)
    np.testing.assert_allclose(
        metrics.pairwise_distances(classical_scaling(costs, 3)), costs, atol=1e-12
    )
    assert np.ptp(classical_scaling(costs, 10)[:, 3:]) < 1e-6
    assert find(costs, 3).distortion < 1e-4
    assert find(1e6 * costs, 3).distortion < 1e-4


def test_refined_is_better_than_classical_scaling():
    before = metrics.distortion(classical_scaling(UNEVEN, 2), UNEVEN)
    assert find(UNEVEN, 2).distortion < 0.8 * before
    lines = []
    embed(UNEVEN, 2, progress=lines.append)
    assert lines[0] == f"classical scaling: scale-free distortion {before:.4f}"
    assert lines[1].startswith("L-BFGS, ")
    assert lines[1].endswith(f"{find(UNEVEN, 2).distortion:.4f}")


@pytest.mark.parametrize("loss", ["distortion", "rank"])
def test_on_the_sphere_rows_are_unit_vectors(loss):
    found = find(UNEVEN, 3, loss, sphere=True)
    np.testing.assert_allclose(np.linalg.norm(found.prototypes, axis=1), 1, atol=1e-6)
    if loss == "distortion":
        assert found.distortion < 0.2


def test_rank_keeps_the_order():
    prototypes = embed(UNEVEN, 5, loss="rank")
    distances = metrics.pairwise_distances(prototypes)
    for k, m, n in itertools.permutations(range(len(UNEVEN)), 3):
        if UNEVEN[k, m] > UNEVEN[k, n]:
            assert distances[k, m] > distances[k, n]


def test_same_seed_same_prototypes():
    first, again, other = (embed(UNEVEN, 2, seed=seed) for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("which", ["distortion", "rank", "drawn"])
def test_losses_and_gradients(which, reference_gradient, monkeypatch):
    points = np.random.default_rng(3).normal(size=(6, 3))
    if which == "drawn":
        monkeypatch.setattr(embedding, "_TRIPLETS", 6 * 3**2)
    if which == "distortion":
        loss = embedding._squared_distortion(UNEVEN)
        expected = float(mhe.regularizers.squared_distortion(points, UNEVEN))
    else:
        loss = embedding._ranking(UNEVEN, np.random.default_rng(0))
        distances = metrics.pairwise_distances(points)
        points *= UNEVEN.mean() / distances.mean()
        expected = float(mhe.regularizers.rank_loss(points, UNEVEN))
    value, gradient = embedding._through_distances(loss, points)
    if which == "drawn":
        assert value != pytest.approx(expected, rel=1e-3)
    else:
        assert value == pytest.approx(expected, rel=1e-12)
    by_differences = reference_gradient(
        lambda at: embedding._through_distances(loss, at)[0], points
    )
    np.testing.assert_allclose(gradient, by_differences, atol=1e-8)
    scaled, _ = embedding._through_distances(loss, 7.0 * points)
    assert scaled == pytest.approx(value, rel=1e-9)


def test_equal_points_do_not_pull():
    loss = embedding._squared_distortion(UNEVEN)
    points = np.random.default_rng(0).normal(size=(6, 2))
    points[1] = points[0]
    value, gradient = embedding._through_distances(loss, points)
    assert math.isfinite(value)
    assert np.isfinite(gradient).all()


def test_bad_input():
    with pytest.raises(ValueError, match="Costs must be symmetric"):
        embed([[0, 1], [2, 0]], 2)
    with pytest.raises(ValueError, match="more than 0 for every mistake"):
        embed([[0, 0], [0, 0]], 2)
    with pytest.raises(ValueError, match=r"distortion, rank. Received: loss='l2'"):
        embed(UNEVEN, 2, loss="l2")
    with pytest.raises(ValueError, match=r"at least 3 classes. Received: 2"):
        embed([[0, 1], [1, 0]], 2, loss="rank")
    for dims, sphere in ((0, False), (1, True), (2.0, False), (True, False)):
        with pytest.raises(ValueError, match=r"`dims` must be an integer.*Received: dims="):
            embed(UNEVEN, dims, sphere=sphere)
    with pytest.raises(ValueError, match=r"`iterations`.*Received: iterations=0"):
        embed(UNEVEN, 2, iterations=0)
    with pytest.raises(ValueError, match=r"`seed`.*Received: seed=-1"):
        embed(UNEVEN, 2, seed=-1)
