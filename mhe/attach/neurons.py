"""Where the neurons of a model are: which weights hold them, and along which axes."""

import dataclasses
import math
from collections.abc import Iterator

import keras
from keras.layers import Layer

from mhe import keras_internals
from mhe.neuron_axes import DEPTHWISE, SEPARABLE, TRANSPOSED, neuron_kernels

ATTENTION = (keras.layers.MultiHeadAttention, keras.layers.GroupQueryAttention)
# Layers that hold neurons once they are built: unbuilt ones are missing neurons.
_KINDS = (
    *ATTENTION,
    *TRANSPOSED,
    *DEPTHWISE,
    *SEPARABLE,
    keras.layers.Conv1D,
    keras.layers.Conv2D,
    keras.layers.Conv3D,
    keras.layers.Dense,
    keras.layers.EinsumDense,
    keras.layers.Embedding,
    keras.layers.RNN,
)


@dataclasses.dataclass(frozen=True, eq=False)
class NeuronWeight:
    """A weight that holds neurons.

    Attributes:
        layer: The layer that owns the weight: the cell of a recurrent layer, the projection of an
            attention layer.
        name: The weight's own name, such as `"kernel"` or `"depthwise_kernel"`.
        variable: The Keras variable.
        axis: The axis, or the tuple of axes, that counts the neurons.
        path: A name that is unique within the model.
        slot: The attribute in which the layer keeps this weight's regularizer for its config, or
            `None`.
        parents: The layers around `layer`, the model first.
    """

    layer: Layer
    name: str
    variable: keras.Variable
    axis: int | tuple[int, ...]
    path: str
    slot: str | None = None
    parents: tuple[Layer, ...] = ()

    @property
    def shape(self) -> tuple[int, ...]:
        """The weight's shape."""
        return tuple(self.variable.shape)

    @property
    def count(self) -> int:
        """The number of neurons."""
        axes = self.axis if isinstance(self.axis, tuple) else (self.axis,)
        return math.prod(self.shape[axis] for axis in axes)

    @property
    def dims(self) -> int:
        """The number of numbers per neuron."""
        return math.prod(self.shape) // max(self.count, 1)

    @property
    def quantized(self) -> bool:
        """Whether the weight is quantized to integers, so that it cannot be trained."""
        return not keras.backend.is_float_dtype(self.variable.dtype)

    @property
    def location(self) -> str:
        """The path of names to `layer`, without the model's, joined by slashes."""
        return "/".join(layer.name for layer in (*self.parents[1:], self.layer))


def neuron_weights(model: Layer, quantized: bool = False) -> list[NeuronWeight]:
    """Lists every weight of a model that holds neurons.

    - `Dense`, `Conv1D/2D/3D` and pointwise kernels: the last axis.
    - `Conv1D/2D/3DTranspose` kernels `(..., out, in)`: the next-to-last axis.
    - Depthwise kernels `(..., in, multiplier)`: the last two axes.
    - `EinsumDense` kernels, including the projections of attention layers: the axes that occur in
      the output. A kernel with no other axis only scales its input and holds no neurons.
    - `Embedding`: the rows.
    - Cells of recurrent layers: the last axis of `kernel` and of `recurrent_kernel`.
    - Prototypes and representatives of the heads of `mhe.layers`: one neuron each.
    - Any other layer with a variable `kernel` of two or more axes: the last axis.

    Wrappers and nested models are included. Kernels quantized to integers are left out because they
    are not trained, and so are layers that are not built, see `unbuilt_layers`. With LoRA enabled
    the weight is the frozen one, without its update.

    Args:
        model: A built model or layer.
        quantized: Whether to include kernels quantized to integers.

    Returns:
        The weights in the order of the model's layers; shared weights appear once.

    Raises:
        ValueError: If the model is not built, or none of the layers inside it that would hold
            neurons is.

    Example:

    >>> import keras
    >>> model = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.SeparableConv2D(6, 3)])
    >>> for weight in neuron_weights(model):
    ...     print(weight.name, weight.shape, weight.axis, weight.count, weight.dims)
    depthwise_kernel (3, 3, 3, 1) (-2, -1) 3 9
    pointwise_kernel (1, 1, 3, 6) -1 6 3
    """
    check_built(model)
    weights: dict[int, NeuronWeight] = {}
    paths: set[str] = set()
    for layer, parents in walk(model):
        for variable, axis, slot in _kernels(layer):
            if id(variable) in weights:
                continue
            path, again = variable.path, 1
            while path in paths:
                path, again = f"{variable.path}_{again}", again + 1
            paths.add(path)
            weights[id(variable)] = NeuronWeight(
                layer, variable.name, variable, axis, path, slot, parents
            )
    return [weight for weight in weights.values() if quantized or not weight.quantized]


