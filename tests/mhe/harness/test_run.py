"""Run folders: what they hold, what they refuse, and that a kill at any moment is survived."""

import json
import os
import shutil

import keras
import numpy as np
import pytest

from mhe.harness.errors import BadInput, Diverged
from mhe.harness.flags import program
from mhe.harness.run import Run, require_unused

FLAGS = {"model_name": "half_mhe", "power_s": "2", "dataset": "digits", "seed": 0, "data_dir": None}


def create(folder, flags=FLAGS):
    return Run.create(folder, "benchmarks/train.py", flags)


def small_model():
    dense = keras.layers.Dense(1, kernel_initializer="zeros", name="dense")
    model = keras.Sequential([keras.Input((3,)), dense])
    model.compile("sgd", "mse")
    return model


def by_hand(run, model, epochs):
    """Trains without `fit`: each epoch adds its number to the weights, and so shows in them."""
    for epoch in range(run.restore(model), epochs):
        model.weights[0].assign(model.weights[0] + epoch + 1)
        total = float(keras.ops.convert_to_numpy(keras.ops.sum(model.weights[0])))
        run.record(model, {"loss": total, "val_accuracy": 0.5}, seconds=0.25)


class Killed(BaseException):
    pass


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("count", range(1, 14))
def test_killed_around_any_write_it_resumes_to_the_same_end(tmp_path, monkeypatch, count, moment):
    by_hand(unbroken := create(tmp_path / "a"), small_model(), 3)
    calls = []

    def replace(source, target, replace=os.replace):
        calls.append(target)
        if len(calls) == count and moment == "before":
            raise Killed
        replace(source, target)
        if len(calls) == count:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", replace)
        with pytest.raises(Killed):
            by_hand(create(tmp_path / "b"), small_model(), 3)
    started = (tmp_path / "b" / "config.json").exists()
    run = Run.resume(tmp_path / "b") if started else create(tmp_path / "b")
    by_hand(run, small_model(), 3)
    assert run.rows == unbroken.rows
    assert [row["loss"] for row in run.rows] == [3.0, 9.0, 18.0]
    names = {path.name for path in (tmp_path / "b").iterdir()} - {"tensorboard"}
    assert names == {path.name for path in (tmp_path / "a").iterdir()} - {"tensorboard"}
    assert [path.name for path in run.checkpoints] == [path.name for path in unbroken.checkpoints]


def test_what_a_run_leaves(tmp_path):
    run = create(tmp_path)
    by_hand(run, small_model(), 3)
    result = run.finish({"test_accuracy": np.float32(0.5)})
    assert result == json.loads((tmp_path / "result.json").read_text())
    assert result == {
        **{name: FLAGS[name] for name in ("model_name", "power_s", "dataset", "seed")},
        "metrics": {"test_accuracy": 0.5},
        "seconds": 0.75,
    }
    config = json.loads((tmp_path / "config.json").read_text())
    assert FLAGS.items() <= config.items()
    assert config["versions"]["keras"] == keras.__version__
    assert config["versions"]["backend"] == keras.backend.backend()
    header, *rows = (tmp_path / "log.csv").read_text().splitlines()
    assert header == "epoch,loss,val_accuracy,seconds"
    assert [row.split(",")[0] for row in rows] == ["1", "2", "3"]
    kept = [path.name for path in sorted((tmp_path / "checkpoints").iterdir())]
    assert kept == [
        f"epoch-00000{epoch}{suffix}"
        for epoch in (2, 3)
        for suffix in (".csv", ".sha256", ".weights.h5")
    ]
    assert len(list((tmp_path / "tensorboard").glob("*tfevents*"))) == 1
    assert Run.resume(tmp_path).finished
    assert Run.resume(tmp_path).result == result


