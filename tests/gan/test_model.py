"""The game in `fit`: a step against float64 formulas, and what is saved, restored and generated."""

import keras
import numpy as np
import pytest
from keras import ops

import mhe
from gan import energies
from gan.model import GAN

array = ops.convert_to_numpy
SHAPE = (2, 2, 1)
EPSILON = 1e-3


def small_networks():
    """A dense generator with a batch norm, a discriminator with spectral norm, both with L2."""
    generator = keras.Sequential(
        [
            keras.Input((3,)),
            keras.layers.Dense(4, use_bias=False, kernel_regularizer=keras.regularizers.L2(0.1)),
            keras.layers.BatchNormalization(
                momentum=0.9, epsilon=EPSILON, center=False, scale=False
            ),
            keras.layers.Activation("tanh"),
            keras.layers.Reshape(SHAPE),
        ]
    )
    hidden = keras.layers.Dense(5, use_bias=False, kernel_regularizer=keras.regularizers.L2(0.2))
    discriminator = keras.Sequential(
        [
            keras.Input(SHAPE),
            keras.layers.Flatten(),
            mhe.layers.SpectralNorm(hidden),
            keras.layers.Activation("tanh"),
            keras.layers.Dense(1, use_bias=False),
        ]
    )
    rng = np.random.default_rng(5)
    for network in (generator, discriminator):
        for weight in network.trainable_variables:
            weight.assign(rng.normal(size=weight.shape))
    return generator, discriminator


def kernels(network):
    return [array(weight).astype("float64") for weight in network.trainable_variables]


def softplus(x):
    return np.logaddexp(0, x)


def test_one_step_against_formulas_in_float64(reference_gradient):
    generator, discriminator = small_networks()
    model = GAN(generator, discriminator, ema=0.9, seed=4)
    model.compile(keras.optimizers.SGD(0.3), keras.optimizers.SGD(0.2))
    drawn = keras.random.SeedGenerator(0)
    drawn.state.assign(model.latents.state)
    latents = [
        array(keras.random.normal((6, 3), dtype="float32", seed=drawn)).astype("float64")
        for _ in range(2)
    ]
    pixels = np.random.default_rng(2).integers(256, size=(6, *SHAPE), dtype="uint8")
    real = pixels.reshape(6, 4) / 127.5 - 1
    (dense,), (first, last) = kernels(generator), kernels(discriminator)
    # One power iteration for both sides' steps.
    u = array(discriminator.layers[1].u).astype("float64")
    v = first @ u / np.linalg.norm(first @ u)
    u = first.T @ v / np.linalg.norm(first.T @ v)

    def images(dense, latents):
        hidden = latents @ dense
        mean, variance = hidden.mean(axis=0), hidden.var(axis=0)
        return np.tanh((hidden - mean) / np.sqrt(variance + EPSILON)), mean, variance

    def logits(images, first, last):
        return np.tanh(images @ first / np.sum(first * np.outer(v, u))) @ last

    def generator_loss(dense):
        fake = logits(images(dense, latents[0])[0], first, last)
        return softplus(-fake).mean() + 0.1 * np.sum(dense**2)

    new_dense = dense - 0.3 * reference_gradient(generator_loss, dense)
    fakes, mean, variance = images(new_dense, latents[1])

    def discriminator_loss(first, last):
        losses = softplus(-logits(real, first, last)).mean()
        return losses + softplus(logits(fakes, first, last)).mean() + 0.2 * np.sum(first**2)

    new_first = first - 0.2 * reference_gradient(lambda x: discriminator_loss(x, last), first)
    new_last = last - 0.2 * reference_gradient(lambda x: discriminator_loss(first, x), last)
    moving = [np.zeros(4), np.ones(4)]
    for _, *found in (images(dense, latents[0]), (fakes, mean, variance)):
        moving = [0.9 * old + 0.1 * new for old, new in zip(moving, found, strict=True)]
    # The decay is 1/10 in the first step, whatever is asked for later.
    averages = [
        new + 0.1 * (old - new)
        for old, new in zip((dense, 0, 1), (new_dense, *moving), strict=True)
    ]

    logs = model.fit(pixels, batch_size=6, verbose=0).history
    expected = {
        "generator_loss": generator_loss(dense),
        "discriminator_loss": discriminator_loss(first, last),
        "real_logit": logits(real, first, last).mean(),
        "fake_logit": logits(fakes, first, last).mean(),
    }
    assert {name: values[0] for name, values in logs.items()} == pytest.approx(expected, rel=1e-4)
    found = [*generator.weights, *discriminator.trainable_variables, *model.average.weights]
    for one, other in zip(found, (new_dense, *moving, new_first, new_last, *averages), strict=True):
        np.testing.assert_allclose(array(one), other, rtol=2e-4, atol=2e-5)
    np.testing.assert_allclose(array(discriminator.layers[1].u), u, atol=1e-5)

    # Images come from the average, with its moving statistics.
    given = np.random.default_rng(0).standard_normal((5, 3), "float32")
    dense, mean, variance = averages
    numbers = np.tanh((given @ dense - mean) / np.sqrt(variance + EPSILON)).reshape(5, *SHAPE)
    state = array(model.latents.state)
    for latents in (5, given):
        generated = model.generate(latents, batch_size=2, seed=0)
        assert generated.dtype == "uint8"
        assert np.abs(generated - (numbers + 1) * 127.5).max() < 0.51
    assert np.array_equal(array(model.latents.state), state)
    sizes = [len(batch) for batch in model.generate_batches(given, batch_size=2)]
    assert sizes == [2, 2, 1]