def walk(model: Layer) -> Iterator[tuple[Layer, tuple[Layer, ...]]]:
    """Visits a model and the layers inside it, each once, outer layers first.

    Args:
        model: A model or layer.

    Yields:
        Each layer, and the layers around it, the model first.
    """
    seen: set[int] = set()
    stack: list[tuple[Layer, tuple[Layer, ...]]] = [(model, ())]
    while stack:
        layer, parents = stack.pop()
        if id(layer) in seen:
            continue
        seen.add(id(layer))
        yield layer, parents
        stack.extend(
            (sublayer, (*parents, layer)) for sublayer in reversed(keras_internals.sublayers(layer))
        )


def holds_neurons(layer: Layer) -> bool:
    """Whether a layer itself, not a layer inside it, owns a weight that holds neurons.

    Args:
        layer: A built layer.

    Returns:
        True or False; kernels quantized to integers count, too.

    Example:

    >>> layers = keras.layers.Dense(3), keras.layers.BatchNormalization()
    >>> for layer in layers:
    ...     layer.build((None, 4))
    >>> [holds_neurons(layer) for layer in layers]
    [True, False]
    """
    return bool(_kernels(layer))


def check_built(model: Layer) -> None:
    """Raises a `ValueError` if a model is not built, or none of its layers is.

    Single layers may be unbuilt, since a subclassed model need not call all of its layers; see
    `unbuilt_layers`.

    Args:
        model: A built model or layer.

    Raises:
        ValueError: If it is not one.

    Example:

    >>> check_built(keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)]))
    """
    if not isinstance(model, Layer):
        raise ValueError(f"Expected a Keras model or layer. Received: {model!r}")
    missing = unbuilt_layers(model)
    if model.built and not (missing and not any(holds_neurons(layer) for layer, _ in walk(model))):
        return
    name = model.name if not model.built else missing[0].name
    raise ValueError(
        "The model must be built, so that it has weights: call it on a batch, or build it "
        f"with `model.build(input_shape)`, first. Received: model {model.name!r}, in which "
        f"layer {name!r} is not built"
    )


def unbuilt_layers(model: Layer) -> list[Layer]:
    """Lists the unbuilt layers inside a model that would hold neurons if they were built.

    Args:
        model: A model or layer.

    Returns:
        The layers, without those inside a layer that is listed itself.

    Example:

    >>> model = keras.Sequential([keras.layers.Dense(3, name="wide"), keras.layers.ReLU()])
    >>> [layer.name for layer in unbuilt_layers(model)]
    ['wide']
    >>> model.build((None, 4))
    >>> unbuilt_layers(model)
    []
    """
    unbuilt: dict[int, Layer] = {}
    for layer, parents in walk(model):
        outermost = not any(id(parent) in unbuilt for parent in parents)
        if outermost and not layer.built and isinstance(layer, _KINDS):
            unbuilt[id(layer)] = layer
    return list(unbuilt.values())


def _kernels(
    layer: Layer,
) -> list[tuple[keras.Variable, int | tuple[int, ...], str | None]]:
    """Lists `(variable, axis, slot)` of the weights with neurons that the layer itself owns."""
    if isinstance(layer, keras.layers.Wrapper):
        # SpectralNormalization keeps a reference to the kernel of the layer that it wraps.
        return []
    kernels = []
    for name, axis, slot in neuron_kernels(layer):
        variable = keras_internals.stored_variable(layer, name)
        if variable is None or len(variable.shape) < 2 or axis is None:
            continue
        sublayers = keras_internals.sublayers(layer)
        if any(variable is inner for sublayer in sublayers for inner in sublayer.variables):
            continue
        kernels.append((variable, axis, slot if slot in vars(layer) else None))
    return kernels