def test_the_log_keeps_every_digit_and_the_order_of_the_layers(tmp_path):
    run = create(tmp_path)
    logs = {"val_loss": 1 / 3, "lr": 0.1, "accuracy": 0.5, "loss": 2 / 3}
    run.record(small_model(), {**logs, "energy/b": 1.0, "energy/a": 2.0, "energy": 1.5}, 1.0)
    run.record(small_model(), {**logs, "score": 7.0}, 1.0)
    header = (tmp_path / "log.csv").read_text().splitlines()[0]
    assert header == "epoch,loss,accuracy,score,val_loss,lr,energy/b,energy/a,energy,seconds"
    assert Run.resume(tmp_path).rows == run.rows


NEWEST = "checkpoints/epoch-000003.weights.h5"


def zeroed(path, offset, count=512):
    data = bytearray(path.read_bytes())
    data[offset : offset + count] = bytes(len(data[offset : offset + count]))
    path.write_bytes(data)


def test_an_unreadable_checkpoint_is_skipped_with_a_message(tmp_path, capsys):
    by_hand(create(tmp_path), small_model(), 3)
    newest = tmp_path / NEWEST
    newest.write_bytes(newest.read_bytes()[:100])
    run = Run.resume(tmp_path)
    assert run.restore(small_model()) == 2
    assert len(run.rows) == 2
    error = capsys.readouterr().err
    assert f"{newest} cannot be read" in error
    assert error.count("\n") == 1
    run.checkpoints[0].write_bytes(b"")
    with pytest.raises(BadInput, match="No checkpoint can be read"):
        Run.resume(tmp_path).restore(small_model())


@pytest.mark.parametrize("suffix", [".weights.h5", ".csv", ".sha256"])
@pytest.mark.one_backend
def test_damage_to_any_file_of_a_checkpoint_sets_it_aside(tmp_path, capsys, suffix):
    by_hand(create(tmp_path), small_model(), 3)
    model = small_model()
    numbers = np.asarray(model.weights[0]) + 6
    path = (tmp_path / NEWEST).with_suffix("").with_suffix(suffix)
    # In the weights, the numbers alone: HDF5 would read the file.
    at = path.read_bytes().index(numbers.tobytes()) if suffix == ".weights.h5" else 0
    zeroed(path, at, numbers.nbytes)
    run = Run.resume(tmp_path)
    assert run.restore(model) == 2
    np.testing.assert_array_equal(model.weights[0], numbers - 3)
    assert "epoch-000003" in capsys.readouterr().err
    by_hand(Run.resume(tmp_path), model, 3)
    np.testing.assert_array_equal(model.weights[0], numbers)
    assert Run.resume(tmp_path).restore(small_model()) == 3
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.one_backend
def test_checkpoints_of_earlier_versions_have_no_checksums(tmp_path, capsys):
    by_hand(create(tmp_path), small_model(), 3)
    for path in (tmp_path / "checkpoints").iterdir():
        if path.suffix != ".h5":
            path.unlink()
    assert Run.resume(tmp_path).restore(small_model()) == 3
    zeroed(tmp_path / NEWEST, 0, 4096)
    assert Run.resume(tmp_path).restore(small_model()) == 2
    assert f"{tmp_path / NEWEST} cannot be read" in capsys.readouterr().err


@pytest.mark.one_backend
def test_files_of_others_are_left_alone(tmp_path):
    by_hand(create(tmp_path), small_model(), 3)
    own = tmp_path / "checkpoints" / "partial-epoch-000004.weights.h5"
    own.write_text("half")
    mine = [tmp_path / "partial-thesis.txt", tmp_path / "checkpoints" / "epoch-best.weights.h5"]
    mine += [
        tmp_path / "checkpoints" / "partial-epoch-best.csv",
        tmp_path / "samples" / "partial-1",
    ]
    mine[-1].parent.mkdir()
    for path in mine:
        path.write_text("precious")
    folders = [tmp_path / "partial-dir", tmp_path / "checkpoints" / "epoch-000009.weights.h5"]
    for path in folders:
        path.mkdir()
    by_hand(Run.resume(tmp_path), small_model(), 5)
    assert {path.read_text() for path in mine} == {"precious"}
    assert all(path.is_dir() for path in folders)
    assert not own.exists()


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    by_hand(create(tmp_path), small_model(), 1)
    other = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, name="dense")])
    other.compile("sgd", "mse")
    with pytest.raises(BadInput, match="belongs to another model"):
        Run.resume(tmp_path).restore(other)


