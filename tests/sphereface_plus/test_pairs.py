"""Lists of pairs in the forms of Labeled Faces in the Wild, right and wrong."""

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from sphereface_plus.pairs import read_pairs

pytestmark = pytest.mark.one_backend

IMAGES = [
    *("lfw/Ann/Ann_0001.jpg", "lfw/Ann/Ann_0002.jpg", "lfw/Ann/Ann_0013.JPEG"),
    *("lfw/Bo van Es/Bo van Es_0001.png", "lfw/Cy/Cy_0001.jpg", "lfw/Cy/Cy_0001.png"),
    "lfw/Cy\u00e9/Cy\u00e9_0001.png",
]
SAME, OTHER = "Ann\t1\t13", "Ann\t2\tBo van Es\t1"


@pytest.fixture
def read(tmp_path):
    def reading(*lines):
        path = tmp_path / "pairs.txt"
        path.write_text("\n".join(lines) + "\n\n", "utf-8")
        return read_pairs(path, IMAGES)

    return reading


@pytest.mark.parametrize(
    ("header", "folds"),
    [(["2 1"], [0, 0, 1, 1]), (["2\t1"], [0, 0, 1, 1]), (["2"], None), ([], None)],
)
@pytest.mark.filterwarnings("ignore:.*listed before")
def test_lists_of_lfw(read, header, folds):
    pairs = read(*header, SAME, OTHER, OTHER, "Ann 1 2")
    assert_array_equal(pairs.rows, [[0, 2], [1, 3], [1, 3], [0, 1]])
    assert_array_equal(pairs.same, [True, False, False, True])
    assert (pairs.folds is None) == (folds is None)
    assert np.array_equal(pairs.folds, folds) or folds is None


@pytest.mark.parametrize(
    ("lines", "named"),
    [
        (
            ["Ann 1 3", SAME, "Di 1 2"],
            "2 lines .* line 1: .* Ann/Ann_0003.*; line 3: .* Di/Di_0001",
        ),
        (["Ann 1 Cy 1"], r"line 1: Cy/Cy_0001 may be lfw/Cy/Cy_0001.jpg or lfw/Cy/Cy_0001.png"),
        (
            ["Ann one two"],
            r"line 1: it must be a name and two numbers.*not \['Ann', 'one', 'two'\]$",
        ),
        (["Ann Ann_0001.jpg Ann_0002.jpg"], "image such as Ann_0007.jpg is number 7 of Ann"),
        (["Ann 1 9999999999"], "line 1: it must be a name and two numbers"),
        (["Ann 1 " + "9" * 5000], "line 1: it must be a name and two numbers.{,300}$"),
        (["9" * 5000, SAME], "line 1: it must be a name and two numbers.{,300}$"),
        (["1 " + "9" * 9, SAME], "must hold 1,999,999,998 pairs, .* Received: 1"),
        (["Cye\u0301 1 2"], r"Cye\u0301_0001\.\* \(it is there in another Unicode normalization"),
        ([SAME, "Ann"], "line 2: it must be a name and two numbers"),
        (["Di 1 2"] * 12, "12 lines .* line 10: [^;]*; …$"),
        (["2 1", SAME, OTHER], "must hold 4 pairs, .* Received: 2"),
        (["2 1", SAME, SAME, OTHER, OTHER], "1 pairs of the same person in fold 1, .* Received: 2"),
        (["1", SAME, SAME], "in the list, .* Received: 2"),
        (["10 300"], "no pair"),
        ([], "no pair"),
    ],
)
def test_wrong_lists_are_named(read, lines, named):
    with pytest.raises(ValueError, match=named):
        read(*lines)


def test_equal_names_are_one_person(read):
    assert_array_equal(read("Ann 1 Ann 2", OTHER).same, [True, False])


def test_repeats_are_warned_of(read):
    with pytest.warns(UserWarning, match="has 1 pair of an image with itself, first in line 2"):
        assert_array_equal(read(OTHER, "Ann 1 1").same, [False, True])
    with pytest.warns(UserWarning, match="has 2 pairs listed before, first in line 2"):
        read("Ann 1 2", "Ann 2 1", "Ann 1 2")


def test_unreadable_lists_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"none\.txt cannot be read"):
        read_pairs(tmp_path / "none.txt", IMAGES)
    (tmp_path / "image.txt").write_bytes(b"\x89PNG\xff")
    with pytest.raises(ValueError, match=r"image\.txt must be UTF-8 text"):
        read_pairs(tmp_path / "image.txt", IMAGES)


@pytest.mark.parametrize(
    "lines",
    [
        ["Ann/Ann_0001.jpg lfw/Ann/Ann_0013.JPEG 1 3", "Ann/Ann_0002 Cyé/Cyé_0001.png false 7"],
        ["Ann/Ann_0001\t/data/Ann/Ann_0013\tTrue\t3", "Ann/Ann_0002\tCyé/Cyé_0001.png\t0\t7"],
    ],
)
def test_lists_of_paths(read, lines):
    pairs = read(*lines)
    assert_array_equal(pairs.rows, [[0, 2], [1, 6]])
    assert_array_equal(pairs.same, [True, False])
    assert_array_equal(pairs.folds, [0, 1])
    with pytest.raises(ValueError, match="line 2: all lines must have a fold, or none"):
        read(lines[0], "Ann/Ann_0001 Cyé/Cyé_0001 1")


@pytest.mark.parametrize(
    ("text", "rows", "same", "folds"),
    [
        # LFW as it is passed around.
        (
            "name,imagenum1,imagenum2,\nAnn,1,13,\nAnn,2,Bo van Es,1\n",
            [[0, 2], [1, 3]],
            [1, 0],
            None,
        ),
        ("name,imagenum1,name,imagenum2\r\nAnn,2,Bo van Es,1\r\n", [[1, 3]], [0], None),
        (
            'image1;image2;same;fold\n"Ann/Ann_0001.jpg";Bo van Es/Bo van Es_0001.png;1;9\n',
            [[0, 3]],
            [1],
            [0],
        ),
        ("Ann/Ann_0001.jpg,Ann/Ann_0002.jpg,false\n,,\n", [[0, 1]], [0], None),
    ],
)
def test_tables_of_pairs(tmp_path, text, rows, same, folds):
    path = tmp_path / "pairs.csv"
    path.write_text(text, "utf-8", newline="")
    pairs = read_pairs(path, IMAGES)
    assert_array_equal(pairs.rows, rows)
    assert_array_equal(pairs.same, np.array(same, bool))
    assert np.array_equal(pairs.folds, folds) or folds is pairs.folds is None


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("name,imagenum1,imagenum2,\n", "must be a list of pairs. Received: no pairs"),
        (
            "a,b,same\nAnn/Ann_0001.jpg,Ann/Ann_0003.jpg,1\n",
            r"line 2: there is no image Ann/Ann_0003",
        ),
        ("a,b,same\nAnn/Ann_0001.jpg,Ann/Ann_0002.jpg,2\n", r"line 2: it must be a name and two"),
        ("a,b,same\n" + "x" * 200_000, r"pairs\.csv cannot be read: line 2: field larger than"),
    ],
)
def test_wrong_tables_are_named(tmp_path, text, named):
    path = tmp_path / "pairs.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=named):
        read_pairs(path, IMAGES)
