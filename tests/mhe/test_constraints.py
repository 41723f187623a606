"""Constraints on weights."""

import keras
import numpy as np
import pytest
from keras import ops

import mhe


def test_pixels_stay_within_the_range():
    constraint = mhe.PixelRange(-0.5, 1)
    constraint = keras.constraints.deserialize(keras.constraints.serialize(constraint))
    clipped = constraint(ops.convert_to_tensor([-3.0, -0.5, 0.2, 7.0]))
    np.testing.assert_allclose(ops.convert_to_numpy(clipped), [-0.5, -0.5, 0.2, 1.0])


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="low=1, high=1"):
        mhe.PixelRange(1, 1)
