"""Put a regularizer on a weight, and into the attribute that the layer's config is made of."""

from typing import Any

from keras.layers import Layer

from mhe.attach.neurons import NeuronWeight, walk
from mhe.attach.projections import Projections, before, shared_slot
from mhe.attach.regularizers import Attached

_SLOTS = (
    "kernel_regularizer",
    "_kernel_regularizer",
    "recurrent_regularizer",
    "depthwise_regularizer",
    "pointwise_regularizer",
    "embeddings_regularizer",
    "prototypes_regularizer",
)


def put(weight: NeuronWeight, added: Any) -> None:
    """Adds a regularizer to a weight, in place of one that was added before."""
    existing = before(weight.variable.regularizer)
    weight.variable.regularizer = Attached(added, existing)
    if weight.slot is None or shared_slot(weight.layer) is not None:
        return
    if getattr(weight.layer, "lora_enabled", False):
        # LoRA's factors take over the regularizer in the config, and their columns are not neurons
        # of the layer.
        return
    configured = before(getattr(weight.layer, weight.slot))
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
        if isinstance(variable.regularizer, Attached | Projections):
            variable.regularizer = variable.regularizer.existing
            changed = True
    return changed
