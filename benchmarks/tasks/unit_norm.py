"""Embeddings of unit length."""

import keras

from mhe.directions import unit_vectors
from mhe.types import Tensor


@keras.saving.register_keras_serializable(package="mhe_benchmarks")
class UnitNorm(keras.layers.UnitNormalization):
    """Scales vectors `(..., D)` to unit length, in at least float32.

    The gradient of Keras's own layer at a zero vector, the embedding of an image for which all
    hidden units are off, is 1e12, which the batch norms before it turn into NaN.

    Example:

    >>> import numpy as np
    >>> vectors = UnitNorm()(np.array([[3.0, 4.0], [0.0, 0.0]], "float32"))
    >>> keras.ops.convert_to_numpy(vectors).round(2)
    array([[0.6, 0.8],
           [0. , 0. ]], dtype=float32)
    """

    def call(self, inputs: Tensor) -> Tensor:
        return unit_vectors(inputs)
