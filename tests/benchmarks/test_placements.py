"""The placements program: its table says what was measured."""

import csv
import doctest

import numpy as np
import pytest

from mhe.harness.flags import program
from mhe.prototypes import cosine_lower_bound

pytestmark = pytest.mark.one_backend


@pytest.fixture
def placements(load):
    return load("placements")


def test_doctests(placements):
    assert doctest.testmod(placements).failed == 0


def test_a_row_for_every_size_and_method(placements, tmp_path, capsys):
    out = tmp_path / "table"
    flags = ["--sizes", "27x6", "5x4", "--methods", "auto", "lbfgs", "sgd", "--out", str(out)]
    assert program(placements.main, flags) == 0
    with open(out / "placements.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    shapes = [(row["classes"], row["dims"], row["method"]) for row in rows]
    assert shapes == [
        (*name, method) for name in (("27", "6"), ("5", "4")) for method in ("auto", "lbfgs", "sgd")
    ]
    assert float(rows[0]["cosine"]) == pytest.approx(0.25, abs=1e-6)
    assert rows[0]["origin"] == "E8 roots, derived twice"
    assert rows[0]["evaluations"] == "0"
    for row in rows:
        bound = cosine_lower_bound(int(row["classes"]), int(row["dims"]))
        assert float(row["bound"]) == bound <= float(row["cosine"]) + 1e-6
    assert int(rows[2]["evaluations"]) == 10_000
    text = (out / "table.txt").read_text("utf-8")
    assert text.strip() in capsys.readouterr().out
    ratio = float(rows[0]["cosine"]) / float(rows[2]["cosine"])
    assert f"{ratio:.3f}" in text.splitlines()[1]
    for name in ("27x6", "5x4"):
        assert (out / f"cosines-{name}.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--sizes", "7"], "such as 100x10"),
        (["--sizes", "1x5"], "from 2 to 10000000 each"),
        (["--methods", "best"], "invalid choice: 'best'"),
        (["--sizes", "9x3", "--methods", "simplex"], "--methods simplex --sizes 9x3: A simplex"),
    ],
)
def test_bad_flags_are_one_line(placements, flags, message, tmp_path, capsys):
    assert program(placements.main, ["--out", str(tmp_path / "out"), *flags]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert message in error


def test_nothing_is_overwritten(placements, tmp_path, capsys):
    np.save(tmp_path / "kept.npy", np.zeros(1))
    assert program(placements.main, ["--out", str(tmp_path)]) == 2
    assert "is not empty" in capsys.readouterr().err
