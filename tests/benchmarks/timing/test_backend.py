"""How each backend compiles and measures memory."""

from pathlib import Path

import keras
import numpy as np
import pytest


@pytest.fixture
def backend(part):
    return part("backend")


def draw(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def test_every_mode_computes_the_same(backend, part):
    weights = draw(6, 5)
    two_products = part("energies").two_products
    assert backend.modes()[0] == ""
    assert backend.keras_mode() in backend.modes()
    for mode in backend.modes():
        (product,) = backend.compiled(two_products, weights, mode, gradient=False)()
        expected = weights @ (weights.T @ weights)
        np.testing.assert_allclose(keras.ops.convert_to_numpy(product), expected, rtol=1e-4)
        value, gradient = backend.compiled(lambda w: keras.ops.sum(w * w), weights, mode)()
        assert float(value) == pytest.approx((weights**2).sum())
        np.testing.assert_allclose(keras.ops.convert_to_numpy(gradient), 2 * weights, rtol=1e-5)


def test_peak_memory_sees_what_a_call_takes(backend):
    if backend.device() != "cpu":
        pytest.skip("NumPy's memory is not the device's")

    def call():
        return np.ones(48 * 2**20, np.uint8)

    if Path("/proc/self/clear_refs").exists():
        assert 47 < backend.peak_memory(call) / 2**20 < 60
        # The first peak is forgotten.
        assert backend.peak_memory(lambda: None) / 2**20 < 10
    else:
        assert backend.peak_memory(call) is None
