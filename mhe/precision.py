"""The precision of everything computed from weights and embeddings."""

import keras
from keras import ops

from mhe.types import Tensor


def at_least_float32(values: Tensor) -> Tensor:
    """Values as a tensor of at least float32: half precision would cost most of their digits.

    Args:
        values: Tensor or array of any shape and numeric dtype.

    Returns:
        A tensor of the same shape: float64 for float64 values, else float32.

    Example:

    >>> import numpy as np
    >>> tensor = at_least_float32(np.ones(2, "float16"))
    >>> keras.backend.standardize_dtype(tensor.dtype)
    'float32'
    """
    values = ops.convert_to_tensor(values)
    is_double = keras.backend.standardize_dtype(values.dtype) == "float64"
    return ops.cast(values, "float64" if is_double else "float32")
