"""Which weights with neurons `layers=` selects."""

import inspect
import re
from collections.abc import Callable
from typing import Any

from keras.layers import Layer

from mhe.attach.neurons import NeuronWeight, neuron_weights


def select(model: Layer, layers: Any) -> list[NeuronWeight]:
    """Lists the weights with neurons of the selected layers.

    Args:
        model: A built model.
        layers: As in `mhe.attach`.

    Returns:
        The weights, in the model's order.

    Raises:
        ValueError: If the model is not built, nothing matches, or a selected layer is quantized to
            integers.

    Example:

    >>> import keras
    >>> hidden, logits = keras.layers.Dense(8, name="hidden"), keras.layers.Dense(3, name="logits")
    >>> model = keras.Sequential([keras.Input((4,)), hidden, logits])
    >>> for layers in ("hidden", "^log", keras.layers.Dense, lambda layer: layer.units < 4):
    ...     print([weight.location for weight in select(model, layers)])
    ['hidden']
    ['logits']
    ['hidden', 'logits']
    ['logits']
    """
    return select_among(neuron_weights(model, quantized=True), model.name, layers)


def select_among(weights: list[NeuronWeight], name: str, layers: Any) -> list[NeuronWeight]:
    """Lists the selected ones of the weights with neurons of a model.

    Args:
        weights: The model's weights with neurons, including quantized ones.
        name: The model's name, for errors.
        layers: As in `mhe.attach`.

    Returns:
        The selected weights, in the same order.

    Raises:
        ValueError: If nothing matches, or a selected layer is quantized to integers.
    """
    selected = {id(weight) for weight in weights if layers is None}
    if layers is not None:
        for selector in layers if isinstance(layers, list | tuple) else [layers]:
            matches = _matcher(selector, weights)
            matching = {id(weight) for weight in weights if matches(weight)}
            if not matching:
                raise _nothing_matches(name, selector, weights)
            selected |= matching
    if not selected:
        raise _nothing_matches(name, layers, weights)
    chosen = [weight for weight in weights if id(weight) in selected]
    quantized = [weight.location for weight in chosen if weight.quantized]
    if quantized:
        raise ValueError(
            "Weights quantized to integers cannot be trained. Select others with `layers=`. "
            f"Received: the quantized layers {', '.join(quantized)}"
        )
    return chosen


def _nothing_matches(name: str, layers: Any, weights: list[NeuronWeight]) -> ValueError:
    locations = ", ".join(dict.fromkeys(weight.location for weight in weights))
    return ValueError(
        f"No layer with neurons matches. Those of {name!r} are: {locations or 'none'}. "
        f"Received: layers={layers!r}"
    )


def _matcher(selector: Any, weights: list[NeuronWeight]) -> Callable[[NeuronWeight], bool]:
    """The test that a selector stands for."""

    def around(weight: NeuronWeight) -> tuple[Layer, ...]:
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
