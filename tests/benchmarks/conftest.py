"""What the tests of the programs share."""

import importlib
import importlib.util
import sys
from pathlib import Path

import pytest

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
def part(monkeypatch):
    """Imports a part of the timing programs by name, as these do."""
    monkeypatch.syspath_prepend(str(PROGRAMS))
    return lambda name: importlib.import_module(f"timing.{name}")


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
