"""The classification trainer: its recipe, runs, comparisons, kills, Ctrl-C, NaN and bad input."""

import argparse
import csv
import doctest
import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image

import mhe
from mhe.harness import callbacks, recipes
from mhe.harness.errors import BadInput
from mhe.harness.flags import program
from mhe.harness.run import Run
from mhe.regularizers import MHE, Sum

ROOT = Path(__file__).parents[2]
SMALL = [
    *("--dataset", "digits", "--train_images", "60", "--width", "0.06"),
    *("--recipe", "published", "--loss", "cross_entropy"),
    *("--batch_size", "20", "--base_lr", "0.02", "--steps", "11"),
]


from_numpy = pytest.mark.usefixtures("weights_from_numpy")


@pytest.fixture
def train(load):
    return load("train")


@pytest.fixture
def build(load_task):
    return load_task("classification").build


@from_numpy
def test_without_flags_it_is_the_published_recipe(build, train, parsed):
    args = parsed(train)
    assert (args.dataset, args.arch, args.width) == ("cifar100", "cnn9", 1.0)
    assert (args.steps, args.epochs, args.batch_size) == (42_500, None, 128)
    assert (args.augment, args.base_lr, args.train_images) == ("crop_flip", 0.1, None)
    model = build(args, (32, 32, 3), 100, args.steps)
    assert model.output_shape == (None, 100)
    assert model.optimizer.momentum == 0.9
    drops = {0: 0.1, 19_999: 0.1, 20_000: 0.01, 30_000: 1e-3, 37_499: 1e-3, 37_500: 1e-4}
    for step, rate in drops.items():
        model.optimizer.iterations.assign(step)
        assert float(model.optimizer.learning_rate) == pytest.approx(rate)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ([], ("published", "published", "drops", 0.1, 42_500, None)),
        (["--recipe", "modern"], ("modern", "cross_entropy", "cosine", 0.05, None, 60)),
        (["--dataset", "pets.zip"], ("modern", "cross_entropy", "cosine", 0.05, None, 60)),
        (
            ["--dataset", "pets.zip", "--recipe", "published", "--steps", "9"],
            ("published", "published", "drops", 0.1, 9, None),
        ),
        (
            ["--loss", "cross_entropy", "--base_lr", "0.3", "--epochs", "2"],
            ("published", "cross_entropy", "drops", 0.3, None, 2),
        ),
    ],
)
def test_recipes_resolve_what_no_flag_says(train, parsed, flags, expected):
    args = parsed(train, *flags)
    found = (args.recipe, args.loss, args.schedule, args.base_lr, args.steps, args.epochs)
    assert found == expected


@from_numpy
def test_the_published_recipe_is_to_the_letter(build, train, parsed):
    """What the code of the publication does, in terms of Keras."""
    args = parsed(train, "--width", "0.06")
    model = build(args, (8, 8, 3), 100, args.steps)
    assert type(model.loss).__name__ == "BoundedCrossEntropy"
    assert (model.loss.smoothing, model.loss.floor, model.loss.from_logits) == (0.01, 1e-4, True)
    norms = [each for each in model.layers if isinstance(each, keras.layers.BatchNormalization)]
    assert len(norms) == 9
    assert {each.momentum for each in norms} == {0.999}
    assert {each.epsilon for each in norms} == {1e-3}
    # A run of a tenth averages over a tenth of the steps.
    shorter = build(args, (8, 8, 3), 100, 4_250)
    norms = [each for each in shorter.layers if isinstance(each, keras.layers.BatchNormalization)]
    assert [each.momentum for each in norms] == pytest.approx([0.99] * 9)


def test_the_published_epoch_has_full_batches_only(train, parsed):
    flags = ["--dataset", "digits", "--train_images", "90", "--batch_size", "40", "--steps", "5"]
    task = train.Task(parsed(train, *flags, "--recipe", "published"), None)
    assert (task.steps_per_epoch, task.epochs) == (2, 3)
    assert [len(labels) for _, labels in task.batches(0, None)] == [40, 40]
    task = train.Task(parsed(train, *flags), None)
    assert (task.steps_per_epoch, task.epochs) == (3, 2)
    with pytest.raises(BadInput, match=r"--batch_size must be at most the 90 .* Received: 128"):
        train.Task(parsed(train, *flags[:4], "--recipe", "published"), None)


