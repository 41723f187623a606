"""The program that measures face heads: its table, its processes, what it does not overwrite."""

import csv
import doctest
import json
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

    def ask(name, arguments):
        asked.append(name)
        assert arguments[:3] == [benchmark.__file__, "--alone", name.removesuffix("_0.5")]
        assert program(benchmark.main, arguments[1:]) == 0
        yield json.loads(capsys.readouterr().out)

    monkeypatch.setattr(benchmark, "ask", ask)
    flags = [*SIZES, "--heads", "cosface", "--limit_gib", "0.001", "--class_share", "0.5"]
    flags += ["--out", str(tmp_path)]
    assert program(benchmark.main, flags) == 0
    assert asked == ["softmax", "cosface", "cosface_0.5"]
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
    ratio = float(rows[1]["median_ms"]) / float(rows[0]["median_ms"])
    assert float(rows[1]["time_ratio"]) == pytest.approx(ratio, abs=1e-3)
    if sys.platform == "linux":
        assert "within 0.001 GiB: no" in output
    assert program(benchmark.main, flags) == 2
    assert "nothing is overwritten" in capsys.readouterr().err


@pytest.mark.one_backend
def test_a_share_of_the_classes_is_trained_lazily(benchmark):
    """Unless there is no momentum to keep."""
    share = [*SIZES, "--class_share", "0.5"]
    for flags, is_lazy, sample in (
        (SIZES, False, None),
        (share, True, 0.5),
        ([*share, "--momentum", "0"], False, 0.5),
    ):
        model = benchmark.build(vars(benchmark.make_parser().parse_args(flags)), "arcface")
        assert isinstance(model.optimizer, benchmark.LazyOptimizer) == is_lazy
        assert model.head.sample == sample


@pytest.mark.one_backend
def test_all_models_may_be_compiled(benchmark, monkeypatch):
    """In the processes of their own too, where the flag must be handed on."""
    compiled = {}
    compile_ = keras.Model.compile
    monkeypatch.setattr(
        keras.Model,
        "compile",
        lambda self, *args, jit_compile, **kwargs: (
            compiled.update(jit_compile=jit_compile),
            compile_(self, *args, **kwargs),
        ),
    )
    asked = []
    monkeypatch.setattr(benchmark, "ask", lambda name, arguments: asked.append(arguments) or [{}])
    for added, expected in (([], "auto"), (["--jit_compile", "always"], True)):
        flags = vars(benchmark.make_parser().parse_args([*SIZES, *added]))
        for name in ("softmax", "cosface"):
            benchmark.build(flags, name)
            assert compiled.pop("jit_compile") == expected
        benchmark.measure_alone(flags, "cosface")
        again = vars(benchmark.make_parser().parse_args(asked.pop()[1:]))
        assert again["jit_compile"] == flags["jit_compile"]


@pytest.mark.one_backend
def test_a_process_that_dies_is_told_of(benchmark, monkeypatch):
    dies = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    ask = benchmark.ask
    monkeypatch.setattr(benchmark, "ask", lambda name, arguments: ask(name, ["-c", dies]))
    flags = vars(benchmark.make_parser().parse_args(SIZES))
    with pytest.raises(RuntimeError, match=r"arcface died \(signal 9\), perhaps out of memory"):
        benchmark.measure_alone(flags, "arcface")
