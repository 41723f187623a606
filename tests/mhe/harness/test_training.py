"""The skeleton of the training programs, on a task of twelve images."""

import itertools
import json
import os
import re
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import ClassVar

import keras
import numpy as np
import pytest

from mhe.harness import recipes
from mhe.harness.comparisons import Comparison, Varied
from mhe.harness.errors import BadInput, Diverged, within_memory
from mhe.harness.flags import Parser, integer, program
from mhe.harness.lock import locked
from mhe.harness.run import Run
from mhe.harness.training import ImageTask, Program, Task

COMPARISON = Comparison(
    "benchmarks/tiny.py", [Varied("model_name")], {"test_accuracy": 100}, shared=["dataset"]
)


class Killed(BaseException):
    pass


class Notes(keras.callbacks.Callback):
    """Notes which logs it saw, and may add one or end the process."""

    def __init__(self, task, name, adds=None):
        super().__init__()
        self.task, self.name, self.adds = task, name, adds

    def on_train_batch_end(self, batch, logs=None):
        self.task.seen.append((self.name, "batch"))
        # JAX gives the optimizer its count only at the end of an epoch.
        if self.adds is None and self.task.seen.count((self.name, "batch")) == self.task.kill_after:
            raise Killed

    def on_epoch_end(self, epoch, logs=None):
        self.task.seen.append((self.name, sorted(logs)))
        if self.adds is not None:
            logs[self.adds] = 1.0


class Tiny(ImageTask):
    """Three batches per epoch, for a network with states of its own: batch norm and dropout."""

    divergence = (ArithmeticError,)
    made: ClassVar[list[Task]] = []
    kill_after = None
    broken = None

    def __init__(self, args, run):
        super().__init__(args, run)
        rng = np.random.default_rng(0)
        images = rng.integers(256, size=(20, 4, 4, 1), dtype=np.uint8)
        labels = np.arange(20) % 2
        self.use((images[:12], labels[:12]), (images[12:], labels[12:]))
        self.config = {"power_s": "2", "images": 12}
        self.result = {"note": "small"}
        self.seen = []
        self.fits = []
        self.made.append(self)

    def step(self):
        return int(keras.ops.convert_to_numpy(self.model.optimizer.iterations))

    def build(self):
        model = keras.Sequential(
            [
                keras.Input((4, 4, 1)),
                keras.layers.Flatten(),
                keras.layers.Dense(6, name="hidden"),
                keras.layers.BatchNormalization(momentum=0.9),
                keras.layers.Dropout(0.25),
                keras.layers.Dense(2),
            ]
        )
        model.compile(
            keras.optimizers.SGD(self.args.base_lr, momentum=0.9),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=[keras.metrics.SparseCategoricalAccuracy(name="accuracy")],
            # Tracing takes far longer than a dozen steps.
            run_eagerly=keras.backend.backend() == "tensorflow",
        )
        return model

    def batches(self, epoch, steps):
        self.fits.append((epoch, steps))
        return super().batches(epoch, steps)

    def prepare_run(self, run):
        self.seen.append(("prepared", (run.folder / "config.json").exists(), self.step()))

    def callbacks(self, run):
        return [Notes(self, "early", adds="extra")]

    def late_callbacks(self, run):
        return [Notes(self, "late")]

    def report(self, run):
        if self.broken is not None:
            raise self.broken
        accuracy = run.rows[-1]["val_accuracy"] if run.rows else 0.0
        return {f"{self.held_out}_accuracy": accuracy, "steps": self.step()}


def make_parser():
    parser = Parser(COMPARISON.program, "Trains.")
    parser.add_argument("--model_name", nargs="+", choices=["a", "b"], default=["a"])
    parser.add_argument("--dataset", default="data/tiny.zip")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--workers", type=integer(1), default=1)
    parser.excluded.add("workers")
    recipes.add_comparison_flags(parser)
    recipes.add_step_flags(parser, batch_size=4, base_lr=0.1, epochs=2)
    return parser