def test_the_warm_up_of_a_short_run_is_a_tenth_of_it(train, parsed):
    flags = ["--dataset", "digits", "--train_images", "60", "--batch_size", "20", "--steps", "40"]
    assert train.Task(parsed(train, *flags), None).args.warmup == 4
    assert train.Task(parsed(train, *flags, "--recipe", "published"), None).args.warmup == 0
    assert train.Task(parsed(train, *flags, "--warmup", "30"), None).args.warmup == 30
    with pytest.raises(BadInput, match=r"--warmup must be at most the 40 .* Received: 41"):
        train.Task(parsed(train, *flags, "--warmup", "41"), None)


@from_numpy
@pytest.mark.parametrize("kernels", ["decayed", "undecayed", "fixed"])
@pytest.mark.one_backend
def test_kernels_before_batch_norm_can_be_left_alone(build, train, parsed, kernels):
    flags = ["--normalized_kernels", kernels, "--model_name", "baseline", "--width", "0.06"]
    model = build(parsed(train, *flags), (8, 8, 1), 10, 100)
    normalized = [model.get_layer(f"conv{stage}_{k}") for stage in (1, 2, 3) for k in (1, 2, 3)]
    others = [model.get_layer("embedding"), model.get_layer("logits")]
    assert all(layer.kernel.regularizer is not None for layer in others)
    assert all(
        (each.kernel.regularizer is not None) == (kernels == "decayed") for each in normalized
    )
    if kernels != "fixed":
        assert all(layer.kernel.constraint is None for layer in normalized + others)
        return
    rng = np.random.default_rng(0)
    norms = [np.linalg.norm(keras.ops.convert_to_numpy(each.kernel)) for each in normalized]
    images = rng.integers(0, 256, size=(20, 8, 8, 1)).astype("float32") / 128 - 1
    model.fit(images, rng.integers(0, 10, size=20), epochs=2, verbose=0)
    after = [np.linalg.norm(keras.ops.convert_to_numpy(each.kernel)) for each in normalized]
    np.testing.assert_allclose(after, norms, rtol=1e-5)
    assert others[0].kernel.constraint is None


@from_numpy
def test_a_network_can_go_without_batch_norm(build, train, parsed):
    flags = ["--norm", "none", "--width", "0.06", "--dataset", "digits"]
    model = build(parsed(train, *flags), (8, 8, 1), 10, 100)
    kinds = {type(layer).__name__ for layer in model.layers}
    assert "BatchNormalization" not in kinds
    assert len(mhe.attached(model)) == 11
    assert len(model.trainable_weights) == 11


@from_numpy
def test_the_radial_force_is_on_every_kernel(build, train, parsed):
    args = parsed(train, "--model_name", "radial", "--power_s", "a0", "--width", "0.06")
    assert (args.power_s, args.strength, args.head_strength) == (None, 1.0, 10.0)
    rows = mhe.attached(build(args, (8, 8, 1), 10, 100))
    assert [type(row.regularizer).__name__ for row in rows] == ["RadialForce"] * 11
    assert [row.regularizer.strength for row in rows] == [1.0] * 10 + [10.0]


@from_numpy
@pytest.mark.parametrize(
    ("name", "kind", "strength"),
    [
        ("mhp", "Polarization(1, s=2, euclidean, steps=10, full)", 1),
        ("mhc", "Covering(1, euclidean, steps=10, full)", 1),
        ("uniformity", "Uniformity(1, t=2, full)", 1),
        ("mma", "MinimalAngle(0.07, full)", 0.07),
        ("mhs", "Separation(1, euclidean, full)", 1),
        ("mgd", "GramDeterminant(1, epsilon=1.0, full)", 1),
        ("so", "Orthogonality(0.1, single, unit=False, full)", 0.1),
        ("dso", "Orthogonality(0.1, double, unit=False, full)", 0.1),
        ("mc", "Orthogonality(0.1, coherence, unit=False, full)", 0.1),
        ("srip", "Orthogonality(0.1, spectral, unit=False, full)", 0.1),
    ],
)
@pytest.mark.one_backend
def test_other_regularizers_are_on_every_kernel(build, train, parsed, name, kind, strength):
    args = parsed(train, "--model_name", name, "--width", "0.06")
    assert (args.power_s, args.strength, args.head_strength) == (None, strength, strength)
    rows = mhe.attached(build(args, (8, 8, 1), 10, 100))
    assert [repr(row.regularizer) for row in rows] == [kind] * 11


