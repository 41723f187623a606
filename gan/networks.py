"""The published generator and discriminator, and the pixels that they speak of.

Images are numbers from −1 to 1 in both networks, x/127.5 − 1 of pixels x; `from_pixels` and
`to_pixels` translate.
"""

import itertools
import math
from typing import Any

import keras
import numpy as np
from keras import layers, ops

import mhe
from mhe.harness.errors import BadInput

# Three of its layers double the image in the generator, three halve it in the discriminator.
_HALVINGS = 3
# Of kernels before the tails are cut, as in the published code; 0.88 of it is left.
_STDDEV = 0.02
_GENERATOR_FILTERS = (512, 256, 128, 64)
# Filters, pixels each way and stride of the convolutions.
_DISCRIMINATOR = (
    (64, 3, 1),
    (128, 4, 2),
    (128, 3, 1),
    (256, 4, 2),
    (256, 3, 1),
    (512, 4, 2),
    (512, 3, 1),
)


def generator(
    width: float = 1.0, latent_dims: int = 128, image_shape: tuple[int, int, int] = (32, 32, 3)
) -> keras.Model:
    """The published generator: a dense layer and four transposed convolutions.

    Latent numbers go through a dense layer to an image of an eighth of the size and 512 channels,
    then through transposed 4×4 convolutions of stride 2 with 256, 128 and 64 filters, each behind a
    batch norm (momentum 0.9, ε 2e-5) and a ReLU, and through a transposed 3×3 convolution of stride
    1 and a tanh. Only the last layer has a bias: batch norm takes every other away. Kernels start
    normal with stddev 0.02, drawn anew beyond two stddevs, and with `width` as `discriminator`'s.

    Args:
        width: Factor on every number of filters, rounded, at least one filter.
        latent_dims: Numbers that an image is made from.
        image_shape: `(H, W, C)`, the sides multiples of 8.

    Returns:
        A model, not compiled, from latents `(B, latent_dims)` to images `(B, H, W, C)` from −1 to 1
        in float32.

    Raises:
        ValueError: If the sides are no multiples of 8 or another number is out of range.

    Example:

    >>> network = generator(width=0.001, latent_dims=16, image_shape=(32, 24, 1))
    >>> network.input_shape, network.output_shape
    ((None, 16), (None, 32, 24, 1))

    Reference:
        Miyato et al., Spectral Normalization for Generative Adversarial Networks, ICLR 2018
        (arXiv 1802.05957), table 3; Liu et al., Learning towards Minimum Hyperspherical Energy,
        NeurIPS 2018 (arXiv 1805.09298), section 4.4, and its published code.
    """
    _check(width, image_shape)
    if latent_dims < 1:
        raise BadInput(f"There must be at least one latent number. Received: {latent_dims}")
    height, columns, channels = image_shape
    first, *_, last = _GENERATOR_FILTERS
    small = (height >> _HALVINGS, columns >> _HALVINGS, _scaled(first, width))

    latents = layers.Input((latent_dims,), name="latents")
    hidden = layers.Dense(
        math.prod(small), use_bias=False, kernel_initializer=_normal(_STDDEV), name="dense"
    )(latents)
    # Every number by itself, as published: an image is not yet one here.
    hidden = _norm_relu(hidden, "dense")
    hidden = layers.Reshape(small, name="reshape")(hidden)
    for place, (before, filters) in enumerate(itertools.pairwise(_GENERATOR_FILTERS), 1):
        name = f"deconv{place}"
        stddev = _stddev_behind(before, width)
        filled = _deconv(hidden, _scaled(filters, width), 4, 2, name, stddev, use_bias=False)
        hidden = _norm_relu(filled, name)
    name, stddev = f"deconv{len(_GENERATOR_FILTERS)}", _stddev_behind(last, width)
    images = _deconv(hidden, channels, 3, 1, name, stddev, use_bias=True)
    images = layers.Activation("tanh", dtype="float32", name="images")(images)
    return keras.Model(latents, images, name="generator")


