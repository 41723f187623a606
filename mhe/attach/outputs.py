"""The heads of a model: the last layers with neurons before its outputs."""

import contextlib
import dataclasses
import math
from collections.abc import Iterator
from typing import Any, TypeAlias

import keras
from keras.layers import Layer

from mhe import keras_internals
from mhe.attach.neurons import ATTENTION, check_built, holds_neurons, walk
from mhe.types import Tensor

# Their weights scale or shift what is already there, also in layers derived from them.
_SCALING = (keras.layers.PReLU, keras.layers.LayerNormalization)
# Layers better known by their kind than by running their `call` symbolically.
_OPAQUE = (
    keras.layers.Wrapper,
    keras.layers.Bidirectional,
    keras.layers.RNN,
    keras.layers.StackedRNNCells,
    *ATTENTION,
)


def head_layers(model: Layer) -> list[Layer]:
    """Finds the last layer with neurons before each of a model's outputs.

    The graph is followed back from each output through layers without neurons (activations,
    reshapes, sums) to the layers that have some. Of these, a layer that another of them depends on
    is not last: with an output `x + dense(x)` the head is `dense`, not the layers that made `x`.
    Two layers whose outputs meet, as in `a(x) + b(x)`, are both heads.

    A subclassed model has no graph, so its `call` is run once on symbolic tensors to record one.

    Args:
        model: A built model or layer.

    Returns:
        The layers that own the weights, in the order of the outputs. For an attention layer this is
        its output projection, for a recurrent layer its cell, and for `Bidirectional` both cells.

    Raises:
        ValueError: If the model is not built, its `call` cannot run on symbolic tensors, or a
            matrix that is not known to hold neurons stands where the head would be.

    Example:

    >>> import keras
    >>> inputs = keras.Input((4,))
    >>> hidden = keras.layers.Dense(8, name="hidden")(inputs)
    >>> logits = keras.layers.Dense(3, name="logits")(hidden)
    >>> model = keras.Model(inputs, keras.layers.Softmax()(logits))
    >>> [layer.name for layer in head_layers(model)]
    ['logits']
    """
    check_built(model)
    with _nothing_left_behind(model):
        tracer = _Tracer()
        graph = keras_internals.graph(model)
        if graph is not None:
            outputs = graph[1]
        elif _is_opaque(model):
            return tracer.ends(model)
        else:
            outputs = _call_on_symbols(model)
        heads = {}
        for output in outputs:
            for layer in tracer.last((output, None)):
                heads[id(layer)] = layer
    return list(heads.values())


def _is_opaque(layer: Layer) -> bool:
    return isinstance(layer, _OPAQUE) or not keras_internals.sublayers(layer)


def _holders(layer: Layer) -> list[Layer]:
    """The layers inside a layer, itself included, that hold neurons."""
    return [inner for inner, _ in walk(layer) if holds_neurons(inner)]


def _unknown(layer: Layer) -> list[Layer]:
    """The layers inside a layer, itself included, whose weights might make neurons."""
    return [inner for inner, _ in walk(layer) if _holds_unknown(inner)]


def _holds_unknown(layer: Layer) -> bool:
    """Whether a layer's own weights could make neurons although none of them is known to."""
    if type(layer).__module__.partition(".")[0] == "keras" or isinstance(layer, _SCALING):
        return False
    own = keras_internals.own_trainable_variables(layer)
    return not holds_neurons(layer) and any(map(_is_matrix, own))


def _is_matrix(variable: keras.Variable) -> bool:
    return math.prod(variable.shape[:-1]) > 1


def _call_on_symbols(model: Layer) -> list[Tensor]:
    """Runs a model on symbolic tensors of the shapes that it was built with."""
    shapes = keras_internals.build_shapes(model)
    if not shapes:
        raise _not_traceable(model, "the shape that it was built with is not known")

    def run(dtype: str) -> Any:
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
            outputs = run(model.input_dtype)
        except Exception:
            # Models of tokens may insist on integers.
            outputs = run("int32")
    except Exception as error:
        raise _not_traceable(model, error) from error
    return keras.tree.flatten(outputs)


def _not_traceable(layer: Layer, reason: object) -> ValueError:
    return _not_found(layer, "its `call` does not run on symbolic Keras tensors", reason)


def _not_known(layer: keras.Operation) -> ValueError:
    reason = "a weight with no known neurons, not named `kernel`, may be the head"
    shapes = [tuple(each.shape) for each in keras_internals.own_trainable_variables(layer)]
    return _not_found(layer, reason, f"weights of shape {shapes}" if shapes else "an operation")


def _not_found(layer: keras.Operation, why: str, received: object) -> ValueError:
    return ValueError(
        f"The head of {layer.name!r} cannot be found because {why}. Attach the head's regularizer "
        "in a second call that names the layer with `layers=`. "
        f"Received: {type(layer).__name__} ({received})"
    )