@pytest.mark.parametrize("units", [1, 2])
def test_another_optimizer_is_refused_without_a_warning_of_keras(tmp_path, recwarn, units):
    by_hand(create(tmp_path), small_model(), 1)
    other = keras.Sequential([keras.Input((3,)), keras.layers.Dense(units, name="dense")])
    other.compile("adam", "mse")
    with pytest.raises(BadInput, match="belongs to another model"):
        Run.resume(tmp_path).restore(other)
    assert not [each for each in recwarn if issubclass(each.category, UserWarning)]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_ends_the_run_and_keeps_the_checkpoint(tmp_path, value):
    run = create(tmp_path)
    by_hand(run, model := small_model(), 2)
    run.advice = "Try something else."
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.[hc]*") if path.is_file()}
    message = rf"In epoch 3, val_loss is {value}\..*epoch 2 is intact\. Try something else\."
    with pytest.raises(Diverged, match=message):
        run.record(model, {"loss": 1.0, "val_loss": value}, 1.0)
    assert {path: path.read_bytes() for path in before} == before
    assert run.epoch == 2


def test_a_weight_that_is_not_finite_is_never_checkpointed(tmp_path):
    run, model = create(tmp_path), small_model()
    model.weights[0].assign(np.array([[1.0], [np.nan], [0.0]]))
    with pytest.raises(Diverged, match=r"dense/kernel holds numbers that are not finite"):
        run.record(model, {"loss": 1.0}, 1.0)
    assert run.checkpoints == []


def test_metrics_must_be_finite(tmp_path):
    run = create(tmp_path)
    with pytest.raises(ValueError, match="Received: fid=nan"):
        run.finish({"fid": float("nan")})
    assert not run.finished


def test_a_folder_in_use_is_refused_and_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(BadInput, match="is not empty"):
        create(tmp_path)
    (tmp_path / "mine.txt").rename(tmp_path / "partial-mine.txt")
    with pytest.raises(BadInput, match="is not empty"):
        create(tmp_path)
    (tmp_path / "partial-mine.txt").rename(tmp_path / "mine.txt")
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
    with pytest.raises(BadInput, match="cannot be written to"):
        create(tmp_path / "mine.txt")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.json", None, "holds no config.json"),
        ("config.json", "{", r"config\.json cannot be read"),
        ("config.json", "[]", "must hold a JSON object"),
        ("config.json", "{}", "must have the entry program"),
        (
            "config.json",
            '{"program": "x", "model_name": "", "dataset": "d", "seed": 0, "versions": null}',
            r"versions must be an object of versions\. Received: null",
        ),
        ("log.csv", "epoch,loss\n1,high\n", r"log\.csv is not a run's log"),
        ("log.csv", "loss\n1\n", r"log\.csv is not a run's log"),
    ],
)
def test_a_folder_that_is_not_a_run_is_refused(tmp_path, name, content, message):
    create(tmp_path)
    if content is None:
        (tmp_path / name).unlink()
    else:
        (tmp_path / name).write_text(content)
    with pytest.raises(BadInput, match=message):
        Run.resume(tmp_path)


def test_a_name_that_no_folder_can_have_is_refused():
    name = "a" * 400
    with pytest.raises(BadInput, match="is not a run's folder"):
        Run.resume(name)
    with pytest.raises(BadInput, match="cannot be written to"):
        require_unused(name)


def lose_log(folder, how):
    path = folder / "log.csv"
    if how == "is missing":
        path.unlink()
    elif how == "is empty":
        path.write_text("epoch,loss\n")
    elif how == "is damaged":
        zeroed(path, 30)
    else:
        path.write_text("\n".join(path.read_text().splitlines()[:2]))


