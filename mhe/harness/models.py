"""The networks of published image experiments: CNN-9, He et al.'s ResNets for CIFAR, and conv4.

All of them return float32 logits `(B, classes)`, take images `(B, H, W, C)` regardless of
`keras.config.image_data_format()`, and name their output layer `logits`.
"""

import math
from typing import Any

import keras
from keras import layers

from mhe.harness.errors import BadInput
from mhe.types import Tensor

ARCHITECTURES = ("cnn9", "conv4", "resnet20", "resnet32", "resnet56")

_SMALLEST = 8  # pixels: three halvings leave one
_CNN9_DECAY = 5e-4
_RESNET_DECAY = 1e-4

# The reference's running averages (decay 0.999, bias-corrected) equal Keras's at the end of its
# 42,500 steps. Keras does not correct the bias: at 0.999, or at its own default of 0.99, a run of a
# hundred steps would still be evaluated with the initial mean 0 and variance 1 mixed in.
_MOMENTUM = 0.9


def build(
    arch: str,
    input_shape: tuple[int, int, int],
    classes: int,
    width: float = 1.0,
    weight_decay: float | None = None,
) -> keras.Model:
    """Builds a network by name.

    Args:
        arch: One of `"cnn9"`, `"conv4"`, `"resnet20"`, `"resnet32"` and `"resnet56"`.
        input_shape: `(H, W, C)`, at least 8 by 8 pixels.
        classes: Number of logits.
        width: Factor on the number of filters of every layer, which is rounded to at least one.
        weight_decay: λ of the term λ·‖w‖²/2, for kernels and for the scale and offset of batch
            normalization. `None` is the published value of the network: none for conv4.

    Returns:
        The model, not compiled.

    Raises:
        BadInput: If the name is unknown or a number is out of range.

    Example:

    >>> build("cnn9", (8, 8, 3), 100, width=0.25).output_shape
    (None, 100)
    """
    if arch not in ARCHITECTURES:
        raise BadInput(
            f"The architecture must be one of {', '.join(ARCHITECTURES)}. Received: {arch}"
        )
    decay = default_decay(arch) if weight_decay is None else weight_decay
    if arch == "cnn9":
        return cnn9(input_shape, classes, width, decay)
    if arch == "conv4":
        return conv4(input_shape, classes, width, decay)
    return resnet(int(arch.removeprefix("resnet")), input_shape, classes, width, decay)


def default_decay(arch: str) -> float:
    """Returns the weight decay that was published for a network.

    Args:
        arch: As `build` takes it.

    Example:

    >>> [default_decay(arch) for arch in ("cnn9", "conv4", "resnet32")]
    [0.0005, 0.0, 0.0001]
    """
    return {"cnn9": _CNN9_DECAY, "conv4": 0.0}.get(arch, _RESNET_DECAY)


def cnn9(
    input_shape: tuple[int, int, int],
    classes: int,
    width: float = 1.0,
    weight_decay: float = _CNN9_DECAY,
) -> keras.Model:
    """The plain convolutional network of the MHE paper's CIFAR-100 experiment.

    Three stages of three 3×3 convolutions (64, 128 and 256 filters, batch normalization, ReLU),
    each followed by 2×2 max pooling; then a convolution over everything that is left (4×4 for 32×32
    images) to 256 numbers, without normalization or ReLU; then a 1×1 convolution to the classes. No
    layer has a bias. Kernels are initialized from a normal distribution that is not truncated, with
    a standard deviation of √(2/fan_in).

    The arguments and errors are those of `build`.

    Example:

    >>> model = cnn9((32, 32, 3), 100, width=0.25)
    >>> tuple(model.get_layer("embedding").kernel.shape)
    (4, 4, 64, 64)

    Reference:
        Liu et al., Learning towards Minimum Hyperspherical Energy, NeurIPS 2018
        (arXiv 1805.09298), and its published code.
    """
    _check(input_shape, classes, width, weight_decay)
    images = hidden = layers.Input(input_shape, name="images")
    for stage, filters in enumerate((64, 128, 256), 1):
        for index in range(1, 4):
            name = f"conv{stage}_{index}"
            hidden = _conv_norm(hidden, _scaled(filters, width), name, weight_decay, epsilon=1e-3)
            hidden = layers.ReLU(name=f"{name}_relu")(hidden)
        hidden = layers.MaxPooling2D(
            2, padding="same", data_format="channels_last", name=f"pool{stage}"
        )(hidden)
    left = hidden.shape[1:3]
    hidden = _conv(hidden, _scaled(256, width), left, "embedding", weight_decay, padding="valid")
    logits = _conv(hidden, classes, 1, "logits", weight_decay, dtype="float32")
    logits = layers.Flatten(data_format="channels_last", dtype="float32", name="flatten")(logits)
    return keras.Model(images, logits, name="cnn9")


