"""What `attach` puts on weights."""

from typing import Any

import keras

from mhe.regularizers import Sum


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


def along(regularizer: Any, axis: int | tuple[int, ...]) -> Any:
    """A regularizer with the axis of everything in it that has `with_axis` set.

    Example:

    >>> import mhe
    >>> along(mhe.MHE(), axis=0).axis
    0
    """
    if isinstance(regularizer, Sum):
        return Sum(*(along(each, axis) for each in regularizer.regularizers))
    with_axis = getattr(regularizer, "with_axis", None)
    return regularizer if with_axis is None else with_axis(axis)
