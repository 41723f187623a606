"""Trainings that are killed and go on end as unbroken ones do."""

import os
import random
import runpy
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

import mhe
from mhe.callbacks import EpochSeeds, ResumableTraining
from mhe.callbacks.within_epoch import restore_state_of_step, state_of_step
from mhe.checkpoints.files import CannotWriteError

SCRIPT = Path(__file__).with_name("train_and_be_killed.py")
BACKEND = keras.backend.backend()


@pytest.fixture(scope="module")
def parts():
    """The data and the network of the script."""
    return runpy.run_path(str(SCRIPT), run_name="parts")


class Interrupt(keras.callbacks.Callback):
    """Ends a training in the middle of an epoch, or between the callbacks at its end."""

    def __init__(self, epoch, at_end=False, batch=2):
        super().__init__()
        self.epoch, self.at_end, self.batch = epoch, at_end, batch

    def on_epoch_begin(self, epoch, logs=None):
        self.now = epoch

    def on_train_batch_end(self, batch, logs=None):
        if (self.now, batch, self.at_end) == (self.epoch, self.batch, False):
            raise KeyboardInterrupt

    def on_epoch_end(self, epoch, logs=None):
        if self.at_end and epoch == self.epoch:
            raise KeyboardInterrupt


class Watch(keras.callbacks.Callback):
    """Keeps what a callback sees of each batch of an epoch."""

    def __init__(self, epoch):
        super().__init__()
        self.epoch, self.seen = epoch, []

    def on_epoch_begin(self, epoch, logs=None):
        self.now = epoch

    def on_train_batch_end(self, batch, logs=None):
        if self.now == self.epoch:
            self.seen.append((batch, dict(logs)))


def monitors(tmp_path):
    return [
        keras.callbacks.EarlyStopping("loss", min_delta=2, patience=3, restore_best_weights=True),
        keras.callbacks.ModelCheckpoint(tmp_path / "best.keras", "mae", save_best_only=True),
        keras.callbacks.ReduceLROnPlateau("mae", patience=1, factor=0.5),
    ]


@pytest.fixture
def train(parts, tmp_path):
    """Trains a new model on arrays or on a dataset, which `fit` shuffles."""

    def train(folder, epochs=6, extra=(), first=False, dataset=False, step=1, **options):
        model = parts["network"]()
        model.compile(keras.optimizers.Adam(0.05), "mse", metrics=["mae"], steps_per_execution=step)
        resumable = ResumableTraining(tmp_path / folder, **options)
        callbacks = [resumable, *extra] if first else [*extra, resumable]
        x, y = parts["data"]()
        given = (parts["Pairs"](x, y),) if dataset else (x, y)
        size = {} if dataset else {"batch_size": 4}
        model.fit(*given, epochs=epochs, verbose=0, callbacks=callbacks, **size)
        return model

    return train