@from_numpy
@pytest.mark.one_backend
@pytest.mark.parametrize(("width", "with_head"), [("0.125", True), ("0.06", False)])
def test_compressive_energies_are_where_there_is_something_to_compress(
    build, train, parsed, width, with_head
):
    flags = ("--model_name", "comhe", "--width", width, "--head_strength", "7")
    model = build(parsed(train, *flags), (8, 8, 3), 10, 100)
    strengths = {row.path: row.regularizer.strength for row in mhe.attached(model)}
    assert not any("conv1_1" in path for path in strengths)
    heads = [strength for path, strength in strengths.items() if "logits" in path]
    assert heads == ([7.0] if with_head else [])
    assert 1.0 in strengths.values()


def test_the_dead_phase_lasts_until_weight_decay_has_shrunk_the_weights(load_task):
    """By the reference's own figures: the decay term falls by 0.904 in 100 iterations."""
    expected = load_task("classification").expected_dead_steps
    args = argparse.Namespace(loss="published", base_lr=0.1, weight_decay=None, arch="cnn9")
    steps = expected(args)
    # At the end the squared norm is a ninth of what it was.
    assert 0.904 ** (steps / 100) == pytest.approx(1 / 9, rel=0.02)
    assert 1_600 <= steps <= 3_300
    args.loss = "cross_entropy"
    assert expected(args) is None


def test_drops_keep_their_place_in_a_shorter_training(train):
    rate = recipes.stepped(1.0, 850, recipes.fractions(train.DROPS))
    steps = (399, 400, 599, 600, 749, 750)
    rates = [round(float(rate(step)), 6) for step in steps]
    assert rates == [1.0, 0.1, 0.1, 0.01, 0.01, 0.001]


@from_numpy
@pytest.mark.parametrize(
    ("power_s", "s", "distance", "hidden", "head"),
    [
        ("0", 0, "euclidean", 2, 20),
        ("1", 1, "euclidean", 1, 10),
        ("2", 2, "euclidean", 1, 10),
        ("a0", 0, "angle", 1, 10),
        ("a1", 1, "angle", 0.1 * math.pi, math.pi),
        ("a2", 2, "angle", 0.1 * math.pi**2, math.pi**2),
    ],
)
def test_energies_have_the_published_strengths(
    build, train, power_s, s, distance, hidden, head, parsed
):
    for name, space in (("half_mhe", "half"), ("mhe", "full")):
        args = parsed(train, "--model_name", name, "--power_s", power_s, "--width", "0.06")
        model = build(args, (8, 8, 1), 10, 100)
        kernels = [layer for layer in model.layers if hasattr(layer, "kernel")]
        found = [energy(layer) for layer in kernels]
        assert len(found) == 11
        assert found[-1] == (pytest.approx(head), s, distance, "full")
        assert found[:-1] == [(pytest.approx(hidden), s, distance, space)] * 10


def energy(layer):
    """The one MHE on a layer's kernel, with the weight decay that must stand beside it."""

    def leaves(regularizer):
        parts = regularizer.regularizers if isinstance(regularizer, Sum) else (regularizer,)
        if parts == (regularizer,):
            return [regularizer]
        return [leaf for part in parts for leaf in leaves(part)]

    (found,) = [each for each in leaves(layer.kernel.regularizer) if isinstance(each, MHE)]
    assert any(isinstance(each, keras.regularizers.L2) for each in leaves(layer.kernel.regularizer))
    return found.strength, found.s, found.distance, found.space


def test_strengths_can_be_given(train, parsed):
    args = parsed(train, "--strength", "0.5")
    assert (args.strength, args.head_strength) == (0.5, 5.0)
    args = parsed(train, "--strength", "0.5", "--head_strength", "0")
    assert (args.strength, args.head_strength) == (0.5, 0.0)


