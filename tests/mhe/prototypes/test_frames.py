"""Frames: exact where there are dimensions enough, nearest below, and what is refused."""

import numpy as np
import pytest

import mhe
from mhe.prototypes import embed
from mhe.prototypes.embedding import find
from mhe.prototypes.frames import frame, read_similarity

pytestmark = pytest.mark.one_backend

UNEVEN = mhe.ClassTree.from_paths(["a/b/c", "a/b/d", "a/e", "f", "g/h", "g/i"]).cost_matrix()


def cosines(rows):
    rows = rows.astype("float64")
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-6)
    return rows @ rows.T


def similarity(classes, rank, seed=0):
    rows = np.random.default_rng(seed).normal(size=(classes, rank))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    given = rows @ rows.T
    np.fill_diagonal(given, 1.0)
    return given


@pytest.mark.parametrize(("classes", "rank", "dims"), [(6, 6, 6), (6, 6, 20), (9, 3, 3), (2, 2, 2)])
def test_cosines_are_the_given_ones(classes, rank, dims):
    given = similarity(classes, rank)
    found = find(given, dims, method="frame")
    assert found.prototypes.shape == (classes, dims)
    assert found.prototypes.dtype == np.float32
    np.testing.assert_allclose(cosines(found.prototypes), given, atol=1e-6)
    assert found.distortion < 1e-5
    assert found.evaluations == 0


@pytest.mark.filterwarnings("error")
def test_cosines_that_were_rounded():
    rows = np.random.default_rng(0).normal(size=(60, 20)).astype("float32")
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    found = find(rows @ rows.T, 20, method="frame")
    assert found.evaluations == 0
    np.testing.assert_allclose(cosines(found.prototypes), rows @ rows.T, atol=2e-6)


@pytest.mark.parametrize("scale", [1.0, 1e-3, 1e6])
@pytest.mark.parametrize("tree", ["uneven", "cifar100"])
def test_squared_distances_are_in_proportion_to_costs(tree, scale):
    costs = UNEVEN if tree == "uneven" else mhe.ClassTree.ready("cifar100").cost_matrix()
    rows = embed(scale * costs, len(costs) - 1, method="frame").astype("float64")
    squares = np.sum((rows[:, None] - rows) ** 2, axis=-1)
    ratios = squares[costs > 0] / costs[costs > 0]
    np.testing.assert_allclose(ratios, ratios[0], rtol=1e-5)
    # c·1 - D is positive semidefinite from c = 1 / (1ᵀ·D⁻¹·1) on: no frame is wider.
    c = 1 / np.linalg.inv(costs).sum()
    assert ratios[0] == pytest.approx(2 / c, rel=1e-5)


def test_equal_costs_give_the_simplex():
    rows = embed(3 * (1 - np.eye(5)), 4, method="frame")
    np.testing.assert_allclose(cosines(rows), 1.25 * np.eye(5) - 0.25, atol=1e-6)


def test_with_fewer_dimensions_cosines_are_nearest():
    given = read_similarity(UNEVEN)
    errors = [np.sum((cosines(frame(given, dims)) - given) ** 2) for dims in (2, 3, 4, 5)]
    assert errors[-1] < 1e-20
    assert np.all(np.diff(errors) < 0)
    values, vectors = np.linalg.eigh(given)
    cut = vectors[:, -2:] * np.sqrt(values[-2:])
    cut /= np.linalg.norm(cut, axis=1, keepdims=True)
    assert errors[0] < np.sum((cosines(cut) - given) ** 2)
    # No small step is better.
    rows = frame(given, 3)
    rng = np.random.default_rng(0)
    for _ in range(20):
        moved = rows + 1e-3 * rng.normal(size=rows.shape)
        moved /= np.linalg.norm(moved, axis=1, keepdims=True)
        assert np.sum((cosines(moved) - given) ** 2) >= errors[1]
    np.testing.assert_array_equal(rows, frame(given, 3))


def test_a_class_may_have_no_part_in_the_largest_eigenvalues():
    given = np.eye(4)
    given[0, 1] = given[1, 0] = 0.9
    rows = frame(given, 2)
    assert np.isfinite(rows).all()
    assert cosines(rows)[0, 1] > 0.8


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([[1, 0.5], [0.5, 2]], "must be 1 on the diagonal. Received: 2 of 1 and 1"),
        ([[1, 1], [1, 1]], "less than 1 off the diagonal. Received: 1 of 0 and 1"),
        ([[1, 0.5], [0.2, 1]], "must be symmetric. Received: 0.5 of 0 and 1"),
        ([[1, np.nan], [np.nan, 1]], "must be finite. Received: nan of 0 and 1"),
        ([[1, 0.5, 0.5]], r"square matrix .* Received: shape \(1, 3\)"),
        ([["a", 1], [1, 1]], "must be numbers. Received"),
        (1.9 * np.eye(3) - 0.9, "positive semidefinite.* smallest eigenvalue of -0.8"),
        ([[0, 1], [2, 0]], "Costs must be symmetric"),
        ([[0, 1, 9], [1, 0, 1], [9, 1, 0]], "in proportion to the costs.* costs of 3 classes"),
        ([[0, 1, 4], [1, 0, 1], [4, 1, 0]], "in proportion to the costs.* costs of 3 classes"),
    ],
)
def test_what_is_refused(given, message):
    with pytest.raises(ValueError, match=message):
        embed(given, 3, method="frame")


def test_methods_and_dimensions_are_checked():
    with pytest.raises(ValueError, match=r'`method` must be "search" or "frame". Received'):
        embed(UNEVEN, 3, method="best")
    with pytest.raises(ValueError, match=r"`dims` must be an integer >= 2. Received: dims=1"):
        embed(UNEVEN, 1, method="frame")
