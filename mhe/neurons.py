"""Where the neurons of a model are: which weights of which layers hold them, and along which axes.

A neuron is one slice of a weight. What counts as one differs from layer to layer (the last axis of
a `Dense` kernel, the last two of a depthwise kernel, the rows of an `Embedding`), and this file is
the one place that knows.
"""

import contextlib
import dataclasses
import math
from collections.abc import Iterator

import keras
from keras.layers import Layer

_ATTENTION = (keras.layers.MultiHeadAttention, keras.layers.GroupQueryAttention)
_TRANSPOSED = (
    keras.layers.Conv1DTranspose,
    keras.layers.Conv2DTranspose,
    keras.layers.Conv3DTranspose,
)
_DEPTHWISE = (keras.layers.DepthwiseConv1D, keras.layers.DepthwiseConv2D)
_SEPARABLE = (keras.layers.SeparableConv1D, keras.layers.SeparableConv2D)
# They hold neurons once they are built, so where one is not, neurons are missing.
_KINDS = (
    *_ATTENTION,
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
    trains them. With LoRA enabled the weight is the frozen one beneath, without its update.

    Args:
        model: A built model or layer.
        quantized: Whether to list kernels quantized to integers too.

    Returns:
        The weights in the order of the model's layers, a weight that several layers share once.

    Raises:
        ValueError: If the model, or a layer inside it that would hold neurons, has no weights yet.

    Example:
    >>> import keras, mhe.neurons
    >>> model = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.SeparableConv2D(6, 3)])
    >>> for weight in mhe.neurons.neuron_weights(model):
    ...     print(weight.name, weight.shape, weight.axis, weight.count, weight.dims)
    depthwise_kernel (3, 3, 3, 1) (-2, -1) 3 9
    pointwise_kernel (1, 1, 3, 6) -1 6 3
    """
    _check_built(model)
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


def head_layers(model: Layer) -> list[Layer]:
    """Finds the last layer with neurons before each of a model's outputs.

    The graph is walked back from each output through whatever has no neurons (activations,
    reshapes, sums) to the layers that have. Of these, a layer that another of them depends on is
    not last: with an output `x + dense(x)` the head is `dense`, not the layers that made `x`. Two
    layers whose outputs meet, as in `a(x) + b(x)`, are both heads.

    A subclassed model has no graph, so its `call` is run once on symbolic tensors to record one.

    Args:
        model: A built model or layer.

    Returns:
        The layers that own the weights, in the order of the outputs. For an attention layer this is
        its output projection, for a recurrent layer its cell, and for `Bidirectional` both cells.

    Raises:
        ValueError: If the model is not built, or its `call` cannot run on symbolic tensors.

    Example:
    >>> import keras, mhe.neurons
    >>> inputs = keras.Input((4,))
    >>> hidden = keras.layers.Dense(8, name="hidden")(inputs)
    >>> logits = keras.layers.Dense(3, name="logits")(hidden)
    >>> model = keras.Model(inputs, keras.layers.Softmax()(logits))
    >>> [layer.name for layer in mhe.neurons.head_layers(model)]
    ['logits']
    """
    _check_built(model)
    with _nodes_restored(model):
        tracer = _Tracer()
        if _graph(model) is None and not _is_opaque(model):
            outputs = _call_on_symbols(model)
        elif _graph(model) is None:
            return tracer.ends(model)
        else:
            outputs = _graph(model)[1]
        heads = {}
        for output in outputs:
            for layer in tracer.last((output, None)):
                heads[id(layer)] = layer
    return list(heads.values())


def _check_built(model):
    if not isinstance(model, Layer):
        raise ValueError(f"Expected a Keras model or layer. Received: {model!r}")
    for layer, _ in walk(model):
        if not layer.built and (layer is model or isinstance(layer, _KINDS)):
            raise ValueError(
                "The model must be built, so that it has weights: call it on a batch, or build it "
                f"with `model.build(input_shape)`, first. Received: model {model.name!r}, in which "
                f"layer {layer.name!r} is not built"
            )


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


def _graph(layer):
    """Returns the symbolic inputs and outputs of a model that has them, else None."""
    if not isinstance(layer, keras.Model):
        return None
    try:
        graph = list(layer.inputs), list(layer.outputs)
    except (AttributeError, TypeError):
        return None
    known = all(hasattr(tensor, "_keras_history") for tensor in graph[0] + graph[1])
    return graph if known else None


def _is_opaque(layer):
    """Whether a layer is better known by its kind than by running its `call` symbolically."""
    kinds = (keras.layers.Wrapper, keras.layers.Bidirectional, keras.layers.RNN, *_ATTENTION)
    return isinstance(layer, (*kinds, keras.layers.StackedRNNCells)) or not layer._layers


def _call_on_symbols(model):
    shapes = model._build_shapes_dict
    if not shapes:
        raise _not_traceable(model, "the shape that it was built with is not known")

    def symbols(dtype):
        tensors = [
            keras.tree.map_shape_structure(lambda s: keras.KerasTensor(s, dtype=dtype), shape)
            for shape in shapes.values()
        ]
        if len(tensors) == 1:
            return model.call(tensors[0])
        names = (name.removesuffix("_shape") for name in shapes)
        return model.call(**dict(zip(names, tensors, strict=True)))

    try:
        try:
            outputs = symbols(model.input_dtype)
        except Exception:
            # Models of tokens may insist on integers.
            outputs = symbols("int32")
    except Exception as error:
        raise _not_traceable(model, error) from error
    return keras.tree.flatten(outputs)


def _not_traceable(layer, reason):
    return ValueError(
        f"The head of {layer.name!r} cannot be found, because its `call` does not run on symbolic "
        "Keras tensors. Attach the head's regularizer in a second call that names the layer with "
        f"`layers=`. Received: {type(layer).__name__} ({reason})"
    )


@contextlib.contextmanager
def _nodes_restored(model):
    """Forgets the graph nodes that a symbolic call leaves on the layers of a model."""
    kept = [
        (nodes, len(nodes))
        for layer, _ in walk(model)
        for nodes in (layer._inbound_nodes, layer._outbound_nodes)
    ]
    try:
        yield
    finally:
        for nodes, count in kept:
            del nodes[count:]


@dataclasses.dataclass(frozen=True, eq=False)
class _Frame:
    """A call of a nested model: where its symbolic inputs come from outside."""

    inputs: list
    arguments: list
    outer: "_Frame | None"


@dataclasses.dataclass(frozen=True, eq=False)
class _Site:
    """A call of a layer with neurons, and the tensors that it was called on."""

    layers: list
    sources: list


class _Tracer:
    """Walks the graph of symbolic tensors back to the layers with neurons.

    A place in the graph is a pair of a tensor and a frame, since one nested model can be called
    many times. Everything is remembered by node and frame, so each call is one object however often
    it is reached.
    """

    def __init__(self):
        self.frames, self.sites, self.calls = {}, {}, {}

    def last(self, place):
        sites = self.nearest([place])
        above, stack = set(), list(sites) if len(sites) > 1 else []
        while stack:
            for site in self.nearest(stack.pop().sources):
                if site not in above:
                    above.add(site)
                    stack.append(site)
        return [layer for site in sites if site not in above for layer in site.layers]

    def nearest(self, places):
        sites, seen, stack = {}, set(), list(reversed(places))
        while stack:
            tensor, frame = stack.pop()
            if (id(tensor), id(frame)) in seen:
                continue
            seen.add((id(tensor), id(frame)))
            site, further = self.step(tensor, frame)
            if site is not None:
                sites[site] = None
            stack.extend(reversed(further))
        return list(sites)

    def step(self, tensor, frame):
        """Returns the site that made a tensor, if one did, and else the places before it."""
        if frame is not None:
            for inner, outer in zip(frame.inputs, frame.arguments, strict=True):
                if tensor is inner:
                    return None, [(outer, frame.outer)]
        layer, node_index, tensor_index = getattr(tensor, "_keras_history", (None, 0, 0))
        if layer is None:
            return None, []
        node = layer._inbound_nodes[node_index]
        sources = [(source, frame) for source in node.input_tensors]
        key = (id(node), id(frame))
        if key in self.sites:
            return self.sites[key], []
        if (graph := _graph(layer)) is not None:
            call = node.arguments
            given = call.args[0] if call.args else call.kwargs["inputs"]
            if isinstance(given, dict) and isinstance(layer.input, dict):
                # Keras lets entries pass that the model has no input for.
                given = {name: given[name] for name in layer.input}
            inside = self.frames.setdefault(key, _Frame(graph[0], keras.tree.flatten(given), frame))
            return None, [(graph[1][tensor_index], inside)]
        if not isinstance(layer, Layer) or not any(_kernels(inner) for inner, _ in walk(layer)):
            return None, sources
        if not _is_opaque(layer):
            if key not in self.calls:
                self.calls[key] = self.call(layer, node)
            if self.calls[key] is not None:
                return None, [(self.calls[key][tensor_index], frame)]
        return self.sites.setdefault(key, _Site(self.ends(layer), sources)), []

    def call(self, layer, node):
        """Runs a composite layer symbolically, unless it holds but one layer with neurons."""
        if len([inner for inner, _ in walk(layer) if _kernels(inner)]) == 1:
            return None
        if _kernels(layer):
            raise _not_traceable(layer, "it has neurons of its own beside those of its sublayers")
        try:
            outputs = layer.call(*node.arguments.args, **node.arguments.kwargs)
        except Exception as error:
            raise _not_traceable(layer, error) from error
        return keras.tree.flatten(outputs)

    def ends(self, layer):
        """Returns the last layers with neurons inside a layer that has no graph of its own."""
        if isinstance(layer, keras.layers.Bidirectional):
            return self.ends(layer.forward_layer) + self.ends(layer.backward_layer)
        if isinstance(layer, keras.layers.Wrapper):
            return self.ends(layer.layer)
        if isinstance(layer, keras.layers.RNN):
            return self.ends(layer.cell)
        if isinstance(layer, keras.layers.StackedRNNCells):
            return self.ends(layer.cells[-1])
        if isinstance(layer, _ATTENTION):
            return [layer._output_dense]
        if (graph := _graph(layer)) is not None:
            return [inner for output in graph[1] for inner in self.last((output, None))]
        holders = [inner for inner, _ in walk(layer) if _kernels(inner)]
        if len(holders) > 1:
            raise _not_traceable(layer, "it is called inside another layer")
        return holders
