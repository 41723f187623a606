"""The comparison of softmax, Magnet loss and RepMet: runs, resume, tables, bad input."""

import csv
import doctest
import json

import keras
import pytest

from mhe.harness.flags import program
from mhe.harness.run import Run

SMALL = [
    *("--dataset", "digits", "--train_images", "60", "--batch_size", "12", "--dims", "3"),
    *("--per_class", "2", "--base_lr", "0.01"),
]
MAGNET = [*SMALL, "--model_name", "magnet", "--epochs", "2"]

pytestmark = pytest.mark.one_backend
from_numpy = pytest.mark.usefixtures("weights_from_numpy")


@pytest.fixture
def comparison(load):
    return load("clusters")


def test_interrupted_and_resumed_it_sees_the_same_neighbourhoods(
    comparison, small, tmp_path, capsys, assert_same_log, interrupted
):
    unbroken, broken = tmp_path / "unbroken", tmp_path / "broken"
    assert program(comparison.main, [*MAGNET, "--out", str(unbroken)]) == 0

    with interrupted(after=1):
        assert program(comparison.main, [*MAGNET, "--out", str(broken)]) == 130
    assert f"--resume {broken}" in capsys.readouterr().err
    assert program(comparison.main, ["--resume", str(broken)]) == 0
    assert_same_log(broken, unbroken)
    results = [json.loads((each / "result.json").read_text()) for each in (broken, unbroken)]
    described = {"model_name": "magnet", "power_s": None, "dataset": "digits", "seed": 0}
    assert described.items() <= results[0].items()
    metrics = results[0]["metrics"]
    assert metrics == pytest.approx(results[1]["metrics"], abs=0.02)
    assert set(metrics) == {"test_accuracy", "test_retrieval_accuracy", "epochs"}
    assert (unbroken / "curves.png").read_bytes().startswith(b"\x89PNG")


@from_numpy
def test_a_list_is_a_folder_of_runs_and_a_table(comparison, small, tmp_path, capsys):
    asked = ["--model_name", "softmax", "repmet2", "--epochs", "1", "--validation", "0.2"]
    argv = [*SMALL, *asked, "--embedding_norm", "unit", "--out", str(tmp_path)]
    assert program(comparison.main, argv) == 0
    printed = capsys.readouterr().out
    with open(tmp_path / "table.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["model_name"] for line in lines] == ["softmax", "repmet2"]
    for line in lines:
        run = Run.resume(tmp_path / f"{line['model_name']}-seed0")
        metrics = run.result["metrics"]
        # What the loop measures, and what is measured in the end.
        assert metrics["validation_accuracy"] == pytest.approx(run.rows[-1]["val_accuracy"])
        retrieval = metrics["validation_retrieval_accuracy"]
        assert float(line["validation_retrieval_accuracy"]) == pytest.approx(retrieval)
        assert f"{100 * retrieval:.2f}" in printed
    assert program(comparison.main, argv) == 0
    assert capsys.readouterr().out.count("is complete; nothing to do") == 2


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--model_name", "triplet"], "argument --model_name: invalid choice: 'triplet'"),
        (["--per_class", "9"], "per_class=9, and 6 images of class 0, 0"),
        (["--members", "5"], "must be a multiple of --members, the images per cluster"),
        (["--members", "12"], "`clusters` must be an integer >= 2. Received: clusters=1"),
        (["--per_class", "1", "--batch_size", "48"], "needs 11 of other classes beside each one"),
        (["--sigma", "0"], "argument --sigma: must be a number above 0"),
        (["--drops", "0.9,0.1"], "--drops must be increasing numbers"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    comparison, small, flags, message, assert_refused
):
    assert_refused(comparison.main, [*MAGNET, *flags], message)


@from_numpy
def test_an_embedding_that_collapses_ends_the_run(comparison, small, tmp_path, capsys, monkeypatch):
    predict = keras.Model.predict
    monkeypatch.setattr(keras.Model, "predict", lambda *a, **k: 0 * predict(*a, **k))
    argv = [*MAGNET, "--out", str(tmp_path / "run")]
    assert program(comparison.main, argv) == 1
    error = capsys.readouterr().err
    assert "1 without one in class 0, 0, whose 6 images have 1 distinct" in error
    assert error.count("\n") == 1


def test_examples_run(comparison, load_task):
    for module in (load_task("clusters"), comparison):
        assert doctest.testmod(module).failed == 0
