"""The objective against its formula over all pairs, and the searches against known optima."""

import itertools
import math

import numpy as np
import pytest

from mhe.prototypes import separation
from mhe.prototypes.optimize import (
    STAGES,
    Effort,
    lbfgs,
    multistart,
    polish,
    published,
    search,
    sgd,
    slsqp,
    smooth,
    soft_maximum,
    thread_limit,
)

pytestmark = pytest.mark.one_backend

TURN = np.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
GROUP = np.stack([np.linalg.matrix_power(TURN, power) for power in range(4)])


def points(classes, dims, seed=0):
    return np.random.default_rng(seed).normal(size=(classes, dims))


def cosine(u, v):
    return math.fsum(u * v) / math.sqrt(math.fsum(u * u) * math.fsum(v * v))


def reference(rows, sharpness, group=None):
    """Log-sum-exp, a pair at a time."""
    group = [np.eye(rows.shape[1])] if group is None else group
    pairs = [
        cosine(u, turn @ v)
        for (i, u), (j, v), (g, turn) in itertools.product(
            enumerate(rows), enumerate(rows), enumerate(group)
        )
        if g or i != j
    ]
    return math.log(math.fsum(math.exp(sharpness * c) for c in pairs)) / sharpness


@pytest.mark.parametrize("group", [None, GROUP], ids=["all pairs", "images"])
@pytest.mark.parametrize("block", [3, smooth.BLOCK])
def test_soft_maximum_and_its_gradient(group, block, monkeypatch, reference_gradient):
    monkeypatch.setattr(smooth, "BLOCK", block)
    rows = points(5, 3)
    for sharpness in (0.5, 30.0):
        value, gradient = soft_maximum(rows, sharpness, group)
        assert value == pytest.approx(reference(rows, sharpness, group), abs=1e-12)
        expected = reference_gradient(lambda x, s=sharpness: reference(x, s, group), rows)
        np.testing.assert_allclose(gradient, expected, atol=1e-8)


def test_soft_maximum_is_finite_where_it_is_sharp_and_points_are_equal_or_opposite():
    rows = np.array([[1.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [0.0, 1e-3]])
    for sharpness in (1e-3, 1e6):
        value, gradient = soft_maximum(rows, sharpness)
        assert math.isfinite(value)
        assert np.isfinite(gradient).all()
    assert value == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    ("classes", "dims", "cosine"),
    [
        (4, 3, -1 / 3),
        (7, 3, 0.2101383127),
        (9, 3, 1 / 3),
        (12, 3, 1 / math.sqrt(5)),
        (10, 4, 1 / 6),
        (16, 5, 1 / 5),
        (27, 6, 1 / 4),
        (14, 7, 0.0),
    ],
)
def test_lbfgs_meets_what_is_proven(classes, dims, cosine):
    """Optima: Rankin 1955, Schütte and van der Waerden 1951, Cohn and Kumar 2007, table 1."""
    found = min(
        (lbfgs(points(classes, dims, seed), STAGES[:7], 100) for seed in range(4)), key=separation
    )
    assert separation(found) == pytest.approx(cosine, abs=1e-4)


def test_lbfgs_meets_the_term_it_is_given():
    wanted = np.array([[1.0, 0.0, 0.0], [0.6, 0.8, 0.0]])
    pulled = lbfgs(
        points(2, 3), term=lambda x: (100 * ((x - wanted) ** 2).sum(), 200 * (x - wanted))
    )
    np.testing.assert_allclose(pulled, wanted, atol=0.02)


def test_slsqp_meets_what_is_proven():
    assert separation(slsqp(points(12, 3))) == pytest.approx(1 / math.sqrt(5), abs=1e-6)
    assert separation(slsqp(points(5, 4))) == pytest.approx(-1 / 4, abs=1e-6)


