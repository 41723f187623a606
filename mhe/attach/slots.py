"""Put a regularizer on a weight, and into the attribute that the layer's config is made of."""

from typing import Any

from keras.layers import Layer

from mhe import keras_internals
from mhe.attach.neurons import ATTENTION, NeuronWeight, walk
from mhe.attach.regularizers import Attached, Projections

_SLOTS = (
    "kernel_regularizer",
    "_kernel_regularizer",
    "recurrent_regularizer",
    "depthwise_regularizer",
    "pointwise_regularizer",
    "embeddings_regularizer",
)


def put(weight: NeuronWeight, added: Any) -> None:
    """Adds a regularizer to a weight, in place of one that was added before."""
    existing = _existing(weight.variable.regularizer)
    weight.variable.regularizer = Attached(added, existing)
    if weight.slot is None or getattr(weight.layer, "lora_enabled", False):
        # LoRA's factors take over the regularizer in the config, and their columns are not neurons
        # of the layer.
        return
    configured = _existing(getattr(weight.layer, weight.slot))
    shared = configured is existing
    regularizer = weight.variable.regularizer if shared else Attached(added, configured)
    setattr(weight.layer, weight.slot, regularizer)


def take_off(model: Layer) -> bool:
    """Removes everything added to a model; returns whether there was anything."""
    changed = False
    for layer, _ in walk(model):
        for slot in _SLOTS:
            configured = vars(layer).get(slot)
            if isinstance(configured, Attached | Projections):
                setattr(layer, slot, configured.existing)
                changed = True
    # All variables, not only the weights listed: LoRA's factors take over the kernel's regularizer.
    for variable in model.variables:
        if isinstance(variable.regularizer, Attached):
            variable.regularizer = variable.regularizer.existing
            changed = True
    return changed


def merge_projections(weights: list[NeuronWeight]) -> None:
    """Puts the regularizers of attention projections into the one config entry of their layer."""
    for layer, projections in _attention_layers(weights):
        members = {
            name: (weight.shape, weight.variable.regularizer)
            for name, weight in projections.items()
        }
        if any(isinstance(member, Attached) for _, member in members.values()):
            slot = keras_internals.attention_regularizer_slot(layer)
            setattr(layer, slot, Projections(members, _existing(getattr(layer, slot))))


def restore_projections(weights: list[NeuronWeight]) -> None:
    """Gives each attention projection its own regularizer if a config gave all of them the same.

    Keras builds the projections of a loaded or cloned layer with the layer's one config entry; only
    their names tell which member of it is theirs.
    """
    for _, projections in _attention_layers(weights):
        for name, weight in projections.items():
            if isinstance(weight.variable.regularizer, Projections):
                _, member = weight.variable.regularizer.members[name]
                weight.variable.regularizer = weight.layer.kernel_regularizer = member


def _existing(regularizer: Any) -> Any:
    """What was there before anything was added."""
    added = isinstance(regularizer, Attached | Projections)
    return regularizer.existing if added else regularizer


def _attention_layers(
    weights: list[NeuronWeight],
) -> list[tuple[Layer, dict[str, NeuronWeight]]]:
    """The attention layers, each with the weights of its projections by name."""
    layers: dict[int, tuple[Layer, dict[str, NeuronWeight]]] = {}
    for weight in weights:
        if weight.parents and isinstance(weight.parents[-1], ATTENTION):
            layer = weight.parents[-1]
            layers.setdefault(id(layer), (layer, {}))[1][weight.layer.name] = weight
    return list(layers.values())
