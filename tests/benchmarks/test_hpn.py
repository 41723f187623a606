"""The trainer of prototype networks: its recipe, runs, tables and bad input."""

import csv
import doctest
import json

import numpy as np
import pytest
from PIL import Image

from mhe.harness.flags import program
from mhe.harness.run import Run

SMALL = [
    *("--dataset", "digits", "--train_images", "60", "--batch_size", "20"),
    *("--epochs", "3", "--base_lr", "0.005"),
]

JOINT = [*SMALL, "--task", "joint", "--target", "rotation", "--dims", "6"]

from_numpy = pytest.mark.usefixtures("weights_from_numpy")


@pytest.fixture
def hpn(load):
    return load("hpn")


@pytest.fixture
def task(load_task):
    return load_task("hpn")


def written(path, array):
    np.save(path, array, allow_pickle=array.dtype == object)
    return str(path)


@from_numpy
def test_without_flags_it_is_the_published_recipe(hpn, task, small, monkeypatch, parsed):
    args = parsed(hpn)
    assert (args.task, args.model_name, args.dataset) == ("classification", "hpn", "cifar100")
    assert (args.arch, args.width, args.weight_decay) == ("resnet32", 1.0, None)
    assert (args.epochs, args.batch_size, args.augment) == (250, 128, "crop_flip")
    images = np.zeros((4, 8, 8, 3), "uint8")
    data = task.Data((images, {}), (images, {}), tuple(map(str, range(100))), 0, 0)
    model = task.build(args, data, task.prototypes(args, data, None), steps=250 * 391)
    assert {name: output.shape for name, output in model.output.items()} == {"label": (None, 100)}
    assert model.get_layer("label").prototypes.shape == (100, 50)
    assert model.loss["label"].reduction == "sum"
    assert model.optimizer.momentum == 0.9
    for epoch, rate in {0: 0.01, 99: 0.01, 100: 1e-3, 199: 1e-3, 200: 1e-4}.items():
        model.optimizer.iterations.assign(epoch * 391 + 390 * (rate == 0.01))
        assert float(model.optimizer.learning_rate) == pytest.approx(rate)


@pytest.mark.one_backend
def test_interrupted_and_resumed_it_ends_as_an_unbroken_run(
    hpn, task, small, tmp_path, capsys, monkeypatch, log, assert_same_log, interrupted
):
    """Joint training of the digits and the angle that each is turned by."""
    unbroken, broken = tmp_path / "unbroken", tmp_path / "broken"
    assert program(hpn.main, [*JOINT, "--out", str(unbroken)]) == 0

    with interrupted(after=2):
        assert program(hpn.main, [*JOINT, "--out", str(broken)]) == 130
    assert f"--resume {broken}" in capsys.readouterr().err
    monkeypatch.setattr(task, "place", None)  # the run has its prototypes
    assert program(hpn.main, ["--resume", str(broken), "--dims", "6"]) == 0
    assert_same_log(broken, unbroken)
    others = log(unbroken)
    assert [row["epoch"] for row in others] == [1, 2, 3]

    result = json.loads((unbroken / "result.json").read_text())
    described = {"model_name": "hpn", "power_s": None, "dataset": "digits", "seed": 0}
    assert described.items() <= result.items()
    metrics = result["metrics"]
    assert metrics["test_accuracy"] == others[-1]["val_label_accuracy"]
    assert metrics["test_mae"] == others[-1]["val_value_mae"]
    # Ten classes in five dimensions are five axes and their opposites.
    assert metrics["separation"] == pytest.approx(0, abs=1e-6)
    left = {path.name for path in unbroken.iterdir()}
    assert left == {
        *("config.json", "log.csv", "result.json", "checkpoints", "tensorboard"),
        *("curves.png", "cosines.png", "prototypes.npy", "prototypes.npy.sha256"),
    }
    capsys.readouterr()
    assert program(hpn.main, ["--resume", str(unbroken), "--dims", "7"]) == 2
    assert f"--dims 7 contradicts the run in {unbroken}" in capsys.readouterr().err


