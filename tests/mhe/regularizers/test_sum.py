"""Sums of regularizers, and regularizers in words."""

import keras
import numpy as np
import pytest
from keras import ops

import mhe
from mhe.regularizers import describe


def kernel(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def test_sum_adds():
    weights = kernel(5, 9)
    both = mhe.Sum(keras.regularizers.L2(0.1), mhe.MHE(2.0), "l1")
    expected = 0.1 * np.sum(weights**2) + float(mhe.MHE(2.0)(weights))
    expected += 0.01 * np.sum(np.abs(weights))
    assert float(both(weights)) == pytest.approx(expected, rel=1e-5)


def test_descriptions():
    both = mhe.Sum("l2", mhe.MHE(10, s=0, distance="angle", space="full", sample=100))
    assert repr(both) == "Sum(L2(l2=0.01), MHE(10, s=0, angle, full, sample=100))"
    assert describe(ops.sum) == "sum"


@pytest.mark.parametrize("parts", [(), (None,), ("no such thing",)], ids=str)
def test_sum_of_what_is_no_regularizer(parts):
    with pytest.raises(ValueError, match=r"Received|no such thing"):
        mhe.Sum(*parts)
