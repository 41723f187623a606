"""Regular figures, codes and the catalogue, each by what its cosines must be."""

import itertools
import math

import numpy as np
import pytest

from mhe.prototypes import closed_forms, codes, separation
from mhe.prototypes.configurations import catalogue, compose, derive, packings

pytestmark = pytest.mark.one_backend

FAMILIES = sorted(
    {each.name for each in catalogue() if each.dims <= 301 and "BCH" not in each.name}
)


@pytest.mark.parametrize(("classes", "dims"), [(2, 2), (3, 2), (6, 5), (4, 9), (300, 299)])
def test_simplex(classes, dims):
    rows = closed_forms.simplex(classes, dims)
    assert rows.shape == (classes, dims)
    assert rows.dtype == np.float32
    cosines = rows.astype("f8") @ rows.T.astype("f8")
    expected = np.where(np.eye(classes), 1, -1 / (classes - 1))
    np.testing.assert_allclose(cosines, expected, atol=2e-7)


def test_simplex_of_ten_thousand_is_instant_and_exact():
    rows = closed_forms.simplex(10_000, 9_999)
    some = rows[[0, 1, 4999, 9998, 9999]].astype("f8")
    np.testing.assert_allclose(some @ some.T, np.where(np.eye(5), 1, -1 / 9999), atol=1e-7)


@pytest.mark.parametrize(("classes", "dims"), [(2, 2), (7, 5), (10, 5), (9, 5)])
def test_orthoplex(classes, dims):
    rows = closed_forms.orthoplex(classes, dims)
    cosines = rows @ rows.T
    assert set(np.unique(cosines)) <= {-1.0, 0.0, 1.0}
    assert (cosines == 1).sum() == classes
    assert separation(rows) == (0 if classes > 2 else -1)


@pytest.mark.parametrize("classes", [2, 3, 7, 100])
def test_polygon(classes):
    expected = math.cos(2 * math.pi / classes)
    assert separation(closed_forms.polygon(classes)) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("place", "message"),
    [
        (lambda: closed_forms.simplex(5, 3), "simplex"),
        (lambda: closed_forms.orthoplex(7, 3), "orth"),
    ],
)
def test_closed_forms_refuse_too_many_classes(place, message):
    with pytest.raises(ValueError, match=f"{message}.*Received: classes=., dims=3"):
        place()


@pytest.mark.parametrize("name", FAMILIES)
def test_the_catalogue_keeps_its_word(name):
    steps = sorted((each for each in catalogue() if each.name == name), key=lambda x: x.steps)
    rows = steps[0].build(None)
    for step, each in enumerate(steps):
        assert each.steps == step
        assert rows.shape == (each.classes, each.dims)
        if each.classes <= 5000:
            assert separation(rows) == pytest.approx(each.cosine, abs=1e-8)
            assert np.linalg.matrix_rank(rows) == each.dims
        if step == 1:
            np.testing.assert_allclose(each.rows(7), rows[:7], atol=1e-12)
        rows = derive(rows)


def test_the_leech_lattice_and_what_derives_from_it():
    leech = next(each for each in catalogue() if each.name == "Leech lattice" and not each.steps)
    rows = leech.rows(leech.classes)
    assert rows.shape == (196560, 24)
    counts = np.unique((rows @ rows[0]).round(6), return_counts=True)
    np.testing.assert_allclose(counts[0], [-1, -0.5, -0.25, 0, 0.25, 0.5, 1], atol=1e-6)
    assert list(counts[1]) == [1, 4600, 47104, 93150, 47104, 4600, 1]
    once = derive(rows)
    assert once.shape == (4600, 23)
    twice = derive(once)
    assert twice.shape == (891, 22)
    assert separation(twice) == pytest.approx(1 / 4, abs=1e-9)


