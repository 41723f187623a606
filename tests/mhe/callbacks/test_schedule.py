"""StrengthSchedule: the factor of every step, one trace, and what it does to training."""

import math

import keras
import numpy as np
import pytest
from keras import layers, ops

import mhe
from mhe import MHE, StrengthSchedule
from mhe.regularizers import MinimalAngle

pytestmark = pytest.mark.usefixtures("weights_from_numpy")
X, Y = np.ones((8, 9), "float32"), np.ones((8, 2), "float32")


class Counted(MHE):
    """Counts its evaluations: as many as traces where a step is compiled."""

    evaluations = 0

    def value(self, x):
        Counted.evaluations += 1
        return super().value(x)


def number(tensor):
    return float(ops.convert_to_numpy(tensor))


def mlp(regularizer=None, **options):
    hidden = layers.Dense(10, kernel_regularizer=regularizer, name="hidden")
    model = keras.Sequential([keras.Input((9,)), hidden, layers.Dense(2, name="logits")])
    model.compile(keras.optimizers.SGD(0.1, **options), "mse")
    return model


class Recorder:
    """A schedule that remembers the steps it was asked for."""

    def __init__(self):
        self.steps = []

    def __call__(self, step):
        self.steps.append(step)
        return step / 10


def fit(model, schedule, epochs=1, batch_size=4):
    callbacks = [schedule] if isinstance(schedule, keras.callbacks.Callback) else []
    return model.fit(
        X, Y, epochs=epochs, batch_size=batch_size, shuffle=False, verbose=0, callbacks=callbacks
    )


def test_steps_go_on_and_are_traced_once(tmp_path):
    model = mlp()
    fit(model, None)
    mhe.attach(model, Counted(2.0))
    Counted.evaluations = 0
    recorder = Recorder()
    for _ in range(2):
        fit(model, StrengthSchedule(recorder), epochs=2)
    assert recorder.steps == list(range(2, 10))
    steps = 1 if keras.backend.backend() in ("jax", "tensorflow") else 8
    assert Counted.evaluations == 2 * steps
    plain = [number(MHE(2.0)(each.kernel)) for each in model.layers]
    assert [number(loss) for loss in model.losses] == pytest.approx([0.9 * e for e in plain])
    # The file has neither the variable nor the factor, and steps go on from it.
    assert len(model.weights) == 4
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(
        tmp_path / "model.keras", custom_objects={"Counted": Counted}, safe_mode=True
    )
    assert [number(loss) for loss in loaded.losses] == pytest.approx(plain)
    again = Recorder()
    fit(loaded, StrengthSchedule(again))
    assert again.steps == [10, 11]


def test_training_is_that_at_the_scaled_strength():
    """A constant factor equals a strength; a factor of 0 no regularizer at all."""
    weights = mlp().get_weights()
    ends = {}
    for name, regularizer, schedule in (
        ("half", MHE(2.0), StrengthSchedule(lambda step: 0.5)),
        ("one", MHE(1.0), None),
        ("off", mhe.Sum(MHE(2.0), MinimalAngle(1.0)), StrengthSchedule.off_after(0)),
        ("none", None, None),
    ):
        model = mlp(regularizer)
        model.set_weights(weights)
        fit(model, schedule, epochs=2)
        ends[name] = model.get_weights()[0]
    np.testing.assert_allclose(ends["half"], ends["one"], rtol=1e-5)
    np.testing.assert_allclose(ends["off"], ends["none"], rtol=1e-5)
    assert np.abs(ends["one"] - ends["none"]).max() > 1e-3


def test_others_keep_their_strength():
    both = mhe.Sum(MHE(2.0), keras.regularizers.L2(0.1))
    model = mlp(both)
    fit(model, StrengthSchedule(lambda step: 0.0))
    (loss,) = model.losses
    kernel = model.layers[0].kernel
    assert number(loss) == pytest.approx(number(keras.regularizers.L2(0.1)(kernel)))


def test_gradient_accumulation():
    recorder = Recorder()
    model = mlp(MHE(), gradient_accumulation_steps=2)
    fit(model, StrengthSchedule(recorder), epochs=2, batch_size=2)
    assert recorder.steps == [0, 0, 1, 1, 2, 2, 3, 3]


@pytest.mark.one_backend
def test_epochs_and_keras_schedules():
    recorder = Recorder()
    model = mlp(MHE())
    fit(model, StrengthSchedule(recorder, by="epoch"), epochs=3)
    assert recorder.steps == [0, 1, 2]
    decay = keras.optimizers.schedules.PolynomialDecay(1.0, 20, 0.0)
    fit(model, StrengthSchedule(decay))
    assert number(model.layers[0].kernel.regularizer.scale) == pytest.approx(1 - 7 / 20)
    ramp = StrengthSchedule.warm_up(4, by="epoch")
    assert ramp.by == "epoch"


@pytest.mark.one_backend
@pytest.mark.parametrize("factor", [-0.5, math.nan, math.inf, True, np.bool_(True), "1", None])
def test_bad_factors_are_refused_at_their_step(factor):
    model = mlp(MHE())
    words = r"`schedule` must return a finite number >= 0\. Received: .* at step 1$"
    with pytest.raises(ValueError, match=words):
        fit(model, StrengthSchedule(lambda step: factor if step == 1 else 1.0))
    assert int(model.optimizer.iterations) == 1


@pytest.mark.one_backend
def test_bad_input_is_named():
    with pytest.raises(ValueError, match=r"`schedule` must be a function.*Received: schedule=0\.5"):
        StrengthSchedule(0.5)
    with pytest.raises(
        ValueError, match=r'`by` must be "step" or "epoch"\. Received: by=\'batch\''
    ):
        StrengthSchedule(float, by="batch")
    with pytest.raises(ValueError, match=r"`steps` must be an integer >= 1\. Received: steps=0"):
        StrengthSchedule.warm_up(0)
    model = mlp("l2")
    with pytest.raises(ValueError, match=r"call `mhe.attach` first\. Received: model="):
        fit(model, StrengthSchedule(float))
    model = mlp(MHE())
    model.optimizer = None
    callback = StrengthSchedule(float)
    callback.set_model(model)
    callback.on_train_begin()
    with pytest.raises(ValueError, match=r'needs by="epoch"\. Received: model='):
        callback.on_epoch_begin(0)
