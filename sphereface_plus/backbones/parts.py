"""What the backbones are made of: layers with the published settings, in channels-last order.

Each takes the tensor that it works on, and the name of the layer that it makes.
"""

import math
from collections.abc import Collection
from typing import Any

import keras
from keras import layers

from mhe.harness.errors import BadInput

# Four halvings leave one pixel.
_SMALLEST = 16


def conv(
    inputs: Any,
    filters: int,
    size: int,
    name: str,
    weight_decay: float,
    initializer: Any,
    *,
    strides: int = 1,
    use_bias: bool = False,
) -> Any:
    """A convolution with zeros around the image: `ceil(H / strides)` rows are left of `H`."""
    return layers.Conv2D(
        filters,
        size,
        strides=strides,
        padding="same",
        data_format="channels_last",
        use_bias=use_bias,
        kernel_initializer=initializer,
        kernel_regularizer=decay(weight_decay),
        name=name,
    )(inputs)


def prelu(inputs: Any, name: str, weight_decay: float) -> Any:
    """A PReLU with one slope a channel, 0.25 at first, as published."""
    return layers.PReLU(
        alpha_initializer=keras.initializers.Constant(0.25),
        alpha_regularizer=decay(weight_decay),
        shared_axes=[1, 2],
        name=name,
    )(inputs)


def norm(
    inputs: Any, name: str, weight_decay: float, *, scale: bool = True, dtype: Any = None
) -> Any:
    """A batch norm with the running averages and the ε of the published code."""
    return layers.BatchNormalization(
        momentum=0.9,
        epsilon=1e-5,
        scale=scale,
        beta_regularizer=decay(weight_decay),
        gamma_regularizer=decay(weight_decay) if scale else None,
        dtype=dtype,
        name=name,
    )(inputs)


def embedding(inputs: Any, dims: int, weight_decay: float, initializer: Any) -> Any:
    """The fully connected layer from all pixels to the embedding, in float32.

    In float32 for half precision would round away what tells two faces apart.
    """
    flat = layers.Flatten(data_format="channels_last", name="flatten")(inputs)
    return layers.Dense(
        dims,
        kernel_initializer=initializer,
        kernel_regularizer=decay(weight_decay),
        dtype="float32",
        name="embedding",
    )(flat)


def he_normal() -> keras.initializers.Initializer:
    """Normal kernels (not truncated) with stddev √(2/fan_out), where batch norm follows."""
    return keras.initializers.VarianceScaling(2.0, "fan_out", "untruncated_normal")


def decay(weight_decay: float) -> keras.regularizers.Regularizer | None:
    """The regularizer λ·‖w‖²/2; none for 0."""
    # Keras's L2 has no factor 1/2, the publications' weight decay does.
    return keras.regularizers.L2(weight_decay / 2) if weight_decay else None


def scaled(filters: int, width: float) -> int:
    """A number of filters times the width, rounded, at least one."""
    return max(1, round(filters * width))


def check(
    depth: int,
    depths: Collection[int],
    dims: int,
    input_shape: tuple[int, int, int],
    width: float,
    weight_decay: float,
) -> None:
    """Checks what every backbone takes.

    Raises:
        BadInput: If there is no network of this depth, or another number is out of range.

    Example:

    >>> check(5, (4, 10), 512, (112, 96, 3), 1.0, 0.0)
    Traceback (most recent call last):
        ...
    mhe.harness.errors.BadInput: The depth must be one of 4, 10. Received: 5
    """
    if depth not in depths:
        raise BadInput(f"The depth must be one of {', '.join(map(str, depths))}. Received: {depth}")
    if dims < 1:
        raise BadInput(f"The embedding must have at least one number. Received: {dims}")
    if len(input_shape) != 3 or min(input_shape[:2]) < _SMALLEST or input_shape[2] < 1:
        raise BadInput(
            f"Faces must be at least {_SMALLEST} by {_SMALLEST} pixels, (H, W, C). "
            f"Received: {tuple(input_shape)}"
        )
    if not (math.isfinite(width) and width > 0):
        raise BadInput(f"The width must be a positive number. Received: {width}")
    if not (math.isfinite(weight_decay) and weight_decay >= 0):
        raise BadInput(f"The weight decay must not be negative. Received: {weight_decay}")
