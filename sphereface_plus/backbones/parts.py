"""What the backbones are made of: layers with the published settings, in channels-last order.

The functions take the tensor they work on and the name of the layer they make.
"""

import math
from collections.abc import Collection, Mapping, Sequence

import keras
from keras import layers

from mhe.types import Tensor

# Filters in each of the four stages.
FILTERS = (64, 128, 256, 512)
# Four halvings leave one pixel.
_SMALLEST = 16


def conv(
    inputs: Tensor,
    filters: int,
    size: int,
    name: str,
    weight_decay: float,
    initializer: keras.initializers.Initializer,
    *,
    strides: int = 1,
    use_bias: bool = False,
) -> Tensor:
    """A convolution with zeros around the image, so that `ceil(H / strides)` rows remain of `H`."""
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


def prelu(inputs: Tensor, name: str, weight_decay: float) -> Tensor:
    """A PReLU with one slope per channel, initially 0.25, as published."""
    return layers.PReLU(
        alpha_initializer=keras.initializers.Constant(0.25),
        alpha_regularizer=decay(weight_decay),
        shared_axes=[1, 2],
        name=name,
    )(inputs)


def norm(
    inputs: Tensor,
    name: str,
    weight_decay: float,
    *,
    scale: bool = True,
    dtype: str | None = None,
) -> Tensor:
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


def embedding(
    inputs: Tensor, dims: int, weight_decay: float, initializer: keras.initializers.Initializer
) -> Tensor:
    """The fully connected layer from all pixels to the embedding.

    It computes in float32: half precision would round away what tells two faces apart.
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
    """Normal kernels (not truncated) with stddev √(2/fan_out), for layers before a batch norm."""
    return keras.initializers.VarianceScaling(2.0, "fan_out", "untruncated_normal")


def decay(weight_decay: float) -> keras.regularizers.Regularizer | None:
    """The regularizer λ·‖w‖²/2; None for λ = 0."""
    # Keras's L2 has no factor 1/2, the publications' weight decay does.
    return keras.regularizers.L2(weight_decay / 2) if weight_decay else None


def stages(
    depth: int,
    units: Mapping[int, Sequence[int]],
    dims: int,
    input_shape: tuple[int, int, int],
    width: float,
    weight_decay: float,
) -> list[tuple[int, int, int]]:
    """The four stages of a backbone, after checking the arguments that all backbones share.

    Args:
        depth: Which network.
        units: The number of residual units in each stage, by depth.
        dims: Size of the embedding.
        input_shape: `(H, W, C)` of the faces.
        width: Factor on every number of filters.
        weight_decay: λ.

    Returns:
        The number of each stage, its residual units and its filters: `FILTERS` times the width,
        rounded, at least one.

    Raises:
        ValueError: If there is no network of this depth, or another number is out of range.

    Example:

    >>> stages(10, {10: (0, 1, 2, 0)}, 512, (112, 96, 3), width=0.5, weight_decay=0.0)
    [(1, 0, 32), (2, 1, 64), (3, 2, 128), (4, 0, 256)]
    >>> stages(5, {10: (0, 1, 2, 0)}, 512, (112, 96, 3), width=0.5, weight_decay=0.0)
    Traceback (most recent call last):
    ValueError: The depth must be one of 10. Received: 5
    """
    _check(depth, units, dims, input_shape, width, weight_decay)
    filters = [max(1, round(each * width)) for each in FILTERS]
    return [
        (stage, count, each)
        for stage, (count, each) in enumerate(zip(units[depth], filters, strict=True), 1)
    ]


def _check(
    depth: int,
    depths: Collection[int],
    dims: int,
    input_shape: tuple[int, int, int],
    width: float,
    weight_decay: float,
) -> None:
    if depth not in depths:
        raise ValueError(
            f"The depth must be one of {', '.join(map(str, depths))}. Received: {depth}"
        )
    if dims < 1:
        raise ValueError(f"The embedding must have at least one number. Received: {dims}")
    if len(input_shape) != 3 or min(input_shape[:2]) < _SMALLEST or input_shape[2] < 1:
        raise ValueError(
            f"Faces must be at least {_SMALLEST} by {_SMALLEST} pixels, (H, W, C). "
            f"Received: {tuple(input_shape)}"
        )
    if not (math.isfinite(width) and width > 0):
        raise ValueError(f"The width must be a positive number. Received: {width}")
    if not (math.isfinite(weight_decay) and weight_decay >= 0):
        raise ValueError(f"The weight decay must not be negative. Received: {weight_decay}")
