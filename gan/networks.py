"""The published generator and discriminator, and the conversion of their images to pixels.

In both networks images are numbers from −1 to 1, x/127.5 − 1 for pixels x; see `from_pixels` and
`to_pixels`.
"""

import itertools
import math

import keras
import numpy as np
from keras import layers, ops

import mhe
from mhe.types import Tensor

# Three layers of the generator double the image, three of the discriminator halve it.
_HALVINGS = 3
# Of kernels before truncation, which leaves 0.88 of it, as in the published code.
_STDDEV = 0.02
_GENERATOR_FILTERS = (512, 256, 128, 64)
# Filters, kernel size and stride of the convolutions.
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

    A dense layer maps latents to an image of an eighth of the size with 512 channels. It is
    followed by transposed 4×4 convolutions of stride 2 with 256, 128 and 64 filters, each after a
    batch norm (momentum 0.9, ε 2e-5) and a ReLU, and a transposed 3×3 convolution of stride 1 with
    a tanh. Only the last layer has a bias, which batch norm would cancel elsewhere. Kernels start
    from a normal distribution with stddev 0.02, truncated at two stddevs, scaled with `width` as in
    `discriminator`.

    Args:
        width: Factor on every number of filters, rounded, at least one filter.
        latent_dims: Size of the latents.
        image_shape: `(H, W, C)`, with H and W multiples of 8.

    Returns:
        An uncompiled model from latents `(B, latent_dims)` to images `(B, H, W, C)` from −1 to 1 in
        float32.

    Raises:
        ValueError: If H or W is not a multiple of 8, or another number is out of range.

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
        raise ValueError(f"There must be at least one latent number. Received: {latent_dims}")
    height, columns, channels = image_shape
    first, *_, last = _GENERATOR_FILTERS
    small = (height >> _HALVINGS, columns >> _HALVINGS, _scaled(first, width))

    latents = layers.Input((latent_dims,), name="latents")
    hidden = layers.Dense(
        math.prod(small), use_bias=False, kernel_initializer=_normal(_STDDEV), name="dense"
    )(latents)
    # One feature per number, as published: this is not an image yet.
    hidden = _norm_relu(hidden, "dense")
    hidden = layers.Reshape(small, name="reshape")(hidden)
    for place, (before, filters) in enumerate(itertools.pairwise(_GENERATOR_FILTERS), 1):
        name = f"deconv{place}"
        stddev = _stddev_after(before, width)
        hidden = _deconv(hidden, _scaled(filters, width), 4, 2, name, stddev, use_bias=False)
        hidden = _norm_relu(hidden, name)
    name, stddev = f"deconv{len(_GENERATOR_FILTERS)}", _stddev_after(last, width)
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
    (3×3), 512 (4×4, stride 2) and 512 (3×3), each with a bias and a leaky ReLU of slope 0.1. There
    is no batch norm, so the logit of an image does not depend on other images. Kernels start from a
    normal distribution with stddev 0.02, truncated at two stddevs. If `width` changes the number of
    inputs of a layer, its stddev is 0.02 √(published inputs / inputs), which keeps the scale of the
    logits: without spectral norm, almost nothing would get through eight narrow layers. With
    spectral norm, the scale does not change the output, only the relative size of an optimizer
    step; all models start from the same kernels.

    Args:
        width: Factor on every number of filters, rounded, at least one filter.
        image_shape: `(H, W, C)`, with H and W multiples of 8.
        spectral_norm: Whether to divide every kernel by its spectral norm, see
            `mhe.layers.SpectralNorm`.

    Returns:
        An uncompiled model from images `(B, H, W, C)` from −1 to 1 to logits `(B, 1)` in float32,
        high for real images.

    Raises:
        ValueError: If H or W is not a multiple of 8, or another number is out of range.

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

    def normalized(layer: layers.Layer) -> layers.Layer:
        if not spectral_norm:
            return layer
        return mhe.layers.SpectralNorm(layer, name=f"{layer.name}_normalised")

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
        hidden = layers.LeakyReLU(0.1, name=f"conv{place}_relu")(normalized(conv)(hidden))
        stddev = _stddev_after(filters, width)
    hidden = layers.Flatten(data_format="channels_last", name="flatten")(hidden)
    # In float32, as the loss depends on differences of logits.
    dense = layers.Dense(
        1, use_bias=False, kernel_initializer=_normal(stddev), dtype="float32", name="logits"
    )
    return keras.Model(images, normalized(dense)(hidden), name="discriminator")


def from_pixels(images: Tensor) -> Tensor:
    """Pixels 0…255 of any integer dtype → float32 numbers −1…1; floats are returned unchanged.

    Example:

    >>> ops.convert_to_numpy(from_pixels(np.array([0, 51, 255], "uint8"))).round(4)
    array([-1. , -0.6,  1. ], dtype=float32)
    """
    if "int" not in keras.backend.standardize_dtype(images.dtype):
        return images
    return ops.cast(images, "float32") / 127.5 - 1.0


def check_range(images: np.ndarray) -> None:
    """Raises a `ValueError` if floats are pixels 0…255, which a GAN would take for −1…1.

    Example:

    >>> check_range(np.array([0.0, 255.0]))
    Traceback (most recent call last):
    ValueError: Images of floats must be from -1 to 1; pass pixels 0...255 as integers. \
Received: float64 from 0 to 255
    """
    if images.dtype.kind != "f" or not images.size:
        return
    low, high = float(np.min(images)), float(np.max(images))
    # A little more than 1 may come from resizing.
    if low < -2 or high > 2:
        raise ValueError(
            "Images of floats must be from -1 to 1; pass pixels 0...255 as integers. "
            f"Received: {images.dtype} from {low:g} to {high:g}"
        )


def to_pixels(images: np.ndarray) -> np.ndarray:
    """Numbers −1…1 → uint8 pixels, rounded and clipped.

    Example:

    >>> to_pixels(np.array([-1.0, -0.6, 1.5])).tolist()
    [0, 51, 255]
    """
    return np.rint(np.clip((images + 1.0) * 127.5, 0.0, 255.0)).astype("uint8")


def _deconv(
    inputs: Tensor,
    filters: int,
    size: int,
    strides: int,
    name: str,
    stddev: float,
    *,
    use_bias: bool,
) -> Tensor:
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


def _norm_relu(inputs: Tensor, name: str) -> Tensor:
    hidden = layers.BatchNormalization(momentum=0.9, epsilon=2e-5, name=f"{name}_norm")(inputs)
    return layers.ReLU(name=f"{name}_relu")(hidden)


def _normal(stddev: float) -> keras.initializers.Initializer:
    return keras.initializers.TruncatedNormal(stddev=stddev)


def _stddev_after(filters: int, width: float) -> float:
    """The stddev of kernels after a layer with this published number of filters."""
    return _STDDEV * math.sqrt(filters / _scaled(filters, width))


def _scaled(filters: int, width: float) -> int:
    return max(1, round(filters * width))


def _check(width: float, image_shape: tuple[int, int, int]) -> None:
    multiple = 1 << _HALVINGS
    sides = image_shape[:2]
    if len(image_shape) != 3 or min(image_shape) < 1 or any(side % multiple for side in sides):
        raise ValueError(
            f"Images must be (H, W, C), with H and W multiples of {multiple}; crop or pad others. "
            f"Received: {tuple(image_shape)}"
        )
    if not (math.isfinite(width) and width > 0):
        raise ValueError(f"The width must be a positive number. Received: {width}")
