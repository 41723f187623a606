"""What the tests of energies share."""

import numpy as np
import pytest

import mhe


@pytest.fixture
def check_energy(reference_energy, reference_gradient, value_and_gradient):
    """Checks value and gradient of an energy against float64."""

    def check(weights, axis, block, variant, reduction="mean", **options):
        """Value within 1e-5 and gradient within 1e-4 of float64."""
        s, distance, space = variant

        def reference(w):
            return reference_energy(w, s, distance, space, reduction, axis)

        value, gradient = value_and_gradient(
            lambda w: mhe.hyperspherical_energy(
                w, s, distance, space, axis, reduction, block=block
            ),
            weights,
            **options,
        )
        expected = reference(weights)
        assert abs(value - expected) <= 1e-5 * abs(expected)
        expected = reference_gradient(reference, weights, step=1e-7)
        assert gradient.shape == weights.shape
        assert np.linalg.norm(gradient - expected) <= 1e-4 * np.linalg.norm(expected)

    return check
