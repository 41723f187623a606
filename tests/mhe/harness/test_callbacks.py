"""What keeps a run's folder during `fit`, and what is printed meanwhile."""

import io
import re
import shutil
import sys
import types

import keras
import numpy as np
import pytest

from mhe.harness import callbacks
from mhe.harness.callbacks import ChanceWarning, EpochSeeds, Progress, run_callbacks
from mhe.harness.run import Run


def create(folder):
    flags = {"model_name": "half_mhe", "power_s": "2", "dataset": "digits", "seed": 0}
    return Run.create(folder, "benchmarks/train.py", flags)


def without_seconds(rows):
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


OPTIMIZERS = {
    "sgd": lambda: keras.optimizers.SGD(
        keras.optimizers.schedules.PiecewiseConstantDecay([5, 11], [0.01, 0.005, 0.001]),
        momentum=0.9,
    ),
    "adam": lambda: keras.optimizers.Adam(0.05),
    "scaled": lambda: keras.optimizers.LossScaleOptimizer(
        keras.optimizers.SGD(0.01, momentum=0.9), initial_scale=8.0, dynamic_growth_steps=5
    ),
}


def fit(run, optimizer, weights_seed, *callbacks):
    """Four batches in each of 4 epochs, by layers that have states of their own."""
    keras.utils.set_random_seed(weights_seed)
    model = keras.Sequential(
        [
            keras.Input((3,)),
            keras.layers.Dense(8),
            keras.layers.BatchNormalization(),
            keras.layers.Dropout(0.5),
            keras.layers.Dense(1),
        ]
    )
    model.compile(OPTIMIZERS[optimizer](), "mse")
    x = np.random.default_rng(0).normal(size=(16, 3))
    first = run.restore(model)
    with run:
        model.fit(
            *(x, x[:, :1]),
            batch_size=4,
            shuffle=False,
            validation_data=(x, x[:, :1]),
            initial_epoch=first,
            epochs=4,
            verbose=0,
            callbacks=[*run_callbacks(run, 4, seed=3), *callbacks],
        )
    return run.rows


@pytest.mark.parametrize("optimizer", list(OPTIMIZERS))
def test_a_resumed_fit_ends_as_an_unbroken_one(tmp_path, optimizer):
    class Copy(keras.callbacks.Callback):
        """Keeps the folder as a kill within the third epoch would leave it."""

        def on_epoch_end(self, epoch, logs=None):
            if epoch == 1:
                shutil.copytree(tmp_path / "a", tmp_path / "b")

    unbroken = fit(create(tmp_path / "a"), optimizer, 1, Copy())
    broken = Run.resume(tmp_path / "b")
    assert broken.epoch == 2
    # Weights drawn from another seed: all that matters must come from the folder.
    resumed = fit(broken, optimizer, 2)
    assert len(resumed) == 4
    for one, other in zip(without_seconds(unbroken), without_seconds(resumed), strict=True):
        assert one == pytest.approx(other, rel=1e-5)
    assert len({row["loss"] for row in resumed}) == 4


def test_dropout_differs_between_epochs_and_seeds():
    layer = keras.layers.Dropout(0.5)
    model = keras.Sequential([keras.Input((64,)), layer])

    def mask(seed, epoch):
        callback = EpochSeeds(seed)
        callback.set_model(model)
        callback.on_epoch_begin(epoch)
        return keras.ops.convert_to_numpy(model(np.ones((1, 64)), training=True)).tobytes()

    assert mask(0, 1) == mask(0, 1)
    assert len({mask(0, 1), mask(0, 2), mask(1, 1)}) == 3


def test_every_generator_of_a_large_model_gets_a_seed_of_its_own():
    states = [keras.random.SeedGenerator(0).state for _ in range(1100)]
    callback = EpochSeeds(0)
    callback.set_model(types.SimpleNamespace(variables=states))
    callback.on_epoch_begin(0)
    seeds = {int(keras.ops.convert_to_numpy(state)[0]) for state in states}
    assert len(seeds) == 1100


def test_fit_must_start_where_the_run_stopped(tmp_path):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    run = create(tmp_path)
    run.record(model, {"loss": 1.0}, 1.0)
    with pytest.raises(ValueError, match="initial_epoch"):
        model.fit(np.ones((2, 3)), np.ones((2, 1)), verbose=0, callbacks=run_callbacks(run, 2))