def conv4(
    input_shape: tuple[int, int, int],
    classes: int,
    width: float = 1.0,
    weight_decay: float = 0.0,
) -> keras.Model:
    """The small network of the few-shot experiments on Omniglot.

    Four blocks of a 3×3 convolution (64 filters), batch normalization, ReLU and 2×2 max pooling,
    which reduce 28×28 pixels to 64 numbers; then a dense layer with a bias. A block whose image is
    one pixel high or wide does not pool. Kernels are initialized as in `cnn9`.

    The arguments and errors are those of `build`.

    Example:

    >>> conv4((28, 28, 1), 964).get_layer("embedding").output.shape
    (None, 64)

    Reference:
        Vinyals et al., Matching Networks for One Shot Learning, NeurIPS 2016 (arXiv 1606.04080),
        section 4.1.1.
    """
    _check(input_shape, classes, width, weight_decay)
    images = hidden = layers.Input(input_shape, name="images")
    for block in range(1, 5):
        name = f"conv{block}"
        hidden = _conv_norm(hidden, _scaled(64, width), name, weight_decay, epsilon=1e-3)
        hidden = layers.ReLU(name=f"{name}_relu")(hidden)
        if min(hidden.shape[1:3]) > 1:
            hidden = layers.MaxPooling2D(2, data_format="channels_last", name=f"pool{block}")(
                hidden
            )
    hidden = layers.Flatten(data_format="channels_last", name="embedding")(hidden)
    return keras.Model(images, _dense_logits(hidden, classes, weight_decay), name="conv4")


