"""The published networks, layer by layer."""

import numpy as np
import pytest
from keras import layers, ops

import mhe
from gan import networks

pytestmark = pytest.mark.one_backend


def kernels(network, kind):
    """Shape and stride of the layers of a kind, and whether they have a bias."""
    return [
        (tuple(layer.kernel.shape), getattr(layer, "strides", (1, 1))[0], layer.use_bias)
        for layer in network.layers
        if type(layer) is kind
    ]


def test_published_networks():
    generator, discriminator = networks.generator(), networks.discriminator()
    assert kernels(generator, layers.Dense) == [((128, 8192), 1, False)]
    assert kernels(generator, layers.Conv2DTranspose) == [
        ((4, 4, 256, 512), 2, False),
        ((4, 4, 128, 256), 2, False),
        ((4, 4, 64, 128), 2, False),
        ((3, 3, 3, 64), 1, True),
    ]
    assert kernels(discriminator, layers.Conv2D) == [
        ((3, 3, 3, 64), 1, True),
        ((4, 4, 64, 128), 2, True),
        ((3, 3, 128, 128), 1, True),
        ((4, 4, 128, 256), 2, True),
        ((3, 3, 256, 256), 1, True),
        ((4, 4, 256, 512), 2, True),
        ((3, 3, 512, 512), 1, True),
    ]
    assert kernels(discriminator, layers.Dense) == [((8192, 1), 1, False)]
    assert (generator.output_shape, discriminator.output_shape) == ((None, 32, 32, 3), (None, 1))
    kinds = [type(layer).__name__ for layer in generator.layers]
    assert kinds[1:5] == ["Dense", "BatchNormalization", "ReLU", "Reshape"]
    assert kinds[5:] == ["Conv2DTranspose", "BatchNormalization", "ReLU"] * 3 + [
        "Conv2DTranspose",
        "Activation",
    ]
    for network in (generator, discriminator):
        for weight in network.trainable_variables:
            if weight.name == "kernel":
                values = ops.convert_to_numpy(weight)
                # On PyTorch Keras lets one of some 200,000 numbers pass.
                assert np.mean(np.abs(values) > 0.04) <= 5e-5
                # What cutting a normal distribution at two stddevs leaves of its stddev.
                if values.size > 50_000:
                    assert values.std() == pytest.approx(0.02 * 0.8796, rel=0.01)


def test_kernels_of_narrow_networks_make_up_for_their_inputs():
    for network, first in (
        (networks.generator(0.25), "dense"),
        (networks.discriminator(0.25), "conv1"),
    ):
        for layer in network.layers:
            if hasattr(layer, "kernel"):
                # The images and the latents are as published; filters are a quarter.
                factor = 1 if layer.name == first else 2
                values = ops.convert_to_numpy(layer.kernel)
                assert np.mean(np.abs(values) > 0.04 * factor) <= 5e-5
                assert values.std() == pytest.approx(0.02 * 0.8796 * factor, rel=0.1), layer.name


def test_other_sizes_and_spectral_norm():
    latents = np.random.default_rng(0).normal(size=(2, 5)).astype("float32")
    images = networks.generator(0.02, 5, (16, 24, 1))(latents)
    assert tuple(images.shape) == (2, 16, 24, 1)
    assert np.abs(ops.convert_to_numpy(images)).max() <= 1
    plain = networks.discriminator(0.02, (16, 24, 1))
    normed = networks.discriminator(0.02, (16, 24, 1), spectral_norm=True)
    wrapped = [layer for layer in normed.layers if isinstance(layer, mhe.layers.SpectralNorm)]
    assert len(wrapped) == 8
    for layer, source in zip(
        wrapped, [layer for layer in plain.layers if hasattr(layer, "kernel")], strict=True
    ):
        layer.layer.set_weights(source.get_weights())
        source.kernel.assign(source.kernel / layer.sigma)
    found, expected = (ops.convert_to_numpy(model(images)) for model in (normed, plain))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-7)


def test_pixels():
    pixels = np.arange(256, dtype="uint8")
    numbers = ops.convert_to_numpy(networks.from_pixels(pixels))
    np.testing.assert_allclose(numbers, pixels.astype("float64") / 127.5 - 1, atol=1e-6)
    assert np.array_equal(networks.to_pixels(numbers), pixels)
    assert networks.from_pixels(numbers) is numbers


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: networks.generator(image_shape=(28, 28, 1)), r"multiples of 8; .*\(28, 28, 1\)"),
        (lambda: networks.discriminator(image_shape=(32, 32)), r"multiples of 8; .*\(32, 32\)"),
        (lambda: networks.discriminator(image_shape=(0, 32, 3)), r"multiples of 8; .*\(0, 32, 3\)"),
        (lambda: networks.generator(width=0), "width must be a positive number. Received: 0"),
        (lambda: networks.generator(latent_dims=0), "at least one latent number. Received: 0"),
    ],
    ids=range(5),
)
def test_what_does_not_fit(make, message):
    with pytest.raises(ValueError, match=message):
        make()