@contextlib.contextmanager
def _nothing_left_behind(model: Layer) -> Iterator[None]:
    """Undoes what a symbolic call leaves on the layers of a model.

    That is nodes in the graph, and losses: `add_loss` takes no symbolic tensors, and a loss added
    here would not be that of a batch, so it does nothing meanwhile; those of the last batch, which
    a call forgets, are put back.
    """
    layers = [layer for layer, _ in walk(model)]
    nodes = [(each, len(each)) for layer in layers for each in keras_internals.nodes(layer)]
    added = [keras_internals.added_losses(layer) for layer in layers]
    losses = [(each, list(each)) for each in added]
    with contextlib.ExitStack() as stack:
        for layer in layers:
            ignored = keras_internals.replaced_attribute(layer, "add_loss", lambda loss: None)
            stack.enter_context(ignored)
        try:
            yield
        finally:
            for each, before in losses:
                each[:] = before
            for each, count in nodes:
                del each[count:]


@dataclasses.dataclass(frozen=True, eq=False)
class _Frame:
    """A call of a nested model: its symbolic inputs, and the tensors outside that it was given."""

    inputs: list[Tensor]
    arguments: list[Tensor]
    outer: "_Frame | None"


# A tensor and the call of a nested model that it is in: one model can be called many times.
_Place: TypeAlias = tuple[Tensor, _Frame | None]


@dataclasses.dataclass(frozen=True, eq=False)
class _Site:
    """A call of a layer with neurons, and where its inputs are.

    If an unknown weight may make the neurons, `unknown` is the layer or operation that has it.
    """

    layers: list[Layer]
    sources: list[_Place]
    unknown: keras.Operation | None = None


class _Tracer:
    """Follows the graph of symbolic tensors back to the layers with neurons.

    Everything is remembered by node and frame, so each call is one object however often it is
    reached.
    """

    def __init__(self) -> None:
        self.frames: dict[tuple[int, int], _Frame] = {}
        self.sites: dict[tuple[int, int], _Site] = {}
        self.calls: dict[tuple[int, int], list[Tensor] | None] = {}

    def last(self, place: _Place) -> list[Layer]:
        """The last layers with neurons before a place."""
        sites = self.nearest([place])
        above: set[_Site] = set()
        stack = list(sites) if len(sites) > 1 else []
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

    def nearest(self, places: list[_Place]) -> list[_Site]:
        """The first sites on every way back from some places."""
        sites: dict[_Site, None] = {}
        seen: set[tuple[int, int]] = set()
        stack = list(reversed(places))
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

    def step(self, tensor: Tensor, frame: _Frame | None) -> tuple[_Site | None, list[_Place]]:
        """Returns the site that made a tensor, or else the places before it."""
        if frame is not None:
            for inner, outer in zip(frame.inputs, frame.arguments, strict=True):
                if tensor is inner:
                    return None, [(outer, frame.outer)]
        layer, node, tensor_index = keras_internals.origin(tensor)
        if layer is None:
            return None, []
        sources: list[_Place] = [(source, frame) for source in node.input_tensors]
        key = (id(node), id(frame))
        if key in self.sites:
            return self.sites[key], []
        if (graph := keras_internals.graph(layer)) is not None:
            call = node.arguments
            given = call.args[0] if call.args else call.kwargs["inputs"]
            if isinstance(given, dict) and isinstance(layer.input, dict):
                # Keras accepts entries that the model has no input for.
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
            outputs = self.calls[key]
            if outputs is not None:
                return None, [(outputs[tensor_index], frame)]
        return self.sites.setdefault(key, _Site(self.ends(layer), sources)), []

    def call(self, layer: Layer, node: Any) -> list[Tensor] | None:
        """Runs a composite layer symbolically, unless it holds only one layer with neurons."""
        if len(_holders(layer)) == 1 and not _unknown(layer):
            return None
        if holds_neurons(layer):
            raise _not_traceable(layer, "it has neurons of its own besides those of its sublayers")
        try:
            outputs = layer.call(*node.arguments.args, **node.arguments.kwargs)
        except Exception as error:
            raise _not_traceable(layer, error) from error
        return keras.tree.flatten(outputs)

    def ends(self, layer: Layer) -> list[Layer]:
        """Returns the last layers with neurons inside an opaque layer."""
        if isinstance(layer, keras.layers.Bidirectional):
            return self.ends(layer.forward_layer) + self.ends(layer.backward_layer)
        if isinstance(layer, keras.layers.Wrapper):
            return self.ends(layer.layer)
        if isinstance(layer, keras.layers.RNN):
            return self.ends(layer.cell)
        if isinstance(layer, keras.layers.StackedRNNCells):
            return self.ends(layer.cells[-1])
        if isinstance(layer, ATTENTION):
            return [keras_internals.attention_output(layer)]
        if (graph := keras_internals.graph(layer)) is not None:
            return [inner for output in graph[1] for inner in self.last((output, None))]
        holders, unknown = _holders(layer), _unknown(layer)
        if unknown and not holders:
            raise _not_known(unknown[-1])
        if len(holders) + len(unknown) > 1:
            raise _not_traceable(layer, "it is called inside another layer")
        return holders
