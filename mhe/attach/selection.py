"""Which weights with neurons a user means by `layers=`."""

import inspect
import re
from typing import Any

import keras
from keras.layers import Layer

from mhe.attach.neurons import NeuronWeight, neuron_weights


def select(model: Layer, layers: Any) -> list[NeuronWeight]:
    """Lists the weights with neurons of the layers that are meant.

    Args:
        model: A built model.
        layers: What `mhe.attach` takes as `layers=`.

    Returns:
        The weights, in the model's order.

    Raises:
        ValueError: If the model is not built, nothing matches, or a layer that does is quantized to
            integers.

    Example:

    >>> hidden, logits = keras.layers.Dense(8, name="hidden"), keras.layers.Dense(3, name="logits")
    >>> model = keras.Sequential([keras.Input((4,)), hidden, logits])
    >>> for layers in ("hidden", "^log", keras.layers.Dense, lambda layer: layer.units < 4):
    ...     print([weight.location for weight in select(model, layers)])
    ['hidden']
    ['logits']
    ['hidden', 'logits']
    ['logits']
    """
    weights = neuron_weights(model, quantized=True)
    chosen = {id(weight.variable) for weight in weights if layers is None}
    if layers is not None:
        for selector in layers if isinstance(layers, list | tuple) else [layers]:
            matches = _matcher(selector, weights)
            found = {id(weight.variable) for weight in weights if matches(weight)}
            if not found:
                raise _nothing_matches(model, selector, weights)
            chosen |= found
    if not chosen:
        raise _nothing_matches(model, layers, weights)
    selected = [weight for weight in weights if id(weight.variable) in chosen]
    quantized = [
        weight.location
        for weight in selected
        if not keras.backend.is_float_dtype(weight.variable.dtype)
    ]
    if quantized:
        raise ValueError(
            "Weights that are quantized to integers cannot be trained. Choose others with "
            f"`layers=`. Received: the quantized layers {', '.join(quantized)}"
        )
    return selected


def _nothing_matches(model, asked, weights):
    there = ", ".join(dict.fromkeys(weight.location for weight in weights))
    return ValueError(
        f"No layer with neurons matches. Those of {model.name!r} are: {there or 'none'}. "
        f"Received: layers={asked!r}"
    )


def _matcher(selector, weights):
    def around(weight):
        return (*weight.parents[1:], weight.layer)

    if isinstance(selector, str):
        named = [
            weight
            for weight in weights
            if selector in (weight.path, weight.location, *(each.name for each in around(weight)))
        ]
        if named:
            return named.__contains__
        try:
            selector = re.compile(selector)
        except re.error as error:
            raise ValueError(
                f"`layers` must be a layer's name or a regular expression ({error}). "
                f"Received: layers={selector!r}"
            ) from error
    if isinstance(selector, re.Pattern):
        return lambda weight: any(map(selector.search, (weight.location, weight.path)))
    if inspect.isclass(selector):
        return lambda weight: any(isinstance(layer, selector) for layer in around(weight))
    if isinstance(selector, Layer):
        return lambda weight: any(layer is selector for layer in (*weight.parents, weight.layer))
    if callable(selector):
        return lambda weight: bool(selector(weight.layer))
    raise ValueError(
        "`layers` must be a name, a regular expression, a type, a layer, a predicate, or a list of "
        f"those. Received: layers={selector!r}"
    )
