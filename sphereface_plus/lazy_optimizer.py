"""An optimizer that leaves the vectors of classes that are not drawn alone, momentum and all."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from mhe import checks, keras_internals
from mhe.types import Tensor


@keras.saving.register_keras_serializable(package="sphereface_plus")
class LazyOptimizer(keras.optimizers.Optimizer):
    """Moves the vectors of classes that a step has drawn, and nothing of the others.

    With `sample=share` a head looks at some classes only in a step: the gradient of the others is
    0. An optimizer with momentum still moves their vectors by what is left of their last gradients,
    Adam by its moments, AdamW also by weight decay; and all let their momentum fade. This one keeps
    vector and momentum of a class as they are until it is drawn again. What is counted in steps,
    such as a schedule or the bias correction of Adam, goes on for all.

    It acts on the class vectors of heads with `sample` alone, and keeps those whose gradient is
    exactly 0. A regularizer of the kernel has a gradient for all of them, so all of them move;
    `l2` is one for the classes drawn. All other weights are updated as by the inner optimizer.
    During an update it holds another copy of the class vectors and of what the optimizer keeps for
    them.

    Args:
        inner_optimizer: A Keras optimizer, or its name. It must not accumulate gradients or average
            weights, and must keep its state for each number of a weight, as SGD, Adam, AdamW and
            RMSprop do, but not Adafactor.
        l2: Adds the gradient of l2·‖w‖², 2·l2·w, to that of each class vector that has one. It is
            what `keras.regularizers.L2(l2)` adds to all, and no part of the loss that is logged.
        name: As in Keras's optimizers.

    Raises:
        ValueError: If it is no such optimizer, or `l2` is negative; in training, if there is more
            than one replica of TensorFlow's.

    Example:

    >>> import keras, sphereface_plus
    >>> head = sphereface_plus.CosFace(1000, sample=0.1)
    >>> backbone = keras.Sequential([keras.Input((8,)), keras.layers.Dense(16)])
    >>> model = sphereface_plus.FaceModel(backbone, head)
    >>> model.compile(sphereface_plus.LazyOptimizer(keras.optimizers.SGD(0.1, momentum=0.9)))

    Reference:
        An et al., Killing two birds with one stone: efficient and robust training of face
        recognition CNNs by Partial FC, CVPR 2022
        ([arXiv:2203.15565](https://arxiv.org/abs/2203.15565)), whose code updates class vectors and
        momentum of the classes drawn alone.
    """

    def __init__(self, inner_optimizer: Any, l2: float = 0.0, name: str | None = None) -> None:
        checks.check_number("l2", l2, least=0)
        if isinstance(inner_optimizer, str):
            inner_optimizer = keras.optimizers.get(inner_optimizer)
        if not isinstance(inner_optimizer, keras.optimizers.Optimizer):
            raise ValueError(
                "`inner_optimizer` must be a Keras optimizer, or its name. "
                f"Received: {inner_optimizer!r}"
            )
        if inner_optimizer.built:
            raise ValueError(
                "`inner_optimizer` must be new. Received: one that has its variables already"
            )
        for option in ("gradient_accumulation_steps", "use_ema"):
            if getattr(inner_optimizer, option):
                raise ValueError(
                    "`inner_optimizer` must not accumulate gradients or average weights. "
                    f"Received: {option}={getattr(inner_optimizer, option)}"
                )
        super().__init__(learning_rate=0.0, name=name)
        self.inner_optimizer = inner_optimizer
        self.l2 = float(l2)

    # Class vectors and the inner optimizer's state of them, for each of the variables.
    _kept: list[list[keras.Variable]]

    def build(self, variables: Sequence[keras.Variable]) -> None:
        """Makes the state of the inner optimizer."""
        states = keras_internals.build_optimizer(self.inner_optimizer, variables)
        # Out of sight of Keras, which would take them for variables of this optimizer's own.
        self.__dict__["_kept"] = [
            [variable, *state] if getattr(variable, "drawn_by_column", False) else []
            for variable, state in zip(variables, states, strict=True)
        ]
        super().build(variables)

    @property
    def variables(self) -> list[keras.Variable]:
        """Those of both optimizers."""
        return [*self._variables, *self.inner_optimizer.variables]

    def apply(self, grads: Any, trainable_variables: Any = None) -> None:
        """Applies gradients as the inner optimizer does, except to classes that have none."""
        if not self.built:
            self.build(list(trainable_variables))
        _, replicas = keras_internals.replica()
        if replicas > 1:
            raise ValueError(
                f"`LazyOptimizer` trains on one replica. Received: {replicas} replicas"
            )
        if trainable_variables is None:
            trainable_variables = self._trainable_variables
        gradients, before = list(grads), []
        for place, variable in enumerate(trainable_variables):
            kept = self._kept[self._get_variable_index(variable)]
            if gradients[place] is not None and kept:
                moved = ops.any(ops.not_equal(gradients[place], 0.0), axis=0)[None, :]
                before += [(each, moved, _copy(each)) for each in kept]
                if self.l2:
                    decay = ops.where(moved, 2 * self.l2 * ops.convert_to_tensor(variable), 0.0)
                    gradients[place] = gradients[place] + decay
        self.inner_optimizer.apply(gradients, trainable_variables)
        for variable, moved, value in before:
            variable.assign(ops.where(moved, ops.convert_to_tensor(variable), value))
        self._iterations.assign_add(1)

    @property
    def learning_rate(self) -> Any:
        """That of the inner optimizer."""
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

    def save_own_variables(self, store: Any) -> None:
        """Saves its own variables; Keras saves those of the inner optimizer by themselves."""
        for place, variable in enumerate(self._variables):
            store[str(place)] = ops.convert_to_numpy(variable)

    def load_own_variables(self, store: Any) -> None:
        """Loads what `save_own_variables` saves."""
        for place, variable in enumerate(self._variables):
            variable.assign(store[str(place)])

    def get_config(self) -> dict[str, Any]:
        inner = keras.saving.serialize_keras_object(self.inner_optimizer)
        return {"inner_optimizer": inner, "l2": self.l2, "name": self.name}

    @classmethod
    def from_config(
        cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None
    ) -> "LazyOptimizer":
        inner = keras.saving.deserialize_keras_object(config["inner_optimizer"], custom_objects)
        return cls(**{**config, "inner_optimizer": inner})


def _copy(variable: keras.Variable) -> Tensor:
    """The value of a variable, also after that is changed in place."""
    return ops.copy(ops.convert_to_tensor(variable))