def resnet(
    depth: int,
    input_shape: tuple[int, int, int],
    classes: int,
    width: float = 1.0,
    weight_decay: float = _RESNET_DECAY,
) -> keras.Model:
    """He et al.'s residual network for CIFAR, of depth 6n + 2.

    A 3×3 convolution, three stages of n blocks of two 3×3 convolutions (16, 32 and 64 filters,
    batch normalization after each, ReLU), global average pooling and a dense layer with a bias.
    Where a stage halves the image, the shortcut is the paper's option A: every second pixel, zeros
    for the new channels, no parameters. Kernels are initialized as in `cnn9`.

    `depth` is the number of layers with a kernel; 20, 32, 56 and any other 6n + 2 are valid. The
    other arguments, and errors, are those of `build`.

    Example:

    >>> resnet(20, (32, 32, 3), 10).get_layer("logits").units
    10

    Reference:
        He et al., Deep Residual Learning for Image Recognition, CVPR 2016 (arXiv 1512.03385),
        section 4.2.
    """
    _check(input_shape, classes, width, weight_decay)
    if depth < 8 or (depth - 2) % 6:
        raise BadInput(f"The depth of a CIFAR ResNet must be 6n + 2, n >= 1. Received: {depth}")

    def conv_norm(inputs: Tensor, filters: int, name: str, strides: int = 1) -> Tensor:
        return _conv_norm(inputs, filters, name, weight_decay, epsilon=1e-5, strides=strides)

    images = layers.Input(input_shape, name="images")
    hidden = conv_norm(images, _scaled(16, width), "conv1")
    hidden = layers.ReLU(name="conv1_relu")(hidden)
    for stage, filters in enumerate((16, 32, 64), 1):
        filters = _scaled(filters, width)
        for block in range(1, (depth - 2) // 6 + 1):
            name = f"stage{stage}_block{block}"
            strides = 2 if stage > 1 and block == 1 else 1
            residual = conv_norm(hidden, filters, f"{name}_conv1", strides)
            residual = layers.ReLU(name=f"{name}_conv1_relu")(residual)
            residual = conv_norm(residual, filters, f"{name}_conv2")
            if strides > 1:
                hidden = IdentityShortcut(filters, strides, name=f"{name}_shortcut")(hidden)
            hidden = layers.Add(name=f"{name}_add")([hidden, residual])
            hidden = layers.ReLU(name=f"{name}_relu")(hidden)
    hidden = layers.GlobalAveragePooling2D(data_format="channels_last", name="embedding")(hidden)
    logits = _dense_logits(hidden, classes, weight_decay)
    return keras.Model(images, logits, name=f"resnet{depth}")


@keras.saving.register_keras_serializable(package="mhe")
class IdentityShortcut(layers.Layer):
    """Option A of He et al. 2016: takes every `strides`-th pixel and fills new channels with zeros.

    Args:
        channels: Channels of the output, at least those of the input.
        strides: Step between the pixels that are kept.
        **kwargs: Keyword arguments of `keras.layers.Layer`.

    Returns:
        `(B, ceil(H / strides), ceil(W / strides), channels)` for an input `(B, H, W, C)`.

    Example:

    >>> import numpy as np
    >>> outputs = IdentityShortcut(32, strides=2)(np.ones((1, 8, 8, 16), "float32"))
    >>> tuple(outputs.shape)
    (1, 4, 4, 32)
    """

    def __init__(self, channels: int, strides: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.channels = channels
        self.strides = strides

    def call(self, inputs: Tensor) -> Tensor:
        kept = inputs[:, :: self.strides, :: self.strides, :]
        new = self.channels - inputs.shape[-1]
        return keras.ops.pad(kept, [[0, 0], [0, 0], [0, 0], [0, new]])

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        batch, height, width, _ = input_shape
        steps = [size and -(-size // self.strides) for size in (height, width)]
        return (batch, *steps, self.channels)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "channels": self.channels, "strides": self.strides}


def _conv(
    inputs: Tensor,
    filters: int,
    size: int | tuple[int, int],
    name: str,
    weight_decay: float,
    *,
    strides: int = 1,
    padding: str = "same",
    dtype: str | None = None,
) -> Tensor:
    return layers.Conv2D(
        filters,
        size,
        strides=strides,
        padding=padding,
        data_format="channels_last",
        use_bias=False,
        kernel_initializer=_he_normal(),
        kernel_regularizer=_decay(weight_decay),
        dtype=dtype,
        name=name,
    )(inputs)


def _conv_norm(
    inputs: Tensor,
    filters: int,
    name: str,
    weight_decay: float,
    *,
    epsilon: float,
    strides: int = 1,
) -> Tensor:
    outputs = _conv(inputs, filters, 3, name, weight_decay, strides=strides)
    return layers.BatchNormalization(
        momentum=_MOMENTUM,
        epsilon=epsilon,
        beta_regularizer=_decay(weight_decay),
        gamma_regularizer=_decay(weight_decay),
        name=f"{name}_norm",
    )(outputs)


def _dense_logits(inputs: Tensor, classes: int, weight_decay: float) -> Tensor:
    return layers.Dense(
        classes,
        kernel_initializer=_he_normal(),
        kernel_regularizer=_decay(weight_decay),
        dtype="float32",
        name="logits",
    )(inputs)


def _he_normal() -> keras.initializers.Initializer:
    # `HeNormal` is truncated at two standard deviations; the published kernels were not.
    return keras.initializers.VarianceScaling(2.0, "fan_in", "untruncated_normal")


def _decay(weight_decay: float) -> keras.regularizers.Regularizer | None:
    # Keras's L2 has no factor 1/2; the published weight decay does.
    return keras.regularizers.L2(weight_decay / 2) if weight_decay else None


def _scaled(filters: int, width: float) -> int:
    return max(1, round(filters * width))


def _check(input_shape: tuple[int, ...], classes: int, width: float, weight_decay: float) -> None:
    if len(input_shape) != 3 or min(input_shape[:2]) < _SMALLEST or input_shape[2] < 1:
        raise BadInput(
            f"Images must be (H, W, C) and at least {_SMALLEST} by {_SMALLEST} pixels. "
            f"Received: {tuple(input_shape)}"
        )
    if classes < 1:
        raise BadInput(f"There must be at least one class. Received: {classes}")
    if not (math.isfinite(width) and width > 0):
        raise BadInput(f"The width must be a positive number. Received: {width}")
    if not (math.isfinite(weight_decay) and weight_decay >= 0):
        raise BadInput(f"The weight decay must not be negative. Received: {weight_decay}")