def make_program(**own):
    return Program(make_parser, Tiny, COMPARISON, folder="tiny", **own)


@pytest.fixture(autouse=True)
def made(monkeypatch):
    """The tasks of a test, in the order in which the skeleton made them."""
    monkeypatch.setattr(Tiny, "made", [])
    return Tiny.made


def without_seconds(rows):
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


def weights(task):
    return [keras.ops.convert_to_numpy(weight).tobytes() for weight in task.model.weights]


def test_a_run_is_complete_and_says_where(tmp_path, capsys, made):
    make_program().main(["--out", str(tmp_path), "--seed", "3", "--workers", "2"])
    (task,) = made
    config = json.loads((tmp_path / "config.json").read_text())
    versions = config.pop("versions")
    assert config == {
        "program": "benchmarks/tiny.py",
        "seed": 3,
        "model_name": "a",
        "steps": None,
        "dataset": "data/tiny.zip",
        "validation": 0.0,
        "seeds": 1,
        "batch_size": 4,
        "base_lr": 0.1,
        "epochs": 2,
        "power_s": "2",
        "images": 12,
    }
    assert versions["backend"] == keras.backend.backend()
    rows = Run.resume(tmp_path).rows
    assert [row["epoch"] for row in rows] == [1, 2]
    assert {"loss", "accuracy", "val_loss", "val_accuracy", "extra", "lr"} <= rows[0].keys()
    result = json.loads((tmp_path / "result.json").read_text())
    assert result == {
        "model_name": "a",
        "power_s": "2",
        "dataset": "data/tiny.zip",
        "seed": 3,
        "metrics": {"test_accuracy": rows[-1]["val_accuracy"], "steps": 6},
        "seconds": pytest.approx(sum(row["seconds"] for row in rows), abs=0.01),
        "note": "small",
    }
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"config.json", "log.csv", "result.json", "checkpoints", "tensorboard"}
    summary, first, second, last = capsys.readouterr().out.splitlines()
    assert summary == "12 training and 8 test images of 4x4 pixels, in memory (0.00 GiB)"
    assert first.startswith("epoch 1/2  loss ")
    assert second.startswith("epoch 2/2  loss ")
    assert (
        last == f"test accuracy {rows[-1]['val_accuracy']:.4f}, results and figures in {tmp_path}"
    )
    assert (task.steps_per_epoch, task.steps, task.epochs) == (3, 6, 2)
    assert task.fits == [(0, None)]


def test_callbacks_go_before_and_after_those_that_record(tmp_path, made):
    make_program().main(["--out", str(tmp_path), "--epochs", "1"])
    prepared, *seen = made[0].seen
    # With a config, before anything is trained.
    assert prepared == ("prepared", True, 0)
    assert seen[:6] == [("early", "batch"), ("late", "batch")] * 3
    (early, before), (late, after) = seen[6:]
    assert (early, late) == ("early", "late")
    assert set(after) - set(before) == {"extra", "lr"}


def train(folder, *flags):
    make_program().main(["--out", str(folder), *flags])
    return Run.resume(folder).rows, Tiny.made[-1]


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """A run of eleven iterations, which are three epochs and a part, and its task."""
    folder = tmp_path_factory.mktemp("unbroken")
    train(folder, "--steps", "11")
    return Run.resume(folder), Tiny.made[-1]


