"""What a step of training changes besides weights and optimizer."""

from collections.abc import Mapping, Sequence

import keras
import numpy as np

from mhe.keras_internals import (
    framework_states,
    restore_framework_states,
    sync_in_training,
    tracked_states,
)

Arrays = Mapping[str, Sequence[np.ndarray]]


def state_of_step(model: keras.Model) -> Arrays:
    """Metrics so far, and the states of what layers draw from, in the middle of an epoch.

    Afterwards weights and optimizer are current in the model, too.

    Args:
        model: The model, in a callback of `fit`.
    """
    sync_in_training(model)
    return {
        **{
            # Not of its `value`: a metric has one in each of TensorFlow's replicas.
            name: [keras.ops.convert_to_numpy(each) for each in variables]
            for name, variables in _variables(model).items()
        },
        "generators": framework_states(),
    }


def restore_state_of_step(model: keras.Model, state: Arrays) -> None:
    """Restores what `state_of_step` returned.

    Args:
        model: The model, in a callback of `fit`.
        state: The state.

    Raises:
        ValueError: If it is that of another model.
    """
    sync_in_training(model)
    for name, variables in _variables(model).items():
        expected = [tuple(each.shape) for each in variables]
        received = [value.shape for value in state[name]]
        if received != expected:
            raise ValueError(
                f"The {name} of the checkpoint must be those of the model, of shapes {expected}. "
                f"Received: {received}"
            )
        for variable, value in zip(variables, state[name], strict=True):
            variable.assign(value)
    restore_framework_states(state["generators"])


def _variables(model: keras.Model) -> dict[str, list[keras.Variable]]:
    return {"metrics": model.metrics_variables, "random states": tracked_states(model)}
