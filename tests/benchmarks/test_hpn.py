"""The prototype networks' trainer: what it predicts and minimises, its runs, tables, bad input."""

import csv
import doctest
import importlib
import json
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image

from mhe.harness import runs
from mhe.harness.flags import program

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
def task(hpn, load):
    return importlib.import_module("tasks.hpn")


@pytest.fixture
def small(load, monkeypatch):
    """Trades the published network, which takes long to compile, for a small one."""
    network = load("small_train", folder=Path(__file__).parent).network
    monkeypatch.setattr("mhe.harness.models.build", network)


def settled(hpn, *flags):
    """The flags of the one run that some flags ask for."""
    args, _ = hpn.make_parser().settle(flags)
    hpn.fill_in(args)
    hpn.check(args)
    (one,) = hpn.single(args).values()
    return one


def log(folder):
    with open(folder / "log.csv", newline="") as file:
        return [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]


def written(path, array):
    np.save(path, array, allow_pickle=array.dtype == object)
    return str(path)


@from_numpy
def test_without_flags_it_is_the_published_recipe(hpn, task, small, monkeypatch):
    args = settled(hpn)
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


def made(seed=0):
    """Eight images with a class of three and a value from -30 to 50."""
    rng = np.random.default_rng(seed)
    images = rng.integers(256, size=(8, 8, 8, 1), dtype=np.uint8)
    labels, values = rng.integers(3, size=8), rng.uniform(-30, 50, 8).astype("float32")
    return images, {"value": values, "label": labels}


def evaluated(task, args, rows=None):
    """Loss and outputs of a new joint network, and the numbers at the end of its network."""
    images, targets = made()
    data = task.Data((images, targets), (images, targets), ("a", "b", "c"), -30.0, 50.0)
    model = task.build(args, data, rows, steps=10)
    inputs = images.astype("float32") / 255
    end = keras.Model(model.input, model.get_layer("logits").output)
    found = model.evaluate(inputs, targets, batch_size=8, verbose=0, return_dict=True)
    outputs = {name: keras.ops.convert_to_numpy(each) for name, each in model(inputs).items()}
    ends = keras.ops.convert_to_numpy(end(inputs)).astype("float64")
    return found, outputs, ends, targets


@from_numpy
def test_joint_loss_and_outputs_are_the_published_ones(hpn, task, small):
    """One output: axis 0 against the pole, the cosine of the other axes against prototypes."""
    args = settled(hpn, "--task", "joint", "--dims", "5", "--task_weights", "0.3")
    rows = np.linalg.qr(np.random.default_rng(1).normal(size=(4, 4)))[0][:3]
    found, outputs, ends, targets = evaluated(task, args, rows)
    pole = ends[:, 0] / np.linalg.norm(ends, axis=1)
    np.testing.assert_allclose(outputs["value"][:, 0], -30 + (pole + 1) / 2 * 80, rtol=1e-4)
    rest = ends[:, 1:] / np.linalg.norm(ends[:, 1:], axis=1, keepdims=True)
    cosines = rest @ rows.T
    np.testing.assert_allclose(outputs["label"], cosines, atol=1e-5)
    wanted = 2 * (targets["value"] + 30) / 80 - 1
    regression = np.sum((wanted - pole) ** 2)
    classification = np.sum((1 - cosines[np.arange(8), targets["label"]]) ** 2)
    assert found["loss"] == pytest.approx(0.7 * regression + 0.3 * classification, rel=1e-4)
    error = np.abs(outputs["value"][:, 0] - targets["value"]).mean()
    assert found["value_mae"] == pytest.approx(error, rel=1e-4)
    right = (cosines.argmax(1) == targets["label"]).mean()
    assert found["label_accuracy"] == pytest.approx(right)


@from_numpy
def test_cross_entropy_is_of_scaled_cosines(hpn, task, small):
    flags = ("--task", "joint", "--dims", "5", "--loss", "cross_entropy", "--scale", "8")
    rows = np.linalg.qr(np.random.default_rng(1).normal(size=(4, 4)))[0][:3]
    found, _, ends, targets = evaluated(task, settled(hpn, *flags), rows)
    logits = 8 * (ends[:, 1:] / np.linalg.norm(ends[:, 1:], axis=1, keepdims=True)) @ rows.T
    odds = np.log(np.exp(logits).sum(1)) - logits[np.arange(8), targets["label"]]
    pole = ends[:, 0] / np.linalg.norm(ends, axis=1)
    squared = np.mean((2 * (targets["value"] + 30) / 80 - 1 - pole) ** 2)
    assert found["loss"] == pytest.approx((odds.mean() + squared) / 2, rel=1e-4)