@from_numpy
def test_the_baseline_has_no_energy(build, train, parsed):
    args = parsed(train, "--model_name", "baseline", "--width", "0.06")
    model = build(args, (8, 8, 1), 10, 100)
    kernels = [layer.kernel for layer in model.layers if hasattr(layer, "kernel")]
    assert all(type(kernel.regularizer) is keras.regularizers.L2 for kernel in kernels)


@from_numpy
@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
def test_mixed_precision_is_the_models_alone(build, train, precision, parsed):
    args = parsed(train, "--mixed_precision", precision, "--width", "0.06")
    model = build(args, (8, 8, 1), 10, 100)
    assert model.get_layer("conv1_1").compute_dtype == precision
    assert {str(weight.dtype) for weight in model.weights} == {"float32"}
    assert keras.config.dtype_policy().name == "float32"
    scaled = isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    assert scaled == (precision == "float16")


def test_digits_are_not_flipped_unless_asked(train, parsed):
    assert parsed(train, "--dataset", "digits").augment == "none"
    assert parsed(train, "--dataset", "digits", "--augment", "crop_flip").augment == "crop_flip"


def test_a_folder_is_named_after_the_flags_by_default(train, monkeypatch):
    folders = []

    def record(self, args, run):
        folders.append(str(args.out))
        return {"metrics": {}}

    monkeypatch.setattr(train.Program, "train", record)
    train.main(["--seed", "3"])
    train.main(["--model_name", "baseline", "--dataset", "data/small.zip"])
    assert folders == ["runs/cifar100-half_mhe-2-seed3", "runs/small-baseline-seed0"]


