"""A callback that scales the strength of regularizers during training."""

import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from mhe import keras_internals
from mhe.attach import attached
from mhe.attach.neurons import unbuilt_layers, walk
from mhe.attach.retracing import retrace
from mhe.checks import check_choice, check_count
from mhe.regularizers.base import Weighted
from mhe.regularizers.sum import members
from mhe.types import Tensor


class StrengthSchedule(keras.callbacks.Callback):
    """Multiplies the strength of regularizers by a factor that changes during training.

    It scales every regularizer of this package that is on a weight of the model, be it attached by
    `mhe.attach` or given as a `kernel_regularizer`, alone or in a `Sum`; others stay as they are.
    The factor is a variable, so a compiled training step is traced once, in the first `fit` with a
    schedule. It keeps its last value after `fit`, until another schedule changes it, and belongs to
    the regularizer: give each model one of its own.

    A step is an update of the weights: by their number, which the optimizer counts, the schedule
    goes on in another `fit`, and in a model that was saved and loaded. (The file has the strengths
    without the factor.) With `steps_per_execution=n` the factor changes every n steps.

    Any schedule of Keras works, such as `keras.optimizers.schedules.CosineDecay(1.0, 1000)`;
    `warm_up` and `off_after` make two more.

    Args:
        schedule: Called with the number of the step, or of the epoch, from 0 on; returns the
            factor, a finite number ≥ 0. A function, or a
            `keras.optimizers.schedules.LearningRateSchedule`.
        by: `"step"` or `"epoch"`. Epochs are those that `fit` counts, see its `initial_epoch`.

    Raises:
        ValueError: If an argument is not one of the above; in training, if no weight has a
            regularizer of this package, or the schedule returns anything but a finite number ≥ 0.

    Example:

    >>> import keras, mhe
    >>> import numpy as np
    >>> regularizer = mhe.MHE(2.0)
    >>> layer = keras.layers.Dense(4, kernel_regularizer=regularizer)
    >>> model = keras.Sequential([keras.Input((3,)), layer])
    >>> model.compile("sgd", "mse")
    >>> ramp = mhe.StrengthSchedule(lambda step: step / 10)
    >>> _ = model.fit(np.ones((8, 3)), np.ones((8, 4)), batch_size=4, callbacks=[ramp], verbose=0)
    >>> round(float(regularizer.scale), 6)  # of the second of two steps
    0.1
    """

    def __init__(self, schedule: Callable[[int], Any], by: str = "step") -> None:
        super().__init__()
        if not callable(schedule):
            raise ValueError(
                "`schedule` must be a function of the step or a Keras schedule. "
                f"Received: schedule={schedule!r}"
            )
        check_choice("by", by, ("step", "epoch"))
        self.schedule = schedule
        self.by = by
        self._scales: list[keras.Variable] = []
        self._factor: float | None = None
        self._batches = 0

    @classmethod
    def warm_up(cls, steps: int, by: str = "step") -> "StrengthSchedule":
        """From 0 to the full strength in equal parts, and then at it.

        Args:
            steps: Steps, or epochs, until the full strength.
            by: As in the constructor.

        Example:

        >>> [StrengthSchedule.warm_up(4).schedule(step) for step in (0, 1, 4, 9)]
        [0.0, 0.25, 1.0, 1.0]
        """
        check_count("steps", steps, 1)
        return cls(lambda step: min(step / steps, 1.0), by)

    @classmethod
    def off_after(cls, steps: int, by: str = "step") -> "StrengthSchedule":
        """The full strength for a number of steps, or epochs, and then none.

        Args:
            steps: How many.
            by: As in the constructor.

        Example:

        >>> [StrengthSchedule.off_after(4).schedule(step) for step in (0, 3, 4, 9)]
        [1.0, 1.0, 0.0, 0.0]
        """
        check_count("steps", steps, 0)
        return cls(lambda step: float(step < steps), by)

    def set_model(self, model: keras.Model) -> None:
        """Puts the factor into a model that is built, before its training step is traced."""
        super().set_model(model)
        if model.built and not unbuilt_layers(model):
            self._scales = _scales(model)

    def on_train_begin(self, logs: dict[str, float] | None = None) -> None:
        """Finds what was built or attached since."""
        self._scales = _scales(self.model)
        self._factor = None
        if not self._scales:
            raise ValueError(
                "`StrengthSchedule` needs a weight with a regularizer of this package; call "
                f"`mhe.attach` first. Received: model={self.model.name!r}"
            )

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Sets the factor of an epoch."""
        if self.by == "epoch":
            self._set(epoch)
        elif self.model.optimizer is None:
            raise ValueError(
                "Steps are counted by the optimizer of `compile`; a model without one needs "
                f'by="epoch". Received: model={self.model.name!r}'
            )
        else:
            self._batches = keras_internals.batches_trained(self.model)

    def on_train_batch_begin(self, batch: int, logs: dict[str, float] | None = None) -> None:
        """Sets the factor of a step."""
        if self.by == "step":
            # The optimizer's own count is not at hand during an epoch on JAX.
            self._set((self._batches + batch) // keras_internals.accumulation_steps(self.model))

    def _set(self, step: int) -> None:
        factor = self._checked(step)
        if factor != self._factor:
            for scale in self._scales:
                keras_internals.assign_in_training(self.model, scale, factor)
            self._factor = factor

    def _checked(self, step: int) -> float:
        received = self.schedule(step)
        value = np.asarray(_to_numpy(received))
        is_number = value.size == 1 and value.dtype.kind in "iuf"
        if not is_number or not math.isfinite(float(value.item())) or value.item() < 0:
            raise ValueError(
                "`schedule` must return a finite number >= 0. "
                f"Received: {received!r} at {self.by} {step}"
            )
        return float(value.item())


def _to_numpy(value: Tensor) -> Any:
    return keras.ops.convert_to_numpy(value) if keras.ops.is_tensor(value) else value


def _scales(model: keras.Model) -> list[keras.Variable]:
    """The factors of all regularizers of a model that have a strength, new where there is none."""
    attached(model)  # gives each weight its own regularizer
    found: list[tuple[keras.layers.Layer, Weighted]] = []
    for layer, _ in walk(model):
        for variable in keras_internals.own_variables(layer):
            for member in members(variable.regularizer):
                if isinstance(member, Weighted):
                    found.append((layer, member))
    scales = {id(each.scale): each.scale for _, each in found if each.scale is not None}
    changed = False
    for layer, regularizer in found:
        if regularizer.scale is None:
            if not scales:
                scale = keras.Variable(1.0, trainable=False, dtype="float32", name="strength_scale")
                scales[id(scale)] = scale
            regularizer.scale = next(iter(scales.values()))
            changed = True
        keras_internals.track_state(layer, regularizer.scale)
    if changed:
        retrace(model)
    return list(scales.values())
