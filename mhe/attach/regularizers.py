"""What `attach` puts on weights, and on the one config entry of an attention layer."""

from typing import Any

import keras

from mhe.regularizers import Sum
from mhe.types import Tensor


@keras.saving.register_keras_serializable(package="mhe")
class Attached(Sum):
    """What `attach` puts on a weight: the added regularizer and the one that was there before.

    Args:
        added: The added regularizer.
        existing: The regularizer that the weight had, or None.

    Example:

    >>> import keras, mhe
    >>> both = Attached(mhe.MHE(), keras.regularizers.L2(5e-4))
    >>> float(both(keras.ops.eye(3))) > float(both.added(keras.ops.eye(3)))
    True
    """

    def __init__(self, added: Any, existing: Any = None) -> None:
        super().__init__(*([] if existing is None else [existing]), added)
        self.added = self.regularizers[-1]
        self.existing = None if existing is None else self.regularizers[0]

    def get_config(self) -> dict[str, Any]:
        return {
            "added": keras.saving.serialize_keras_object(self.added),
            "existing": keras.saving.serialize_keras_object(self.existing),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Attached":
        return cls(
            keras.saving.deserialize_keras_object(config["added"]),
            keras.saving.deserialize_keras_object(config["existing"]),
        )


@keras.saving.register_keras_serializable(package="mhe")
class Projections(keras.regularizers.Regularizer):
    """The regularizers of an attention layer's projections, kept in its one config entry.

    An attention layer gives one `kernel_regularizer` to all of its projections, whose neurons lie
    along different axes. In a layer built from a config, every kernel therefore has this object for
    a regularizer, and the kernel's shape tells which projection it belongs to. If the number of
    heads equals the number of input features and of numbers per head, query and output kernels have
    the same shape: then the call raises an error instead of guessing. `mhe.attached`, which goes by
    the names of the projections, resolves that.

    Args:
        members: For each projection's name, its kernel's shape and its regularizer (or None).
        existing: The regularizer that the attention layer had, or None.

    Raises:
        ValueError: When called on a kernel whose shape is that of no projection, or of several
            with different regularizers.

    Example:

    >>> import keras, mhe
    >>> l1 = keras.regularizers.L1(1.0)
    >>> both = Projections({"query": ((4, 2, 3), l1), "attention_output": ((2, 3, 4), None)})
    >>> float(both(keras.ops.ones((4, 2, 3)))), float(both(keras.ops.ones((2, 3, 4))))
    (24.0, 0.0)
    """

    def __init__(self, members: dict[str, tuple[Any, Any]], existing: Any = None) -> None:
        self.members = {name: (tuple(shape), each) for name, (shape, each) in members.items()}
        self.existing = existing

    def __call__(self, x: Tensor) -> Tensor:
        """Returns the value of the regularizer whose projection has the shape of `x`."""
        shape = tuple(x.shape)
        matching = [each for of, each in self.members.values() if of == shape]
        if not matching or any(not _equal(matching[0], each) for each in matching):
            shapes = {name: of for name, (of, _) in self.members.items()}
            raise ValueError(
                "The shape of this kernel does not tell which projection of the attention layer it "
                "is. Call `mhe.attached(model)` once after the model was built from its "
                "config, or `mhe.attach` if it was built with other shapes. "
                f"Received: shape={shape} of {shapes}"
            )
        if matching[0] is None:
            return keras.ops.zeros((), dtype=keras.config.floatx())
        return matching[0](x)

    def get_config(self) -> dict[str, Any]:
        return {
            "members": {
                name: [list(shape), keras.saving.serialize_keras_object(each)]
                for name, (shape, each) in self.members.items()
            },
            "existing": keras.saving.serialize_keras_object(self.existing),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Projections":
        members = {
            name: (tuple(shape), keras.saving.deserialize_keras_object(each))
            for name, (shape, each) in config["members"].items()
        }
        return cls(members, keras.saving.deserialize_keras_object(config["existing"]))


def _equal(one: Any, other: Any) -> bool:
    serialize = keras.saving.serialize_keras_object
    return one is other or serialize(one) == serialize(other)