@pytest.mark.one_backend
def test_interrupted_killed_and_resumed_it_ends_as_an_unbroken_run(
    train, small, tmp_path, capsys, log, assert_same_log
):
    """Also what a run leaves, and what a finished run answers to --resume."""
    killed = tmp_path / "killed"
    ended = subprocess.run(
        [sys.executable, "tests/benchmarks/small_train.py", *SMALL, "--out", str(killed)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    message = (
        f"Interrupted after epoch 1. Resume with: python benchmarks/train.py --resume {killed}"
    )
    assert message in ended.stderr.splitlines()
    # Three whole epochs of three steps and a part are asked for: it was killed within the third.
    assert [row["epoch"] for row in log(killed)] == [1, 2]
    assert not (killed / "result.json").exists()

    unbroken = tmp_path / "unbroken"
    assert program(train.main, [*SMALL, "--out", str(unbroken)]) == 0
    keras.backend.clear_session()
    capsys.readouterr()
    assert program(train.main, ["--resume", str(killed)]) == 0
    printed = capsys.readouterr().out
    assert "epoch 2/4" not in printed
    assert "epoch 4/4" in printed
    assert_same_log(killed, unbroken, rel=1e-3)

    rows = log(unbroken)
    # 11 iterations at 3 an epoch end within the fourth, at the last of the three drops.
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4]
    assert rows[-1]["lr"] == pytest.approx(0.02e-3)
    layers = [name for name in rows[0] if name.startswith("energy/")]
    assert [name.split("/")[-2] for name in layers] == ["hidden", "logits"]
    assert rows[0]["energy"] == pytest.approx(np.mean([rows[0][name] for name in layers]))
    result = json.loads((unbroken / "result.json").read_text())
    described = {"model_name": "half_mhe", "power_s": "2", "dataset": "digits", "seed": 0}
    assert described.items() <= result.items()
    assert result["metrics"]["test_accuracy"] == rows[-1]["val_accuracy"]
    assert result["metrics"]["steps"] == 11
    assert 0 < result["metrics"]["smallest_angle"] < math.pi / 2
    assert result["seconds"] == pytest.approx(sum(row["seconds"] for row in rows), abs=0.01)
    left = {path.name for path in unbroken.iterdir()}
    assert left == {
        *("config.json", "log.csv", "result.json", "checkpoints", "tensorboard"),
        *("curves.png", "angles.png"),
    }

    before = (unbroken / "result.json").stat().st_mtime_ns
    assert program(train.main, ["--resume", str(unbroken)]) == 0
    assert "is complete; nothing to do" in capsys.readouterr().out
    assert (unbroken / "result.json").stat().st_mtime_ns == before
    assert program(train.main, ["--resume", str(unbroken), "--power_s", "a2"]) == 2
    contradiction = capsys.readouterr().err
    assert f"--power_s a2 contradicts the run in {unbroken}" in contradiction
    assert contradiction.count("\n") == 1
    assert program(train.main, [*SMALL, "--out", str(unbroken)]) == 2
    assert "is not empty" in capsys.readouterr().err


@pytest.mark.one_backend
def test_a_loss_that_is_no_number_ends_the_run(train, small, tmp_path, capsys):
    out = tmp_path / "run"
    flags = [*SMALL, "--base_lr", "1e30", "--out", str(out)]
    assert program(train.main, flags) == 1
    error = capsys.readouterr().err
    assert "In epoch 1, loss is " in error
    assert "A --base_lr lower than 1e+30 may train" in error
    assert error.count("\n") == 1
    assert not list(out.glob("checkpoints/*"))
    assert not (out / "result.json").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--model_name", "sn"], "argument --model_name: invalid choice: 'sn'"),
        (["--power_s", "3"], "argument --power_s: invalid choice: '3'"),
        (
            ["--width", "0"],
            "--width: must be a number above 0 and at most 32. Received: 0",
        ),
        (["--strength", "-1"], "argument --strength: must be a number from 0 to"),
        (["--epochs", "2", "--steps", "9"], "argument --steps: not allowed with argument --epochs"),
        (["--dataset", "missing.zip"], "missing.zip"),
        (["--dataset", "digits", "--train_images", "9999"], "9999"),
        (["--dataset", ""], "--dataset: must be a path in UTF-8"),
        (["--resume", "missing"], "missing is not a run's folder"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(train, flags, message, assert_refused):
    assert_refused(train.main, flags, message)


def images(root, *names, size=(8, 8)):
    """Writes miniature images; each holds noise, so that a JPEG of it has a body to cut."""
    rng = np.random.default_rng(0)
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(256, size=(*size, 3), dtype=np.uint8)).save(path)
    return root


def truncated(root):
    images(root, "train/a/1.jpg", "train/b/1.jpg", "test/a/1.jpg", size=(32, 32))
    path = root / "train/b/1.jpg"
    path.write_bytes(path.read_bytes()[:-200])


def mixed(root):
    images(root, "train/a/1.png", "train/b/1.png", "test/a/1.png")
    images(root, "train/b/2.png", size=(8, 9))


def class_only_in_test(root):
    images(root, "train/a/1.png", "train/b/1.png", "test/c/1.png")


def without_train(root):
    images(root, "test/a/1.png", "test/b/1.png")


def one_class(root):
    images(root, "train/a/1.png", "test/a/1.png")


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (truncated, "1 file cannot be read as an image: train/b/1.jpg"),
        (mixed, "by --image_size. Received: train/a/1.png of 8x8 pixels and train/b/2.png"),
        (class_only_in_test, "the class c is in test/ but not in train/"),
        (without_train, "has no train/ folder"),
        (one_class, "must have at least two classes. Received: a"),
    ],
)
def test_a_folder_that_cannot_be_trained_on_is_one_line(train, tmp_path, capsys, write, message):
    write(tmp_path / "data")
    flags = ["--dataset", str(tmp_path / "data"), "--out", str(tmp_path / "run")]
    assert program(train.main, flags) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # TensorFlow Datasets' own
def test_an_unknown_name_is_one_line(train, tmp_path, capsys):
    pytest.importorskip("tensorflow_datasets")
    flags = ["--dataset", "cifar1000", "--data_dir", str(tmp_path), "--out", str(tmp_path / "run")]
    assert program(train.main, flags) == 2
    error = capsys.readouterr().err
    assert "nor the name of a dataset that TensorFlow Datasets knows. Received: cifar1000" in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_folder_in_use_is_refused_before_data_are_loaded(train, tmp_path, capsys, monkeypatch):
    def load(*_):
        raise AssertionError("data were loaded")

    monkeypatch.setattr("mhe.harness.datasets.load", load)
    (tmp_path / "mine.txt").touch()
    assert program(train.main, [*SMALL, "--out", str(tmp_path)]) == 2
    assert "is not empty" in capsys.readouterr().err
    assert program(train.main, [*SMALL, "--out", str(tmp_path / "mine.txt")]) == 2
    assert "mine.txt cannot be written to: Not a directory" in capsys.readouterr().err


