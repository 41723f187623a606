"""The comparison of softmax, Magnet loss and RepMet: runs, resume, scores, tables, bad input."""

import csv
import doctest
import importlib
import json
from pathlib import Path

import keras
import numpy as np
import pytest

from mhe.harness import runs
from mhe.harness.flags import program

SMALL = [
    *("--dataset", "digits", "--train_images", "60", "--batch_size", "12", "--dims", "3"),
    *("--per_class", "2", "--base_lr", "0.01"),
]
MAGNET = [*SMALL, "--model_name", "magnet", "--epochs", "2"]

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="a program over parts tested on every backend"
)
from_numpy = pytest.mark.usefixtures("weights_from_numpy")


@pytest.fixture
def comparison(load):
    return load("clusters")


@pytest.fixture
def task(comparison, load):
    return importlib.import_module("tasks.clusters")


@pytest.fixture
def small(load, monkeypatch):
    """Trades the published network, which takes long to compile, for a small one."""
    network = load("small_train", folder=Path(__file__).parent).network
    monkeypatch.setattr("mhe.harness.models.build", network)


def log(folder):
    with open(folder / "log.csv", newline="") as file:
        return [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]


def test_interrupted_and_resumed_it_sees_the_same_neighbourhoods(
    comparison, small, tmp_path, capsys, monkeypatch
):
    unbroken, broken = tmp_path / "unbroken", tmp_path / "broken"
    assert program(comparison.main, [*MAGNET, "--out", str(unbroken)]) == 0

    def interrupt(self, epoch, logs=None):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(runs.Progress, "on_epoch_end", interrupt)
        assert program(comparison.main, [*MAGNET, "--out", str(broken)]) == 130
    assert f"--resume {broken}" in capsys.readouterr().err
    assert program(comparison.main, ["--resume", str(broken)]) == 0
    for row, other in zip(log(broken), log(unbroken), strict=True):
        assert {**row, "seconds": 0} == pytest.approx({**other, "seconds": 0}, rel=2e-3, abs=1e-4)
    results = [json.loads((each / "result.json").read_text()) for each in (broken, unbroken)]
    described = {"model_name": "magnet", "power_s": None, "dataset": "digits", "seed": 0}
    assert described.items() <= results[0].items()
    metrics = results[0]["metrics"]
    assert metrics == pytest.approx(results[1]["metrics"], abs=0.02)
    assert set(metrics) == {"test_accuracy", "test_retrieval_accuracy", "epochs"}
    assert (unbroken / "curves.png").read_bytes().startswith(b"\x89PNG")


@from_numpy
def test_a_list_is_a_folder_of_runs_and_a_table(comparison, task, small, tmp_path, capsys):
    asked = ["--model_name", "softmax", "repmet2", "--epochs", "1", "--validation", "0.2"]
    argv = [*SMALL, *asked, "--embedding_norm", "unit", "--out", str(tmp_path)]
    assert program(comparison.main, argv) == 0
    printed = capsys.readouterr().out
    with open(tmp_path / "table.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["model_name"] for line in lines] == ["softmax", "repmet2"]
    for line in lines:
        run = runs.Run.resume(tmp_path / f"{line['model_name']}-seed0")
        metrics = run.result["metrics"]
        # What the loop measures, and what is measured in the end.
        assert metrics["validation_accuracy"] == pytest.approx(run.rows[-1]["val_accuracy"])
        retrieval = metrics["validation_retrieval_accuracy"]
        assert float(line["validation_retrieval_accuracy"]) == pytest.approx(retrieval)
        assert f"{100 * retrieval:.2f}" in printed
    assert program(comparison.main, argv) == 0
    assert capsys.readouterr().out.count("is complete; nothing to do") == 2


@from_numpy
def test_scores_are_of_the_embedding(comparison, task, small):
    """Magnet's classes are those of kNC, and retrieval looks among the training images."""
    args, _ = comparison.make_parser().settle([*MAGNET, "--neighbours", "3"])
    comparison.fill_in(args)
    (args,) = comparison.COMPARISON.combinations(args).values()
    data = task.recipes.load(args)
    network = task.build(args, data)
    (images, labels), (test_images, test_labels) = data.train, data.test
    known, found = (
        network.embed.predict((each - 127.5) / 128, verbose=0).astype("float64")
        for each in (images.astype("float32"), test_images.astype("float32"))
    )
    apart = np.sum((found[:, None] - known) ** 2, axis=-1)
    nearest = np.argsort(apart, axis=1)[:, :3]
    scores = task.evaluate(args, network, data)
    expected = np.mean(labels[nearest] == test_labels[:, None])
    assert scores["retrieval_accuracy"] == pytest.approx(expected, abs=2e-3)
    index = task.clusters.cluster(known, labels, 2, args.alpha, (0, 2))
    right = task.clusters.knc(found, index).argmax(1) == test_labels
    assert scores["accuracy"] == pytest.approx(right.mean(), abs=5e-3)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--model_name", "triplet"], "argument --model_name: invalid choice: 'triplet'"),
        (["--per_class", "9"], "per_class=9, and 6 images of class 0, 0"),
        (["--members", "5"], "must be a multiple of --members, the images of each cluster"),
        (["--members", "12"], "`clusters` must be an integer >= 2. Received: clusters=1"),
        (["--per_class", "1", "--batch_size", "48"], "needs 11 of other classes beside each one"),
        (["--sigma", "0"], "argument --sigma: must be a finite number above 0"),
        (["--drops", "0.9,0.1"], "--drops must be rising numbers"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    comparison, small, tmp_path, capsys, monkeypatch, flags, message
):
    monkeypatch.chdir(tmp_path)
    assert program(comparison.main, [*MAGNET, *flags]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""
    assert list(tmp_path.iterdir()) == []


@from_numpy
def test_an_embedding_that_collapses_ends_the_run(comparison, small, tmp_path, capsys, monkeypatch):
    predict = keras.Model.predict
    monkeypatch.setattr(keras.Model, "predict", lambda *a, **k: 0 * predict(*a, **k))
    argv = [*MAGNET, "--out", str(tmp_path / "run")]
    assert program(comparison.main, argv) == 1
    error = capsys.readouterr().err
    assert "1 without one in class 0, 0, whose 6 images have 1 different" in error
    assert error.count("\n") == 1


def test_examples_run(comparison, load):
    for module in (load("clusters_table"), importlib.import_module("tasks.clusters"), comparison):
        assert doctest.testmod(module).failed == 0
