"""What tests that build models share."""

import math

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
