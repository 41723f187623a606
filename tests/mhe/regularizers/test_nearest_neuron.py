"""MinimalAngle and Separation: values and gradients in float64."""

import math

import numpy as np
import pytest

from mhe.regularizers import MinimalAngle, Separation, minimal_angle, smallest_distance


def distances(rows, distance, space):
    """From every neuron to all other points, in float64."""
    units = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    all_distances = []
    for i, unit in enumerate(units):
        others = np.delete(units, i, axis=0)
        if space == "half":
            others = np.concatenate([others, -units])
        chords = np.linalg.norm(others - unit, axis=1)
        angles = 2 * np.arcsin(np.minimum(chords / 2, 1.0))
        all_distances.append(chords if distance == "euclidean" else angles)
    return np.array(all_distances)


@pytest.mark.parametrize("space", ["full", "half"])
def test_minimal_angle(space, value_and_gradient, reference_gradient):
    def reference(rows):
        return distances(rows, "angle", space).min(axis=1).mean()

    rows = np.random.default_rng(0).normal(size=(6, 4))
    value, gradient = value_and_gradient(
        lambda w: minimal_angle(w, space, axis=0), rows.astype("float32")
    )
    assert value == pytest.approx(reference(rows), rel=1e-5)
    expected = reference_gradient(reference, rows)
    np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("space", ["full", "half"])
@pytest.mark.parametrize("distance", ["euclidean", "angle"])
def test_smallest_distance(distance, space, value_and_gradient, reference_gradient):
    def reference(rows):
        return distances(rows, distance, space).min()

    rows = np.random.default_rng(1).normal(size=(6, 4))
    value, gradient = value_and_gradient(
        lambda w: smallest_distance(w, distance, space, axis=0), rows.astype("float32")
    )
    assert value == pytest.approx(reference(rows), rel=1e-5)
    expected = reference_gradient(reference, rows)
    np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("space", ["full", "half"])
def test_near_and_opposite_pairs_are_as_exact_as_others(
    space, value_and_gradient, reference_gradient
):
    rows = np.random.default_rng(2).normal(size=(5, 12))
    rows[1] = rows[0] + 0.02 * rows[2]
    rows[4] = 0.03 * rows[2] - rows[3]
    rows = rows.astype("float32").astype("float64")
    value, gradient = value_and_gradient(
        lambda w: minimal_angle(w, space, axis=0), rows.astype("float32")
    )
    assert value == pytest.approx(distances(rows, "angle", space).min(axis=1).mean(), rel=1e-5)
    expected = reference_gradient(
        lambda w: distances(w, "angle", space).min(axis=1).mean(), rows, step=1e-6
    )
    np.testing.assert_allclose(gradient, expected, atol=1e-4 * np.abs(expected).max())


def test_regularizers_are_negative():
    rows = np.eye(3, dtype="float32")
    assert float(MinimalAngle(2.0)(rows)) == pytest.approx(-math.pi)
    assert float(Separation(2.0)(rows)) == pytest.approx(-2 * math.sqrt(2))
    assert float(Separation(1.0, "angle")(rows)) == pytest.approx(-math.pi / 2)


def test_small_distances_keep_their_digits():
    rows = np.eye(3, 20)
    rows[1] = rows[0] + 1e-4 * rows[2]
    assert float(smallest_distance(rows.astype("float32"), axis=0)) == pytest.approx(1e-4, rel=1e-4)


def test_zero_vectors_count_as_orthogonal():
    rows = np.array([[0.0, 0.0], [1.0, 0.0], [-1.0, 0.0]], "float32")
    assert float(minimal_angle(rows, axis=0)) == pytest.approx(math.pi / 2)


def test_one_neuron():
    one = np.array([[3.0, 4.0]], "float32")
    assert float(minimal_angle(one, axis=0)) == float(smallest_distance(one, axis=0)) == 0.0
    assert float(minimal_angle(one, "half", axis=0)) == pytest.approx(math.pi)
    assert float(smallest_distance(one, "euclidean", "half", axis=0)) == 2.0


def test_distance_is_checked():
    for make in (lambda: Separation(distance="cosine"), lambda: smallest_distance([[1.0]], "x")):
        with pytest.raises(ValueError, match=r"`distance` .*Received: "):
            make()
