"""The program on sampled energies from end to end: its tables, its files, and what they say."""

import csv
import doctest
import itertools

import keras
import numpy as np
import pytest

import mhe
from mhe.harness.flags import program

BACKEND = keras.backend.backend()


@pytest.fixture
def benchmark(load):
    return load("sampled_energy")


def read(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_doctests(benchmark):
    tried = doctest.testmod(benchmark)
    assert tried.attempted > 0
    assert tried.failed == 0


@pytest.mark.one_backend
def test_from_end_to_end(benchmark, tmp_path, capsys):
    out = tmp_path / "sampled"
    flags = ["--layer", "32x200", "--sample", "20", "--draws", "20", "--powers", "0", "2"]
    flags += ["--distances", "angle", "--kinds", "random", "--rounds", "1"]
    flags += ["--wide", "16x900", "--sampled_only", "16x2000", "--out", str(out)]
    assert program(benchmark.main, flags) == 0
    rows = read(out / "deviations.csv")
    keys = [(row["space"], row["s"], row["method"]) for row in rows]
    methods = ("control variate", "plain")
    assert keys == list(itertools.product(("full", "half"), ("0", "2"), methods))
    printed = capsys.readouterr().out
    for row in rows:
        scatter = float(row["deviation"]) / np.sqrt(20)
        assert abs(float(row["bias"])) < 5 * scatter
        assert f"{float(row['deviation']):.1e}" in printed
    for ours, plain in zip(rows[::2], rows[1::2], strict=True):
        assert float(ours["exact"]) == float(plain["exact"])
        assert 5 * float(ours["deviation"]) < float(plain["deviation"])
    exact, sampled = read(out / "times.csv")
    assert (exact["method"], exact["rounds"]) == ("exact", "1")
    share = float(sampled["median_ms"]) / float(exact["median_ms"])
    assert float(sampled["ratio"]) == pytest.approx(share, abs=1e-3)
    memory = read(out / "memory.csv")
    assert [row["neurons"] for row in memory] == ["900", "2000"]
    assert all(float(row["memory_mib"]) < 64 for row in memory)
    assert program(benchmark.main, flags) == 2
    assert "nothing in it is overwritten" in capsys.readouterr().err


@pytest.mark.one_backend
@pytest.mark.parametrize("distance", ["euclidean", "angle"])
@pytest.mark.parametrize("space", ["full", "half"])
def test_plain_estimate_is_the_mean_over_the_sample(part, space, distance):
    energies = part("energies")
    weights = np.random.default_rng(0).normal(size=(5, 8)).astype("float32")
    options = {"s": 1, "distance": distance, "space": space}
    exact = float(mhe.hyperspherical_energy(weights, **options))
    every = float(energies.plain_sampled_energy(weights, 8, 0, **options))
    assert every == pytest.approx(exact, rel=1e-6)
    draws = [float(energies.plain_sampled_energy(weights, 4, i, **options)) for i in range(200)]
    assert np.std(draws) > 0
    assert np.mean(draws) == pytest.approx(exact, abs=4 * np.std(draws) / np.sqrt(200))