@pytest.fixture
def half_precision():
    keras.config.set_dtype_policy("mixed_float16")
    yield
    keras.config.set_dtype_policy("float32")


@pytest.mark.usefixtures("half_precision")
def test_goes_on_where_it_was_saved(tmp_path):
    pixels = np.random.default_rng(2).integers(256, size=(8, *SHAPE), dtype="uint8")
    labels = np.arange(8)

    def new():
        generator, discriminator = small_networks()
        energies.attach_published(discriminator, 1e-3)
        model = GAN(generator, discriminator, loss="hinge", ema=0.5)
        model.compile()
        return model

    def state(model):
        return [array(each) for each in [*model.variables, *model.optimizer.variables]]

    model = new()
    start = state(model)
    path = tmp_path / "one.weights.h5"
    saving = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: model.save_weights(path) if epoch == 0 else None
    )
    options = {"batch_size": 4, "epochs": 2, "verbose": 0, "shuffle": False}
    model.fit(pixels, labels, callbacks=[saving], **options)
    assert int(model.optimizer.iterations) == 4
    assert all(np.isfinite(each).all() for each in state(model))
    for variable, old in zip(model.variables, start, strict=False):
        assert not np.array_equal(array(variable), old), variable.path
    # What reseeds layers at the beginning of an epoch finds the state that latents are drawn from.
    assert [each.name for each in model.variables].count("seed_generator_state") == 1

    resumed = new()
    resumed.load_weights(path)
    resumed.fit(pixels, labels, initial_epoch=1, **options)
    for one, other in zip(state(model), state(resumed), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-5)

    model.optimizer.learning_rate = 0.25
    sides = model.optimizer.generator, model.optimizer.discriminator
    assert [float(each.learning_rate) for each in sides] == [0.25, 0.25]
    model.save(tmp_path / "whole.keras")
    loaded = keras.saving.load_model(tmp_path / "whole.keras", safe_mode=True)
    for one, other in zip(state(model), state(loaded), strict=True):
        np.testing.assert_array_equal(one, other)
    assert (loaded.adversarial_loss, loaded.ema, loaded.seed) == ("hinge", 0.5, None)
    assert len(mhe.attached(loaded.discriminator)) == 1


@pytest.mark.one_backend
def test_what_is_no_game():
    generator, discriminator = small_networks()
    unbuilt = keras.Sequential([keras.layers.Dense(1)])
    two = keras.Sequential([keras.Input(SHAPE), keras.layers.Flatten(), keras.layers.Dense(2)])
    wide = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    for networks, options, message in (
        ((generator, unbuilt), {}, "`discriminator` must be a built Keras model"),
        ((discriminator, generator), {}, r"latents \(B, L\). Received: inputs \(None, 2, 2, 1\)"),
        ((generator, wide), {}, r"\(None, 2, 2, 1\) for a discriminator of \(None, 4\)"),
        ((generator, two), {}, r"\(B, 1\). Received: outputs \(None, 2\)"),
        ((generator, discriminator), {"loss": "hing"}, "softplus, hinge. Received: 'hing'"),
        ((generator, discriminator), {"ema": 1.0}, "less than 1. Received: ema=1.0"),
    ):
        with pytest.raises(ValueError, match=message):
            GAN(*networks, **options)
    model = GAN(generator, discriminator)
    for latents, message in (
        (0, "`latents` must be an integer >= 1. Received: latents=0"),
        (np.zeros((2, 4)), r"a count or an array \(N, 3\). Received: shape \(2, 4\)"),
    ):
        with pytest.raises(ValueError, match=message):
            model.generate(latents)
    one = keras.optimizers.SGD(0.1)
    with pytest.raises(ValueError, match=r"an optimizer of its own, .* Received: 'sgd' for both"):
        model.compile(one, one)
    model.compile()
    with pytest.raises(NotImplementedError, match="generate images and score them"):
        model.evaluate(np.zeros((2, *SHAPE)), verbose=0)


def test_floats_that_are_pixels_are_refused():
    model = GAN(*small_networks())
    model.compile()
    with pytest.raises(ValueError, match=r"from -1 to 1; .* Received: float32 from 0 to 255"):
        model.fit(np.linspace(0, 255, 16, dtype="float32").reshape(4, *SHAPE))


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="SavedModel is TensorFlow's")
@pytest.mark.usefixtures("weights_from_numpy")
def test_export_needs_no_call_before(tmp_path):
    import tensorflow as tf

    model = GAN(*small_networks())
    model.export(tmp_path / "gan", verbose=False)
    latents = np.random.default_rng(0).normal(size=(5, 3)).astype("float32")
    loaded = tf.saved_model.load(str(tmp_path / "gan"))  # kept, or its variables are deleted
    images = loaded.serve(latents)
    np.testing.assert_allclose(images, array(model(latents)), atol=1e-6)
