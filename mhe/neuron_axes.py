"""Which axes of a layer's kernels count its neurons."""

from typing import NamedTuple

from keras import layers


class NeuronKernel(NamedTuple):
    """A weight that holds neurons.

    Attributes:
        name: The attribute of the layer that holds the weight.
        axis: The axis, or the axes, that count the neurons; None if the weight holds none.
        regularizer: The attribute of the layer that holds the weight's regularizer, or None.
    """

    name: str
    axis: int | tuple[int, ...] | None
    regularizer: str | None

    @property
    def axes(self) -> tuple[int, ...]:
        """`axis` as a tuple, empty for None."""
        if self.axis is None:
            return ()
        return self.axis if isinstance(self.axis, tuple) else (self.axis,)


TRANSPOSED = (layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose)
DEPTHWISE = (layers.DepthwiseConv1D, layers.DepthwiseConv2D)
SEPARABLE = (layers.SeparableConv1D, layers.SeparableConv2D)

# The first row that a layer is an instance of.
_TABLE: tuple[tuple[type | tuple[type, ...], tuple[NeuronKernel, ...]], ...] = (
    (
        layers.Embedding,
        (
            NeuronKernel("embeddings", 0, "embeddings_regularizer"),
            NeuronKernel("reverse_embeddings", -1, None),
        ),
    ),
    (
        SEPARABLE,
        (
            NeuronKernel("depthwise_kernel", (-2, -1), "depthwise_regularizer"),
            NeuronKernel("pointwise_kernel", -1, "pointwise_regularizer"),
        ),
    ),
    (DEPTHWISE, (NeuronKernel("kernel", (-2, -1), "depthwise_regularizer"),)),
    (TRANSPOSED, (NeuronKernel("kernel", -2, "kernel_regularizer"),)),
    (
        layers.Layer,
        (
            NeuronKernel("kernel", -1, "kernel_regularizer"),
            NeuronKernel("recurrent_kernel", -1, "recurrent_regularizer"),
        ),
    ),
)


def neuron_kernels(layer: layers.Layer) -> tuple[NeuronKernel, ...]:
    """Returns the weights that hold neurons in layers of this type, with their neuron axes.

    A layer need not have all of them. `EinsumDense` kernels, and with them the projections of
    attention layers, count neurons along the axes that occur in the output; a kernel without
    another axis only scales its input and holds no neurons. Layers of this library name theirs in
    the class attribute `NEURONS`.

    Args:
        layer: A layer, built or not.

    Example:

    >>> [(each.name, each.axis) for each in neuron_kernels(layers.SeparableConv2D(8, 3))]
    [('depthwise_kernel', (-2, -1)), ('pointwise_kernel', -1)]
    """
    named: tuple[NeuronKernel, ...] | None = getattr(type(layer), "NEURONS", None)
    if named is not None:
        return named
    if isinstance(layer, layers.EinsumDense):
        return (NeuronKernel("kernel", _einsum_axes(layer.equation), "kernel_regularizer"),)
    return next(kernels for kinds, kernels in _TABLE if isinstance(layer, kinds))


def _einsum_axes(equation: str) -> int | tuple[int, ...] | None:
    _, kernel, output = equation.replace("->", ",").split(",")
    axes = tuple(i - len(kernel) for i, letter in enumerate(kernel) if letter in output)
    if len(axes) in (0, len(kernel)):
        return None
    return axes if len(axes) > 1 else axes[0]
