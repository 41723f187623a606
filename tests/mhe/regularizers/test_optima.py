"""Descending any of the family from a random start ends where points are known to be best."""

import numpy as np
import pytest

import mhe
from mhe import regularizers

# The first three move all points; the others the nearest pairs alone, so their steps must shrink.
KINDS = {
    "mhe": lambda: mhe.MHE(space="full", axis=0),
    "uniformity": lambda: regularizers.Uniformity(axis=0),
    "gram_determinant": lambda: regularizers.GramDeterminant(axis=0),
    "minimal_angle": lambda: regularizers.MinimalAngle(axis=0),
    "separation": lambda: regularizers.Separation(axis=0),
}


def descend(regularizer, count, dims, gradient_step, steps=300):
    """Unit vectors after descending in steps that shrink geometrically."""
    points = np.random.default_rng(4).normal(size=(count, dims)).astype("float32")
    step = gradient_step(regularizer)
    for rate in np.geomspace(0.2, 2e-4, steps):
        points = points / np.linalg.norm(points, axis=1, keepdims=True)
        _, gradient = step(points)
        # Of length 1 for the point that moves most.
        longest = np.linalg.norm(gradient, axis=1).max()
        points = (points - rate * gradient / max(longest, 1e-12)).astype("float32")
    return points / np.linalg.norm(points, axis=1, keepdims=True)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("count", "dims", "cosine"),
    [(4, 3, -1 / 3), (6, 3, 0.0), (5, 4, -1 / 4)],
    ids=["tetrahedron", "octahedron", "simplex"],
)
@pytest.mark.one_backend
def test_ends_at_the_optimum(kind, count, dims, cosine, gradient_step):
    points = descend(KINDS[kind](), count, dims, gradient_step)
    cosines = (points @ points.T)[~np.eye(count, dtype=bool)]
    assert cosines.max() == pytest.approx(cosine, abs=0.02)
