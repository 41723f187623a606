"""The largest cosine against all pairs one at a time, and bounds against what meets them."""

import itertools
import math
import tracemalloc

import numpy as np
import pytest

from mhe.prototypes import closed_forms, cosine_lower_bound, separation
from mhe.prototypes.bounds import levenshtein
from mhe.prototypes.configurations import catalogue

pytestmark = pytest.mark.one_backend

# Cohn and Kumar, Universally optimal distribution of points on spheres, table 1: each meets
# Levenshtein's bound.
SHARP = [
    *[(12, 3, 1 / math.sqrt(5)), (16, 5, 1 / 5), (27, 6, 1 / 4), (56, 7, 1 / 3), (240, 8, 1 / 2)],
    *[(112, 21, 1 / 9), (162, 21, 1 / 7), (100, 22, 1 / 11), (275, 22, 1 / 6), (891, 22, 1 / 4)],
    *[(552, 23, 1 / 5), (4600, 23, 1 / 3), (196560, 24, 1 / 2), (325, 52, 1 / 16)],
]


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_separation_is_the_largest_of_all_cosines(dtype):
    rows = np.random.default_rng(0).normal(size=(60, 7))
    # Every second column of a wider array: the rows need not be contiguous. Float16 rounds lengths.
    rows = np.repeat(rows / np.linalg.norm(rows, axis=1, keepdims=True), 2, axis=1).astype(dtype)
    rows = rows[:, ::2]
    expected = max(
        sum(float(a) * float(b) for a, b in zip(u, v, strict=True))
        / math.dist(u.astype("f8"), np.zeros(7))
        / math.dist(v.astype("f8"), np.zeros(7))
        for u, v in itertools.combinations(rows, 2)
    )
    assert separation(rows) == pytest.approx(expected, abs=1e-12)


def test_separation_finds_the_pair_in_any_two_blocks():
    rows = np.eye(2300, 2300)[:, :2300]
    for one, other in ((0, 1), (5, 2299), (2297, 2298)):
        near = rows.copy()
        near[one] = (rows[one] + 0.5 * rows[other]) / math.sqrt(1.25)
        assert separation(near) == pytest.approx(0.5 / math.sqrt(1.25), abs=1e-12)


def test_separation_of_many_rows_takes_bounded_memory():
    rows = closed_forms.orthoplex(4000, 2000)
    tracemalloc.start()
    assert separation(rows) == 0
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # All cosines of 4,000 rows would be 128 MB in float64.
    assert peak < 110e6


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([[1.0, 0.0]], "shape .1, 2."),
        ([[1.0], [-1.0]], "shape .2, 1."),
        ([1.0, 0.0], "shape .2,."),
        ([["a", "b"], ["c", "d"]], "dtype <U1"),
        ([[1.0, 0.0], [1.0]], "inhomogeneous|sequence"),
        ([[1.0, 0.0], [0.0, 1.002]], "row 1 of length 1.002"),
        ([[1.0, 0.0], [0.6, 0.6]], "row 1 of length 0.848528"),
        ([[1.0, 0.0], [math.nan, 0.0]], "row 1 of length nan"),
        ([[math.inf, 0.0], [1.0, 0.0]], "row 0 of length inf"),
    ],
)
def test_separation_refuses_what_are_no_unit_rows(rows, message):
    with pytest.raises(ValueError, match=f"Received: .*({message})"):
        separation(rows)


@pytest.mark.parametrize(("classes", "dims", "cosine"), SHARP)
def test_levenshtein_is_met_by_sharp_configurations(classes, dims, cosine):
    assert levenshtein(classes, dims) == pytest.approx(cosine, abs=1e-9)
    assert cosine_lower_bound(classes, dims) <= cosine + 1e-15


def test_rankin():
    assert cosine_lower_bound(2, 5) == -1
    assert cosine_lower_bound(6, 5) == -1 / 5
    assert cosine_lower_bound(7, 5) == cosine_lower_bound(10, 5) == 0
    assert 0 < cosine_lower_bound(11, 5) < 0.2


def test_the_polygon_is_exact():
    for classes in (3, 4, 5, 17):
        expected = math.cos(2 * math.pi / classes)
        assert cosine_lower_bound(classes, 2) == pytest.approx(expected, abs=1e-15)


def test_no_known_configuration_is_below_the_bound():
    for each in catalogue():
        assert cosine_lower_bound(each.classes, each.dims) <= each.cosine + 1e-9, str(each)


@pytest.mark.parametrize("dims", [3, 4, 7, 50])
def test_more_classes_never_have_a_smaller_bound(dims):
    bounds = [cosine_lower_bound(classes, dims) for classes in range(2, 12 * dims)]
    assert all(a <= b + 1e-12 for a, b in itertools.pairwise(bounds))
    assert bounds[-1] < 1


def test_levenshtein_of_strengths_one_and_three_are_as_written_out():
    # L_1(s) = 1 − 1/s and L_3(s) = d(1 − s)(2 + (d + 1)s)/(1 − d·s²).
    assert levenshtein(4, 10) == pytest.approx(-1 / 3, abs=1e-10)
    for classes, d in ((25, 10), (60, 19)):
        s = levenshtein(classes, d)
        expected = d * (1 - s) * (2 + (d + 1) * s) / (1 - d * s**2)
        assert classes == pytest.approx(expected, rel=1e-8)


def test_bounds_of_large_numbers_are_numbers():
    assert 0.99992 < cosine_lower_bound(100_000, 3) < 1
    assert 0.03 < cosine_lower_bound(100_000, 512) < 1 / 16


@pytest.mark.parametrize(("classes", "dims"), [(1, 5), (5, 1), (2.5, 3), (True, 3), ("9", 3)])
def test_bound_refuses_what_is_no_size(classes, dims):
    with pytest.raises(ValueError, match=r"must be an integer >= 2. Received: "):
        cosine_lower_bound(classes, dims)
