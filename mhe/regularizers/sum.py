"""Sums of regularizers, and regularizers in words."""

from typing import Any

import keras
from keras import ops

from mhe.types import Tensor


@keras.saving.register_keras_serializable(package="mhe")
class Sum(keras.regularizers.Regularizer):
    """Several regularizers on one weight.

    Args:
        *regularizers: Anything `keras.regularizers.get` accepts: regularizers, names, functions.

    Raises:
        ValueError: If one of them is None or not a regularizer.

    Example:

    >>> import keras, mhe
    >>> both = mhe.Sum(keras.regularizers.L2(5e-4), mhe.MHE())
    >>> layer = keras.layers.Dense(10, kernel_regularizer=both)
    """

    def __init__(self, *regularizers: Any) -> None:
        if not regularizers:
            raise ValueError("`Sum` needs at least one regularizer. Received: none")
        self.regularizers = tuple(map(keras.regularizers.get, regularizers))
        if any(each is None for each in self.regularizers):
            raise ValueError("`Sum` adds regularizers. Received: None")

    def __call__(self, x: Tensor) -> Tensor:
        """Returns the sum of the regularizers' values, a scalar of Keras's `floatx`."""
        dtype = keras.config.floatx()
        first, *others = (ops.cast(each(x), dtype) for each in self.regularizers)
        return sum(others, first)

    def get_config(self) -> dict[str, Any]:
        return {
            "regularizers": [
                keras.saving.serialize_keras_object(each) for each in self.regularizers
            ]
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Sum":
        return cls(
            *(keras.saving.deserialize_keras_object(each) for each in config["regularizers"])
        )

    def __repr__(self) -> str:
        return f"Sum({', '.join(map(describe, self.regularizers))})"


def describe(regularizer: Any) -> str:
    """A regularizer in a few words, for tables.

    Example:

    >>> import keras
    >>> from mhe import MHE
    >>> describe(keras.regularizers.L2(0.5)), describe(MHE(2.0, s=0)), describe(None)
    ('L2(l2=0.5)', 'MHE(2, s=0, euclidean, half)', 'none')
    """
    if regularizer is None:
        return "none"
    if not isinstance(regularizer, keras.regularizers.Regularizer):
        return getattr(regularizer, "__name__", repr(regularizer))
    if type(regularizer).__repr__ is not object.__repr__:
        return repr(regularizer)
    options = ", ".join(
        f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}"
        for name, value in regularizer.get_config().items()
    )
    return f"{type(regularizer).__name__}({options})"


def members(regularizer: Any) -> list[Any]:
    """The regularizers in a sum, or the one that is none.

    Example:

    >>> import keras, mhe
    >>> members(Sum(mhe.MHE(), keras.regularizers.L2(0.5)))[0], members(None)
    (MHE(1, s=2, euclidean, half), [])
    """
    if regularizer is None:
        return []
    if isinstance(regularizer, Sum):
        return [member for each in regularizer.regularizers for member in members(each)]
    return [regularizer]
