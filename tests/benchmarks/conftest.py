"""What the tests of the programs share."""

import csv
import importlib
import importlib.util
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from mhe.harness import callbacks
from mhe.harness.flags import program as run_program

PROGRAMS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def load(monkeypatch):
    """Loads a program as Python does when it is called: with its folder on the path."""

    def load(name, folder=PROGRAMS):
        monkeypatch.syspath_prepend(str(folder))
        spec = importlib.util.spec_from_file_location(name, folder / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, name, module)
        spec.loader.exec_module(module)
        return module

    return load


@pytest.fixture
def load_task(monkeypatch):
    """Loads a module of `benchmarks/tasks` as the programs do."""

    def load_task(name):
        monkeypatch.syspath_prepend(str(PROGRAMS))
        return importlib.import_module(f"tasks.{name}")

    return load_task


@pytest.fixture
def small(load, monkeypatch):
    """Replaces the published network, which takes long to compile, by a small one."""
    network = load("small_train", folder=Path(__file__).parent).network
    monkeypatch.setattr("mhe.harness.models.build", network)


@pytest.fixture
def parsed():
    """Returns the flags of the one run that some flags of a program stand for."""

    def parsed(program, *flags):
        args, _ = program.make_parser().parse(flags)
        program.PROGRAM.resolve_defaults(args)
        program.PROGRAM.check(args)
        expand_runs = program.PROGRAM.expand_runs or program.COMPARISON.combinations
        (run,) = expand_runs(args).values()
        return run

    return parsed


@pytest.fixture
def log():
    """Returns the rows of a run's log as numbers."""

    def log(folder):
        with open(folder / "log.csv", newline="") as file:
            return [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]

    return log


@pytest.fixture
def assert_same_log(log):
    """Compares the logs of two runs up to the order in which threads add floats."""

    def assert_same_log(folder, other, rel=2e-3):
        rows, others = log(folder), log(other)
        assert [row["epoch"] for row in rows] == [row["epoch"] for row in others]
        for one, two in zip(rows, others, strict=True):
            assert {**one, "seconds": 0} == pytest.approx({**two, "seconds": 0}, rel=rel, abs=1e-4)

    return assert_same_log


@pytest.fixture
def interrupted(monkeypatch):
    """Presses Ctrl-C at the end of an epoch, counted from 1."""

    @contextmanager
    def interrupted(after):
        def interrupt(self, epoch, logs=None):
            if epoch + 1 == after:
                raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(callbacks.Progress, "on_epoch_end", interrupt)
            yield

    return interrupted


@pytest.fixture
def assert_refused(tmp_path, monkeypatch, capsys):
    """Calls a program in an empty folder: one line on stderr, exit code 2, and nothing is left."""

    def assert_refused(main, flags, message):
        folder = tmp_path / "empty"
        folder.mkdir()
        monkeypatch.chdir(folder)
        assert run_program(main, flags) == 2
        captured = capsys.readouterr()
        assert message in captured.err
        assert captured.err.count("\n") == 1
        assert captured.out == ""
        assert list(folder.iterdir()) == []

    return assert_refused


@pytest.fixture
def part(monkeypatch):
    """Imports a part of the timing programs by name, as these do."""
    monkeypatch.syspath_prepend(str(PROGRAMS))
    return lambda name: importlib.import_module(f"timing.{name}")


@pytest.fixture
def gpu(monkeypatch):
    """Imports a part of the program for GPUs by name, as that does."""
    monkeypatch.syspath_prepend(str(PROGRAMS))
    return lambda name: importlib.import_module(f"gpu.{name}")


class Clock:
    """A clock whose readings are 1, 4, 9, … seconds: each timed call takes longer than the last."""

    def __init__(self):
        self.readings = 0

    def perf_counter(self):
        self.readings += 1
        return float(self.readings**2)


@pytest.fixture
def clock(part, monkeypatch):
    """Replaces the clock that calls are timed with."""
    monkeypatch.setattr(part("rounds"), "time", Clock())
