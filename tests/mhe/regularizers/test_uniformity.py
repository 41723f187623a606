"""Uniformity: values and gradients in float64."""

import numpy as np
import pytest

from mhe.regularizers import Uniformity, uniformity


def reference(rows, t, space):
    """Wang and Isola, section 4.1.2, pair by pair."""
    points = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    if space == "half":
        points = np.concatenate([points, -points])
    potentials = [
        np.exp(-t * np.sum((p - q) ** 2))
        for i, p in enumerate(points)
        for j, q in enumerate(points)
        if i != j
    ]
    return np.log(np.mean(potentials))


@pytest.mark.parametrize("space", ["full", "half"])
@pytest.mark.parametrize("t", [2, 0.5])
def test_value_and_gradient(t, space, value_and_gradient, reference_gradient):
    rows = np.random.default_rng(0).normal(size=(6, 4))
    value, gradient = value_and_gradient(
        lambda w: uniformity(w, t, space, axis=0), rows.astype("float32")
    )
    assert value == pytest.approx(reference(rows, t, space), rel=1e-5)
    expected = reference_gradient(lambda w: reference(w, t, space), rows)
    np.testing.assert_allclose(gradient, expected, rtol=1e-3, atol=2e-6)


def test_a_large_t_does_not_overflow():
    rows = np.eye(3, dtype="float32")
    assert float(uniformity(rows, 500)) == pytest.approx(-1000)


@pytest.mark.parametrize("t", [0, -1, float("nan"), "2"])
def test_t_is_checked(t):
    for make in (lambda: Uniformity(t=t), lambda: uniformity(np.eye(2), t)):
        with pytest.raises(ValueError, match=r"`t` .*Received: "):
            make()
