"""Second derivatives of distances against float64 differences of their gradients."""

import numpy as np
import pytest
from keras import ops

from mhe.layers.distance import DISTANCES, distances


def gradient(x, prototypes, distance):
    """That of half the sum of squared distances, in float64."""
    apart = x[:, None] - prototypes
    d = np.linalg.norm(apart, axis=-1, keepdims=True)
    if distance == "cosine":
        length = np.linalg.norm(x, axis=-1)[:, None, None]
        unit = x[:, None] / length
        other = prototypes / np.linalg.norm(prototypes, axis=-1, keepdims=True)
        cosine = np.sum(unit * other, axis=-1, keepdims=True)
        return np.sum((1 - cosine) * (unit * cosine - other) / length, axis=1)
    if distance == "squared":
        return np.sum(2 * d**2 * apart, axis=1)
    if distance == "euclidean":
        return np.sum(apart, axis=1)
    root = np.sqrt(1 + d**2)
    return np.sum((root - 1) * apart / root, axis=1)


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("near", [False, True])
def test_second_derivative(near, distance, second_derivative):
    generator = np.random.default_rng(0)
    x, direction = generator.normal(size=(2, 5, 12)).astype("float32")
    prototypes = generator.normal(size=(4, 12)).astype("float32")
    if near:
        prototypes[0] = x[0] + 0.02 * generator.normal(size=12)
    found = second_derivative(
        lambda x: 0.5 * ops.sum(ops.square(distances(x, prototypes, distance))), x, direction
    )
    above, below = (
        gradient(x + sign * 1e-5 * direction.astype("float64"), prototypes, distance)
        for sign in (1, -1)
    )
    expected = (above - below) / 2e-5
    assert np.linalg.norm(found - expected) <= 1e-3 * np.linalg.norm(expected)
