"""Cosines of an embedding with fixed prototypes."""

from typing import Any

import keras
import numpy as np
from keras import ops

from mhe import checks
from mhe.directions import unit_vectors
from mhe.layers.head import Head, initial_value
from mhe.serialization import array_from_config, array_to_config
from mhe.types import Tensor

# Lengths this close to 1 are left alone, so that rows do not change from layer to layer.
_EXACT_LENGTH = 1e-6


def prototype_cosines(embeddings: Tensor, prototypes: Tensor) -> Tensor:
    """Returns the cosine of every embedding with every prototype.

    Args:
        embeddings: Tensor `(..., dims)` of any length. A zero embedding has cosines of 0.
        prototypes: Unit rows `(classes, dims)`.

    Returns:
        A tensor `(..., classes)`: float64 for float64 embeddings, else float32.

    Example:

    >>> import numpy as np
    >>> embeddings = np.array([[0.0, 5.0], [-2.0, 0.0]], "float32")
    >>> np.asarray(prototype_cosines(embeddings, np.eye(2, dtype="float32")))
    array([[ 0.,  1.], [-1.,  0.]], dtype=float32)

    Reference:
        Mettes et al., Hyperspherical Prototype Networks, NeurIPS 2019
        ([arXiv:1901.10514](https://arxiv.org/abs/1901.10514)), on classification.
    """
    units = unit_vectors(embeddings)
    return ops.matmul(units, ops.transpose(ops.cast(prototypes, units.dtype)))


@keras.saving.register_keras_serializable(package="mhe")
class PrototypeHead(Head):
    """Cosines of an embedding with fixed prototypes, one per class.

    The prototypes are a non-trainable weight. The config holds them too, exactly, so that clones
    and models made from JSON have them.

    Cosines are computed and returned in float32 also under `mixed_float16` and `mixed_bfloat16`. A
    zero embedding has cosines of 0 and a finite gradient; see `unit_vectors`. Train with
    `mhe.losses.PrototypeLoss`. The predicted class is the one with the largest cosine, as
    `keras.metrics.SparseCategoricalAccuracy` has it.

    Args:
        prototypes: Unit rows `(classes, dims)`, as `mhe.prototypes.place` returns them, of at least
            two classes and two dimensions. Rows that were rounded to float16 are rescaled.
        reserve: How many of the rows, the last ones, are reserved for classes to come, see
            `extend`; at least two must be left.
        **kwargs: `name`, `dtype` and `trainable`, as for every Keras layer.

    Attributes:
        prototypes: The prototypes of the classes, `(classes, dims)`.
        reserved: Those for classes to come, a NumPy array `(reserve, dims)`.

    Raises:
        ValueError: If the prototypes are not such rows, more are reserved than there are, or
            embeddings have another size.

    Example:

    >>> import keras, mhe
    >>> import numpy as np
    >>> head = mhe.layers.PrototypeHead(np.eye(3))
    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(3), head])
    >>> model.compile("sgd", mhe.losses.PrototypeLoss(), metrics=["sparse_categorical_accuracy"])
    >>> model.output_shape, len(head.trainable_weights)
    ((None, 3), 0)

    Reference:
        Mettes et al., Hyperspherical Prototype Networks, NeurIPS 2019
        ([arXiv:1901.10514](https://arxiv.org/abs/1901.10514)), on classification.
    """

    def __init__(self, prototypes: Any, reserve: int = 0, **kwargs: Any) -> None:
        prototypes = _unit_rows(prototypes)
        checks.check_count("reserve", reserve, 0, len(prototypes) - 2)
        classes = len(prototypes) - int(reserve)
        prototypes, self.reserved = prototypes[:classes], prototypes[classes:]
        dims = prototypes.shape[1]
        super().__init__(dims, classes, **kwargs)
        self.classes = classes
        self.dims = dims
        self.prototypes = self.add_weight(
            name="prototypes",
            shape=prototypes.shape,
            dtype="float32",
            initializer=initial_value(prototypes),
            trainable=False,
            autocast=False,
        )

    def call(self, inputs: Tensor) -> Tensor:
        """Embeddings `(..., dims)` → cosines `(..., classes)`."""
        return prototype_cosines(ops.cast(inputs, self.output_dtype), self.prototypes)

    def extend(self, classes: int) -> "PrototypeHead":
        """Returns a new head with the next of the reserved prototypes as further classes.

        Neither this head nor the cosines of its classes change, so a network trained with it can be
        used with the new one as it is.

        Args:
            classes: The number of new classes, at least 1.

        Raises:
            ValueError: If fewer prototypes are reserved.

        Example:

        >>> import mhe
        >>> rows = mhe.prototypes.place(10, 32, reserve=5)
        >>> head = mhe.layers.PrototypeHead(rows, reserve=5)
        >>> extended = head.extend(2)
        >>> head.classes, extended.classes, len(extended.reserved)
        (10, 12, 3)
        """
        checks.check_count("classes", classes, 1)
        if classes > len(self.reserved):
            raise ValueError(
                f"The head has {len(self.reserved)} prototypes reserved for classes to come. "
                f"Received: classes={classes}"
            )
        config = self.get_config()
        return type(self).from_config({**config, "reserve": len(self.reserved) - int(classes)})

    def get_config(self) -> dict[str, Any]:
        own = np.asarray(ops.convert_to_numpy(self.prototypes))
        return {
            **super().get_config(),
            "prototypes": array_to_config(np.concatenate([own, self.reserved])),
            "reserve": len(self.reserved),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "PrototypeHead":
        stored = array_from_config(config["prototypes"])
        return super().from_config({**config, "prototypes": stored})


def _unit_rows(prototypes: Any) -> np.ndarray:
    """Prototypes as float32 unit rows, or a `ValueError`."""
    rows = np.asarray(ops.convert_to_numpy(prototypes)).astype(np.float32)
    checks.check_unit_rows(rows)
    lengths = np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)
    exact = np.abs(lengths - 1.0) <= _EXACT_LENGTH
    return np.where(exact, rows, rows / lengths).astype(np.float32)