def assert_same(model, other):
    for name, values in model.history.history.items():
        np.testing.assert_allclose(other.history.history[name], values, rtol=1e-5, err_msg=name)
    assert model.history.epoch == other.history.epoch
    for mine, theirs in zip(model.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_allclose(theirs, mine, rtol=1e-5, atol=1e-6)


# On TensorFlow `fit` shuffles arrays by a state that is lost.
@pytest.mark.parametrize(
    ("first", "dataset"),
    [
        (False, BACKEND == "tensorflow"),
        pytest.param(True, True, marks=pytest.mark.one_backend),
    ],
)
def test_an_interrupted_training_ends_as_an_unbroken_one(train, tmp_path, first, dataset):
    expected = monitors(tmp_path)
    unbroken = train("unbroken", 9, expected, first, dataset)
    assert 1 < len(unbroken.history.epoch) < 9  # or nothing was stopped early
    for epoch, at_end in ((1, False), (3, True)):
        with pytest.raises(KeyboardInterrupt):
            train("broken", 9, [*monitors(tmp_path), Interrupt(epoch, at_end)], first, dataset)
    found = monitors(tmp_path)
    resumed = train("broken", 9, found, first, dataset)
    assert_same(unbroken, resumed)
    for one, other in zip(expected, found, strict=True):
        assert one.best == pytest.approx(other.best, rel=1e-5)
    assert [(each.wait, each.stopped_epoch, each.best_epoch) for each in (expected[0], found[0])]
    assert expected[0].best_epoch == found[0].best_epoch
    rates = [
        float(keras.ops.convert_to_numpy(m.optimizer.learning_rate)) for m in (unbroken, resumed)
    ]
    assert rates[0] == pytest.approx(rates[1])
    assert rates[0] < 0.05
    # It was stopped early, and stays so, with the best weights.
    assert_same(unbroken, train("broken", 9, monitors(tmp_path), first, dataset))
    files = sorted(path.name for path in (tmp_path / "broken").iterdir())
    assert len(files) == 6
    assert not any(name.startswith("partial") for name in files)


def state(model):
    """Weights, the optimizer's variables, metrics, and what layers draw from."""
    variables = [*model.variables, *model.optimizer.variables, *model.metrics_variables]
    return [keras.ops.convert_to_numpy(each.value) for each in variables]


def decayed():
    """A schedule that multiplies the rate at the beginning of each epoch."""
    return keras.callbacks.LearningRateScheduler(lambda epoch, rate: 0.7 * rate)


@pytest.mark.parametrize("step", [1, 2])
def test_a_training_interrupted_within_an_epoch(train, tmp_path, step):
    if BACKEND == "torch" and step > 1:
        pytest.skip("Keras refuses it on PyTorch")
    options = {"epochs": 3, "dataset": True, "step": step}
    watched, watching = Watch(1), Watch(1)
    unbroken = train("unbroken", extra=[decayed(), watched], every=4, **options)
    folder = tmp_path / "broken"
    with pytest.raises(KeyboardInterrupt):
        train("broken", extra=[decayed(), Interrupt(1, batch=5)], every=4, **options)
    names = [path.name for path in sorted(folder.glob("*.h5"))]
    assert names == ["epoch-000001.weights.h5", "epoch-000001_batch-000004.weights.h5"]
    assert ResumableTraining(folder).epoch == 1
    if step > 1:
        with pytest.raises(ValueError, match=r"`steps_per_execution` must divide 4, .*=3$"):
            train("broken", **{**options, "step": 3})
    # Whether more such checkpoints are to be written makes no difference.
    resumed = train("broken", extra=[decayed(), watching], **options)
    assert_same(unbroken, resumed)
    for mine, theirs in zip(state(unbroken), state(resumed), strict=True):
        np.testing.assert_allclose(theirs, mine, rtol=1e-5, atol=1e-6)
    assert [batch for batch, _ in watching.seen] == [batch for batch, _ in watched.seen]
    passed = 4 // step
    assert [logs for _, logs in watching.seen[: passed - 1]] == [{}] * (passed - 1)
    for (_, mine), (_, theirs) in zip(
        watched.seen[passed - 1 :], watching.seen[passed - 1 :], strict=True
    ):
        assert mine == pytest.approx(theirs, rel=1e-5)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="only TensorFlow has replicas")
def test_metrics_of_replicas():
    import tensorflow as tf

    with tf.distribute.MirroredStrategy(["CPU:0"]).scope():
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
        model.compile("sgd", "mse", metrics=["mae"])
    model.fit(np.ones((4, 3)), np.ones((4, 2)), verbose=0)
    expected = model.get_metrics_result()
    state = state_of_step(model)
    model.reset_metrics()
    restore_state_of_step(model, state)
    assert model.get_metrics_result() == expected


@pytest.mark.one_backend
def test_positions_are_ordered_and_two_are_kept(train, tmp_path):
    for batch in (3, 5):
        with pytest.raises(KeyboardInterrupt):
            train("run", 2, [Interrupt(1, batch=batch)], dataset=True, every=1)
        first, second = (f"epoch-000001_batch-{batch + n:06d}" for n in (-1, 0))
        assert {path.name.split(".")[0] for path in (tmp_path / "run").iterdir()} == {first, second}
    unbroken = train("unbroken", 2, dataset=True)
    newest = tmp_path / "run" / f"{second}.weights.h5"
    newest.write_bytes(newest.read_bytes()[:-9])
    with pytest.warns(UserWarning, match="going back to .*000001_batch-000004"):
        assert_same(unbroken, train("run", 2, dataset=True))
    names = {path.name.split(".")[0] for path in (tmp_path / "run").iterdir()}
    assert "epoch-000002" in names
    # A complete training leaves nothing to pass over.
    assert_same(unbroken, train("run", 2, dataset=True))


