"""The table of complete runs: of every program, and what cannot be in one table."""

import csv
import importlib

import keras
import pytest

from mhe.harness.flags import program
from mhe.harness.run import Run

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="no numerics: the same on every backend"
)


@pytest.fixture
def table(load):
    return load("table")


@pytest.fixture
def make_runs(table, tmp_path):
    """Makes complete runs of a program, one per seed, with the first metric it reports."""

    def make_runs(name, seeds=(0, 1), **changes):
        comparison = importlib.import_module(table.PROGRAMS[name]).COMPARISON
        metric, _ = next(iter(comparison.reported.items()))
        folders = []
        for seed in seeds:
            flags = dict.fromkeys([each.flag for each in comparison.varied], "a")
            flags |= dict.fromkeys(comparison.shared, "same")
            flags |= {"model_name": "a", "power_s": None, "dataset": "same", **changes}
            folder = tmp_path / f"{name.replace('/', '-')}-{len(list(tmp_path.iterdir()))}"
            run = Run.create(folder, name, {**flags, "seed": seed})
            run.finish({metric: 0.5 + 0.1 * seed})
            folders.append(str(folder))
        return folders

    return make_runs


def test_every_program_that_makes_runs_has_a_comparison_of_its_own(table):
    for name, module in table.PROGRAMS.items():
        loaded = importlib.import_module(module)
        assert loaded.COMPARISON.program == name
        assert loaded.PROGRAM.comparison is loaded.COMPARISON
        assert loaded.make_parser().prog == name
        flags = vars(loaded.make_parser().parse_args([]))
        assert {each.flag for each in loaded.COMPARISON.varied} | {"seed", "seeds"} <= flags.keys()
        assert set(loaded.COMPARISON.shared) <= flags.keys()


@pytest.mark.parametrize(
    "name",
    [
        *("benchmarks/train.py", "benchmarks/hpn.py", "benchmarks/hierarchy.py"),
        *("benchmarks/clusters.py", "benchmarks/fewshot.py", "benchmarks/detection.py"),
        *("benchmarks/interpret.py", "sphereface_plus/train.py", "sphereface_plus/plane.py"),
        *("gan/train.py", "gan/train_classifier.py"),
    ],
)
def test_the_program_is_that_of_the_runs(table, make_runs, tmp_path, capsys, name):
    folders = make_runs(name, seeds=(0, 1, 2))
    out = tmp_path / "new" / "table"
    assert program(table.main, [*folders, "--out", str(out)]) == 0
    with open(out / "table.csv", newline="") as file:
        (line,) = csv.DictReader(file)
    comparison = table.comparison_of([Run.resume(folder) for folder in folders])
    assert comparison.program == name
    metric, factor = next(iter(comparison.reported.items()))
    assert line["seeds"] == "3"
    assert float(line[metric]) == pytest.approx(0.6)
    assert float(line[f"{metric}_std"]) == pytest.approx(0.1)
    digits = 2 if factor == 100 else 3
    assert f"{0.6 * factor:.{digits}f} ± {0.1 * factor:.{digits}f}" in capsys.readouterr().out
    assert (out / "comparison.png").read_bytes().startswith(b"\x89PNG")


def refused(table, folders, tmp_path, capsys):
    out = tmp_path / "table"
    assert program(table.main, [*folders, "--out", str(out)]) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert captured.out == ""
    assert not out.exists()
    return captured.err


def test_runs_of_two_programs_are_one_line(table, make_runs, tmp_path, capsys):
    first, other = make_runs("benchmarks/hpn.py"), make_runs("benchmarks/hierarchy.py")
    error = refused(table, [*first, *other], tmp_path, capsys)
    assert f"{other[0]} is not a complete run of benchmarks/hpn.py" in error


def test_an_incomplete_run_is_one_line(table, make_runs, tmp_path, capsys):
    folders = make_runs("benchmarks/train.py")
    (tmp_path / folders[1] / "result.json").unlink()
    error = refused(table, folders, tmp_path, capsys)
    assert f"{folders[1]} is not a complete run of benchmarks/train.py" in error


def test_an_unknown_program_is_one_line(table, tmp_path, capsys):
    Run.create(tmp_path / "run", "mine.py", {"seed": 0})
    error = refused(table, [str(tmp_path / "run")], tmp_path, capsys)
    assert "must be a run of benchmarks/train.py, benchmarks/hpn.py, " in error
    assert "Received: a run of mine.py" in error


@pytest.mark.parametrize("name", ["benchmarks/clusters.py", "benchmarks/fewshot.py"])
def test_two_datasets_are_one_line(table, make_runs, tmp_path, capsys, name):
    folders = [*make_runs(name, dataset="digits"), *make_runs(name, dataset="cifar10")]
    error = refused(table, folders, tmp_path, capsys)
    assert "The runs must share one dataset. Received: cifar10, digits" in error


def test_a_folder_that_is_no_run_is_one_line(table, tmp_path, capsys):
    error = refused(table, [str(tmp_path)], tmp_path, capsys)
    assert f"{tmp_path} is not a run's folder" in error
