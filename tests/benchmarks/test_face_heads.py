"""The program that measures face heads: its table, its processes, what it does not overwrite."""

import csv
import doctest
import subprocess
import sys

import keras
import pytest

from mhe.harness.flags import program

SIZES = ["--classes", "7", "--dims", "4", "--batch_size", "3", "--steps", "2"]


@pytest.fixture
def benchmark(load):
    return load("face_heads")


def test_doctests(benchmark):
    assert doctest.testmod(benchmark).failed == 0


def test_ratios_to_the_plain_softmax(benchmark, tmp_path, capsys, monkeypatch):
    # What a process of its own would do, done in this one.
    asked = []

    def run(command, **options):
        asked.append(command[3])
        assert program(benchmark.main, command[2:]) == 0
        return subprocess.CompletedProcess(command, 0, capsys.readouterr().out, "")

    monkeypatch.setattr(benchmark.subprocess, "run", run)
    flags = [*SIZES, "--heads", "cosface", "--limit_gib", "0.001", "--out", str(tmp_path)]
    assert program(benchmark.main, flags) == 0
    assert asked == ["softmax", "cosface"]
    output = capsys.readouterr().out
    with open(tmp_path / f"{keras.backend.backend()}.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["head"] for row in rows] == asked
    for row in rows:
        assert [row[name] for name in ("classes", "dims", "batch", "rounds")] == [
            "7",
            "4",
            "3",
            "2",
        ]
        ratio = float(row["median_ms"]) / float(rows[0]["median_ms"])
        assert float(row["time_ratio"]) == pytest.approx(ratio, abs=1e-3)
    if sys.platform == "linux":
        assert "within 0.001 GiB: no" in output
    assert program(benchmark.main, flags) == 2
    assert "nothing is overwritten" in capsys.readouterr().err


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="no backend computes anything")
def test_a_process_that_dies_is_told_of(benchmark, monkeypatch):
    failed = subprocess.CompletedProcess([], -9, "", "killed")
    monkeypatch.setattr(benchmark.subprocess, "run", lambda *_, **__: failed)
    flags = vars(benchmark.make_parser().parse_args(SIZES))
    with pytest.raises(RuntimeError, match="arcface ended with -9"):
        benchmark.ask(flags, "arcface")
