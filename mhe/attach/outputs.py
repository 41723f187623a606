"""Which layers are the heads of a model: the last ones with neurons before its outputs."""

import contextlib
import dataclasses
import math

import keras
from keras.layers import Layer

from mhe.attach.neurons import ATTENTION, check_built, holds_neurons, walk

# Their weights scale or shift what is already there, also in a layer that derives from them.
_SCALING = (keras.layers.PReLU, keras.layers.LayerNormalization)


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
        ValueError: If the model is not built, its `call` cannot run on symbolic tensors, or
            a matrix that is not known to hold neurons stands where the head would be.

    Example:

    >>> import keras, mhe.attach.outputs
    >>> inputs = keras.Input((4,))
    >>> hidden = keras.layers.Dense(8, name="hidden")(inputs)
    >>> logits = keras.layers.Dense(3, name="logits")(hidden)
    >>> model = keras.Model(inputs, keras.layers.Softmax()(logits))
    >>> [layer.name for layer in mhe.attach.outputs.head_layers(model)]
    ['logits']
    """
    check_built(model)
    with _nothing_left_behind(model):
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
    kinds = (keras.layers.Wrapper, keras.layers.Bidirectional, keras.layers.RNN, *ATTENTION)
    return isinstance(layer, (*kinds, keras.layers.StackedRNNCells)) or not layer._layers


def _holders(layer):
    return [inner for inner, _ in walk(layer) if holds_neurons(inner)]


def _is_matrix(variable):
    return math.prod(variable.shape[:-1]) > 1


def _holds_unknown(layer):
    """Whether a layer's own weights could make neurons though none of them is known to."""
    if type(layer).__module__.partition(".")[0] == "keras" or isinstance(layer, _SCALING):
        return False
    return not holds_neurons(layer) and any(map(_is_matrix, layer._trainable_variables))


def _unknown(layer):
    return [inner for inner, _ in walk(layer) if _holds_unknown(inner)]


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
    return _not_found(layer, "its `call` does not run on symbolic Keras tensors", reason)


def _not_known(layer):
    reason = "a weight with no known neurons, not named `kernel`, may be the head"
    shapes = [tuple(each.shape) for each in getattr(layer, "_trainable_variables", [])]
    return _not_found(layer, reason, f"weights of shape {shapes}" if shapes else "an operation")


def _not_found(layer, why, received):
    return ValueError(
        f"The head of {layer.name!r} cannot be found, because {why}. Attach the head's regularizer "
        "in a second call that names the layer with `layers=`. "
        f"Received: {type(layer).__name__} ({received})"
    )


@contextlib.contextmanager
def _nothing_left_behind(model):
    """Forgets the graph nodes that a symbolic call leaves on the layers of a model.

    `add_loss` takes no symbolic tensors, and a loss added here would be no loss of a batch, so it
    does nothing meanwhile; those of the last batch, which a call forgets, are put back.
    """
    kept = [
        (nodes, len(nodes))
        for layer, _ in walk(model)
        for nodes in (layer._inbound_nodes, layer._outbound_nodes)
    ]
    # Past `__setattr__`, which tracks what it is given.
    attributes = [vars(layer) for layer, _ in walk(model)]
    own = [each.get("add_loss") for each in attributes]
    losses = [(layer._losses, list(layer._losses)) for layer, _ in walk(model)]
    for each in attributes:
        each["add_loss"] = lambda loss: None
    try:
        yield
    finally:
        for each, add_loss in zip(attributes, own, strict=True):
            del each["add_loss"]
            if add_loss is not None:
                each["add_loss"] = add_loss
        for held, before in losses:
            held[:] = before
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
    """A call of a layer with neurons, and the tensors that it was called on.

    Where an unknown weight may make the neurons, `unknown` is the layer or operation that has it.
    """

    layers: list
    sources: list
    unknown: keras.Operation | None = None


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
        last = [site for site in sites if site not in above]
        for site in last:
            if site.unknown is not None:
                raise _not_known(site.unknown)
        return [layer for site in last for layer in site.layers]

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
        if not isinstance(layer, Layer):
            given = keras.tree.flatten([node.arguments.args, node.arguments.kwargs])
            variables = [each for each in given if isinstance(each, keras.Variable)]
            if not any(each.trainable and _is_matrix(each) for each in variables):
                return None, sources
            return self.sites.setdefault(key, _Site([], sources, layer)), []
        if not _holders(layer):
            unknown = _unknown(layer)
            if not unknown:
                return None, sources
            return self.sites.setdefault(key, _Site([], sources, unknown[-1])), []
        if not _is_opaque(layer):
            if key not in self.calls:
                self.calls[key] = self.call(layer, node)
            if self.calls[key] is not None:
                return None, [(self.calls[key][tensor_index], frame)]
        return self.sites.setdefault(key, _Site(self.ends(layer), sources)), []

    def call(self, layer, node):
        """Runs a composite layer symbolically, unless it holds but one layer with neurons."""
        if len(_holders(layer)) == 1 and not _unknown(layer):
            return None
        if holds_neurons(layer):
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
        if isinstance(layer, ATTENTION):
            return [layer._output_dense]
        if (graph := _graph(layer)) is not None:
            return [inner for output in graph[1] for inner in self.last((output, None))]
        holders, unknown = _holders(layer), _unknown(layer)
        if unknown and not holders:
            raise _not_known(unknown[-1])
        if len(holders) + len(unknown) > 1:
            raise _not_traceable(layer, "it is called inside another layer")
        return holders
