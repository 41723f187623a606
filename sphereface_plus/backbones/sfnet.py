"""The SphereFaceNets, plain as first published and with batch norm as of SphereFace-R."""

import keras
from keras import layers

from sphereface_plus.backbones import parts

# Residual units in each of the four stages. The depth counts convolutions: two a unit, and the one
# that begins a stage.
_UNITS = {
    4: (0, 0, 0, 0),
    10: (0, 1, 2, 0),
    20: (1, 2, 4, 1),
    36: (2, 4, 8, 2),
    64: (3, 8, 16, 3),
}
_FILTERS = (64, 128, 256, 512)


def sfnet(
    depth: int,
    dims: int = 512,
    input_shape: tuple[int, int, int] = (112, 96, 3),
    batch_norm: bool = False,
    width: float = 1.0,
    weight_decay: float = 5e-4,
) -> keras.Model:
    """A SphereFaceNet: 4, 10, 20, 36 or 64 convolutions of 3×3 pixels, a layer to the embedding.

    Each of four stages (64, 128, 256, 512 filters) begins with a convolution that halves the image,
    which residual units of two convolutions follow. A PReLU with one slope a channel stands after
    every convolution, that is before the addition. The kernels of residual units start normal with
    stddev 0.01, all others uniform with variance 1/fan_in; residual units have no bias.

    With batch norm, the network is SphereFace-R's: a batch norm after every convolution and after
    the embedding, no bias in front of a batch norm but the embedding's, the second PReLU of a unit
    after the addition, kernels of convolutions normal with stddev √(2/fan_out). That code has ReLUs
    where PReLUs are here.

    Args:
        depth: 4, 10, 20, 36 or 64.
        dims: Numbers of the embedding.
        input_shape: `(H, W, C)` of the faces, at least 16 pixels each way.
        batch_norm: Whether there is batch norm.
        width: Factor on every number of filters, rounded, at least one filter.
        weight_decay: λ of the term λ·‖w‖²/2, on kernels, on the slopes of PReLUs and on batch
            norm's scale and offset, not on biases.

    Returns:
        A model, not compiled, from faces that are `(x − 127.5)/128` to embeddings `(B, dims)` in
        float32.

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
    parts.check(depth, _UNITS, dims, input_shape, width, weight_decay)

    def conv(inputs, filters, name, *, first=False):
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

    def prelu(inputs, name):
        return parts.prelu(inputs, f"{name}_prelu", weight_decay)

    images = hidden = layers.Input(input_shape, name="images")
    for stage, (units, filters) in enumerate(zip(_UNITS[depth], _FILTERS, strict=True), 1):
        filters = parts.scaled(filters, width)
        name = f"conv{stage}_1"
        hidden = prelu(conv(hidden, filters, name, first=True), name)
        for unit in range(1, units + 1):
            name, last = f"conv{stage}_{2 * unit}", f"conv{stage}_{2 * unit + 1}"
            residual = prelu(conv(hidden, filters, name), name)
            residual = conv(residual, filters, last)
            if not batch_norm:
                residual = prelu(residual, last)
            hidden = layers.Add(name=f"{last}_add")([hidden, residual])
            if batch_norm:
                hidden = prelu(hidden, last)
    outputs = parts.embedding(hidden, dims, weight_decay, _xavier())
    if batch_norm:
        outputs = parts.norm(outputs, "embedding_norm", weight_decay, dtype="float32")
    return keras.Model(images, outputs, name=f"sfnet{depth}")


def _xavier():
    # Caffe's, which counts inputs alone.
    return keras.initializers.VarianceScaling(1.0, "fan_in", "uniform")
