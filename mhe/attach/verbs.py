"""Attach regularizers to a model, detach them, list them."""

from typing import Any

import keras
from keras.layers import Layer

from mhe.attach.neurons import neuron_weights, unbuilt_layers
from mhe.attach.outputs import head_layers
from mhe.attach.projections import gather, hand_out
from mhe.attach.regularizers import along
from mhe.attach.retracing import retrace
from mhe.attach.selection import select_among
from mhe.attach.slots import put, take_off
from mhe.attach.strengths import Strengths
from mhe.attach.table import Attachments


def attach(model: Layer, regularizer: Any, head: Any = None, layers: Any = None) -> Attachments:
    """Adds a regularizer to the neurons of a model that is already built.

    The model may be pretrained, compiled or half trained: no weight changes, the loss appears in
    `model.losses`, and the next `fit` uses it, also the `fit` of a larger model that contains this
    one. A regularizer that a weight already has is kept and added to. Attaching again replaces what
    was attached before on the weights that it reaches, and leaves the others alone. Saving and
    `clone_model` keep what is attached where the column `saved` of the table says so: a subclassed
    model creates its layers anew in `__init__` when it is loaded, so attach again after loading.

    In a custom layer, only weights named `kernel` are found; give others their regularizer where
    they are created, `add_weight(regularizer=MHE(axis=...))`.

    A training step that you compiled yourself (`tf.function`, `jax.jit`) keeps the losses that it
    was traced with; trace it again. Enable LoRA before attaching: its factors take over the
    regularizers that they find in the layers' configs.

    Args:
        model: A built model.
        regularizer: The regularizer for every layer with neurons: an `MHE`, a `Sum`, or anything
            else that `keras.regularizers.get` accepts; or what `mhe.suggest_strength` returns,
            with a strength of its own for each weight. Of a regularizer with a method
            `with_axis(axis)`, such as an `MHE` (also one in a `Sum`), each layer gets its own copy
            for the axes of that layer's neurons; others are used as they are. None attaches only
            `head`.
        head: The regularizer for the head, see `mhe.attach.outputs.head_layers`; None treats the
            head like every other layer.
        layers: Which layers get it. A string is the name of a layer or of a weight or, if no name
            equals it, a regular expression searched for in names such as `"backbone/conv1"` and in
            weights' paths; a compiled regular expression is always searched for. A name, type or
            layer selects everything inside that layer, such as all projections of an attention
            layer. A predicate is called with each layer that owns a weight (for a recurrent layer
            its cell). A list selects what any of its members selects. None selects every layer with
            neurons.

    Returns:
        A table with one row per weight; `print` it. If the model has layers that are not built,
        its last line and its attribute `skipped` name them.

    Raises:
        ValueError: If the model is not built, nothing matches, `head` is given but no head is
            selected or found, or a selected layer is quantized to integers.

    Example:

    >>> import keras, mhe
    >>> hidden, logits = keras.layers.Dense(16, name="hidden"), keras.layers.Dense(4, name="logits")
    >>> model = keras.Sequential([keras.Input((8,)), hidden, logits], name="mlp")
    >>> print(mhe.attach(model, mhe.MHE(1.0), head=mhe.MHE(10.0, space="full")))
    weight             shape  neurons    regularizer                    kept  trained  saved
    mlp/hidden/kernel  8x16   16 in 8-d  MHE(1, s=2, euclidean, half)   -     yes      yes
    mlp/logits/kernel  16x4   4 in 16-d  MHE(10, s=2, euclidean, full)  -     yes      yes

    Reference:
        Liu et al., Learning towards Minimum Hyperspherical Energy, NeurIPS 2018
        ([arXiv:1805.09298](https://arxiv.org/abs/1805.09298)).
    """
    strengths = regularizer if isinstance(regularizer, Strengths) else None
    if strengths is None:
        regularizer = keras.regularizers.get(regularizer)
    head = keras.regularizers.get(head)
    if regularizer is None and head is None:
        raise ValueError("There must be something to attach. Received: regularizer=None, head=None")
    weights = neuron_weights(model, quantized=True)
    selected = select_among(weights, model.name, layers)
    heads = set()
    if head is not None:
        heads = {id(layer) for layer in head_layers(model)}
        if not any(id(weight.layer) in heads for weight in selected):
            raise ValueError(
                "`head` needs a last layer with neurons before an output, among the layers that "
                f"are selected. Received: model={model.name!r}, layers={layers!r}"
            )
    hand_out(model)
    reached = []
    for weight in selected:
        added = regularizer if strengths is None else strengths.regularizer_of(weight)
        if id(weight.layer) in heads:
            added = head
        if added is not None:
            put(weight, along(added, weight.axis))
            reached.append(weight)
    if strengths is not None and not reached:
        raise ValueError(
            "`regularizer` must have strengths of weights that are selected. Received: strengths "
            f"of {', '.join(strengths)}, model={model.name!r}, layers={layers!r}"
        )
    gather(model)
    retrace(model)
    return Attachments.of(model, reached, unbuilt_layers(model))


def detach(model: Layer) -> Attachments:
    """Removes everything that `attach` put on a model, and restores what was there before.

    Args:
        model: A built model.

    Returns:
        A table of what was removed, empty if there was nothing.

    Raises:
        ValueError: If the model is not built.

    Example:

    >>> import keras, mhe
    >>> l2 = keras.regularizers.L2(5e-4)
    >>> layer = keras.layers.Dense(4, kernel_regularizer=l2)
    >>> model = keras.Sequential([keras.Input((8,)), layer])
    >>> _ = mhe.attach(model, mhe.MHE())
    >>> layer.kernel_regularizer
    Sum(L2(l2=0.0005), MHE(1, s=2, euclidean, half))
    >>> _ = mhe.detach(model)
    >>> layer.kernel_regularizer is l2
    True
    >>> print(mhe.detach(model))
    nothing attached
    """
    table = attached(model)
    if take_off(model):
        retrace(model)
    return table


def attached(model: Layer) -> Attachments:
    """Lists everything that `attach` put on a model, even if it was saved and loaded since.

    Args:
        model: A built model.

    Returns:
        A table with one row per weight.

    Raises:
        ValueError: If the model is not built.

    Example:

    >>> import keras, mhe
    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
    >>> _ = mhe.attach(model, mhe.MHE(2.0))
    >>> [row.regularizer for row in mhe.attached(keras.models.clone_model(model))]
    [MHE(2, s=2, euclidean, half)]
    """
    weights = neuron_weights(model)
    hand_out(model)
    return Attachments.of(model, weights)