@pytest.mark.parametrize("dims", [13, 15, 17, 20, 23])
def test_laminated_lattices_have_as_many_shortest_vectors_as_is_known(dims):
    """Conway and Sloane, table 1.5, and their cosines: those of vectors of one even lattice."""
    known = {13: 906, 15: 2340, 17: 5346, 20: 17400, 23: 93150}
    rows = packings.leech_section(dims)
    assert rows.shape == (known[dims], dims)
    for row in rows[:: len(rows) // 5]:
        assert set((4 * (rows @ row)).round(6)) <= {-4, -2, -1, 0, 1, 2, 4}
        assert ((rows @ row) > 0.9).sum() == 1


@pytest.mark.parametrize(
    ("length", "shorten", "count"), [(10, 1, 18), (10, 0, 30), (11, 0, 35), (12, 0, 51)]
)
def test_packings_have_as_many_points_as_is_known(length, shorten, count):
    """Conway and Sloane, chapter 5; Brouwer et al., A new table of constant weight codes, 1990."""
    dims = length - shorten
    rows = packings.of_words(length, shorten)
    assert rows.shape == (2 * dims + 16 * count, dims)
    assert separation(rows) == pytest.approx(0.5, abs=1e-9)


@pytest.mark.parametrize("q", [2, 3, 4, 5, 7, 9])
def test_fields(q):
    plus, times = codes.field(q)
    elements = np.arange(q)
    a, b, c = np.meshgrid(elements, elements, elements, indexing="ij")
    assert (plus[plus[a, b], c] == plus[a, plus[b, c]]).all()
    assert (times[times[a, b], c] == times[a, times[b, c]]).all()
    assert (times[a, plus[b, c]] == plus[times[a, b], times[a, c]]).all()
    assert all(sorted(row) == list(elements) for row in plus)
    assert all(sorted(row) == list(elements) for row in times[1:])
    np.testing.assert_array_equal(times[1], elements)


@pytest.mark.parametrize(
    ("rows", "cosine"),
    [
        (lambda: codes.code_rows(codes.kerdock_forms(4), 256), 1 / 4),
        (lambda: codes.code_rows(codes.kerdock_forms(6), 4096), 1 / 8),
        (lambda: codes.code_rows(codes.gold_forms(5, 32), 2048), 1 / 4),
        (lambda: codes.code_rows(codes.gold_forms(6, 20), 2500), 1 / 4),
        (lambda: codes.code_rows(codes.gold_forms(7, 8), 2048), 1 / 8),
    ],
)
def test_codes(rows, cosine):
    rows = rows()
    assert (np.abs(rows) == np.float32(1 / math.sqrt(rows.shape[1]))).all()
    assert separation(rows) == pytest.approx(cosine, abs=1e-6)


def test_codes_of_the_catalogue_keep_their_word_at_any_count():
    for each in catalogue():
        if "code" in each.name and not each.steps and each.dims <= 512:
            rows = each.rows(min(1500, each.classes))
            assert rows.shape == (min(1500, each.classes), each.dims)
            assert separation(rows) <= each.cosine + 1e-6, str(each)


def test_composition_is_orthogonal_and_holds_no_more_than_asked():
    found = compose(150, 44)
    assert [str(each) for each in found.parts] == ["Higman-Sims graph, derived once"] * 2
    rows = found.rows(150, 44)
    assert rows.shape == (150, 44)
    assert not (rows[:77] @ rows[77:].T).any()
    assert separation(rows) == pytest.approx(1 / 12, abs=1e-6)
    filled = compose(160, 44 + 5)
    assert filled.rows(160, 49).shape == (160, 49)
    assert separation(filled.rows(160, 49)) == pytest.approx(filled.cosine, abs=1e-6)


def test_composition_is_the_best_of_two_parts():
    shapes = [(0, 0, -1.0), *((each.classes, each.dims, each.cosine) for each in catalogue())]
    for classes, dims in ((30, 9), (100, 25), (200, 50), (350, 110), (5000, 130)):
        expected = min(
            max(one[2], other[2])
            for one, other in itertools.product(shapes, repeat=2)
            if one[1] + other[1] <= dims
            and one[0] + other[0] + 2 * (dims - one[1] - other[1]) >= classes
        )
        assert compose(classes, dims).cosine <= expected


def test_nothing_is_known_of_too_many_in_few_dimensions():
    assert compose(1000, 3) is None