def discriminator(
    width: float = 1.0,
    image_shape: tuple[int, int, int] = (32, 32, 3),
    spectral_norm: bool = False,
) -> keras.Model:
    """The published discriminator: seven convolutions, and a dense layer without a bias.

    Convolutions of 64 filters (3×3), 128 (4×4, stride 2), 128 (3×3), 256 (4×4, stride 2), 256
    (3×3), 512 (4×4, stride 2) and 512 (3×3), each with a bias and before a leaky ReLU of slope 0.1.
    There is no batch norm, so that what an image gets does not depend on the others. Kernels start
    normal with stddev 0.02, drawn anew beyond two stddevs. Where `width` leaves a layer fewer or
    more inputs than published it is 0.02 √(published inputs / inputs): what reaches the logits is
    then as large as published, and otherwise almost nothing would, without spectral norm, through
    eight narrow layers. With it the scale changes no output, only how far a step of the optimizer
    goes in proportion; all models start from the same kernels.

    Args:
        width: Factor on every number of filters, rounded, at least one filter.
        image_shape: `(H, W, C)`, the sides multiples of 8.
        spectral_norm: Whether every kernel is divided by its spectral norm, see
            `mhe.layers.SpectralNorm`.

    Returns:
        A model, not compiled, from images `(B, H, W, C)` from −1 to 1 to logits `(B, 1)` in
        float32, high for real images.

    Raises:
        ValueError: If the sides are no multiples of 8 or another number is out of range.

    Example:

    >>> network = discriminator(width=0.001, image_shape=(32, 24, 1))
    >>> network.input_shape, network.output_shape
    ((None, 32, 24, 1), (None, 1))

    Reference:
        Miyato et al., Spectral Normalization for Generative Adversarial Networks, ICLR 2018
        (arXiv 1802.05957), table 3; Liu et al., Learning towards Minimum Hyperspherical Energy,
        NeurIPS 2018 (arXiv 1805.09298), section 4.4, and its published code.
    """
    _check(width, image_shape)

    def layer(inner):
        if not spectral_norm:
            return inner
        return mhe.layers.SpectralNorm(inner, name=f"{inner.name}_normalised")

    images = hidden = layers.Input(image_shape, name="images")
    stddev = _STDDEV
    for place, (filters, size, strides) in enumerate(_DISCRIMINATOR, 1):
        conv = layers.Conv2D(
            _scaled(filters, width),
            size,
            strides=strides,
            padding="same",
            data_format="channels_last",
            kernel_initializer=_normal(stddev),
            name=f"conv{place}",
        )
        hidden = layers.LeakyReLU(0.1, name=f"conv{place}_relu")(layer(conv)(hidden))
        stddev = _stddev_behind(filters, width)
    hidden = layers.Flatten(data_format="channels_last", name="flatten")(hidden)
    # In float32, for the loss goes by differences of logits.
    dense = layers.Dense(
        1, use_bias=False, kernel_initializer=_normal(stddev), dtype="float32", name="logits"
    )
    return keras.Model(images, layer(dense)(hidden), name="discriminator")


def from_pixels(images: Any) -> Any:
    """Pixels 0…255 of any integer dtype → float32 numbers −1…1; floats are left as they are.

    Example:

    >>> ops.convert_to_numpy(from_pixels(np.array([0, 51, 255], "uint8"))).round(4)
    array([-1. , -0.6,  1. ], dtype=float32)
    """
    if "int" not in keras.backend.standardize_dtype(images.dtype):
        return images
    return ops.cast(images, "float32") / 127.5 - 1.0


def to_pixels(images: np.ndarray) -> np.ndarray:
    """Numbers −1…1 → uint8 pixels, the nearest; what lies outside is cut off.

    Example:

    >>> to_pixels(np.array([-1.0, -0.6, 1.5])).tolist()
    [0, 51, 255]
    """
    return np.rint(np.clip((images + 1.0) * 127.5, 0.0, 255.0)).astype("uint8")


def _deconv(inputs, filters, size, strides, name, stddev, *, use_bias):
    return layers.Conv2DTranspose(
        filters,
        size,
        strides=strides,
        padding="same",
        data_format="channels_last",
        use_bias=use_bias,
        kernel_initializer=_normal(stddev),
        name=name,
    )(inputs)


def _norm_relu(inputs, name):
    hidden = layers.BatchNormalization(momentum=0.9, epsilon=2e-5, name=f"{name}_norm")(inputs)
    return layers.ReLU(name=f"{name}_relu")(hidden)


def _normal(stddev):
    return keras.initializers.TruncatedNormal(stddev=stddev)


def _stddev_behind(filters, width):
    """Of the kernels behind a layer that has so many filters as published."""
    return _STDDEV * math.sqrt(filters / _scaled(filters, width))


def _scaled(filters, width):
    return max(1, round(filters * width))


def _check(width, image_shape):
    multiple = 1 << _HALVINGS
    sides = image_shape[:2]
    if len(image_shape) != 3 or min(image_shape) < 1 or any(side % multiple for side in sides):
        raise BadInput(
            f"Images must be (H, W, C) with sides that are multiples of {multiple}; crop or pad "
            f"others. Received: {tuple(image_shape)}"
        )
    if not (math.isfinite(width) and width > 0):
        raise BadInput(f"The width must be a positive number. Received: {width}")
