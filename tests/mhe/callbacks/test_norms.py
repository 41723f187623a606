"""Norms and effective learning rates in the logs, and which kernels have no scale."""

import keras
import numpy as np
import pytest

from mhe.callbacks import NormLogger, is_normalized


def network():
    images = keras.Input((6, 6, 2))
    hidden = keras.layers.Conv2D(4, 3, use_bias=False, name="normed")(images)
    hidden = keras.layers.BatchNormalization()(hidden)
    hidden = keras.layers.Flatten()(keras.layers.ReLU()(hidden))
    return keras.Model(images, keras.layers.Dense(3, name="logits")(hidden))


def test_norms_and_rates_of_every_epoch():
    model = network()
    rate = keras.optimizers.schedules.PiecewiseConstantDecay([1], [0.5, 0.25])
    model.compile(keras.optimizers.SGD(rate), "mse")
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(4, 6, 6, 2)), rng.normal(size=(4, 3))
    norms = []

    class Watch(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            kernels = [self.model.get_layer(name).kernel for name in ("normed", "logits")]
            norms.append(
                [
                    np.sqrt(np.sum(np.square(keras.ops.convert_to_numpy(k), dtype="float64")))
                    for k in kernels
                ]
            )

    history = model.fit(
        x, y, epochs=3, batch_size=4, verbose=0, callbacks=[NormLogger(), Watch()]
    ).history
    columns = [name for name in history if name.startswith(("norm/", "effective_rate/"))]
    paths = [model.get_layer(name).kernel.path for name in ("normed", "logits")]
    assert columns == [f"norm/{paths[0]}", f"effective_rate/{paths[0]}", f"norm/{paths[1]}"]
    for column, path in enumerate(paths):
        expected = [row[column] for row in norms]
        np.testing.assert_allclose(history[f"norm/{path}"], expected, rtol=1e-6)
    # After one step the schedule is at its boundary, after two beyond it.
    expected = np.array([0.5, 0.25, 0.25]) / np.array(norms)[:, 0] ** 2
    np.testing.assert_allclose(history[f"effective_rate/{paths[0]}"], expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("after", "options", "expected"),
    [
        (keras.layers.BatchNormalization, {}, True),
        (keras.layers.LayerNormalization, {"use_bias": False}, True),
        (keras.layers.LayerNormalization, {}, False),  # the bias does not scale with the kernel
        (keras.layers.BatchNormalization, {"activation": "relu"}, False),
        (keras.layers.ReLU, {}, False),
    ],
)
def test_which_kernels_have_no_scale(after, options, expected):
    layer = keras.layers.Dense(4, **options)
    model = keras.Sequential([keras.Input((3,)), layer, after(), keras.layers.Dense(2)])
    assert is_normalized(layer) is expected
    if expected:
        model.layers[1].epsilon = 1e-9  # what is added to the variance does not scale either
        x = np.random.default_rng(1).normal(size=(5, 3)).astype("float32")
        before = keras.ops.convert_to_numpy(model(x, training=True))
        layer.kernel.assign(layer.kernel * 100.0)
        again = keras.ops.convert_to_numpy(model(x, training=True))
        np.testing.assert_allclose(again, before, rtol=1e-3, atol=1e-4)


def test_a_kernel_whose_output_is_used_twice_has_a_scale():
    x = keras.Input((3,))
    layer = keras.layers.Dense(4)
    hidden = layer(x)
    keras.Model(x, keras.layers.Add()([keras.layers.BatchNormalization()(hidden), hidden]))
    assert not is_normalized(layer)


def test_a_model_without_neurons_is_refused():
    model = keras.Sequential([keras.Input((3,)), keras.layers.BatchNormalization()])
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match="NormLogger needs a model with neurons"):
        model.fit(np.ones((2, 3)), np.ones((2, 3)), verbose=0, callbacks=[NormLogger()])


def test_a_model_built_in_its_first_step_is_watched():
    model = keras.Sequential([keras.layers.Dense(4)])
    model.compile(keras.optimizers.SGD(0.0), "mse")
    x = np.ones((4, 3))
    log = model.fit(x, np.ones((4, 4)), verbose=0, callbacks=[NormLogger()]).history
    (norm,) = (values[-1] for name, values in log.items() if name.startswith("norm/"))
    assert norm == pytest.approx(np.linalg.norm(keras.ops.convert_to_numpy(model.layers[0].kernel)))