# The sixth is the end of the second epoch.
@pytest.mark.parametrize("step", [2, 6, 7, 11])
def test_killed_at_any_step_it_resumes_to_the_same_end(
    unbroken, tmp_path, monkeypatch, capsys, step
):
    whole, one = unbroken
    with monkeypatch.context() as patch:
        patch.setattr(Tiny, "kill_after", step)
        with pytest.raises(Killed):
            train(tmp_path, "--steps", "11")
    done = (step - 1) // 3
    assert Run.resume(tmp_path).epoch == done
    capsys.readouterr()
    make_program().main(["--resume", str(tmp_path)])
    printed = capsys.readouterr().out
    assert re.findall(r"epoch (\d)/4", printed) == [str(epoch) for epoch in range(done + 1, 5)]
    two = Tiny.made[-1]
    assert without_seconds(Run.resume(tmp_path).rows) == without_seconds(whole.rows)
    assert weights(two) == weights(one)
    assert Run.resume(tmp_path).result["metrics"] == whole.result["metrics"]
    assert (one.step(), two.step()) == (11, 11)


@pytest.mark.parametrize(
    ("steps", "fits", "epochs"),
    [("2", [(0, 2)], 1), ("3", [(0, None)], 1), ("8", [(0, None), (2, 2)], 3)],
)
def test_steps_cut_the_last_epoch_short(tmp_path, steps, fits, epochs):
    rows, task = train(tmp_path, "--steps", steps)
    assert task.fits == fits
    assert (len(rows), task.epochs, task.step()) == (epochs, epochs, int(steps))


def test_a_run_of_no_steps_is_only_reported(tmp_path):
    rows, task = train(tmp_path, "--steps", "0")
    assert (rows, task.fits, task.epochs) == ([], [], 0)
    assert Run.resume(tmp_path).result["metrics"] == {"test_accuracy": 0.0, "steps": 0}
    assert Run.resume(tmp_path).result["seconds"] == 0


def test_the_seed_alone_decides_the_weights_and_the_batches(tmp_path):
    rows, one = train(tmp_path / "a", "--seed", "3")
    keras.utils.set_random_seed(99)
    again, two = train(tmp_path / "b", "--seed", "3")
    other, three = train(tmp_path / "c", "--seed", "4")
    assert without_seconds(rows) == without_seconds(again)
    assert weights(one) == weights(two)
    assert weights(one) != weights(three)
    assert rows[0]["loss"] != other[0]["loss"]


def test_a_finished_run_has_nothing_to_do(tmp_path, capsys, made):
    train(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    capsys.readouterr()
    make_program().main(["--resume", str(tmp_path), "--workers", "3"])
    assert len(made) == 1
    said, where = capsys.readouterr().out.splitlines()
    assert said == f"{tmp_path} is complete; nothing to do"
    assert where.endswith(f"results and figures in {tmp_path}")
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    with pytest.raises(BadInput, match="--epochs 3 contradicts the run"):
        make_program().main(["--resume", str(tmp_path), "--epochs", "3"])


def test_null_is_no_value_for_a_flag_whose_default_depends_on_others(tmp_path):
    def resolve(args):
        args.base_lr = 0.3 if args.base_lr is None else args.base_lr

    # Runs of model b have no rate of their own.
    def expand(args):
        runs = COMPARISON.combinations(args)
        for flags in runs.values():
            if flags.model_name == "b":
                flags.base_lr = None
        return runs

    def parser():
        made = make_parser()
        made.set_defaults(base_lr=None)
        return made

    own = Program(
        parser, Tiny, COMPARISON, folder="tiny", resolve_defaults=resolve, expand_runs=expand
    )
    train(tmp_path, "--epochs", "1")
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "base_lr": None}))
    with pytest.raises(BadInput, match=r"config\.json cannot be used: --base_lr must have a value"):
        own.parse(["--resume", str(tmp_path)])
    path.write_text(json.dumps({**config, "base_lr": None, "model_name": "b"}))
    assert own.parse(["--resume", str(tmp_path)])[0].base_lr is None


def test_validation_images_are_reported_as_such(tmp_path, capsys):
    train(tmp_path, "--validation", "0.25", "--epochs", "1")
    assert list(Run.resume(tmp_path).result["metrics"]) == ["validation_accuracy", "steps"]
    assert "\nvalidation accuracy 0." in capsys.readouterr().out


