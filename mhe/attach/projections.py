"""Layers with one config entry for several weights: attention, embeddings with a reverse matrix."""

from collections.abc import Iterator
from typing import Any

import keras
from keras.layers import Layer

from mhe import keras_internals
from mhe.attach.live import live
from mhe.attach.neurons import ATTENTION, NeuronWeight, walk
from mhe.attach.regularizers import Attached
from mhe.neuron_axes import neuron_kernels
from mhe.types import Tensor


@keras.saving.register_keras_serializable(package="mhe")
class Projections(keras.regularizers.Regularizer):
    """The regularizers of several weights, kept in the one config entry of their layer.

    An attention layer gives one `kernel_regularizer` to all of its projections, whose neurons lie
    along different axes. In a layer built from a config, several weights therefore have this object
    for a regularizer. Called for the first of them, it gives each weight of the layer its own
    regularizer, by name. An embedding with a reverse matrix of its own
    (`ReversibleEmbedding(tie_weights=False)`) has one `embeddings_regularizer` for both.

    Args:
        members: The regularizer, or None, of each projection of an attention layer by the name of
            the projection, of each matrix of an embedding by the name of the weight.
        existing: The regularizer that the layer had, or None.

    Raises:
        ValueError: When called on anything but a weight of a layer with this config entry.

    Example:

    >>> import keras, mhe
    >>> both = Projections({"query": mhe.MHE(), "attention_output": keras.regularizers.L1(1.0)})
    >>> layer = keras.layers.MultiHeadAttention(2, 3, kernel_regularizer=both)
    >>> layer.build((None, 5, 4), (None, 5, 4))
    >>> _ = layer.losses
    >>> print(layer.query_dense.kernel.regularizer, layer.key_dense.kernel.regularizer)
    MHE(1, s=2, euclidean, half) None
    """

    def __init__(self, members: dict[str, Any], existing: Any = None) -> None:
        self.members = dict(members)
        self.existing = existing

    def __call__(self, x: Tensor) -> Tensor:
        """Returns the value of the regularizer that is meant for the weight `x`."""
        # A weight does not know its layer. All layers at once: each search takes its time.
        layers = live(*ATTENTION, keras.layers.Embedding)
        mine = [layer for layer in layers if _entry(layer) is self]
        variables = [each for layer in mine for each in _waiting(layer)]
        for layer in layers:
            hand_out(layer)
        for variable in variables:
            if keras_internals.stands_for(x, variable):
                if variable.regularizer is None:
                    return keras.ops.zeros((), dtype=keras.config.floatx())
                return variable.regularizer(x)
        raise ValueError(
            "This stands for the regularizers of several weights, and can only be called on one of "
            "them. Call `mhe.attached(model)` to give each its own. "
            f"Received: shape={tuple(x.shape)}, which is none of {', '.join(self.members)}"
        )

    def get_config(self) -> dict[str, Any]:
        serialize = keras.saving.serialize_keras_object
        return {
            "members": {name: serialize(each) for name, each in self.members.items()},
            "existing": serialize(self.existing),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Projections":
        deserialize = keras.saving.deserialize_keras_object
        # Earlier versions wrote [shape, regularizer].
        members = {
            name: deserialize(each[1] if isinstance(each, list) else each)
            for name, each in config["members"].items()
        }
        return cls(members, deserialize(config["existing"]))


def shared_slot(layer: Layer) -> str | None:
    """The attribute in which a layer keeps the one regularizer of several weights, or None.

    Args:
        layer: A layer, built or not.

    Example:

    >>> shared_slot(keras.layers.GroupQueryAttention(2, 4, 2))
    'kernel_regularizer'
    >>> shared_slot(keras.layers.Embedding(5, 2)) is None
    True
    """
    if isinstance(layer, ATTENTION):
        return keras_internals.attention_regularizer_slot(layer)
    if not isinstance(layer, keras.layers.Embedding):
        return None
    reverse = keras_internals.stored_variable(layer, "reverse_embeddings")
    return None if reverse is None else "embeddings_regularizer"


def hand_out(model: Layer) -> None:
    """Gives each weight its own regularizer if a config gave several of them the same.

    Args:
        model: A model or layer.
    """
    for layer, _ in walk(model):
        entry = _entry(layer)
        if entry is None or not _waiting(layer):
            continue
        for name, owner, variable in _named(layer):
            variable.regularizer = entry.members.get(name, entry.existing)
            if owner is not layer:
                owner.kernel_regularizer = variable.regularizer
        for variable in _waiting(layer):
            # LoRA's factors take over what is in the config.
            variable.regularizer = entry.existing


def gather(model: Layer) -> None:
    """Puts the regularizers of weights with one config entry into that entry, by name.

    Args:
        model: A model or layer, whose weights have regularizers of their own, see `hand_out`.
    """
    for layer, _ in walk(model):
        slot = shared_slot(layer)
        if slot is None:
            continue
        members = {
            # What LoRA froze is not the layer's to save.
            name: before(variable.regularizer)
            if getattr(owner, "lora_enabled", False)
            else variable.regularizer
            for name, owner, variable in _named(layer)
        }
        if any(isinstance(each, Attached) for each in members.values()):
            setattr(layer, slot, Projections(members, before(getattr(layer, slot))))


def before(regularizer: Any) -> Any:
    """What was there before anything was added.

    Args:
        regularizer: The regularizer of a weight, or what a config entry holds.

    Example:

    >>> before(Attached(keras.regularizers.L1(1.0))) is None
    True
    """
    return regularizer.existing if isinstance(regularizer, Attached | Projections) else regularizer


def is_in_config(weight: NeuronWeight) -> bool:
    """Whether the config of a layer holds what is attached to one of its weights.

    Args:
        weight: The weight.
    """
    for layer in (*weight.parents[-1:], weight.layer):
        if shared_slot(layer) is not None:
            entry = _entry(layer)
            names = [name for name, _, each in _named(layer) if each is weight.variable]
            return entry is not None and any(
                entry.members.get(name) is weight.variable.regularizer for name in names
            )
    return isinstance(getattr(weight.layer, weight.slot or "", None), Attached)


def _entry(layer: Layer) -> Projections | None:
    entry = getattr(layer, shared_slot(layer) or "", None)
    return entry if isinstance(entry, Projections) else None


def _named(layer: Layer) -> Iterator[tuple[str, Layer, keras.Variable]]:
    """The weights with one config entry: the name in it, the layer that owns the weight, and it."""
    for owner in (layer, *keras_internals.sublayers(layer)):
        for kernel in neuron_kernels(owner):
            variable = keras_internals.stored_variable(owner, kernel.name)
            if variable is not None:
                yield kernel.name if owner is layer else owner.name, owner, variable


def _waiting(layer: Layer) -> list[keras.Variable]:
    """The variables of a layer that have its whole config entry for a regularizer."""
    entry = _entry(layer)
    if entry is None:
        return []
    inside = [inner for inner, _ in walk(layer)]
    variables = [each for inner in inside for each in keras_internals.own_variables(inner)]
    return [each for each in variables if each.regularizer is entry]
