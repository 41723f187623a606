"""Callbacks that watch the energy and the angles of a model's neurons during training."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from mhe.attach.neurons import NeuronWeight
from mhe.callbacks.watched import WeightLogger
from mhe.energy import check_options, hyperspherical_energy
from mhe.metrics import angle_blocks, unit_neurons
from mhe.regularizers.base import Weighted
from mhe.regularizers.sum import members


class EnergyLogger(WeightLogger):
    """Adds the hyperspherical energy of every layer to the logs at the end of each epoch.

    It logs `energy/<weight's path>` for every weight that holds neurons, and `energy`, the mean
    over these weights. These are mean energies over pairs of neurons, without any strength, so they
    can be compared between a model with energies attached and one without.

    Put it before the callbacks that read the logs (`CSVLogger`, `TensorBoard`, `EarlyStopping` with
    `mode="min"`): Keras calls callbacks in the order of their list. `History` always comes last.

    Args:
        s: The power of the potential, as in `mhe.hyperspherical_energy`.
        distance: `"euclidean"` or `"angle"`.
        space: `"full"` or `"half"`.
        layers: Which layers to watch, as in `mhe.attach`; None watches all.
        angles: Whether to log angles, too, in radians: `angle/min/<path>` and
            `angle/mean/<path>`, over all pairs of neurons. They are computed on the CPU.
        regularizers: Names of classes of regularizers, such as `["Uniformity"]`, to log as well
            where they are on a weight, attached or given: `Uniformity/<path>`, and the mean over
            these weights as `Uniformity`. As for energies, without their strength, if they have
            one of this package.

    Raises:
        ValueError: If an option is unknown or, in training, no layer matches, or a regularizer
            is on no weight.

    Example:

    >>> import keras, numpy as np
    >>> from mhe.callbacks import EnergyLogger
    >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4, name="wide")])
    >>> model.compile("sgd", "mse")
    >>> history = model.fit(np.ones((8, 3)), np.ones((8, 4)), epochs=2, verbose=0,
    ...                     callbacks=[EnergyLogger(space="half")])
    >>> [name for name in history.history if name.startswith("energy")]
    ['energy/.../wide/kernel', 'energy']
    >>> len(history.history["energy"])
    2

    Reference:
        Liu et al., Learning towards Minimum Hyperspherical Energy, NeurIPS 2018
        (arXiv 1805.09298).
    """

    def __init__(
        self,
        s: float = 2,
        distance: str = "euclidean",
        space: str = "full",
        layers: Any = None,
        angles: bool = False,
        regularizers: Sequence[str] = (),
    ) -> None:
        super().__init__(layers)
        check_options(s, distance, space)
        if isinstance(regularizers, str) or not all(isinstance(n, str) for n in regularizers):
            raise ValueError(
                "`regularizers` must be a list of class names. "
                f"Received: regularizers={regularizers!r}"
            )
        self.s = s
        self.distance = distance
        self.space = space
        self.angles = angles
        self.regularizers = tuple(regularizers)

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Adds to `logs`, which Keras passes on to the callbacks after this one."""
        logs = {} if logs is None else logs
        energies = []
        for weight in self.watched():
            # No gradient is needed, and half precision would show three digits of the energy.
            values = keras.ops.cast(keras.ops.stop_gradient(weight.variable), "float32")
            energy = hyperspherical_energy(
                values, self.s, self.distance, self.space, axis=weight.axis
            )
            energies.append(float(keras.ops.convert_to_numpy(energy)))
            logs[f"energy/{weight.path}"] = energies[-1]
            if self.angles and weight.count > 1:
                smallest, mean = _smallest_and_mean(weight)
                logs[f"angle/min/{weight.path}"] = smallest
                logs[f"angle/mean/{weight.path}"] = mean
        logs["energy"] = float(np.mean(energies))
        for name in self.regularizers:
            logs.update(self._values_of(name))

    def _values_of(self, name: str) -> dict[str, float]:
        """The value of the regularizers of a class on each weight, and their mean."""
        values: dict[str, float] = {}
        for weight in self.watched():
            weights = keras.ops.cast(keras.ops.stop_gradient(weight.variable), "float32")
            found = [
                each.value(weights) if isinstance(each, Weighted) else each(weights)
                for each in members(weight.variable.regularizer)
                if type(each).__name__ == name
            ]
            if found:
                total = sum(float(keras.ops.convert_to_numpy(value)) for value in found)
                values[f"{name}/{weight.path}"] = total
        if not values:
            there = {
                type(each).__name__
                for weight in self.watched()
                for each in members(weight.variable.regularizer)
            }
            raise ValueError(
                f"`regularizers` must be on a weight of the model, which has "
                f"{', '.join(sorted(there)) or 'none'}. Received: {name!r}"
            )
        return {**values, name: float(np.mean(list(values.values())))}


def _smallest_and_mean(weight: NeuronWeight) -> tuple[float, float]:
    smallest, total, pairs = np.inf, 0.0, 0
    for block in angle_blocks(unit_neurons(weight.variable, weight.axis)):
        smallest = min(smallest, float(np.min(block)))
        total += float(np.sum(block))
        pairs += block.size
    return smallest, total / pairs