def test_an_error_that_means_divergence_ends_the_run_with_advice(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(Tiny, "broken", OverflowError("a norm is inf"))
    assert program(make_program().main, ["--out", str(tmp_path)]) == 1
    name = Path(sys.argv[0]).name
    assert capsys.readouterr().err == (
        f"{name}: diverged: After epoch 2: a norm is inf. A --base_lr lower than 0.1 may train; "
        "start a new run with it.\n"
    )
    assert not Run.resume(tmp_path).finished
    with pytest.raises(Diverged) as caught:
        make_program().main(["--resume", str(tmp_path)])
    assert isinstance(caught.value.__cause__, OverflowError)
    # Any other error is a defect.
    monkeypatch.setattr(Tiny, "broken", KeyError("energy"))
    with pytest.raises(KeyError):
        make_program().main(["--resume", str(tmp_path)])
    monkeypatch.setattr(Tiny, "broken", None)
    make_program().main(["--resume", str(tmp_path)])
    assert Run.resume(tmp_path).finished


def test_a_loss_that_is_not_finite_ends_the_run(tmp_path):
    with pytest.raises(Diverged, match=r"In epoch 1, loss is .*A --base_lr lower than 1e\+30 may"):
        train(tmp_path, "--base_lr", "1e30")
    assert not list(tmp_path.glob("checkpoints/*"))


def test_ctrl_c_prints_how_to_resume(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(Tiny, "broken", KeyboardInterrupt())
    assert program(make_program().main, ["--out", str(tmp_path)]) == 130
    resume = f"python benchmarks/tiny.py --resume {tmp_path}"
    message = f"\nInterrupted after epoch 2. Resume with: {resume}\n"
    assert capsys.readouterr().err == message


@pytest.mark.parametrize(
    ("size", "file"), [(100, "config.json"), (9000, "epoch-000001.weights.h5")]
)
@pytest.mark.one_backend
def test_what_cannot_be_written_is_one_line_and_does_not_end_the_run(
    unbroken, tmp_path, capsys, no_file_larger_than, size, file
):
    whole, _ = unbroken
    flags = ["--out", str(tmp_path), "--steps", "11"]
    with no_file_larger_than(size):
        assert program(make_program().main, flags) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert re.search(rf"{file}.* cannot be written.*: File too large", error)
    started = (tmp_path / "config.json").exists()
    assert started == (f"resume with: python benchmarks/tiny.py --resume {tmp_path}" in error)
    assert not list(tmp_path.rglob("partial-*"))
    assert not (tmp_path / "run.lock").exists()
    again = ["--resume", str(tmp_path)] if started else flags
    assert program(make_program().main, again) == 0
    assert without_seconds(Run.resume(tmp_path).rows) == without_seconds(whole.rows)


@pytest.mark.one_backend
def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before(
    unbroken, tmp_path, capsys, monkeypatch, no_file_larger_than
):
    whole, _ = unbroken

    def on_train_batch_end(self, batch, logs=None):
        if self.task.seen.count((self.name, "batch")) == 5:
            stack.enter_context(no_file_larger_than(9000))
        self.task.seen.append((self.name, "batch"))

    with ExitStack() as stack, monkeypatch.context() as patch:
        patch.setattr(Notes, "on_train_batch_end", on_train_batch_end)
        assert program(make_program().main, ["--out", str(tmp_path), "--steps", "11"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "The checkpoint of epoch 1 is intact. Free some space" in error
    assert program(make_program().main, ["--resume", str(tmp_path)]) == 0
    assert without_seconds(Run.resume(tmp_path).rows) == without_seconds(whole.rows)


@pytest.mark.one_backend
def test_a_second_process_is_told_of_the_first(tmp_path, capsys):
    train(tmp_path / "run")
    (tmp_path / "run" / "result.json").unlink()
    with locked(tmp_path / "run"):
        assert program(make_program().main, ["--resume", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert f"in use by process {os.getpid()}" in error
    with locked(tmp_path / "new"):
        assert program(make_program().main, ["--out", str(tmp_path / "new")]) == 2
    assert f"in use by process {os.getpid()}" in capsys.readouterr().err
    # Nobody is barred from a complete run.
    make_program().main(["--resume", str(tmp_path / "run")])
    with locked(tmp_path / "run"):
        make_program().main(["--resume", str(tmp_path / "run")])


@pytest.mark.one_backend
def test_a_complete_run_without_its_log_gets_it_back(tmp_path, capsys):
    train(tmp_path)
    log = (tmp_path / "log.csv").read_bytes()
    (tmp_path / "log.csv").unlink()
    make_program().main(["--resume", str(tmp_path)])
    assert (tmp_path / "log.csv").read_bytes() == log
    assert capsys.readouterr().err == (
        f"{tmp_path / 'log.csv'} is missing; written anew from a checkpoint\n"
    )


def test_nothing_is_loaded_for_a_folder_in_use(tmp_path, made):
    (tmp_path / "mine.txt").touch()
    with pytest.raises(BadInput, match="is not empty"):
        train(tmp_path)
    assert made == []


def test_no_folder_is_left_by_a_model_that_cannot_be_built(tmp_path, monkeypatch):
    def build(self):
        raise BadInput("--width is too small")

    monkeypatch.setattr(Tiny, "build", build)
    with pytest.raises(BadInput, match="too small"):
        train(tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_what_a_backend_cannot_allocate_is_a_lack_of_memory():
    with pytest.raises(BadInput, match="--width 32 needs more memory"), within_memory("--width 32"):
        # JAX allocates only when the numbers are used.
        keras.ops.convert_to_numpy(keras.ops.sum(keras.random.normal((2**20, 2**20))))


def test_a_model_too_large_for_the_memory_names_the_flags(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(Tiny, "build", lambda task: np.ones((2**20, 2**30)))
    flags = ["--out", str(tmp_path / "run"), "--batch_size", "4"]
    assert program(make_program().main, flags) == 2
    error = capsys.readouterr().err
    assert re.search(r"error: .*--batch_size 4 needs more memory than there is: Unable", error)
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_defaults_are_resolved_and_checked_for_new_runs(tmp_path):
    calls = []

    def resolve(args):
        calls.append("resolve")
        args.steps = 2

    def check(args):
        calls.append(f"check {args.steps}")
        if args.batch_size == 5:
            raise BadInput("--batch_size must not be 5")

    one = make_program(resolve_defaults=resolve, check=check)
    with pytest.raises(BadInput, match="must not be 5"):
        one.main(["--out", str(tmp_path), "--batch_size", "5"])
    assert list(tmp_path.iterdir()) == []
    one.main(["--out", str(tmp_path)])
    assert Run.resume(tmp_path).config["steps"] == 2
    (tmp_path / "result.json").unlink()
    one.main(["--resume", str(tmp_path)])
    # Of the resumed run, only to find flags that lack a value.
    assert calls == [*["resolve", "check 2"] * 2, "resolve"]


@pytest.mark.parametrize(
    ("flags", "own", "folders"),
    [
        ([], {}, ["tiny-tiny"]),
        ([], {"name_single_runs": True}, ["tiny-a-seed0"]),
        (["--model_name", "b", "--seed", "5"], {"name_single_runs": True}, ["tiny-b-seed5"]),
        (["--seeds", "2"], {"name_single_runs": True}, ["tiny-tiny/a-seed0", "tiny-tiny/a-seed1"]),
    ],
)
@pytest.mark.one_backend
def test_runs_are_named_after_the_flags_by_default(tmp_path, monkeypatch, flags, own, folders):
    monkeypatch.chdir(tmp_path)
    make_program(**own).main([*flags, "--steps", "1"])
    found = {
        path.parent.relative_to("runs").as_posix() for path in Path("runs").rglob("config.json")
    }
    assert found == set(folders)


@pytest.mark.one_backend
def test_lists_of_flags_make_a_table_and_are_resumed(tmp_path, capsys, monkeypatch):
    titles = []
    one = make_program(title=lambda args: titles.append(args.dataset) or "tiny")
    flags = ["--out", str(tmp_path), "--model_name", "a", "b", "--seeds", "2", "--steps", "4"]
    with monkeypatch.context() as patch:
        patch.setattr(Tiny, "kill_after", 4)
        with pytest.raises(Killed):
            one.main(flags)
    assert [path.name for path in tmp_path.iterdir()] == ["a-seed0"]
    one.main(flags)
    names = ["a-seed0", "a-seed1", "b-seed0", "b-seed1"]
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {*names, "table.csv", "comparison.png"}
    assert titles[-1] == "data/tiny.zip"
    header, *lines = (tmp_path / "table.csv").read_text().splitlines()
    assert header == "model_name,seeds,test_accuracy,test_accuracy_std,steps,steps_std"
    assert [line.split(",")[:2] for line in lines] == [["a", "2"], ["b", "2"]]
    config = Run.resume(tmp_path / "b-seed1").config
    assert (config["model_name"], config["seed"], config["seeds"]) == ("b", 1, 1)
    count = len(Tiny.made)
    assert count == 5
    capsys.readouterr()
    one.main(flags)
    printed = capsys.readouterr().out
    assert printed.count("is complete; nothing to do") == 4
    assert f"Table and figure: {tmp_path}/table.csv, {tmp_path}/comparison.png" in printed
    assert len(Tiny.made) == count
    with pytest.raises(BadInput, match="--steps 5 contradicts the run"):
        one.main([*flags, "--steps", "5"])


@pytest.mark.one_backend
def test_a_program_may_expand_its_lists_by_itself(tmp_path):
    def expand(args):
        runs = COMPARISON.combinations(args)
        for flags, rate in zip(runs.values(), itertools.count(1), strict=False):
            flags.base_lr = rate / 10
        return runs

    make_program(expand_runs=expand).main(["--out", str(tmp_path), "--seeds", "2", "--steps", "1"])
    rates = [Run.resume(tmp_path / f"a-seed{seed}").config["base_lr"] for seed in (0, 1)]
    assert rates == [0.1, 0.1]


def test_a_task_needs_no_images(tmp_path):
    """Only what a `Task` must have: no `--validation`, no images, nothing to evaluate."""

    class Line(Task):
        def __init__(self, args, run):
            super().__init__(args, run)
            self.steps_per_epoch, self.steps = 1, 2

        def build(self):
            model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
            model.compile("sgd", "mse", run_eagerly=keras.backend.backend() == "tensorflow")
            return model

        def batches(self, epoch, steps):
            class One(keras.utils.PyDataset):
                def __len__(self):
                    return 1

                def __getitem__(self, index):
                    return np.ones((2, 1)), np.ones((2, 1))

            return One()

        def report(self, run):
            assert self.held_out == "test"
            return {"loss": run.rows[-1]["loss"]}

    def parser():
        parser = Parser("benchmarks/line.py", "Trains.")
        parser.add_argument("--model_name", default="line")
        parser.add_argument("--dataset", default="line")
        parser.add_argument("--base_lr", type=float, default=0.1)
        return parser

    line = Program(
        parser,
        Line,
        Comparison("benchmarks/line.py", [], {}),
        folder="line",
        expand_runs=lambda args: {"line": args},
    )
    args, _ = parser().parse(["--out", str(tmp_path)])
    result = line.train(args)
    assert result == Run.resume(tmp_path).result
    assert result["power_s"] is None
    assert len(Run.resume(tmp_path).rows) == 2
    line.main(["--resume", str(tmp_path)])
