"""Sums of polynomials of cosines, and the polynomials nearest to potentials, against float64."""

import numpy as np
import pytest
from keras import ops

from mhe.energy.layout import Layout
from mhe.energy.polynomial import nearest_polynomial, polynomial_sum
from mhe.energy.potential import Variant

COEFFICIENTS = (0.7, -0.4)


def draw(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def cosines(rows):
    """The cosines of all ordered pairs of different rows; those of a zero row are 0."""
    rows = np.asarray(rows, "float64")
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    units = rows / np.where(lengths == 0, 1, lengths)
    return (units @ units.T)[~np.eye(len(rows), dtype=bool)]


def reference(rows, squares=True):
    c = cosines(rows)
    return np.sum(COEFFICIENTS[0] * c + squares * COEFFICIENTS[1] * c**2)


@pytest.mark.parametrize(("shape", "squares"), [((7, 3), True), ((4, 6), True), ((4, 6), False)])
@pytest.mark.parametrize("in_columns", [False, True])
def test_sum(value_and_gradient, reference_gradient, shape, squares, in_columns):
    rows = draw(*shape)
    given = rows.T.copy() if in_columns else rows
    coefficients = ops.convert_to_tensor(COEFFICIENTS, "float32")
    value, gradient = value_and_gradient(
        lambda w: 3 * polynomial_sum(w, coefficients, Layout(in_columns), squares), given
    )
    assert value == pytest.approx(3 * reference(rows, squares), rel=1e-5)
    expected = 3 * reference_gradient(lambda w: reference(w, squares), rows)
    gradient = gradient.T if in_columns else gradient
    assert np.linalg.norm(gradient - expected) <= 1e-4 * np.linalg.norm(expected)


def test_zero_vector_is_orthogonal_to_all(value_and_gradient):
    rows = np.concatenate([draw(5, 3), np.zeros((1, 3), "float32")])
    coefficients = ops.convert_to_tensor(COEFFICIENTS, "float32")
    value, gradient = value_and_gradient(
        lambda w: polynomial_sum(w, coefficients, Layout(in_columns=False)), rows
    )
    assert value == pytest.approx(reference(rows), rel=1e-5)
    assert np.all(gradient[-1] == 0)


def test_second_derivative(second_derivative, reference_gradient):
    rows, direction = draw(5, 3), draw(5, 3, seed=1)
    coefficients = ops.convert_to_tensor(COEFFICIENTS, "float32")
    along = second_derivative(
        lambda w: polynomial_sum(w, coefficients, Layout(in_columns=False)), rows, direction
    )

    def slope(at):
        return np.sum(reference_gradient(reference, at, 1e-4) * direction)

    expected = reference_gradient(slope, rows, 1e-4)
    assert np.linalg.norm(along - expected) <= 1e-3 * np.linalg.norm(expected)


def potential(c, s, distance):
    apart = np.sqrt(2 - 2 * c) if distance == "euclidean" else np.arccos(c)
    return -np.log(apart) if s == 0 else apart ** -float(s)


@pytest.mark.parametrize(("s", "distance"), [(0, "euclidean"), (2, "euclidean"), (1.5, "angle")])
@pytest.mark.parametrize(("space", "squares"), [("full", True), ("full", False), ("half", True)])
def test_nearest_is_the_least_squares_fit(s, distance, space, squares):
    rows = draw(40, 6)
    rows[:3] = rows[3:6]  # equal neurons, which are left out
    c = cosines(rows)
    c = c[np.abs(c) < 0.9]
    values = potential(c, s, distance)
    if space == "half":
        values = values + potential(-c, s, distance)
    powers = ([] if space == "half" else [1]) + ([2] if squares else [])
    columns = np.stack([np.ones_like(c), *(c**power for power in powers)], axis=1)
    fit = np.linalg.lstsq(columns, values, rcond=None)[0][1:]
    expected = [dict(zip(powers, fit, strict=True)).get(power, 0) for power in (1, 2)]
    variant = Variant.of(s, distance, space)
    found = nearest_polynomial(ops.convert_to_tensor(rows), Layout(False), variant, squares)
    assert ops.convert_to_numpy(found) == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_equal_cosines_have_no_polynomial():
    variant = Variant.of(2, "euclidean", "full")
    for rows in (np.eye(4, dtype="float32"), np.eye(4, dtype="float32") - 0.25):
        found = nearest_polynomial(ops.convert_to_tensor(rows), Layout(False), variant)
        assert ops.convert_to_numpy(found) == pytest.approx([0, 0], abs=1e-5)