@pytest.mark.one_backend
@from_numpy
def test_a_list_is_a_folder_of_runs_and_a_table(hpn, small, tmp_path, capsys):
    asked = ["--model_name", "baseline", "hpn", "--dims", "2", "--epochs", "1"]
    argv = [*SMALL, *asked, "--validation", "0.2", "--out", str(tmp_path)]
    assert program(hpn.main, argv) == 0
    printed = capsys.readouterr().out
    found = {name: Run.resume(tmp_path / name) for name in ("baseline-seed0", "hpn-dims2-seed0")}
    assert found["hpn-dims2-seed0"].config["dims"] == 2
    assert found["baseline-seed0"].config["dims"] is None
    with open(tmp_path / "table.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["model_name"] for line in lines] == ["baseline", "hpn"]
    for line, run in zip(lines, found.values(), strict=True):
        accuracy = run.result["metrics"]["validation_accuracy"]
        assert float(line["validation_accuracy"]) == pytest.approx(accuracy)
        assert f"{100 * accuracy:.2f}" in printed
    for figure in ("comparison.png", "hpn-dims2-seed0/embeddings.png"):
        assert (tmp_path / figure).read_bytes().startswith(b"\x89PNG")
    assert program(hpn.main, argv) == 0
    assert capsys.readouterr().out.count("is complete; nothing to do") == 2


def test_means_are_over_the_seeds(hpn, load, tmp_path, capsys):
    table = load("table")
    folders = []
    for seed, accuracy in enumerate((0.5, 0.6, 0.7)):
        flags = {"model_name": "hpn", "power_s": None, "dataset": "digits", "seed": seed}
        flags |= {"task": "classification", "dims": 9, "task_weights": None}
        run = Run.create(tmp_path / str(seed), hpn.COMPARISON.program, flags)
        run.finish({"test_accuracy": accuracy})
        folders.append(str(run.folder))
    assert program(table.main, [*folders, "--out", str(tmp_path / "table")]) == 0
    assert "60.00 ± 10.00" in capsys.readouterr().out
    with open(tmp_path / "table/table.csv", newline="") as file:
        (line,) = csv.DictReader(file)
    assert (line["seeds"], line["dims"]) == ("3", "9")
    assert float(line["test_accuracy"]) == pytest.approx(0.6)
    assert float(line["test_accuracy_std"]) == pytest.approx(0.1)
    flags["dataset"] = "others"
    other = Run.create(tmp_path / "other", hpn.COMPARISON.program, flags)
    other.finish({"test_accuracy": 0.1})
    unlike = [*folders, str(other.folder), "--out", str(tmp_path / "table")]
    assert program(table.main, unlike) == 2
    assert "--dataset digits" in capsys.readouterr().err
    (tmp_path / "2/result.json").unlink()
    assert program(table.main, [*folders, "--out", str(tmp_path / "table")]) == 2
    assert f"{tmp_path / '2'} is not a complete run of benchmarks/hpn.py" in capsys.readouterr().err


@pytest.mark.one_backend
@from_numpy
@pytest.mark.parametrize(
    ("model", "loss"),
    [("hpn", "dot_regression"), ("baseline", "logit_adjusted"), ("half_mhe", "cross_entropy")],
)
def test_a_long_tail_is_measured_by_thirds(hpn, small, tmp_path, capsys, model, loss):
    flags = ["--model_name", model, "--loss", loss, "--imbalance", "8", "--dims", "9"]
    sizes = ["--dataset", "digits", "--train_images", "160", "--batch_size", "20"]
    argv = [*sizes, *flags, "--epochs", "2", "--base_lr", "0.05", "--out", str(tmp_path / "run")]
    assert program(hpn.main, argv) == 0
    printed = capsys.readouterr().out
    run = Run.resume(tmp_path / "run")
    metrics = run.result["metrics"]
    for group, classes, images in (
        ("head", 4, "16 to 8"),
        ("middle", 3, "6 to 4"),
        ("tail", 3, "3 to 2"),
    ):
        accuracy = metrics[f"test_{group}_accuracy"]
        assert f"{group:<6} {classes:>8} {images:>16} {100 * accuracy:>13.2f}" in printed
    assert f"two class vectors: {metrics['smallest_angle']:.2f} degrees" in printed
    if model == "hpn":
        assert metrics["smallest_angle"] == pytest.approx(np.degrees(np.arccos(-1 / 9)), rel=1e-5)
    else:
        assert 0 < metrics["smallest_angle"] < 90


@pytest.mark.one_backend
@from_numpy
@pytest.mark.parametrize(("model", "method"), [("hpn", "reserved"), ("baseline", "growing")])
def test_new_classes_are_added_in_sessions(hpn, small, tmp_path, capsys, model, method):
    sizes = ["--dataset", "digits", "--train_images", "200", "--batch_size", "20", "--dims", "9"]
    flags = ["--model_name", model, "--new_classes", "4", "--ways", "2", "--session_steps", "20"]
    argv = [*sizes, *flags, "--epochs", "2", "--base_lr", "0.01", "--out", str(tmp_path / "run")]
    assert program(hpn.main, argv) == 0
    printed = capsys.readouterr().out
    metrics = Run.resume(tmp_path / "run").result["metrics"]
    with open(tmp_path / "run/sessions.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    assert [(line["method"], line["session"], line["classes"]) for line in lines] == [
        (name, session, classes)
        for session, classes in (("0", "6"), ("1", "8"), ("2", "10"))
        for name in (method, "nearest_mean")
    ]
    # Before the first session the last layer is that of the network.
    assert metrics[f"session0_{method}_old_accuracy"] == pytest.approx(metrics["test_accuracy"])
    for line in lines:
        for part in ("old", "new", "all")[: 1 if line["session"] == "0" else 3]:
            name = f"{line['method']}_{part}_accuracy"
            assert metrics[f"session{line['session']}_{name}"] == float(line[part])
            assert f"{100 * float(line[part]):.2f}" in printed
    assert metrics[f"test_{method}_new_accuracy"] == float(lines[-2]["new"])
    assert (tmp_path / "run/prototypes.npy").exists() == (model == "hpn")


def omniart(root, test_year=1700):
    header = "omni_id,artist,creation_year,century,school\n"
    rows = {"train": [(1, 1500, "dutch"), (2, 1900, "french")], "test": [(3, test_year, "dutch")]}
    for split, listed in rows.items():
        (root / split).mkdir(parents=True)
        lines = [f"{number},x,{year},{year // 100},{school}\n" for number, year, school in listed]
        (root / f"{split}.csv").write_text(header + "".join(lines))
        for number, *_ in listed:
            Image.new("RGB", (8, 8), (number, 0, 0)).save(root / split / f"{number}.jpg")
    return ["--dataset", str(root), "--task", "joint"]


def test_omniart_is_regression_of_the_year(hpn, task, tmp_path, parsed):
    flags = omniart(tmp_path)
    data = task.prepare(parsed(hpn, *flags))
    assert (data.low, data.high) == (1500, 1900)
    assert data.train[1]["value"].tolist() == [1500, 1900]
    assert data.test[1]["value"].tolist() == [1700]
    assert data.class_names == ("dutch", "french")
    data = task.prepare(parsed(hpn, *flags, "--low", "1000", "--high", "2000"))
    assert (data.low, data.high) == (1000, 2000)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--model_name", "mse"], "argument --model_name: invalid choice: 'mse'"),
        (["--dims", "10", "1"], "argument --dims: must be an integer from 2 to 65536. Received: 1"),
        (["--task", "joint", "--dims", "2"], "--dims must be at least 3 in joint training"),
        (["--task_weights", "0.5"], "--task_weights goes with --task joint"),
        (["--task", "joint", "--task_weights", "1.5"], "must be from 0 to 1. Received: 1.5"),
        (["--validation", "1"], "--validation must be less than 1"),
        (["--drops", "0.8,0.4"], "--drops must be increasing numbers between 0 and 1"),
        (["--drops", "none"], "comma-separated. Received: none"),
        (["--validation", "0.001"], "--validation must leave images"),
        (["--task", "regression"], "has classes and no values to regress on"),
        (
            ["--task", "regression", "--target", "rotation", "--low", "9", "--high", "-9"],
            "--low must be less than --high. Received: 9 and -9",
        ),
        (["--prototypes", "missing.npy"], "missing.npy cannot be read"),
        (["--semantics", "missing.npy"], "--semantics missing.npy: "),
        (["--semantics", "a", "--prototypes", "b"], "--semantics a and --prototypes b"),
        (["--new_classes", "4", "--ways", "3"], "Received: --new_classes 4 --ways 3"),
        (["--new_classes", "9", "--ways", "9"], "must leave at least 2 of the 10 classes to train"),
        (
            ["--new_classes", "2", "--ways", "2", "--shots", "999"],
            "--shots 999 needs as many training images of each new class, and one to test on.",
        ),
        (
            ["--new_classes", "2", "--ways", "2", "--imbalance", "5"],
            "--new_classes goes with --task classification, without --imbalance or --semantics.",
        ),
        (["--imbalance", "0.5"], "argument --imbalance: must be"),
        (["--imbalance", "1000"], "--imbalance 1000: The last class must keep an image, so an"),
        (
            ["--imbalance", "9", "--task", "regression"],
            "--imbalance is for classes. Received",
        ),
        (["--loss", "logit_adjusted", "--task", "regression"], "--loss logit_adjusted is for clas"),
        (
            ["--loss", "dot_regression", "--model_name", "hpn", "baseline"],
            "--loss dot_regression needs fixed prototypes, those of --model_name hpn. Received:",
        ),
        (
            ["--model_name", "half_mhe", "--task", "joint", "--target", "rotation"],
            "goes with --task classification. Received: --task joint",
        ),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(hpn, flags, message, assert_refused):
    assert_refused(hpn.main, ["--dataset", "digits", *flags], message)


def test_values_outside_the_bounds_are_one_line(hpn, tmp_path, capsys):
    flags = [*omniart(tmp_path / "art", test_year=1450), "--out", str(tmp_path / "run")]
    assert program(hpn.main, flags) == 2
    error = capsys.readouterr().err
    assert "Values must be in [1500.0, 1900.0]. Received: value 1450.0" in error
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (np.eye(10)[:9], "a row for each of the 10 classes with 10 numbers for --dims 10"),
        (np.eye(10)[:, :9], "Received: shape (10, 9)"),
        (2 * np.eye(10), "must be rows of length 1"),
        (np.array([None]), "cannot be read as a .npy of prototypes"),
    ],
)
def test_prototypes_that_do_not_fit_are_one_line(hpn, small, tmp_path, capsys, rows, message):
    path = written(tmp_path / "rows.npy", rows)
    flags = [*SMALL, "--dims", "10", "--prototypes", path, "--out", str(tmp_path / "run")]
    assert program(hpn.main, flags) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_semantics_of_the_wrong_length_are_one_line(hpn, tmp_path, capsys):
    path = written(tmp_path / "rows.npy", np.eye(9))
    flags = ["--dataset", "digits", "--semantics", path, "--out", str(tmp_path / "run")]
    assert program(hpn.main, flags) == 2
    error = capsys.readouterr().err
    assert "must hold a row for each of the 10 classes. Received: 9 rows" in error
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_examples_run(hpn, load_task):
    for module in (hpn, load_task("placed"), load_task("long_tail"), load_task("sessions")):
        options = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
        tried = doctest.testmod(module, optionflags=options)
        assert tried.attempted > 0
        assert tried.failed == 0
