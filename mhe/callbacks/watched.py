"""What callbacks that log something for each weight with neurons share."""

from typing import Any

import keras

from mhe.attach.neurons import NeuronWeight, neuron_weights, unbuilt_layers
from mhe.attach.selection import select


class WeightLogger(keras.callbacks.Callback):
    """Finds the weights to watch: when training begins or, in a model yet to be built, after it.

    TensorFlow builds a model without an input shape in the first step of `fit`, after
    `on_train_begin`.

    Args:
        layers: Which layers to watch, as in `mhe.attach`; None watches all.
    """

    def __init__(self, layers: Any = None) -> None:
        super().__init__()
        self.layers = layers
        self._weights: list[NeuronWeight] = []

    def on_train_begin(self, logs: dict[str, float] | None = None) -> None:
        """Finds the weights to watch, if the model is built."""
        self._weights = []
        if self.model.built and not unbuilt_layers(self.model):
            self.watched()

    def watched(self) -> list[NeuronWeight]:
        """The weights to watch.

        Raises:
            ValueError: If there are none.
        """
        if not self._weights:
            every = self.layers is None
            self._weights = neuron_weights(self.model) if every else select(self.model, self.layers)
        if not self._weights:
            raise ValueError(
                f"{type(self).__name__} needs a model with neurons. Received: {self.model.name!r}"
            )
        return self._weights