@pytest.mark.one_backend
def test_a_comparison_is_a_folder_of_runs_a_table_and_figures(
    train, small, tmp_path, capsys, monkeypatch
):
    """Killed and called again it goes on; a baseline has no energy, so one run covers all."""
    lists = ["--model_name", "baseline", "half_mhe", "--power_s", "0", "2"]
    argv = [*SMALL[:-2], "--epochs", "1", *lists, "--out", str(tmp_path)]
    names = ["baseline-seed0", "half_mhe-0-seed0", "half_mhe-2-seed0"]

    def interrupt(self, epoch, logs=None):
        if self.run.folder.name == names[1]:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(callbacks.Progress, "on_epoch_end", interrupt)
        assert program(train.main, argv) == 130
    assert [(tmp_path / name / "result.json").exists() for name in names] == [True, False, False]
    assert not (tmp_path / "table.csv").exists()
    capsys.readouterr()
    assert program(train.main, argv) == 0
    printed = capsys.readouterr().out
    assert printed.count("is complete; nothing to do") == 1
    assert f"--resume {tmp_path / names[1]}" in printed

    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == names
    runs = [Run.resume(tmp_path / name) for name in names]
    assert [run.config["power_s"] for run in runs] == [None, "0", "2"]
    assert [run.config["strength"] for run in runs] == [None, 2, 1]
    with open(tmp_path / "table.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    for line, run in zip(lines, runs, strict=True):
        assert line["model_name"] == run.config["model_name"]
        assert line["power_s"] == (run.config["power_s"] or "")
        accuracy = run.result["metrics"]["test_accuracy"]
        assert float(line["test_accuracy"]) == pytest.approx(accuracy)
        assert f"{100 * accuracy:.2f}" in printed
        # Of the same layers in each, whether or not they have an energy.
        assert {name for name in run.rows[0] if name.startswith("energy/")} == {
            name for name in runs[0].rows[0] if name.startswith("energy/")
        }
        milliseconds = 1000 * run.rows[0]["seconds"] / run.result["metrics"]["steps"]
        assert float(line["ms_per_step"]) == pytest.approx(milliseconds)
        for column in ("energy", "smallest_angle", "ms_per_step"):
            assert f"{float(line[column]):.3f}" in printed
    for figure in ("comparison.png", "curves.png"):
        assert (tmp_path / figure).read_bytes().startswith(b"\x89PNG")

    # A run without a power goes on, too.
    before = runs[0].result["metrics"]
    (runs[0].folder / "result.json").unlink()
    assert program(train.main, ["--resume", str(runs[0].folder)]) == 0
    assert runs[0].result["metrics"] == pytest.approx(before)


@pytest.mark.one_backend
def test_digits_compares_what_it_trains_and_repeats_nothing(train, small, load, tmp_path, capsys):
    digits = load("digits")
    argv = ["--seeds", "1", "--train_images", "20", "--epochs", "1", "--out", str(tmp_path)]
    assert program(digits.main, argv) == 0
    printed = capsys.readouterr().out
    runs = [Run.resume(tmp_path / f"{name}-seed0") for name in ("baseline", "half_mhe")]
    assert train.COMPARISON.text(train.COMPARISON.collect(runs)) in printed
    assert str(tmp_path / "comparison.png") in printed
    assert (tmp_path / "comparison.png").read_bytes().startswith(b"\x89PNG")
    assert program(digits.main, argv) == 0
    assert capsys.readouterr().out.count("is complete; nothing to do") == 2


def test_examples_run(train):
    options = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
    tried = doctest.testmod(train, optionflags=options)
    assert tried.attempted > 0
    assert tried.failed == 0
