"""An optimizer that leaves alone what has no gradient."""

from typing import Any

import keras
from keras import ops

from mhe.types import Tensor


@keras.saving.register_keras_serializable(package="mhe")
class Lazy(keras.optimizers.Optimizer):
    """Updates only those columns of a weight that have a gradient, and only their momentum.

    Where a step looks at some classes only, as those of `sphereface_plus` with `sample=share` do,
    the gradient of all others is 0. An optimizer with momentum would still move their vectors, by
    what is left of their last gradients, and let that decay. This one keeps both until the class
    is drawn again: for momentum, Adam's moments and weight decay alike. Steps, as of Adam's bias
    correction and of schedules, count for all classes.

    A column is a slice along the last axis, of weights with more than one. Whatever the inner
    optimizer does, a weight and its state are kept where the whole column of the gradient is
    exactly 0. Keeping them takes a copy of each.

    Args:
        inner_optimizer: A `keras.optimizers.Optimizer` that does not accumulate gradients.
        name: As in Keras's optimizers.

    Raises:
        ValueError: If it is no optimizer, or accumulates gradients.

    Example:

    >>> weight = keras.Variable([[1.0, 2.0]])
    >>> optimizer = Lazy(keras.optimizers.SGD(1.0, momentum=0.5))
    >>> optimizer.apply([ops.convert_to_tensor([[1.0, 1.0]])], [weight])
    >>> optimizer.apply([ops.convert_to_tensor([[1.0, 0.0]])])
    >>> ops.convert_to_numpy(weight)
    array([[-1.5,  1. ]], dtype=float32)

    Reference:
        An et al., Killing two birds with one stone: efficient and robust training of face
        recognition CNNs by Partial FC, CVPR 2022
        ([arXiv:2203.15565](https://arxiv.org/abs/2203.15565)), whose code keeps the momentum of
        classes that are not drawn.
    """

    def __init__(self, inner_optimizer: Any, name: str | None = None) -> None:
        if not isinstance(inner_optimizer, keras.optimizers.Optimizer):
            raise ValueError(
                f"`inner_optimizer` must be a Keras optimizer. Received: {inner_optimizer!r}"
            )
        if inner_optimizer.gradient_accumulation_steps:
            raise ValueError(
                "`inner_optimizer` must not accumulate gradients. Received: "
                f"gradient_accumulation_steps={inner_optimizer.gradient_accumulation_steps}"
            )
        super().__init__(learning_rate=0.0, name=name)
        self.inner_optimizer = inner_optimizer

    def build(self, variables: Any) -> None:
        self.inner_optimizer.build(variables)
        super().build(variables)

    @property
    def variables(self) -> list[Any]:
        return [*self._variables, *self.inner_optimizer.variables]

    def apply(self, grads: Any, trainable_variables: Any = None) -> None:
        """Applies gradients, as the inner optimizer does, to the columns that have any."""
        if not self.built:
            self.build(trainable_variables)
        variables = (
            self._trainable_variables if trainable_variables is None else trainable_variables
        )
        kept = []
        for gradient, variable in zip(grads, variables, strict=True):
            if gradient is None or len(variable.shape) < 2:
                continue
            axes = tuple(range(len(variable.shape) - 1))
            moved = ops.any(ops.not_equal(gradient, 0.0), axis=axes)
            for each in (variable, *self._state_of(variable)):
                kept.append((each, moved, _copy(each)))
        self.inner_optimizer.apply(grads, trainable_variables)
        for variable, moved, before in kept:
            variable.assign(ops.where(moved, ops.convert_to_tensor(variable), before))
        self._iterations.assign_add(1)

    def _state_of(self, variable: keras.Variable) -> list[keras.Variable]:
        """What the inner optimizer keeps per number of a weight, but for its moving average."""
        start = f"{variable.path.replace('/', '_')}_"
        return [
            each
            for each in self.inner_optimizer.variables
            if each.shape == variable.shape
            and each.name.startswith(start)
            and not each.name.endswith("_average")
        ]

    @property
    def learning_rate(self) -> Any:
        return self.inner_optimizer.learning_rate

    @learning_rate.setter
    def learning_rate(self, learning_rate: Any) -> None:
        self.inner_optimizer.learning_rate = learning_rate

    def scale_loss(self, loss: Tensor) -> Tensor:
        """As the inner optimizer."""
        return self.inner_optimizer.scale_loss(loss)

    def finalize_variable_values(self, var_list: Any) -> None:
        """As the inner optimizer."""
        self.inner_optimizer.finalize_variable_values(var_list)

    def get_config(self) -> dict[str, Any]:
        inner = keras.saving.serialize_keras_object(self.inner_optimizer)
        return {"name": self.name, "inner_optimizer": inner}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> "Lazy":
        inner = keras.saving.deserialize_keras_object(config["inner_optimizer"], custom_objects)
        return cls(inner, config["name"])


def _copy(variable: keras.Variable) -> Tensor:
    """The value of a variable, also after it is changed in place, as PyTorch does."""
    value = ops.convert_to_tensor(variable)
    return ops.copy(value) if keras.backend.backend() == "torch" else value
