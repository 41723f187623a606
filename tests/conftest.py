"""What tests that build models or fill disks share."""

import json
import math
import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

# Programs, which import each other as such.
collect_ignore = ["crash", "start"]


@pytest.fixture
def weights_from_numpy(monkeypatch):
    """Draws initial weights with NumPy: JAX would compile each shape's random numbers anew."""
    import keras

    generator = np.random.default_rng(3)

    def draw(self, shape, dtype=None):
        scale = math.sqrt(2 / math.prod(shape[:-1]))
        return generator.normal(scale=scale, size=shape).astype("float32")

    for kind in (
        keras.initializers.VarianceScaling,
        keras.initializers.Orthogonal,
        keras.initializers.RandomUniform,
    ):
        monkeypatch.setattr(kind, "__call__", draw)


@pytest.fixture
def no_file_larger_than():
    """Lets the operating system refuse to write, as it does on a full disk."""
    resource = pytest.importorskip("resource")

    @contextmanager
    def no_file_larger_than(size):
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    return no_file_larger_than


@pytest.fixture(scope="session")
def on_simulated_devices():
    """Runs a file in a process of its own, with this many CPU devices on JAX.

    Returns what it printed last, which must be JSON.
    """

    def run(file, devices):
        # Time goes into compiling, and how machine code is optimised is not the point here.
        flags = (
            f"--xla_force_host_platform_device_count={devices} "
            "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
        )
        program = subprocess.run(
            [sys.executable, file],
            env={
                **os.environ,
                "XLA_FLAGS": flags,
                "PYTHONPATH": str(Path(__file__).parents[1]),
            },
            capture_output=True,
            text=True,
            check=False,
            timeout=500,
        )
        assert program.returncode == 0, program.stderr
        return json.loads(program.stdout.splitlines()[-1])

    return run
