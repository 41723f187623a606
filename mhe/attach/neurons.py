"""Where the neurons of a model are: which weights of which layers hold them, and along which axes.

A neuron is one slice of a weight. What counts as one differs from layer to layer (the last axis of
a `Dense` kernel, the last two of a depthwise kernel, the rows of an `Embedding`), and this file is
the one place that knows.
"""

import dataclasses
import math
from collections.abc import Iterator

import keras
from keras.layers import Layer

ATTENTION = (keras.layers.MultiHeadAttention, keras.layers.GroupQueryAttention)
_TRANSPOSED = (
    keras.layers.Conv1DTranspose,
    keras.layers.Conv2DTranspose,
    keras.layers.Conv3DTranspose,
)
_DEPTHWISE = (keras.layers.DepthwiseConv1D, keras.layers.DepthwiseConv2D)
_SEPARABLE = (keras.layers.SeparableConv1D, keras.layers.SeparableConv2D)
# They hold neurons once they are built, so where one is not, neurons are missing.
_KINDS = (
    *ATTENTION,
    *_TRANSPOSED,
    *_DEPTHWISE,
    *_SEPARABLE,
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
        path: A name that no other weight of the model has.
        slot: The attribute in which the layer keeps the regularizer of this weight for its config,
            `None` where it has no such attribute.
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
        """How many neurons the weight holds."""
        axes = self.axis if isinstance(self.axis, tuple) else (self.axis,)
        return math.prod(self.shape[axis] for axis in axes)

    @property
    def dims(self) -> int:
        """How many numbers each neuron has."""
        return math.prod(self.shape) // max(self.count, 1)

    @property
    def location(self) -> str:
        """The names of the layers that lead to `layer`, without the model's, joined by slashes."""
        return "/".join(layer.name for layer in (*self.parents[1:], self.layer))


def neuron_weights(model: Layer, quantized: bool = False) -> list[NeuronWeight]:
    """Lists every weight of a model that holds neurons.

    - `Dense`, `Conv1D/2D/3D` and pointwise kernels: the last axis.
    - `Conv1D/2D/3DTranspose` kernels `(..., out, in)`: the last axis but one.
    - Depthwise kernels `(..., in, multiplier)`: the last two axes.
    - `EinsumDense` kernels, and with them the projections of attention layers: the axes that occur
      in the output. A kernel with no other axis only scales its input and holds no neurons.
    - `Embedding`: the rows.
    - Cells of recurrent layers: the last axis of `kernel` and of `recurrent_kernel`.
    - Any other layer with a variable `kernel` of two or more axes: the last axis.

    Wrappers and nested models are looked into. Kernels quantized to integers are left out: nothing
    trains them. Layers that are not built have no weights and are left out, see `unbuilt_layers`.
    With LoRA enabled the weight is the frozen one beneath, without its update.

    Args:
        model: A built model or layer.
        quantized: Whether to list kernels quantized to integers too.

    Returns:
        The weights in the order of the model's layers, a weight that several layers share once.

    Raises:
        ValueError: If the model is not built, or no layer inside it that would hold neurons is.

    Example:

    >>> import keras, mhe.attach.neurons
    >>> model = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.SeparableConv2D(6, 3)])
    >>> for weight in mhe.attach.neurons.neuron_weights(model):
    ...     print(weight.name, weight.shape, weight.axis, weight.count, weight.dims)
    depthwise_kernel (3, 3, 3, 1) (-2, -1) 3 9
    pointwise_kernel (1, 1, 3, 6) -1 6 3
    """
    check_built(model)
    found, seen, paths = [], set(), set()
    for layer, parents in walk(model):
        for variable, axis, slot in _kernels(layer):
            is_float = keras.backend.is_float_dtype(variable.dtype)
            if id(variable) in seen or not (is_float or quantized):
                continue
            seen.add(id(variable))
            path, again = variable.path, 1
            while path in paths:
                path, again = f"{variable.path}_{again}", again + 1
            paths.add(path)
            found.append(NeuronWeight(layer, variable.name, variable, axis, path, slot, parents))
    return found


def walk(model: Layer) -> Iterator[tuple[Layer, tuple[Layer, ...]]]:
    """Visits a model and the layers inside it, each once, outer ones first.

    Args:
        model: A model or layer.

    Yields:
        Each layer, and the layers around it, the model first.
    """
    seen = set()
    stack: list[tuple[Layer, tuple[Layer, ...]]] = [(model, ())]
    while stack:
        layer, parents = stack.pop()
        if id(layer) in seen:
            continue
        seen.add(id(layer))
        yield layer, parents
        stack.extend((sublayer, (*parents, layer)) for sublayer in reversed(layer._layers))


def holds_neurons(layer: Layer) -> bool:
    """Whether a layer has a weight of its own, not of a layer inside it, that holds neurons.

    Args:
        layer: A built layer.

    Returns:
        True or False; a kernel counts also where it is quantized to integers.

    Example:

    >>> layers = keras.layers.Dense(3), keras.layers.BatchNormalization()
    >>> for layer in layers:
    ...     layer.build((None, 4))
    >>> [holds_neurons(layer) for layer in layers]
    [True, False]
    """
    return bool(_kernels(layer))


def check_built(model: Layer) -> None:
    """Refuses a model without weights: one that is not built, or none of whose layers are.

    Single layers may be unbuilt, since a subclassed model need not call every layer that it has;
    see `unbuilt_layers`.

    Args:
        model: What should be a built model or layer.

    Raises:
        ValueError: If it is none.

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
    """Lists the layers inside a model that would hold neurons, had anything built them.

    Args:
        model: A model or layer.

    Returns:
        The layers, without those inside a layer that is itself listed.

    Example:

    >>> model = keras.Sequential([keras.layers.Dense(3, name="wide"), keras.layers.ReLU()])
    >>> [layer.name for layer in unbuilt_layers(model)]
    ['wide']
    >>> model.build((None, 4))
    >>> unbuilt_layers(model)
    []
    """
    found = {}
    for layer, parents in walk(model):
        outermost = not any(id(parent) in found for parent in parents)
        if outermost and not layer.built and isinstance(layer, _KINDS):
            found[id(layer)] = layer
    return list(found.values())


def _kernels(layer):
    """Lists `(variable, axis, slot)` of the weights with neurons that the layer itself owns."""
    if isinstance(layer, keras.layers.Wrapper):
        # SpectralNormalization keeps a reference to the kernel of the layer that it wraps.
        return []
    if isinstance(layer, keras.layers.EinsumDense):
        named = [("kernel", _einsum_axes(layer.equation), "kernel_regularizer")]
    elif isinstance(layer, keras.layers.Embedding):
        named = [("embeddings", 0, "embeddings_regularizer"), ("reverse_embeddings", -1, None)]
    elif isinstance(layer, _SEPARABLE):
        named = [
            ("depthwise_kernel", (-2, -1), "depthwise_regularizer"),
            ("pointwise_kernel", -1, "pointwise_regularizer"),
        ]
    elif isinstance(layer, _DEPTHWISE):
        named = [("kernel", (-2, -1), "depthwise_regularizer")]
    elif isinstance(layer, _TRANSPOSED):
        named = [("kernel", -2, "kernel_regularizer")]
    else:
        named = [
            ("kernel", -1, "kernel_regularizer"),
            ("recurrent_kernel", -1, "recurrent_regularizer"),
        ]
    kernels = []
    for name, axis, slot in named:
        # Where `kernel` is a property that adds LoRA's update or unpacks integers, the variable
        # itself has another name.
        held = (getattr(layer, each, None) for each in (f"_{name}", f"quantized_{name}", name))
        variable = next((each for each in held if isinstance(each, keras.Variable)), None)
        if variable is None or len(variable.shape) < 2 or axis is None:
            continue
        if any(variable is inner for sublayer in layer._layers for inner in sublayer.variables):
            continue
        kernels.append((variable, axis, slot if slot in vars(layer) else None))
    return kernels


def _einsum_axes(equation):
    _, kernel, output = equation.replace("->", ",").split(",")
    axes = tuple(i - len(kernel) for i, letter in enumerate(kernel) if letter in output)
    if len(axes) in (0, len(kernel)):
        return None
    return axes if len(axes) > 1 else axes[0]
