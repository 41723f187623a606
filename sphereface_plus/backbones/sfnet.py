"""The SphereFaceNets, plain as first published and with batch norm as of SphereFace-R."""

import keras
from keras import layers

from mhe.types import Tensor
from sphereface_plus.backbones import parts

# Residual units in each of the four stages. The depth counts convolutions: two per unit, and the
# one at the start of each stage.
_UNITS = {
    4: (0, 0, 0, 0),
    10: (0, 1, 2, 0),
    20: (1, 2, 4, 1),
    36: (2, 4, 8, 2),
    64: (3, 8, 16, 3),
}


def sfnet(
    depth: int,
    dims: int = 512,
    input_shape: tuple[int, int, int] = (112, 96, 3),
    batch_norm: bool = False,
    width: float = 1.0,
    weight_decay: float = 5e-4,
) -> keras.Model:
    """A SphereFaceNet: 4, 10, 20, 36 or 64 3×3 convolutions, and a layer to the embedding.

    Each of the four stages (64, 128, 256, 512 filters) starts with a convolution that halves the
    image, followed by residual units of two convolutions. Every convolution is followed by a PReLU
    with one slope per channel, so in a unit it comes before the addition. The kernels of residual
    units start normal with stddev 0.01, all others uniform with variance 1/fan_in; residual units
    have no bias.

    With batch norm, the network is SphereFace-R's: a batch norm after every convolution and after
    the embedding, no bias in front of a batch norm except the embedding's, the second PReLU of a
    unit after the addition, and convolution kernels normal with stddev √(2/fan_out). The authors'
    code has ReLUs instead of these PReLUs.

    Args:
        depth: 4, 10, 20, 36 or 64.
        dims: Size of the embedding.
        input_shape: `(H, W, C)` of the faces, at least 16 pixels each way.
        batch_norm: Whether to use batch norm.
        width: Factor on every number of filters, rounded, at least one filter.
        weight_decay: λ of the term λ·‖w‖²/2, on kernels, on the slopes of PReLUs and on batch
            norm's scale and offset, not on biases.

    Returns:
        An uncompiled model from faces `(x − 127.5)/128` to embeddings `(B, dims)` in float32.

    Raises:
        ValueError: If there is no network of this depth, or another number is out of range.

    Example:

    >>> backbone = sfnet(4, dims=8, input_shape=(32, 32, 1), width=0.1)
    >>> backbone.output_shape, tuple(backbone.get_layer("conv4_1").kernel.shape)
    ((None, 8), (3, 3, 26, 51))

    Reference:
        Liu et al., SphereFace: Deep Hypersphere Embedding for Face Recognition, CVPR 2017
        (arXiv 1704.08063), table 2, and its published code; Liu et al., SphereFace Revived,
        TPAMI 2022 (arXiv 2109.05565), and its published code.
    """
    stages = parts.stages(depth, _UNITS, dims, input_shape, width, weight_decay)

    def conv(inputs: Tensor, filters: int, name: str, *, first: bool = False) -> Tensor:
        if batch_norm:
            initializer = parts.he_normal()
        else:
            initializer = _xavier() if first else keras.initializers.RandomNormal(stddev=0.01)
        outputs = parts.conv(
            inputs,
            filters,
            3,
            name,
            weight_decay,
            initializer,
            strides=2 if first else 1,
            use_bias=first and not batch_norm,
        )
        return parts.norm(outputs, f"{name}_norm", weight_decay) if batch_norm else outputs

    def prelu(inputs: Tensor, name: str) -> Tensor:
        return parts.prelu(inputs, f"{name}_prelu", weight_decay)

    def unit(inputs: Tensor, filters: int, name: str, last: str) -> Tensor:
        hidden = prelu(conv(inputs, filters, name), name)
        hidden = conv(hidden, filters, last)
        if not batch_norm:
            hidden = prelu(hidden, last)
        outputs = layers.Add(name=f"{last}_add")([inputs, hidden])
        return prelu(outputs, last) if batch_norm else outputs

    images = hidden = layers.Input(input_shape, name="images")
    for stage, units, filters in stages:
        name = f"conv{stage}_1"
        hidden = prelu(conv(hidden, filters, name, first=True), name)
        for place in range(1, units + 1):
            hidden = unit(
                hidden, filters, f"conv{stage}_{2 * place}", f"conv{stage}_{2 * place + 1}"
            )
    outputs = parts.embedding(hidden, dims, weight_decay, _xavier())
    if batch_norm:
        outputs = parts.norm(outputs, "embedding_norm", weight_decay, dtype="float32")
    return keras.Model(images, outputs, name=f"sfnet{depth}")


def _xavier() -> keras.initializers.Initializer:
    # Caffe's, which counts only inputs.
    return keras.initializers.VarianceScaling(1.0, "fan_in", "uniform")
