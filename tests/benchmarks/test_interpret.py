"""Prototypes as images: the trainer's runs, its tables and bad input."""

import csv
import doctest
import json

import numpy as np
import pytest

from mhe.harness.flags import program
from mhe.harness.run import Run

pytestmark = pytest.mark.one_backend
SMALL = [
    *("--dataset", "digits", "--train_images", "60", "--batch_size", "30", "--epochs", "2"),
    *("--per_class", "2", "--base_lr", "0.01"),
]


@pytest.fixture
def interpret(load):
    return load("interpret")


@pytest.mark.usefixtures("small")
def test_interrupted_and_resumed_it_ends_as_an_unbroken_run(
    interpret, tmp_path, capsys, parsed, log, assert_same_log, interrupted, load_task
):
    unbroken, broken = tmp_path / "unbroken", tmp_path / "broken"
    assert program(interpret.main, [*SMALL, "--out", str(unbroken)]) == 0

    with interrupted(after=1):
        assert program(interpret.main, [*SMALL, "--out", str(broken)]) == 130
    assert f"--resume {broken}" in capsys.readouterr().err
    assert program(interpret.main, ["--resume", str(broken)]) == 0
    assert_same_log(broken, unbroken)
    prototypes = np.load(broken / "prototypes.npy")
    np.testing.assert_allclose(prototypes, np.load(unbroken / "prototypes.npy"), atol=1e-3)
    start = load_task("interpret").prepare(parsed(interpret, *SMALL)).start
    assert prototypes.shape == start.shape == (10, 2, 8, 8, 1)
    assert np.abs(prototypes - start).max() > 1e-3
    result = json.loads((unbroken / "result.json").read_text())
    described = {"model_name": "input_prototypes", "power_s": None, "dataset": "digits", "seed": 0}
    assert described.items() <= result.items()
    assert result["metrics"]["test_accuracy"] == log(unbroken)[-1]["val_accuracy"]
    assert {path.name for path in unbroken.iterdir()} == {
        *("config.json", "log.csv", "result.json", "checkpoints", "tensorboard"),
        *("curves.png", "prototypes.png", "explanations.png", "prototypes.npy"),
    }


def test_a_list_is_a_folder_of_runs_and_a_table(interpret, tmp_path, monkeypatch):
    def train(self, args, run):
        flags = {**vars(args), "model_name": "input_prototypes", "power_s": None, "out": None}
        run = Run.create(args.out, interpret.COMPARISON.program, flags)
        accuracy = {"cosine": 0.5, "lk": 0.9}[args.similarity] + 0.1 * args.seed
        return run.finish({"test_accuracy": accuracy, "roughness": args.scale})

    monkeypatch.setattr(interpret.Program, "train", train)
    lists = ["--similarity", "cosine", "lk", "--start", "noise", "--seeds", "2"]
    assert program(interpret.main, [*SMALL, *lists, "--out", str(tmp_path)]) == 0
    scale = interpret.SCALES["cosine"]
    assert (tmp_path / f"cosine-noise-scale{scale:g}-seed1/result.json").exists()
    with open(tmp_path / "table.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["similarity"] for line in lines] == ["cosine", "lk"]
    assert [float(line["test_accuracy"]) for line in lines] == pytest.approx([0.55, 0.95])
    assert [float(line["roughness"]) for line in lines] == [scale, interpret.SCALES["lk"]]
    assert (tmp_path / "comparison.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--similarity", "l3"], "argument --similarity: invalid choice: 'l3'"),
        (["--per_class", "0"], "--per_class: must be an integer from 1 to 1000000. Received: 0"),
        (["--per_class", "7"], "--per_class 7 needs as many training images"),
        (["--k", "0.5"], "--k: must be a number from 1 to 1e+30. Received: 0.5"),
        (["--validation", "1"], "--validation must be less than 1"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(interpret, flags, message, assert_refused):
    assert_refused(interpret.main, [*SMALL, *flags], message)


def test_examples_run(interpret):
    tried = doctest.testmod(interpret)
    assert tried.attempted > 0
    assert tried.failed == 0