def test_sgd_takes_the_published_steps():
    start = points(6, 3)
    start /= np.linalg.norm(start, axis=1, keepdims=True)
    rows = start.copy()
    for _ in range(3):
        gradient = np.zeros_like(rows)
        for i, row in enumerate(rows):
            nearest = max((j for j in range(6) if j != i), key=lambda j: cosine(row, rows[j]))
            gradient[i] += rows[nearest] / 6
            gradient[nearest] += row / 6
        rows = rows - 0.1 * gradient
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    np.testing.assert_allclose(sgd(start, steps=3), rows, atol=1e-12)


def test_polish_ends_at_the_optimum_and_never_above_its_start():
    rough = lbfgs(points(7, 3), stages=(10.0, 40.0))
    assert separation(rough) > 0.2101383127 + 1e-3
    assert separation(polish(rough)) == pytest.approx(0.2101383127, abs=1e-9)
    anywhere = points(8, 3, seed=5)
    anywhere /= np.linalg.norm(anywhere, axis=1, keepdims=True)
    assert separation(polish(anywhere, rounds=1)) < separation(anywhere)


def test_search_beats_what_was_asked_for_in_little_work():
    rows, origin = search(100, 25, seed=0, effort_factor=0.1)
    assert separation(rows) <= 1 / 11 + 1e-6
    assert origin == "Higman-Sims graph"


def test_only_starts_that_promise_most_descend_to_the_end(monkeypatch):
    reached, finished = [], []

    def descend(rows, stages, *args, **kwargs):
        if stages == STAGES[3:6]:
            best = min(reached)
            value = soft_maximum(rows, STAGES[2])[0]
            finished.append(value)
            assert value <= best + 1e-3
        found = lbfgs(rows, stages, *args, **kwargs)
        if stages[-1] == STAGES[2] and kwargs.get("group") is None:
            reached.append(soft_maximum(found, STAGES[2])[0])
        return found

    monkeypatch.setattr(multistart, "lbfgs", descend)
    multistart.search(15, 6, seed=0, effort_factor=0.3)
    assert 0 < len(finished) < len(reached)


def test_symmetries_that_fall_behind_are_given_up():
    scouted = {"a random start": 0.1, "a start of symmetry 2": 0.12, "a start of symmetry 3": 0.105}
    rng = np.random.default_rng(0)
    starts = itertools.islice(multistart._fresh_starts(12, 4, rng, scouted), 30)
    assert {start.name for start in starts} == {
        "a random start",
        *(f"a start of symmetry {order}" for order in (3, 4, 5)),
    }


def test_known_starts_are_lifted_into_dimensions_left_over():
    starts = list(multistart._known_starts(60, 23, None, 1 / 12, np.random.default_rng(0)))
    names = [start.name for start in starts]
    assert names == [f"Higman-Sims graph{each}" for each in (", derived twice", ", derived once")]
    for (start, *_), dims in zip(starts, (20, 21), strict=True):
        lengths = [np.linalg.norm(part, axis=1) for part in (start[:, :dims], start[:, dims:])]
        np.testing.assert_allclose(lengths[1] / lengths[0], 0.3, rtol=1e-6)
        assert separation(start) < 0.2


def test_effort_is_counted_and_told():
    lines = []
    effort = Effort(work=1e-3, progress=lines.append)
    lbfgs(points(10, 3), stages=(10.0, 40.0), iterations=20, effort=effort)
    assert effort.exhausted
    assert not effort.is_stopped
    assert effort.evaluations >= 20
    assert [line.split(":")[0] for line in lines] == ["sharpness 10", "sharpness 40"]


@pytest.mark.parametrize("descend", [lbfgs, sgd, slsqp])
def test_seconds_end_a_descent(descend):
    effort = Effort(seconds=1e-9)
    found = descend(points(20, 4), effort=effort)
    assert found.shape == (20, 4)
    assert effort.evaluations <= 30


