"""Orthogonality: values and gradients in float64."""

import numpy as np
import pytest

from mhe.regularizers import Orthogonality, orthogonality

KINDS = ["single", "double", "coherence", "spectral"]


def reference(weights, kind, unit):
    """Bansal et al., section 3, of neurons in columns."""
    if unit:
        weights = weights / np.linalg.norm(weights, axis=0)
    dims, count = weights.shape
    difference = weights.T @ weights - np.eye(count)
    if kind == "single":
        return np.sum(difference**2)
    if kind == "double":
        return np.sum(difference**2) + np.sum((weights @ weights.T - np.eye(dims)) ** 2)
    if kind == "coherence":
        return np.abs(difference).max()
    return np.linalg.norm(difference, 2)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("unit", [False, True])
@pytest.mark.parametrize("shape", [(7, 4), (3, 5)])
def test_value_and_gradient(kind, unit, shape, value_and_gradient, reference_gradient):
    weights = np.random.default_rng(0).normal(size=shape)
    # One eigenvalue is the largest by far, so that power iteration converges.
    weights[:, 1] += 2 * weights[:, 0]
    value, gradient = value_and_gradient(
        lambda w: orthogonality(w, kind, unit), weights.astype("float32")
    )
    assert value == pytest.approx(reference(weights, kind, unit), rel=1e-4)
    expected = reference_gradient(lambda w: reference(w, kind, unit), weights)
    np.testing.assert_allclose(gradient, expected, rtol=2e-3, atol=1e-3 * np.abs(expected).max())


@pytest.mark.parametrize("kind", ["single", "coherence", "spectral"])
def test_orthonormal_neurons_are_at_the_minimum(kind, value_and_gradient):
    weights = np.linalg.qr(np.random.default_rng(1).normal(size=(6, 4)))[0].astype("float32")
    value, gradient = value_and_gradient(lambda w: orthogonality(w, kind), weights)
    assert value == pytest.approx(0, abs=1e-6)
    if kind == "single":
        np.testing.assert_allclose(gradient, 0, atol=1e-5)


@pytest.mark.parametrize("shape", [(5, 3), (2, 4)])
def test_zero_vectors_count_as_orthogonal_units(shape):
    weights = np.random.default_rng(2).normal(size=shape).astype("float32")
    weights[:, 0] = 0
    for kind in ("single", "coherence", "spectral"):
        value = float(orthogonality(weights, kind, unit=True))
        others = reference(weights[:, 1:].astype("float64"), kind, unit=True)
        assert value == pytest.approx(others, rel=1e-4), kind


def test_options_are_checked():
    for make in (lambda: Orthogonality(kind="triple"), lambda: orthogonality([[1.0]], "triple")):
        with pytest.raises(ValueError, match=r"`kind` .*Received: kind='triple'"):
            make()
    for make in (lambda: Orthogonality(unit=2), lambda: orthogonality([[1.0]], unit=2)):
        with pytest.raises(ValueError, match=r"`unit` .*Received: unit=2"):
            make()
