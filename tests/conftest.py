"""What tests that build models or fill disks share."""

import math
from contextlib import contextmanager

import keras
import numpy as np
import pytest


@pytest.fixture
def weights_from_numpy(monkeypatch):
    """Draws initial weights with NumPy: JAX would compile each shape's random numbers anew."""
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
