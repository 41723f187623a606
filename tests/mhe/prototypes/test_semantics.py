"""The ranking term against the paper's triplets one at a time, Kendall's τ, assignments."""

import builtins
import itertools
import math

import numpy as np
import pytest

from mhe.prototypes.bounds import unit
from mhe.prototypes.semantics import (
    RankingTerm,
    assign,
    assignment,
    order_kept,
    ranking,
    unit_semantics,
)

pytestmark = pytest.mark.one_backend

RNG = np.random.default_rng(0)
WORDS = RNG.normal(size=(9, 5))
# Attributes that classes have or have not: many similarities are equal.
ATTRIBUTES = np.array([[1, (c >> 2) & 1, (c >> 1) & 1, c & 1] for c in range(8)], float)
POINTS = RNG.normal(size=(9, 4))


def cosine(u, v):
    return math.fsum(u * v) / math.sqrt(math.fsum(u * u) * math.fsum(v * v))


def triplets(words, pairs=None):
    """The paper's triplets whose semantic similarities differ, both (i, j, k) and (i, k, j)."""
    for i, j, k in itertools.permutations(range(len(words)), 3):
        nearer, farther = cosine(words[i], words[j]), cosine(words[i], words[k])
        if abs(nearer - farther) > 1e-9 and (pairs is None or {(i, j), (i, k)} <= pairs):
            yield i, j, k, nearer >= farther


def reference(points, words, pairs=None):
    """L_PI as the paper writes it: the mean over triplets of a cross-entropy."""
    losses = []
    for i, j, k, truth in triplets(words, pairs):
        o = cosine(points[i], points[j]) - cosine(points[i], points[k])
        s = math.exp(o) / (1 + math.exp(o))
        losses.append(-truth * math.log(s) - (1 - truth) * math.log(1 - s))
    return math.fsum(losses) / len(losses), len(losses) // 2


def reference_gradient(points, words):
    """The same, differentiated triplet by triplet: dL/do is S minus the truth."""

    def slope(one, two):  # of the cosine, along `one`
        u, v = (points[each] / np.linalg.norm(points[each]) for each in (one, two))
        return (v - cosine(u, v) * u) / np.linalg.norm(points[one])

    gradient, count = np.zeros_like(points), 0
    for i, j, k, truth in triplets(words):
        o = cosine(points[i], points[j]) - cosine(points[i], points[k])
        error = 1 / (1 + math.exp(-o)) - truth
        gradient[i] += error * (slope(i, j) - slope(i, k))
        gradient[j] += error * slope(j, i)
        gradient[k] -= error * slope(k, i)
        count += 1
    return gradient / count


@pytest.mark.parametrize("words", [WORDS, ATTRIBUTES], ids=["words", "attributes"])
def test_term_is_the_mean_over_the_papers_triplets(words):
    points = POINTS[: len(words)]
    term = RankingTerm(words)
    value, gradient = term(points)
    expected, count = reference(points, words)
    assert term.triplets == count
    assert value == pytest.approx(expected, rel=1e-12)
    np.testing.assert_allclose(gradient, reference_gradient(points, words), rtol=1e-9, atol=1e-12)


def test_blocks_add_up_to_the_whole(monkeypatch):
    value, gradient = RankingTerm(WORDS)(POINTS)
    monkeypatch.setattr(ranking, "_BLOCK", 20)  # two classes a block
    parts = RankingTerm(WORDS)
    assert len(parts._blocks) == 5
    assert parts(POINTS)[0] == pytest.approx(value, rel=1e-13)
    np.testing.assert_allclose(parts(POINTS)[1], gradient, rtol=1e-10, atol=1e-15)


def test_a_draw_of_others_gives_the_mean_over_their_triplets(monkeypatch):
    monkeypatch.setattr(ranking, "_BLOCK", 10)
    term = RankingTerm(WORDS, others=4, seed=1)
    pairs = {
        (int(i), int(j)) for block in term._blocks for i in block.anchors for j in block.others
    }
    assert len(pairs) == 9 * 5  # four others, and one more in case the class itself is drawn
    expected, count = reference(POINTS, WORDS, pairs)
    value, gradient = term(POINTS)
    assert term.triplets == count
    assert value == pytest.approx(expected, rel=1e-12)
    # The gradient of the same sum: down it, the value falls by what the gradient says.
    lower, _ = term(POINTS - 1e-4 * gradient)
    assert (value - lower) / 1e-4 == pytest.approx(np.sum(gradient**2), rel=1e-4)
    again, other = RankingTerm(WORDS, others=4, seed=1), RankingTerm(WORDS, others=4, seed=2)
    assert again(POINTS)[0] == value
    assert other(POINTS)[0] != value


