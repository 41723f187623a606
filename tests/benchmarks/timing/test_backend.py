"""How each backend compiles and measures memory."""

import os
import subprocess
import sys
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


def test_precisions_hold_within_the_block_only(backend):
    # 1 + 2^-12 is no bfloat16.
    a = np.full((2, 2), 1 + 2.0**-12, "float32")

    def product():
        return float(np.asarray(keras.ops.convert_to_numpy(keras.ops.matmul(a, a)))[0, 0])

    exact = 2 * (1 + 2.0**-12) ** 2
    for name in backend.PRECISIONS:
        if (backend.BACKEND, name) == ("tensorflow", "bfloat16"):
            continue
        with backend.precision(name):
            found = product()
        # On a CPU only PyTorch rounds, to bfloat16.
        if backend.device() == "cpu" and (backend.BACKEND, name) != ("torch", "bfloat16"):
            assert found == pytest.approx(exact, rel=1e-6)
        if (backend.BACKEND, name) == ("torch", "bfloat16"):
            assert found == 2.0
    assert product() == pytest.approx(exact, rel=1e-6)
    if backend.BACKEND == "torch":
        import torch

        assert torch.get_float32_matmul_precision() == "highest"
        with backend.precision("tf32"):
            assert torch.get_float32_matmul_precision() == "high"
        assert torch.get_float32_matmul_precision() == "highest"


def test_unknown_precisions_are_refused(backend):
    with (
        pytest.raises(ValueError, match=r"in this precision\. Received: 'float8'"),
        backend.precision("float8"),
    ):
        pass
    if backend.BACKEND == "tensorflow":
        with (
            pytest.raises(ValueError, match="Received: 'bfloat16'"),
            backend.precision("bfloat16"),
        ):
            pass


def test_peak_memory_sees_what_a_call_takes(backend):
    """In a process of its own, as the programs measure: what others free would hide memory."""
    if backend.device() != "cpu":
        pytest.skip("NumPy's memory is not the device's")
    if not Path("/proc/self/clear_refs").exists():
        assert backend.peak_memory(lambda: None) is None
        return
    code = (
        "import numpy as np; from timing.backend import peak_memory;"
        "print(*(peak_memory(lambda: np.ones(n << 20, np.uint8)) >> 20 for n in (0, 48, 96, 1)))"
    )
    path = os.pathsep.join(sys.path)
    printed = subprocess.check_output(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": path}, text=True
    )
    before, first, second, after = map(int, printed.splitlines()[-1].split())
    assert before < 10
    assert 47 <= first < 60
    assert 95 <= second < 110
    # The peaks before are forgotten.
    assert after < 10
