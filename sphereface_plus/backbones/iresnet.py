"""ArcFace's improved residual networks."""

import math

import keras
from keras import layers

from mhe.types import Tensor
from sphereface_plus.backbones import parts

# Residual units in each of the four stages.
_UNITS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 14, 3), 100: (3, 13, 30, 3)}


def iresnet(
    depth: int,
    dims: int = 512,
    input_shape: tuple[int, int, int] = (112, 112, 3),
    width: float = 1.0,
    dropout: float = 0.4,
    weight_decay: float = 5e-4,
) -> keras.Model:
    """An improved ResNet of 18, 34, 50 or 100 layers.

    A 3×3 convolution (64 filters, batch norm, PReLU) and four stages (64, 128, 256, 512 filters) of
    residual units: batch norm, 3×3 convolution, batch norm, PReLU, 3×3 convolution, batch norm,
    and nothing after the addition. The second convolution of a stage's first unit halves the image,
    and its shortcut is a 1×1 convolution with batch norm. At the end batch norm, dropout, a fully
    connected layer with a bias, and a batch norm without scale. PReLUs have one slope per
    channel; kernels start normal with stddev √(2/fan_out).

    Args:
        depth: 18, 34, 50 or 100.
        dims: Size of the embedding.
        input_shape: `(H, W, C)` of the faces, at least 16 pixels each way.
        width: Factor on every number of filters, rounded, at least one filter.
        dropout: Fraction of the numbers before the fully connected layer to drop in training.
        weight_decay: λ of the term λ·‖w‖²/2, on kernels, on the slopes of PReLUs and on batch
            norm's scale and offset, not on biases.

    Returns:
        An uncompiled model from faces `(x − 127.5)/128` to embeddings `(B, dims)` in float32.

    Raises:
        ValueError: If there is no network of this depth, or another number is out of range.

    Example:

    >>> backbone = iresnet(18, dims=8, input_shape=(32, 32, 1), width=0.1)
    >>> backbone.output_shape, tuple(backbone.get_layer("stage4_unit1_conv2").kernel.shape)
    ((None, 8), (3, 3, 51, 51))

    Reference:
        Deng et al., ArcFace: Additive Angular Margin Loss for Deep Face Recognition, CVPR 2019
        (arXiv 1801.07698), section 3.1, and its published code.
    """
    stages = parts.stages(depth, _UNITS, dims, input_shape, width, weight_decay)
    if not (math.isfinite(dropout) and 0 <= dropout < 1):
        raise ValueError(f"The dropout must be at least 0 and less than 1. Received: {dropout}")

    def conv(inputs: Tensor, filters: int, size: int, name: str, strides: int = 1) -> Tensor:
        return parts.conv(
            inputs, filters, size, name, weight_decay, parts.he_normal(), strides=strides
        )

    def norm(inputs: Tensor, name: str) -> Tensor:
        return parts.norm(inputs, f"{name}_norm", weight_decay)

    def unit(inputs: Tensor, filters: int, name: str, strides: int) -> Tensor:
        hidden = conv(norm(inputs, name), filters, 3, f"{name}_conv1")
        hidden = parts.prelu(norm(hidden, f"{name}_conv1"), f"{name}_prelu", weight_decay)
        hidden = norm(conv(hidden, filters, 3, f"{name}_conv2", strides), f"{name}_conv2")
        if strides > 1:
            shortcut = f"{name}_shortcut"
            inputs = norm(conv(inputs, filters, 1, shortcut, strides), shortcut)
        return layers.Add(name=f"{name}_add")([inputs, hidden])

    images = layers.Input(input_shape, name="images")
    _, _, first = stages[0]
    hidden = norm(conv(images, first, 3, "conv1"), "conv1")
    hidden = parts.prelu(hidden, "conv1_prelu", weight_decay)
    for stage, units, filters in stages:
        for place in range(1, units + 1):
            hidden = unit(hidden, filters, f"stage{stage}_unit{place}", 2 if place == 1 else 1)
    hidden = layers.Dropout(dropout, name="dropout")(norm(hidden, "stage4"))
    outputs = parts.embedding(hidden, dims, weight_decay, parts.he_normal())
    # Its scale stays 1 as published: embeddings keep their length.
    outputs = parts.norm(outputs, "embedding_norm", weight_decay, scale=False, dtype="float32")
    return keras.Model(images, outputs, name=f"iresnet{depth}")
