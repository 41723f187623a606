"""The comparison of methods on a class tree: its recipe, runs, tables and bad input."""

import csv
import doctest
import json

import numpy as np
import pytest

import mhe
from mhe.harness.flags import program
from mhe.harness.run import Run

SMALL = [
    *("--dataset", "digits", "--train_images", "60", "--batch_size", "20"),
    *("--epochs", "3", "--dims", "2"),
]


@pytest.fixture
def hierarchy(load):
    return load("hierarchy")


@pytest.mark.one_backend
def test_without_flags_it_is_metric_guided_prototypes_on_cifar100(hierarchy, parsed):
    args = parsed(hierarchy)
    assert (args.model_name, args.dataset, args.tree) == ("metric_guided", "cifar100", "cifar100")
    assert (args.guide, args.strength, args.distance) == ("distortion", 1.0, "euclidean")
    assert (args.arch, args.epochs, args.batch_size) == ("resnet32", 164, 128)
    assert (args.base_lr, args.drops, args.augment) == (0.1, "0.5,0.75", "crop_flip")
    assert parsed(hierarchy, "--model_name", "hyperspherical").base_lr == 0.01
    assert parsed(hierarchy, "--model_name", "frame").base_lr == 0.01
    assert parsed(hierarchy, "--model_name", "deepncm").distance == "squared"


@pytest.mark.one_backend
def test_interrupted_and_resumed_it_ends_as_an_unbroken_run(
    hierarchy, small, tmp_path, log, assert_same_log, interrupted
):
    """Class means, which are no weights that are trained, go on from where they were."""
    flags = [*SMALL, "--model_name", "deepncm"]
    unbroken, broken = tmp_path / "unbroken", tmp_path / "broken"
    assert program(hierarchy.main, [*flags, "--out", str(unbroken)]) == 0

    with interrupted(after=2):
        assert program(hierarchy.main, [*flags, "--out", str(broken)]) == 130
    assert program(hierarchy.main, ["--resume", str(broken)]) == 0
    assert_same_log(broken, unbroken)
    others = log(unbroken)
    assert [row["epoch"] for row in others] == [1, 2, 3]
    results = [json.loads((run / "result.json").read_text()) for run in (broken, unbroken)]
    metrics = results[1]["metrics"]
    assert results[0]["metrics"] == pytest.approx(metrics, rel=2e-3, abs=1e-4)
    assert metrics["test_accuracy"] == others[-1]["val_accuracy"]
    assert metrics["test_error"] == pytest.approx(1 - metrics["test_accuracy"])
    assert metrics["test_average_cost"] == others[-1]["val_average_cost"]
    assert 0 < metrics["test_error_at_level_1"] < metrics["test_error_at_level_2"]
    assert 0 < metrics["distortion"] < 1
    left = {path.name for path in unbroken.iterdir()}
    assert left == {
        *("config.json", "log.csv", "result.json", "checkpoints", "tensorboard"),
        *("curves.png", "embeddings.png", "confusion.png", "coverage.png", "mistakes.png"),
    }


@pytest.mark.one_backend
def test_decisions_of_a_new_and_of_a_complete_run_are_the_same(hierarchy, small, tmp_path, capsys):
    flags = [*SMALL, "--model_name", "softmax", "--epochs", "1"]
    results = []
    for name, first in (("new", ["--decide", "cost"]), ("complete", [])):
        folder = tmp_path / name
        assert program(hierarchy.main, [*flags, *first, "--out", str(folder)]) == 0
        if not first:
            before = json.loads((folder / "result.json").read_text())["metrics"]
            argv = ["--resume", str(folder), "--decide", "cost"]
            assert program(hierarchy.main, argv) == 0
        results.append(json.loads((folder / "result.json").read_text())["metrics"])
        assert "least expected cost" in capsys.readouterr().out
        assert "decide" not in json.loads((folder / "config.json").read_text())
    assert results[0] == pytest.approx(results[1], rel=1e-3)
    assert {name: results[1][name] for name in before} == before
    assert results[0]["test_error"] == pytest.approx(1 - results[0]["test_accuracy"])
    assert results[0]["test_decided_average_cost"] > 0
    for checkpoint in (tmp_path / "new/checkpoints").iterdir():
        checkpoint.unlink()
    argv = ["--resume", str(tmp_path / "new"), "--decide", "cost"]
    assert program(hierarchy.main, argv) == 2
    assert "needs a checkpoint of the run. Received: none" in capsys.readouterr().err


@pytest.mark.one_backend
def test_a_list_is_a_folder_of_runs_and_a_table(hierarchy, small, load, tmp_path, capsys):
    asked = ["--model_name", "softmax", "fixed_metric", "--epochs", "1", "--validation", "0.2"]
    argv = [*SMALL, *asked, "--out", str(tmp_path)]
    assert program(hierarchy.main, argv) == 0
    printed = capsys.readouterr().out
    names = ["softmax-seed0", "fixed_metric-seed0"]
    found = [Run.resume(tmp_path / name) for name in names]
    with open(tmp_path / "table.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    for line, run in zip(lines, found, strict=True):
        metrics = run.result["metrics"]
        assert line["model_name"] == run.config["model_name"]
        for name in ("validation_error", "validation_average_cost"):
            assert float(line[name]) == pytest.approx(metrics[name])
        assert f"{100 * metrics['validation_error']:.2f}" in printed
    assert lines[0]["distortion"] == ""
    # The prototypes are those that were placed, which keep the costs as well as can be.
    rows = np.load(tmp_path / names[1] / "prototypes.npy")
    costs = mhe.ClassTree.ready("digits").cost_matrix()
    assert float(lines[1]["distortion"]) == pytest.approx(mhe.metrics.distortion(rows, costs))
    assert (tmp_path / "comparison.png").read_bytes().startswith(b"\x89PNG")
    table = load("table")
    folders = [str(run.folder) for run in found]
    assert program(table.main, [*folders, "--out", str(tmp_path / "again")]) == 0
    assert (tmp_path / "again/table.csv").read_text() == (tmp_path / "table.csv").read_text()


@pytest.mark.one_backend
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--model_name", "mse"], "argument --model_name: invalid choice: 'mse'"),
        (["--dims", "1"], "argument --dims: must be an integer from 2 to 65536. Received: 1"),
        (["--mean_decay", "1"], "--mean_decay must be less than 1. Received: 1"),
        (["--drops", "0.8,0.4"], "--drops must be increasing numbers between 0 and 1"),
        (["--validation", "1"], "--validation must be less than 1"),
        (["--tree", "names"], "the names of the classes are not paths in one"),
        (["--tree", "mnist"], "--tree mnist: The ready trees are"),
        (["--tree", "cifar10"], "--tree cifar10: The tree has no such class. Received: '0', '1'"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(hierarchy, flags, message, assert_refused):
    assert_refused(hierarchy.main, ["--dataset", "digits", *flags], message)


@pytest.mark.one_backend
def test_examples_run(hierarchy, load_task):
    for module in (hierarchy, load_task("hierarchy"), load_task("decisions")):
        tried = doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE)
        assert tried.attempted > 0
        assert tried.failed == 0