LOST = ["is missing", "is empty", "is damaged", "lacks rows up to epoch 2"]


@pytest.mark.parametrize("how", LOST)
@pytest.mark.parametrize("finished", [False, True])
@pytest.mark.one_backend
def test_a_lost_log_is_written_anew_from_a_checkpoint(tmp_path, capsys, how, finished):
    by_hand(run := create(tmp_path), small_model(), 2)
    if finished:
        run.finish({"loss": 1.0})
    log = (tmp_path / "log.csv").read_bytes()
    lose_log(tmp_path, how)
    run = Run.resume(tmp_path)
    assert len(run.rows) == 2
    if finished:
        run.mend_log()
    else:
        assert run.restore(small_model()) == 2
    assert (tmp_path / "log.csv").read_bytes() == log
    assert f"log.csv {how}; written anew from a checkpoint\n" in capsys.readouterr().err


@pytest.mark.one_backend
def test_a_lost_log_without_a_copy_is_refused_or_named(tmp_path, capsys):
    by_hand(run := create(tmp_path), small_model(), 2)
    for path in (tmp_path / "checkpoints").glob("*.csv"):
        path.unlink()
    lose_log(tmp_path, "is missing")
    # No checkpoint is whole without its log.
    with pytest.raises(BadInput, match="No checkpoint can be read"):
        Run.resume(tmp_path).restore(small_model())
    for path in (tmp_path / "checkpoints").glob("*.sha256"):
        path.unlink()
    run.finish({"loss": 1.0})
    Run.resume(tmp_path).mend_log()
    assert "log.csv is missing, and no checkpoint keeps its rows" in capsys.readouterr().err
    assert not (tmp_path / "log.csv").exists()


@pytest.mark.parametrize(
    ("lost", "message"),
    [([4, 3], "has 4 epochs, but the newest checkpoint is missing"), ([4], None)],
)
def test_a_log_far_ahead_of_the_checkpoints_is_kept(tmp_path, lost, message):
    by_hand(create(tmp_path), small_model(), 4)
    for epoch in lost:
        for path in (tmp_path / "checkpoints").glob(f"epoch-{epoch:06d}.*"):
            path.unlink()
    log = (tmp_path / "log.csv").read_bytes()
    if message is None:
        assert Run.resume(tmp_path).restore(small_model()) == 3
        return
    with pytest.raises(BadInput, match=message):
        Run.resume(tmp_path).restore(small_model())
    assert (tmp_path / "log.csv").read_bytes() == log


def test_a_log_two_epochs_ahead_of_an_older_checkpoint_is_kept(tmp_path):
    by_hand(create(tmp_path), small_model(), 2)
    checkpoint = tmp_path / "checkpoints" / "epoch-000002.weights.h5"
    older = checkpoint.read_bytes()
    by_hand(Run.resume(tmp_path), small_model(), 4)
    shutil.rmtree(checkpoint.parent)
    checkpoint.parent.mkdir()
    checkpoint.write_bytes(older)
    log = (tmp_path / "log.csv").read_bytes()
    with pytest.raises(BadInput, match="has 4 epochs, but the newest checkpoint is 2"):
        Run.resume(tmp_path).restore(small_model())
    assert (tmp_path / "log.csv").read_bytes() == log


def test_ctrl_c_prints_how_to_resume_and_exits_with_130(tmp_path, capsys):
    def main(argv):
        with create(tmp_path / "my run") as run:
            by_hand(run, small_model(), 2)
            raise KeyboardInterrupt

    assert program(main) == 130
    command = f"python benchmarks/train.py --resume '{tmp_path / 'my run'}'"
    assert capsys.readouterr().err == f"\nInterrupted after epoch 2. Resume with: {command}\n"
    assert Run.resume(tmp_path / "my run").restore(small_model()) == 2