def test_the_learning_rate_is_logged_last(tmp_path):
    logs = {"loss": 1.0}
    _, recorder, _ = run_callbacks(run := create(tmp_path), 1)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(0.25), "mse")
    recorder.set_model(model)
    recorder.on_epoch_begin(0)
    recorder.on_epoch_end(0, logs)
    assert logs == {"loss": 1.0, "lr": 0.25}
    assert list(run.rows[0]) == ["epoch", "loss", "lr", "seconds"]
    assert run.rows[0]["seconds"] < 60


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("kind", [Terminal, io.StringIO])
def test_a_bar_with_an_estimate_on_a_terminal_only(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(sys, "stdout", out := kind())
    monkeypatch.setenv("COLUMNS", "60")
    now = [100.0]
    monkeypatch.setattr("tqdm.std.time", lambda: now[0])
    monkeypatch.setattr(callbacks.tqdm, "monitor_interval", 0)
    shown = Progress(create(tmp_path), epochs=2)
    shown.set_params({"steps": 4})
    shown.on_train_begin()
    start = len(out.getvalue())
    now[0] += 50
    shown.on_train_batch_end(0)  # 50 s for an eighth of the whole
    drawn = out.getvalue()[start:]
    now[0] += 0.05
    shown.on_train_batch_end(1)  # too soon after the last to be drawn
    assert out.getvalue()[start:] == drawn
    shown.run.rows.append({"epoch": 1, "loss": 1.25, "energy/conv": 3.0, "seconds": 0.21})
    shown.on_epoch_end(0)
    shown.on_train_end()
    lines = re.split("[\r\n]", out.getvalue())
    assert [line for line in lines if "loss" in line] == ["epoch 1/2  loss 1.25  0.2 s"]
    if kind is Terminal:
        assert re.fullmatch(r"\repoch 1/2 \|\S+ +\|  12%, 05:50 left", drawn)
        # The bar is gone at the end.
        assert lines[-1] == ""
        assert lines[-2].strip() == ""
    else:
        assert out.getvalue() == "epoch 1/2  loss 1.25  0.2 s\n"


def test_the_estimate_of_a_resumed_run_is_of_what_is_left(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stdout", out := Terminal())
    now = [0.0]
    monkeypatch.setattr("tqdm.std.time", lambda: now[0])
    monkeypatch.setattr(callbacks.tqdm, "monitor_interval", 0)
    run = create(tmp_path)
    run.rows += [{"epoch": epoch, "loss": 1.0, "seconds": 9.0} for epoch in (1, 2, 3)]
    shown = Progress(run, epochs=5)
    shown.set_params({"steps": 2})
    shown.on_train_begin()
    assert "epoch 4/5" in out.getvalue()
    assert " 60%" in out.getvalue()
    now[0] = 20.0
    shown.on_train_batch_end(0)
    assert " 70%, 01:00 left" in out.getvalue()
    # What follows the batches, such as an evaluation, takes its share of the time.
    now[0] = 100.0
    run.rows.append({"epoch": 4, "loss": 1.0, "seconds": 9.0})
    shown.on_epoch_end(3)
    now[0] = 110.0
    shown.on_train_batch_end(0)
    assert "epoch 5/5" in out.getvalue()
    assert " 90%, 00:36 left" in out.getvalue()
    shown.on_train_end()


@pytest.mark.parametrize(
    ("accuracies", "epochs", "warned"),
    [
        ([0.11] * 8, 8, True),
        ([0.11, 0.11, 0.11, 0.9, 0.9, 0.9], 6, False),  # it trained after a slow start
        ([0.11, 0.11, 0.11, 0.9, 0.9, 0.1, 0.9, 0.1], 8, True),  # it trained, and lost it all
        ([0.13] * 8, 8, False),  # more than three standard deviations above
        ([0.1], 1, True),  # at the end of a short one
        ([0.1] * 3, 8, False),  # three epochs, but too few iterations
    ],
)
def test_a_run_at_chance_gets_one_warning(capsys, accuracies, epochs, warned):
    labels = np.repeat(np.arange(10), 500)
    rows = []
    for epoch, accuracy in enumerate(accuracies):
        if epoch in (0, 2, 4, 6):  # a run that is killed after every second epoch
            callback = ChanceWarning(labels, 125, epochs, base_lr=0.1, rows=list(rows))
        callback.on_epoch_end(epoch, {"accuracy": accuracy})
        rows.append({"epoch": epoch + 1, "accuracy": accuracy})
    error = capsys.readouterr().err
    assert error.count("is at chance (0.100). Try a --base_lr lower than 0.1") == warned
    assert error.count("\n") == warned


def test_chance_is_the_share_of_the_most_frequent_class():
    labels = np.array([0] * 60 + [1] * 40)
    warning = ChanceWarning(labels, steps_per_epoch=1000, epochs=9, base_lr=0.1)
    assert warning.chance == 0.6
    assert warning.limit == pytest.approx(0.6 + 3 * np.sqrt(0.6 * 0.4 / 100))
    assert warning.first_judged == 3
    assert ChanceWarning(labels, 100, 9, 0.1).first_judged == 5
    assert ChanceWarning(labels, 100, 2, 0.1).first_judged == 2
