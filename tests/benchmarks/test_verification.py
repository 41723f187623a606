"""The verification benchmark: a row for each method and kind of pairs, and ratios that are so."""

import csv
import doctest

import pytest

from mhe.harness.flags import program

pytest.importorskip("sklearn")
pytestmark = pytest.mark.one_backend


def test_a_row_for_every_method(load, tmp_path, capsys, clock):
    benchmark = load("verification")
    assert doctest.testmod(benchmark).failed == 0
    flags = ["--images", "60", "--people", "6", "--rounds", "3", "--out", str(tmp_path)]
    assert program(benchmark.main, flags) == 0
    with open(tmp_path / "verification.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    methods = ["scikit-learn", "roc_curve", "verify_scores"]
    found = [(row["kind"], row["method"]) for row in rows]
    assert found == [
        *(("all", method) for method in (*methods, "all_pairs")),
        *(("half", method) for method in methods),
    ]
    assert {(row["pairs"], row["same"]) for row in rows} == {("1770", "270"), ("1770", "885")}
    for first, *others in (rows[:4], rows[4:]):
        assert float(first["ratio"]) == 1
        for row in others:
            ratio = float(row["median_ms"]) / float(first["median_ms"])
            assert float(row["ratio"]) == pytest.approx(ratio, abs=1e-3) != 1
    assert "verify_scores" in capsys.readouterr().out
    assert program(benchmark.main, flags) == 2
    assert "nothing is overwritten" in capsys.readouterr().err
    assert program(benchmark.main, ["--images", "40", "--people", "31"]) == 2
    assert "Received: 31 people and 40 images" in capsys.readouterr().err