@from_numpy
def test_the_baseline_is_cross_entropy_and_squared_error_of_scaled_values(hpn, task, small):
    flags = ("--model_name", "baseline", "--task", "joint", "--task_weights", "0.3")
    found, outputs, ends, targets = evaluated(task, settled(hpn, *flags))
    assert ends.shape == (8, 4)
    np.testing.assert_allclose(outputs["value"], 10 + 40 * ends[:, :1], rtol=1e-4)
    np.testing.assert_allclose(outputs["label"], ends[:, 1:], rtol=1e-5)
    squared = np.mean((ends[:, 0] - (targets["value"] - 10) / 40) ** 2)
    odds = np.log(np.exp(ends[:, 1:]).sum(1)) - ends[np.arange(8), 1 + targets["label"]]
    assert found["loss"] == pytest.approx(0.7 * squared + 0.3 * odds.mean(), rel=1e-4)


def test_interrupted_and_resumed_it_ends_as_an_unbroken_run(
    hpn, task, small, tmp_path, capsys, monkeypatch
):
    """Joint training of the digits and the angle that each is turned by."""
    unbroken, broken = tmp_path / "unbroken", tmp_path / "broken"
    assert program(hpn.main, [*JOINT, "--out", str(unbroken)]) == 0

    def interrupt(self, epoch, logs=None):
        if epoch == 1:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(runs.Progress, "on_epoch_end", interrupt)
        assert program(hpn.main, [*JOINT, "--out", str(broken)]) == 130
    assert f"--resume {broken}" in capsys.readouterr().err
    monkeypatch.setattr(task, "place", None)  # the run has its prototypes
    assert program(hpn.main, ["--resume", str(broken), "--dims", "6"]) == 0
    rows, others = log(broken), log(unbroken)
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    for row, other in zip(rows, others, strict=True):
        # Threads add floats in an order of their own.
        assert {**row, "seconds": 0} == pytest.approx({**other, "seconds": 0}, rel=2e-3, abs=1e-4)

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
        *("curves.png", "cosines.png", "prototypes.npy"),
    }
    capsys.readouterr()
    assert program(hpn.main, ["--resume", str(unbroken), "--dims", "7"]) == 2
    assert f"--dims [7] contradicts the run in {unbroken}" in capsys.readouterr().err


@pytest.mark.skipif(
    keras.backend.backend() != "tensorflow",
    reason="what it calls is tested on every backend; this only calls it several times",
)
@from_numpy
def test_a_list_is_a_folder_of_runs_and_a_table(hpn, small, tmp_path, capsys):
    asked = ["--model_name", "baseline", "hpn", "--dims", "2", "--epochs", "1"]
    argv = [*SMALL, *asked, "--validation", "0.2", "--out", str(tmp_path)]
    assert program(hpn.main, argv) == 0
    printed = capsys.readouterr().out
    found = {
        name: runs.Run.resume(tmp_path / name) for name in ("baseline-seed0", "hpn-dims2-seed0")
    }
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
    table = load("hpn_table")
    folders = []
    for seed, accuracy in enumerate((0.5, 0.6, 0.7)):
        flags = {"model_name": "hpn", "power_s": None, "dataset": "digits", "seed": seed}
        flags |= {"task": "classification", "dims": 9, "task_weights": None}
        run = runs.Run.create(tmp_path / str(seed), hpn.PROGRAM, flags)
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
    other = runs.Run.create(tmp_path / "other", hpn.PROGRAM, flags)
    other.finish({"test_accuracy": 0.1})
    unlike = [*folders, str(other.folder), "--out", str(tmp_path / "table")]
    assert program(table.main, unlike) == 2
    assert "--dataset digits" in capsys.readouterr().err
    (tmp_path / "2/result.json").unlink()
    assert program(table.main, [*folders, "--out", str(tmp_path / "table")]) == 2
    assert f"{tmp_path / '2'} is not a complete run of benchmarks/hpn.py" in capsys.readouterr().err