def test_of_many_classes_a_bounded_number_of_pairs_is_ranked(monkeypatch):
    monkeypatch.setattr(ranking, "_PAIRS", 30)
    monkeypatch.setattr(ranking, "_FEWEST_OTHERS", 2)
    assert sum(block.order.size for block in RankingTerm(WORDS)._blocks) == 9 * (30 // 9 + 1)
    monkeypatch.setattr(ranking, "_FEWEST_OTHERS", 5)
    assert sum(block.order.size for block in RankingTerm(WORDS)._blocks) == 9 * (5 + 1)


def test_lengths_do_not_count_and_degenerate_points_stay_finite():
    value, gradient = RankingTerm(WORDS)(POINTS)
    far, flat = RankingTerm(1e200 * WORDS)(1e3 * POINTS)
    assert far == pytest.approx(value, rel=1e-12)
    np.testing.assert_allclose(flat, gradient / 1e3, rtol=1e-10, atol=1e-18)
    # Equal and opposite prototypes: cosines of 1 and -1, or just past them by rounding.
    points = np.repeat(POINTS[:3], 3, axis=0) * np.tile([[1.0], [1.0], [-1.0]], (3, 1))
    value, gradient = RankingTerm(WORDS)(points)
    assert value == pytest.approx(reference(points, WORDS)[0], rel=1e-12)
    assert np.isfinite(gradient).all()


def test_where_nothing_is_ordered_there_is_nothing_to_gain():
    term = RankingTerm(np.eye(4))
    value, gradient = term(POINTS[:4])
    assert (term.triplets, value) == (0, 0.0)
    np.testing.assert_array_equal(gradient, np.zeros((4, 4)))


def kendall(first, second):
    """τ-b, pair by pair."""
    concordant, ties = 0, [0, 0]
    pairs = list(itertools.combinations(range(len(first)), 2))
    for a, b in pairs:
        one, two = (
            math.copysign(abs(x) > 1e-5, x) for x in (first[a] - first[b], second[a] - second[b])
        )
        concordant += one * two
        ties[0] += one == 0
        ties[1] += two == 0
    return concordant / math.sqrt((len(pairs) - ties[0]) * (len(pairs) - ties[1]))


@pytest.mark.parametrize("words", [WORDS, ATTRIBUTES], ids=["words", "attributes"])
def test_order_kept_is_kendalls_tau(words):
    points = POINTS[: len(words)].astype("float32")
    order = order_kept(points, words)
    classes = range(len(words))
    expected = [
        kendall(
            *([cosine(rows[i], rows[j]) for j in classes if j != i] for rows in (points, words))
        )
        for i in classes
    ]
    np.testing.assert_allclose(order.per_class, expected, rtol=1e-12)
    assert order.mean == pytest.approx(np.mean(expected))
    pairs = list(itertools.combinations(classes, 2))
    whole = kendall(*([cosine(rows[i], rows[j]) for i, j in pairs] for rows in (points, words)))
    assert order.pairs == pytest.approx(whole, rel=1e-12)


def test_a_simplex_knows_no_order():
    # In float32 its cosines differ in the last bits, and those are no order.
    simplex = (np.eye(9) - 1 / 9).astype("float32")
    order = order_kept(simplex, WORDS)
    assert np.isnan(order.per_class).all()
    assert math.isnan(order.mean)
    assert math.isnan(order.pairs)


def test_of_many_classes_some_are_looked_at():
    order = order_kept(POINTS, POINTS, most=5, seed=3)
    assert order.classes.tolist() == order_kept(POINTS, WORDS, most=5, seed=3).classes.tolist()
    assert len(set(order.classes)) == 5
    np.testing.assert_allclose(order.per_class, np.ones(5))


def test_lowering_the_term_brings_the_order_up():
    points, term = POINTS.copy(), RankingTerm(WORDS)
    for _ in range(200):
        points -= 2.0 * term(points)[1]
        points /= np.linalg.norm(points, axis=1, keepdims=True)
    assert order_kept(points, WORDS).mean > order_kept(POINTS, WORDS).mean + 0.4


def test_assignment_finds_a_shuffled_placement_again():
    shuffle = np.random.default_rng(1).permutation(9)
    order = assign(WORDS[shuffle], WORDS)
    assert shuffle[order].tolist() == list(range(9))


def test_assignment_is_close_to_the_best_of_all():
    points, words = POINTS[:6], WORDS[:6]
    given, wanted = (
        assignment._ranks(unit(points)),
        assignment._ranks(unit_semantics(words)),
    )

    def value(order):
        return float(np.sum(wanted * given[np.ix_(order, order)]))

    order = assign(points, words)
    assert sorted(order.tolist()) == list(range(6))
    assert order.tolist() == assign(points, words).tolist()
    best = max(value(list(each)) for each in itertools.permutations(range(6)))
    assert 0.99 * best <= value(order) <= best
    # Swaps alone end where no swap of two gains anything.
    order = assignment._swap(wanted, given, np.arange(6))
    assert value(order) > value(np.arange(6))
    for one, two in itertools.combinations(range(6), 2):
        swapped = order.copy()
        swapped[[one, two]] = order[[two, one]]
        assert value(swapped) <= value(order) + 1e-9


def test_on_an_orthoplex_the_least_similar_stand_opposite():
    # All first steps are alike here: any start is as good as another.
    words = np.array([[1, 0.1], [0.2, 1], [-1, 0.2], [0.1, -1]])
    orthoplex = np.array([[1.0, 0], [-1, 0], [0, 1], [0, -1]])
    placed = orthoplex[assign(orthoplex, words)]
    assert placed[0] @ placed[2] == placed[1] @ placed[3] == -1


@pytest.mark.parametrize(
    ("given", "classes", "message"),
    [
        (np.ones(4), None, r"\(classes, m\).*Received: shape \(4,\)"),
        (np.ones((1, 4)), None, r"at least two classes.*Received: shape \(1, 4\)"),
        ([["a", "b"], ["c", "d"]], None, "must be numbers.*Received: "),
        ([[1, 2], [0, 0], [3, 4], [0, 0]], None, r"zero.*Received: rows 1, 3 \(counted from 0\)"),
        (
            [[1, 2], [math.nan, 0], [3, math.inf]],
            None,
            r"finite. Received: rows 1, 2 \(counted from 0\)",
        ),
        (np.ones((3, 2)), 5, "each of the 5 classes. Received: 3 vectors"),
    ],
    ids=["flat", "one class", "text", "zeros", "not finite", "too few"],
)
def test_semantics_that_cannot_be_used_are_refused(given, classes, message):
    with pytest.raises(ValueError, match=message):
        unit_semantics(given, classes)


def test_prototypes_of_other_classes_are_refused():
    term = RankingTerm(WORDS)
    with pytest.raises(ValueError, match=r"9 classes of `semantics`. Received: shape \(3, 4\)"):
        term(POINTS[:3])
    with pytest.raises(ValueError, match=r"9 classes of `semantics`. Received: shape \(9,\)"):
        order_kept(np.ones(9), WORDS)
    with pytest.raises(ValueError, match=r"non-zero. Received: zeros in rows 0, .*8"):
        assign(np.zeros((9, 2)), WORDS)
    with pytest.raises(ValueError, match=r"At least 3 classes are needed. Received: 2"):
        order_kept(np.eye(2), np.eye(2))


@pytest.mark.parametrize("count", [1, 2.5, True])
def test_counts_are_checked(count):
    with pytest.raises(ValueError, match=r"`others` must be an integer >= 2. Received: others="):
        RankingTerm(WORDS, others=count)
    with pytest.raises(ValueError, match=r"`starts` must be an integer >= 1. Received: starts=0"):
        assign(POINTS, WORDS, starts=0)


def test_without_scipy_the_extra_is_named(monkeypatch):
    def missing(name, *rest, imports=builtins.__import__):
        if name.startswith("scipy"):
            raise ImportError(name)
        return imports(name, *rest)

    monkeypatch.setattr(builtins, "__import__", missing)
    for function in (order_kept, assign):
        with pytest.raises(ImportError, match=r"pip install mhe\[prototypes\]"):
            function(POINTS, WORDS)
