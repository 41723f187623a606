"""Values of variables in a training step that must not change variables, as on JAX."""

from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias

import keras

from mhe.types import Tensor

Variables: TypeAlias = Iterable[Sequence[keras.Variable]]


class Values:
    """Current values of variables that a step must not assign.

    Args:
        variables: Lists of variables.
        values: Lists of their values.
    """

    def __init__(self, variables: Variables, values: Iterable[Sequence[Tensor]]) -> None:
        self._values: dict[int, tuple[keras.Variable, Tensor]] = {}
        self.update(variables, values)

    def of(self, variables: Variables) -> tuple[list[Tensor], ...]:
        """Returns the values of lists of variables."""
        return tuple([self._values[id(each)][1] for each in part] for part in variables)

    def update(self, variables: Variables, values: Iterable[Sequence[Tensor]]) -> None:
        """Sets the values of lists of variables."""
        for part, part_values in zip(variables, values, strict=True):
            for variable, value in zip(part, part_values, strict=True):
                self._values[id(variable)] = variable, value

    def run(self, function: Callable[[], None]) -> None:
        """Calls a function that reads and assigns variables."""
        with keras.StatelessScope(list(self._values.values())) as scope:
            function()
        for key, (variable, _) in self._values.items():
            self._values[key] = variable, scope.get_current_value(variable)


def variables_of(model: keras.Model) -> tuple[list[keras.Variable], ...]:
    """The variables of a model in the order in which Keras passes their values on JAX."""
    return (
        model.trainable_variables,
        model.non_trainable_variables,
        model.optimizer.variables,
        model.metrics_variables,
    )