@pytest.mark.filterwarnings("ignore:Your input ran out of data")
def test_data_with_fewer_batches_than_before(train, parts, tmp_path):
    watch = Watch(0)
    with pytest.raises(KeyboardInterrupt):
        train("run", 1, [watch, Interrupt(0, batch=4)], dataset=True, every=4)
    x, y = parts["data"]()
    pairs = parts["Pairs"](x, y)

    def resume(data, shuffle):
        model = parts["network"]()
        model.compile(keras.optimizers.Adam(0.05), "mse", metrics=["mae"])
        callback = ResumableTraining(tmp_path / "run")
        return model.fit(data, shuffle=shuffle, verbose=0, callbacks=[callback]).history

    expected = "An epoch must have at least the 4 batches .* Received: "
    with pytest.raises(ValueError, match=expected + "3 batches$"):
        resume(parts["Pairs"](x[:12], y[:12]), True)
    with pytest.raises(ValueError, match=expected + "fewer$"):
        resume((pairs[n] for n in range(3)), False)
    # As many are enough: the epoch ends with their metrics.
    history = resume((pairs[n] for n in range(4)), False)
    for name, value in watch.seen[3][1].items():
        assert history[name] == [pytest.approx(value, rel=1e-5)]


@pytest.mark.one_backend
def test_a_training_stopped_among_batches_that_are_passed_over(train, tmp_path):
    class Stop(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            self.model.stop_training = batch == 1

    with pytest.raises(KeyboardInterrupt):
        train("run", 2, [Interrupt(0, batch=5)], dataset=True, every=4)
    train("run", 2, [Stop()], dataset=True)
    assert ResumableTraining(tmp_path / "run").epoch == 0
    assert_same(train("unbroken", 2, dataset=True), train("run", 2, dataset=True))


@pytest.mark.one_backend
def test_a_schedule_by_steps_within_an_epoch(parts, tmp_path):
    def train(folder, *interrupt):
        scales = []
        model = parts["network"]()
        mhe.attach(model, mhe.MHE(0.1))
        model.compile("adam", "mse")
        schedule = mhe.StrengthSchedule(lambda step: scales.append(step) or step / 18)
        resumable = ResumableTraining(tmp_path / folder, every=2)
        callbacks = [schedule, *interrupt, resumable]
        model.fit(parts["Pairs"](*parts["data"]()), epochs=3, verbose=0, callbacks=callbacks)
        return model, scales

    unbroken, expected = train("unbroken")
    with pytest.raises(KeyboardInterrupt):
        train("broken", Interrupt(1, batch=4))
    resumed, scales = train("broken")
    assert_same(unbroken, resumed)
    assert scales[-12:] == expected[-12:] == [*range(6, 18)]


@pytest.mark.one_backend
def test_more_epochs_and_damaged_checkpoints(train, tmp_path):
    unbroken = train("unbroken", dataset=True)
    train("broken", 4, dataset=True)
    assert_same(unbroken, train("broken", dataset=True))
    folder = tmp_path / "broken"
    assert ResumableTraining(folder).epoch == 6
    for suffix, damage in ((".weights.h5", lambda data: data[:-9]), (".npz", lambda data: b"")):
        path = folder / f"epoch-000006{suffix}"
        path.write_bytes(damage(path.read_bytes()))
        assert ResumableTraining(folder).epoch == 5
        with pytest.warns(
            UserWarning, match=r"6.weights.h5 cannot be read: .*going back to .*05.w"
        ):
            resumed = train("broken", dataset=True)
        assert_same(unbroken, resumed)
    for path in folder.glob("*.h5"):
        path.write_bytes(b"")
    assert ResumableTraining(folder).epoch == 0
    with pytest.raises(ValueError, match="No checkpoint can be read, start a new run: "):
        train("broken", dataset=True)


@pytest.mark.one_backend
@pytest.mark.skipif(not hasattr(os, "fork"), reason="the script forks")
def test_a_process_killed_while_it_writes(parts, tmp_path):
    folder = tmp_path / "killed"
    subprocess.run([sys.executable, SCRIPT, folder, "1", "2:3", "3"], check=True, timeout=300)
    assert ResumableTraining(folder).epoch == 3
    # All batches of the epoch are passed over, and it ends with their metrics.
    assert (folder / "epoch-000003_batch-000006.weights.h5").exists()
    assert list(folder.glob("partial-*"))
    assert_same(parts["fit"](tmp_path / "unbroken"), parts["fit"](folder))
    assert not list(folder.glob("partial-*"))


@pytest.mark.one_backend
def test_what_cannot_be_resumed(train, parts, tmp_path, no_file_larger_than):
    train("run", 2)
    other = keras.Sequential([keras.Input((5,)), keras.layers.Dense(2)])
    other.compile("adam", "mse")
    with pytest.raises(ValueError, match=r"epoch-000002.weights.h5 belongs to another model"):
        other.fit(*parts["data"](), verbose=0, callbacks=[ResumableTraining(tmp_path / "run")])
    with pytest.raises(ValueError, match=r"`seed` must be an integer >= 0\. Received: seed=-1"):
        ResumableTraining(tmp_path, seed=-1)
    for every in (0, -1, 2.0, True):
        with pytest.raises(
            ValueError, match=rf"`every` must be None or an integer >= 1\. .*every={every}$"
        ):
            ResumableTraining(tmp_path, every=every)
    (tmp_path / "file").write_text("words")
    with pytest.raises(ValueError, match="file cannot be created: File exists"):
        train("file")
    with (
        no_file_larger_than(4000),
        pytest.raises(CannotWriteError, match="cannot be written: File"),
    ):
        train("run", 4)
    assert ResumableTraining(tmp_path / "run").epoch == 2
    assert not list((tmp_path / "run").glob("partial-*"))
    assert train("run", 3).history.epoch == [0, 1, 2]


@pytest.mark.one_backend
def test_seeds_are_those_of_the_epoch_or_none(train, tmp_path):
    keras.utils.set_random_seed(8)
    one, other = train("one"), train("other")
    assert_same(one, other)
    keras.utils.set_random_seed(8)
    one, other = train("a", seed=None), train("b", seed=None)
    assert one.history.history["loss"][1:] != other.history.history["loss"][1:]
    seeds = EpochSeeds(4)
    seeds.set_model(one)
    drawn = []
    for epoch in (0, 1, 0):
        seeds.on_epoch_begin(epoch)
        drawn.append(random.random())
    assert drawn[0] == drawn[2] != drawn[1]


@pytest.mark.one_backend
def test_a_rate_that_callbacks_behind_lower(train, tmp_path):
    def lowered(folder, *interrupt):
        # After every epoch but the first.
        reduce = keras.callbacks.ReduceLROnPlateau("loss", patience=1, min_delta=1e9)
        return train(folder, 4, [reduce, *interrupt], first=True, dataset=True)

    unbroken = lowered("unbroken")
    with pytest.raises(KeyboardInterrupt):
        lowered("broken", Interrupt(3))
    assert_same(unbroken, lowered("broken"))


@pytest.mark.one_backend
def test_metrics_of_several_numbers(tmp_path):
    def train(epochs):
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, "softmax")])
        model.compile("sgd", "categorical_crossentropy", metrics=[keras.metrics.F1Score()])
        callback = ResumableTraining(tmp_path)
        return model.fit(
            np.ones((4, 3)), np.eye(2)[[0, 1, 1, 0]], epochs=epochs, verbose=0, callbacks=[callback]
        )

    before = train(1).history["f1_score"][0]
    np.testing.assert_array_equal(train(2).history["f1_score"][0], before)


@pytest.mark.one_backend
@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16", "bfloat16"])
def test_mixed_precision(train, tmp_path, policy):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        unbroken = train("unbroken", 4, monitors(tmp_path))
        train("broken", 2, monitors(tmp_path))
        resumed = train("broken", 4, monitors(tmp_path))
    finally:
        keras.config.set_dtype_policy(before)
    for mine, theirs in zip(unbroken.get_weights(), resumed.get_weights(), strict=True):
        np.testing.assert_array_equal(np.float32(theirs), np.float32(mine))
