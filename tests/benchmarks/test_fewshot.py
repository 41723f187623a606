"""The few-shot trainer: its runs, its scores of one-shot runs, and bad input."""

import csv
import io
import json
import re

import keras
import numpy as np
import pytest
from PIL import Image

from mhe.harness.flags import program

pytestmark = pytest.mark.one_backend

SMALL = [
    *("--dataset", "digits", "--ways", "4", "--shots", "1", "--queries", "2"),
    *("--episodes", "4", "--epochs", "2", "--test_episodes", "20", "--base_lr", "0.01"),
]


@pytest.fixture
def fewshot(load):
    return load("fewshot")


@pytest.fixture
def small(monkeypatch):
    """Trades the published network, which takes long to compile, for a small one."""

    def network(arch, shape, classes, width, weight_decay):
        return keras.Sequential(
            [
                keras.Input(shape),
                keras.layers.Flatten(),
                keras.layers.Dense(6, name="embedding"),
                keras.layers.Dense(classes),
            ]
        )

    monkeypatch.setattr("mhe.harness.models.build", network)


def rows(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_without_flags_it_is_the_published_recipe(fewshot, parsed, load_task):
    args = parsed(fewshot)
    assert (args.dataset, args.image_size, args.arch) == ("omniglot", 28, "conv4")
    assert (args.shots, args.queries, args.distance) == (5, 5, "squared")
    model = load_task("fewshot").build(args, (28, 28, 1))
    assert model.backbone.output_shape == (None, 64)
    for episode, rate in {0: 1e-3, 1999: 1e-3, 2000: 5e-4, 4000: 2.5e-4}.items():
        model.optimizer.iterations.assign(episode)
        assert float(model.optimizer.learning_rate) == pytest.approx(rate)
    white = np.full((1, 28, 28, 1), 255, "uint8")
    scaled = model.backbone.get_layer("unit_range")(white)
    assert float(keras.ops.max(scaled)) == pytest.approx(1)


def one_shot_runs(folder):
    """Two runs of two classes, whose items are their support images: ink left, ink right."""
    for run in ("run01", "run02"):
        lines = []
        for n, side in enumerate((slice(0, 4), slice(4, 8)), 1):
            pixels = np.full((8, 8), 255, "uint8")
            pixels[:, side] = 0
            stream = io.BytesIO()
            Image.fromarray(pixels).save(stream, "PNG")
            for name in (f"{run}/training/class{n:02}.png", f"{run}/test/item{n:02}.png"):
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).write_bytes(stream.getvalue())
            # The last line of the last run is wrong.
            answer = 1 if (run, n) == ("run02", 2) else n
            lines.append(f"{run}/test/item{n:02}.png {run}/training/class{answer:02}.png")
        (folder / run / "class_labels.txt").write_text("\n".join(lines) + "\n")
    return str(folder)


def test_interrupted_and_resumed_it_ends_as_an_unbroken_run(
    fewshot, small, tmp_path, capsys, interrupted
):
    unbroken, broken = tmp_path / "unbroken", tmp_path / "broken"
    assert program(fewshot.main, [*SMALL, "--out", str(unbroken)]) == 0
    # Half of the ten digits are tested on.
    assert "No test on 20 ways: there are 5 classes to test on\n" in capsys.readouterr().err

    with interrupted(after=1):
        assert program(fewshot.main, [*SMALL, "--out", str(broken)]) == 130
    assert f"--resume {broken}" in capsys.readouterr().err
    (broken / "classes.csv").write_bytes(bytes(40))
    assert program(fewshot.main, ["--resume", str(broken)]) == 0
    assert (broken / "classes.csv").read_bytes() == (unbroken / "classes.csv").read_bytes()
    for row, other in zip(*(rows(run / "log.csv") for run in (broken, unbroken)), strict=True):
        assert row.keys() == other.keys() >= {"loss", "accuracy", "val_accuracy", "lr"}
        for name in row.keys() - {"seconds"}:
            assert float(row[name]) == pytest.approx(float(other[name]), rel=2e-3)

    result = json.loads((unbroken / "result.json").read_text())
    described = {"model_name": "prototypical", "power_s": None, "dataset": "digits", "seed": 0}
    assert described.items() <= result.items()
    tests = [f"test_accuracy_5way_{shots}shot" for shots in (1, 5)]
    intervals = {f"{name}_interval" for name in tests}
    assert result["metrics"].keys() == {*tests, *intervals, "train_accuracy", "epochs"}
    # Chance is 0.2.
    assert 0.3 < result["metrics"][tests[0]] < result["metrics"][tests[1]] < 1
    for line, name in zip(rows(unbroken / "episodes.csv"), tests, strict=True):
        assert float(line["accuracy"]) == result["metrics"][name]
    sets = {name: [r["class"] for r in rows(unbroken / "classes.csv") if r["set"] == name]
            for name in ("train", "test")}  # fmt: skip
    assert sorted(sets["train"] + sets["test"]) == list("0123456789")
    assert len(sets["test"]) == 5
    assert (unbroken / "curves.png").exists()

    # A complete run is scored without its data, and its result keeps what it held.
    capsys.readouterr()
    folder = one_shot_runs(tmp_path / "all_runs")
    assert program(fewshot.main, ["--resume", str(unbroken), "--one_shot_runs", folder]) == 0
    assert "mean: accuracy 75.00%, error 25.00%" in capsys.readouterr().out
    lines = rows(unbroken / "one_shot_runs.csv")
    found = [(line["run"], float(line["accuracy"]), float(line["error"])) for line in lines]
    assert found == [("run01", 1, 0), ("run02", 0.5, 0.5), ("mean", 0.75, 0.25)]
    scored = json.loads((unbroken / "result.json").read_text())["metrics"]
    assert scored == {**result["metrics"], "one_shot_accuracy": 0.75, "one_shot_error": 0.25}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--ways", "9"], "--ways, --shots and --queries: `ways` must be at most .* 5 classes"),
        (["--shots", "150"], "--ways, --shots and --queries: Every class must .* class 0 with 17"),
        (["--test_classes", "3,4"], "Classes to test on.* ways=5, 2 classes"),
        (["--test_queries", "200"], "Classes to test on.* class . with 1"),
        (["--test_classes", "ten"], "--test_classes must be among: 0, 1, .* Received: 'ten'"),
        (["--test_alphabets", "Latin"], "--test_alphabets needs Omniglot"),
        (["--one_shot_runs", "nowhere"], "nowhere is not a readable zip"),
        (["--distance", "manhattan"], "invalid choice: 'manhattan'"),
    ],
)
def test_bad_input_is_one_line(fewshot, flags, message, tmp_path, capsys):
    out = tmp_path / "run"
    assert program(fewshot.main, [*SMALL, "--queries", "40", *flags, "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert re.search(message, error)
    assert not out.exists()


def test_a_loss_that_is_no_number_ends_the_run(fewshot, small, tmp_path, capsys):
    flags = [*SMALL, "--base_lr", "1e30", "--test_classes", "0,1,2,3,4"]
    assert program(fewshot.main, [*flags, "--out", str(tmp_path / "run")]) == 1
    assert "A --base_lr lower than 1e+30 may train" in capsys.readouterr().err
