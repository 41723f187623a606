"""Nothing is computed in half precision, and float64 stays what it is."""

import keras
import numpy as np
import pytest

from mhe.precision import at_least_float32


@pytest.mark.parametrize(
    ("given", "expected"),
    [("float16", "float32"), ("bfloat16", "float32"), ("float32", "float32"), ("int32", "float32")],
)
def test_precision(given, expected):
    values = keras.ops.cast(np.array([1.0, -2.0]), given)
    found = at_least_float32(values)
    assert keras.backend.standardize_dtype(found.dtype) == expected
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(found), [1.0, -2.0])


@pytest.mark.skipif(keras.backend.backend() == "jax", reason="JAX has no float64 unless told to")
def test_float64_stays():
    found = at_least_float32(keras.ops.convert_to_tensor(np.array([1 / 3]), "float64"))
    assert float(keras.ops.convert_to_numpy(found)[0]) == 1 / 3
