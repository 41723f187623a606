"""The distances program: its table says what was measured, and nothing is overwritten."""

import csv
import doctest
import itertools

import keras
import pytest

from mhe.harness.flags import program

BACKEND = keras.backend.backend()


@pytest.fixture
def benchmark(load):
    return load("distances")


def test_doctests(benchmark):
    assert doctest.testmod(benchmark).failed == 0


@pytest.mark.one_backend
def test_a_row_for_every_distance(benchmark, tmp_path, capsys, clock):
    flags = ["--embeddings", "3", "--classes", "5", "--dims", "4", "--rounds", "3"]
    flags += ["--distances", "euclidean", "--out", str(tmp_path)]
    assert program(benchmark.main, flags) == 0
    with open(tmp_path / f"{BACKEND}.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    plain = [(row["placed"], row["gradient"], row["method"]) for row in rows if not row["mode"]]
    methods = ("product", "euclidean")
    assert plain == list(itertools.product(("far", "near"), ("False", "True"), methods))
    for product, row in zip(rows[::2], rows[1::2], strict=True):
        ratio = float(row["median_ms"]) / float(product["median_ms"])
        assert float(row["ratio"]) == pytest.approx(ratio, abs=1e-3) != 1
        assert float(product["ratio"]) == 1
    assert "euclidean" in capsys.readouterr().out
    assert program(benchmark.main, flags) == 2
    assert "nothing is overwritten" in capsys.readouterr().err
