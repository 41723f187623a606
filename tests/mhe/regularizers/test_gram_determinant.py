"""GramDeterminant: values and gradients in float64."""

import numpy as np
import pytest

from mhe.regularizers import GramDeterminant, log_determinant


def reference(rows, epsilon, space):
    """The kernel matrix of all points, entry by entry."""
    points = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    if space == "half":
        points = np.concatenate([points, -points])
    kernel = np.array(
        [[np.exp(-(epsilon**2) * np.sum((p - q) ** 2)) for q in points] for p in points]
    )
    _, logarithm = np.linalg.slogdet(kernel + 1e-4 * np.eye(len(points)))
    return logarithm / len(points)


@pytest.mark.parametrize("space", ["full", "half"])
@pytest.mark.parametrize("epsilon", [1, 2.0])
def test_value_and_gradient(epsilon, space, value_and_gradient, reference_gradient):
    rows = np.random.default_rng(0).normal(size=(5, 4))
    value, gradient = value_and_gradient(
        lambda w: log_determinant(w, epsilon, space, axis=0), rows.astype("float32")
    )
    assert value == pytest.approx(reference(rows, epsilon, space), rel=1e-4)
    expected = reference_gradient(lambda w: reference(w, epsilon, space), rows)
    np.testing.assert_allclose(gradient, expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())


def test_many_neurons_in_few_dimensions_are_finite(value_and_gradient):
    rows = np.random.default_rng(0).normal(size=(300, 2)).astype("float32")
    for space in ("full", "half"):
        value, gradient = value_and_gradient(
            GramDeterminant(epsilon=0.1, space=space, axis=0), rows
        )
        assert 0 < value < 10
        assert np.all(np.isfinite(gradient))


@pytest.mark.parametrize("epsilon", [0, -1, float("inf"), "1"])
def test_epsilon_is_checked(epsilon):
    for make in (
        lambda: GramDeterminant(epsilon=epsilon),
        lambda: log_determinant(np.eye(2), epsilon),
    ):
        with pytest.raises(ValueError, match=r"`epsilon` .*Received: "):
            make()
