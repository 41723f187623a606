"""What tests share that build models, and tests that no backend takes part in."""

import math

import keras
import numpy as np
import pytest


def pytest_collection_modifyitems(items):
    """Runs what is `numpy_only` on one backend alone."""
    if keras.backend.backend() == "tensorflow":
        return
    skip = pytest.mark.skip(reason="NumPy only: the same on every backend")
    for item in items:
        if item.get_closest_marker("numpy_only"):
            item.add_marker(skip)


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