def test_validation_never_looks_at_the_test_set(hpn, task):
    flags = ["--dataset", "digits", "--validation", "0.25", "--train_images", "100"]
    data = task.prepare(settled(hpn, *flags))
    whole = task.prepare(settled(hpn, "--dataset", "digits"))
    known = {image.tobytes() for image in whole.train[0]}
    for images, targets in (data.train, data.test):
        assert {image.tobytes() for image in images} <= known
        assert len(images) == len(targets["label"])
    held = {image.tobytes() for image in data.test[0]}
    assert not held & {image.tobytes() for image in data.train[0]}
    counts = np.bincount(whole.train[1]["label"])
    np.testing.assert_array_equal(np.bincount(data.test[1]["label"]), np.round(0.25 * counts))


def test_turned_images_are_the_same_for_every_task(hpn, task):
    flags = ["--dataset", "digits", "--target", "rotation", "--low", "-30", "--high", "10"]
    classification, regression = (
        task.prepare(settled(hpn, *flags, "--task", each)) for each in hpn.TASKS[:2]
    )
    np.testing.assert_array_equal(classification.train[0], regression.train[0])
    np.testing.assert_array_equal(classification.test[0], regression.test[0])
    assert list(classification.train[1]) == ["label"]
    angles = regression.train[1]["value"]
    assert -30 <= angles.min() < -28
    assert 8 < angles.max() <= 10


def test_semantics_decide_which_prototype_a_class_gets(hpn, task, tmp_path):
    """Ten classes whose word vectors go round in a circle, and prototypes on the circle."""
    angles = np.random.default_rng(0).permutation(10) * np.pi / 5
    lines = [f"{name} {np.cos(a):.6f} {np.sin(a):.6f}\n" for name, a in enumerate(angles)]
    (tmp_path / "words.txt").write_text("".join(lines))
    flags = ["--dataset", "digits", "--dims", "2", "--semantics", str(tmp_path / "words.txt")]
    args = settled(hpn, *flags)
    data = task.prepare(args)
    rows = task.prototypes(args, data, task.semantics(args, data))
    cosines = rows @ rows.T
    np.testing.assert_allclose(cosines, np.cos(angles[:, None] - angles), atol=0.02)
    assert hpn.order_kept(rows, task.semantics(args, data)).mean > 0.9


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


def test_omniart_is_regression_of_the_year(hpn, task, tmp_path):
    flags = omniart(tmp_path)
    data = task.prepare(settled(hpn, *flags))
    assert (data.low, data.high) == (1500, 1900)
    assert data.train[1]["value"].tolist() == [1500, 1900]
    assert data.test[1]["value"].tolist() == [1700]
    assert data.class_names == ("dutch", "french")
    data = task.prepare(settled(hpn, *flags, "--low", "1000", "--high", "2000"))
    assert (data.low, data.high) == (1000, 2000)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--model_name", "mse"], "argument --model_name: invalid choice: 'mse'"),
        (["--dims", "10", "1"], "argument --dims: must be an integer of at least 2. Received: 1"),
        (["--task", "joint", "--dims", "2"], "--dims must be at least 3 in joint training"),
        (["--task_weights", "0.5"], "--task_weights goes with --task joint"),
        (["--task", "joint", "--task_weights", "1.5"], "must be from 0 to 1. Received: 1.5"),
        (["--validation", "1"], "--validation must be less than 1"),
        (["--drops", "0.8,0.4"], "--drops must be rising numbers between 0 and 1"),
        (["--drops", "none"], "parted by commas. Received: none"),
        (["--validation", "0.001"], "--validation must leave images"),
        (["--task", "regression"], "has classes and no values to regress on"),
        (
            ["--task", "regression", "--target", "rotation", "--low", "9", "--high", "-9"],
            "--low must be less than --high. Received: 9 and -9",
        ),
        (["--prototypes", "missing.npy"], "missing.npy cannot be read"),
        (["--semantics", "missing.npy"], "--semantics missing.npy: "),
        (["--semantics", "a", "--prototypes", "b"], "--semantics a and --prototypes b"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    hpn, tmp_path, capsys, monkeypatch, flags, message
):
    monkeypatch.chdir(tmp_path)
    assert program(hpn.main, ["--dataset", "digits", *flags]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""
    assert list(tmp_path.iterdir()) == []


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


def test_examples_run(hpn):
    tried = doctest.testmod(hpn, optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
    assert tried.attempted > 0
    assert tried.failed == 0
