"""EnergyLogger: the numbers it logs, where they appear, and the options."""

import itertools
import math

import keras
import numpy as np
import pytest

import mhe
from mhe.callbacks import EnergyLogger

pytestmark = pytest.mark.usefixtures("weights_from_numpy")


def network():
    """Layers whose neurons lie along three different axes."""
    return keras.Sequential(
        [
            keras.Input((6, 6, 2)),
            keras.layers.DepthwiseConv2D(3, depth_multiplier=2, name="depthwise"),
            keras.layers.Conv2DTranspose(3, 2, name="transposed"),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(4, name="logits"),
        ]
    )


def neurons(model):
    """The neurons of `network` as rows, by layer."""
    depthwise, transposed, logits = (
        keras.ops.convert_to_numpy(model.get_layer(name).weights[0])
        for name in ("depthwise", "transposed", "logits")
    )
    return {
        "depthwise": depthwise.transpose(2, 3, 0, 1).reshape(4, -1),
        "transposed": transposed.transpose(2, 0, 1, 3).reshape(3, -1),
        "logits": logits.T,
    }


def fit(model, *callbacks, epochs=1):
    model.compile(keras.optimizers.SGD(0.1), "mse")
    x = np.random.default_rng(0).normal(size=(8, 6, 6, 2))
    history = model.fit(x, np.ones((8, 4)), epochs=epochs, verbose=0, callbacks=list(callbacks))
    return history.history


def logged(model, logger):
    """What an epoch that trains nothing logs, in the form of a history."""
    logs = {}
    logger.set_model(model)
    logger.on_train_begin()
    logger.on_epoch_end(0, logs)
    return {name: [value] for name, value in logs.items()}


def by_layer(log, prefix="energy/"):
    """Values of the last epoch, by the layer's name."""
    return {
        name.removeprefix(prefix).split("/")[-2]: values[-1]
        for name, values in log.items()
        if name.startswith(prefix)
    }


@pytest.fixture
def expected(reference_energy):
    """The energy of each layer of `network` in float64."""

    def energies(model, s=2, distance="euclidean", space="full"):
        by_name = neurons(model).items()
        return {name: reference_energy(rows, s, distance, space) for name, rows in by_name}

    return energies


def test_logs_the_energy_of_each_layer_after_the_epoch(expected):
    model = network()
    log = fit(model, EnergyLogger(), epochs=2)
    # The last epoch's numbers belong to the weights as `fit` left them, on every backend.
    assert by_layer(log) == pytest.approx(expected(model), rel=1e-5)
    mean = np.mean(list(expected(model).values()))
    assert log["energy"][-1] == pytest.approx(mean, rel=1e-5)
    assert log["energy"][0] != log["energy"][1]


def test_the_energy_can_be_chosen(expected):
    model = network()
    log = logged(model, EnergyLogger(0, "angle", "half"))
    assert by_layer(log) == pytest.approx(expected(model, 0, "angle", "half"), rel=1e-5)


def test_callbacks_after_it_see_the_energies():
    seen = []

    class Reader(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            seen.append(dict(logs))

    before, after = Reader(), Reader()
    log = fit(network(), before, EnergyLogger(), after)
    assert "energy" not in seen[0]
    assert seen[1]["energy"] == log["energy"][0]
    assert isinstance(seen[1]["energy"], float)


def test_early_stopping_can_watch_the_energy():
    stopping = keras.callbacks.EarlyStopping("energy", mode="min", patience=1, min_delta=1e9)
    log = fit(network(), EnergyLogger(), stopping, epochs=5)
    assert len(log["energy"]) == 2


def test_layers_are_selected_as_attach_selects_them():
    model = network()
    assert by_layer(logged(model, EnergyLogger(layers="logits"))).keys() == {"logits"}
    chosen = EnergyLogger(layers=["^trans", keras.layers.Dense])
    assert by_layer(logged(model, chosen)).keys() == {"transposed", "logits"}


def test_attached_regularizers_are_logged_by_name():
    model = network()
    head = mhe.regularizers.MinimalAngle(3.0)
    mhe.attach(model, mhe.Sum("l2", mhe.regularizers.Uniformity(0.5)), head=head)
    log = fit(model, EnergyLogger(regularizers=["Uniformity", "MinimalAngle", "L2"]))
    rows = neurons(model)
    values = by_layer(log, "Uniformity/")
    assert values == pytest.approx(
        {
            name: float(mhe.regularizers.uniformity(rows[name], axis=0))
            for name in ("depthwise", "transposed")
        },
        rel=1e-5,
    )
    assert log["Uniformity"][-1] == pytest.approx(np.mean(list(values.values())))
    angle = float(mhe.regularizers.minimal_angle(rows["logits"], axis=0))
    assert by_layer(log, "MinimalAngle/") == pytest.approx({"logits": -angle}, rel=1e-5)
    l2 = 0.01 * np.sum(rows["transposed"] ** 2)
    assert by_layer(log, "L2/")["transposed"] == pytest.approx(l2, rel=1e-5)


@pytest.mark.one_backend
def test_regularizers_must_be_there():
    model = network()
    mhe.attach(model, mhe.MHE())
    with pytest.raises(ValueError, match=r"which has MHE\. Received: 'Uniformity'"):
        logged(model, EnergyLogger(regularizers=["Uniformity"]))
    with pytest.raises(ValueError, match=r"a list of class names\. Received: regularizers='MHE'"):
        EnergyLogger(regularizers="MHE")


def test_angles_are_in_radians():
    model = network()
    log = logged(model, EnergyLogger(angles=True))
    for name, rows in neurons(model).items():
        units = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        angles = [math.acos(u @ v) for u, v in itertools.combinations(units, 2)]
        assert by_layer(log, "angle/min/")[name] == pytest.approx(min(angles), rel=1e-5)
        assert by_layer(log, "angle/mean/")[name] == pytest.approx(np.mean(angles), rel=1e-5)


def test_a_single_neuron_has_no_energy_and_no_angle():
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1, name="one")])
    log = logged(model, EnergyLogger(angles=True))
    assert log["energy"] == [0.0]
    assert not any(name.startswith("angle") for name in log)


def test_sixteen_bit_weights_keep_their_digits(expected):
    keras.config.set_dtype_policy("bfloat16")
    try:
        model = network()
    finally:
        keras.config.set_dtype_policy("float32")
    assert by_layer(logged(model, EnergyLogger())) == pytest.approx(expected(model), rel=1e-4)


@pytest.mark.parametrize(
    "options", [{"s": -1}, {"distance": "cosine"}, {"space": "quarter"}], ids=str
)
def test_unknown_options_are_refused_at_once(options):
    with pytest.raises(ValueError, match="Received: "):
        EnergyLogger(**options)


def test_a_filter_that_matches_nothing_is_refused():
    with pytest.raises(ValueError, match="No layer with neurons matches"):
        logged(network(), EnergyLogger(layers="missing"))


def test_a_model_without_neurons_is_refused():
    model = keras.Sequential([keras.Input((4,)), keras.layers.BatchNormalization()])
    with pytest.raises(ValueError, match="needs a model with neurons"):
        logged(model, EnergyLogger())


def test_a_model_built_in_its_first_step_is_watched():
    model = keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(4, name="late")])
    log = fit(model, EnergyLogger())
    assert list(by_layer(log)) == ["late"]
