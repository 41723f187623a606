"""The search of inner problems."""

import numpy as np
from keras import ops

from mhe.regularizers.inner import descend


def test_finds_the_minimum_of_a_quadratic_form():
    matrix = ops.convert_to_tensor(np.diag([1.0, 3.0, -2.0, 5.0]), "float32")
    start = np.ones(4, "float32")
    found = descend(
        lambda v: (0.5 * ops.sum(matrix * v[:, None] * v), ops.matmul(matrix, v[:, None])[:, 0]),
        ops.convert_to_tensor(start),
        40,
    )
    np.testing.assert_allclose(np.abs(ops.convert_to_numpy(found)), [0, 0, 1, 0], atol=0.02)


def test_stays_where_nothing_slopes():
    start = ops.convert_to_tensor(np.array([3.0, 4.0], "float32"))
    found = descend(lambda v: (ops.sum(v * v), 2.0 * v), start, 5)
    np.testing.assert_allclose(ops.convert_to_numpy(found), [0.6, 0.8], atol=1e-6)