@pytest.mark.parametrize("descend", [lbfgs, sgd])
def test_an_evaluation_that_takes_long_is_stopped_in_its_midst(descend, monkeypatch):
    for module in (smooth, published):
        monkeypatch.setattr(module, "BLOCK", 40)  # two of twenty rows at a time
    asked = []
    start = points(20, 4)
    found = descend(start, effort=Effort(stop=lambda: asked.append(0) or len(asked) == 3))
    assert len(asked) == 3
    np.testing.assert_allclose(found, start / np.linalg.norm(start, axis=1, keepdims=True))


@pytest.mark.parametrize(("descend", "soon", "late"), [(lbfgs, 100, 1000), (slsqp, 3, 12)])
def test_a_descent_that_is_stopped_keeps_what_it_has_reached(descend, soon, late, monkeypatch):
    monkeypatch.setattr(smooth, "BLOCK", 40)  # lbfgs asks nine times an evaluation, and once after
    start = points(20, 4)

    def reached(most):
        asked = []
        found = descend(start, effort=Effort(stop=lambda: asked.append(0) or len(asked) >= most))
        assert len(asked) == most
        return separation(found)

    unit = start / np.linalg.norm(start, axis=1)[:, None]
    assert reached(late) < reached(soon) < separation(unit)


@pytest.mark.parametrize("scouted", [False, True])
def test_a_search_in_a_large_set_does_not_measure_what_is_cut_short(scouted, monkeypatch):
    monkeypatch.setattr(multistart, "_MOST_EVALUATION", 0.0)
    monkeypatch.setattr(multistart, "separation", None)
    monkeypatch.setattr(smooth, "BLOCK", 130)
    begun = []
    if scouted:  # The search is stopped when the scout is back.
        scout = multistart._scout

        def counted(start, classes, iterations, effort):
            rows = scout(start, classes, 1, Effort())
            begun.append(start)
            return rows

        monkeypatch.setattr(multistart, "_scout", counted)
    effort = Effort(stop=lambda: bool(begun) or not scouted)
    rows, origin = search(130, 4, seed=0, effort=effort)
    assert effort.evaluations == 0
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1)
    assert origin == "L-BFGS from a random start, cut short"


def test_the_error_without_scipy_names_the_extra(monkeypatch):
    import builtins

    original = builtins.__import__

    def without(name, *args, **kwargs):
        if name.startswith("scipy"):
            raise ImportError(name)
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    for call in (lambda: lbfgs(points(3, 3)), lambda: slsqp(points(3, 3))):
        with pytest.raises(ImportError, match=r"mhe\[prototypes\]"):
            call()


def test_a_search_ends_where_nothing_is_better():
    told, effort = [], Effort(progress=lambda line: told.append(line))
    rows, _ = search(10, 3, seed=0, effort=effort)
    assert separation(rows) == pytest.approx(0.4043943252, abs=1e-8)
    assert "no placement is better" in told[-1]
    assert effort.left > 2.0


def test_small_problems_keep_to_one_thread_and_large_ones_do_not():
    from threadpoolctl import threadpool_info

    def threads():
        return [each["num_threads"] for each in threadpool_info() if each["user_api"] == "blas"]

    usual = threads()
    with thread_limit(100, 5):
        assert set(threads()) == {1}
    with thread_limit(2000, 100):
        assert threads() == usual
    assert threads() == usual


def test_a_search_that_is_stopped_keeps_its_best():
    told = []
    effort = Effort(progress=told.append, stop=lambda: any("start 3" in line for line in told))
    rows, _ = search(15, 4, seed=0, effort=effort)
    found = [float(line.split()[-2]) for line in told if line.startswith("start ")]
    assert len(found) == 3
    assert separation(rows) == pytest.approx(min(found), abs=1e-6)


def test_an_interrupt_is_passed_on():
    def interrupt(line):
        if line.startswith("start 2"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        search(15, 4, seed=0, effort=Effort(progress=interrupt))
