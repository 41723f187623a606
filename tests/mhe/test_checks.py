"""Checks of bad input: what they let pass, and what they name."""

import numpy as np
import pytest

from mhe import checks

pytestmark = pytest.mark.one_backend


@pytest.mark.parametrize(
    "labels",
    [0, [0, 9], np.array([[9]], "uint8"), np.array([3.0, 4.0]), np.array([True]), [], [255, 0]],
    ids=str,
)
def test_labels_of_classes_pass(labels):
    checks.check_labels(labels, 10, ignore_class=255)


@pytest.mark.parametrize(
    ("labels", "named"),
    [
        ([0, 10], "label 10$"),
        ([[3, -1]], "label -1$"),
        ([0.5, 1.0], r"label 0\.5$"),
        ([float("nan")], "label nan$"),
        ([2**32], "label 4294967296$"),
    ],
)
@pytest.mark.parametrize("ignored", [None, 255])
def test_other_labels_are_named(labels, named, ignored):
    with pytest.raises(ValueError, match=f"0 to 9, as there are 10 classes. Received: {named}"):
        checks.check_labels(labels, 10, ignored)


def test_values_are_compared_as_losses_see_them():
    # In float32 0.3 is more than in float64.
    checks.check_values(np.array([0.3], "float32"), low=0.1, high=0.3)
    checks.check_values([0.1, 0.2, 0.3], low=0.1, high=0.3)
    checks.check_values(np.array([[1600], [1950]]), low=1600, high=1950)


@pytest.mark.parametrize("value", [1599, 1950.5, float("nan"), float("inf"), 1e300, -1e300])
def test_values_outside_are_named(value):
    with pytest.raises(ValueError, match=r"in \[1600, 1950\]. Received: value") as error:
        checks.check_values([1700.0, value], low=1600, high=1950)
    assert str(error.value).endswith(f"value {float(value)}")


@pytest.mark.parametrize("given", [["cat", "dog"], [[1], [2, 3]], {"cat": 1}])
def test_what_are_no_numbers(given):
    with pytest.raises(ValueError, match=r"^Labels must be numbers. Received: "):
        checks.check_labels(given, 10)
    with pytest.raises(ValueError, match=r"^Values must be numbers. Received: "):
        checks.check_values(given, low=0, high=10)


@pytest.mark.parametrize(
    ("low", "high", "named"),
    [
        (1, 1, "`low` must be less than `high`. Received: low=1, high=1"),
        (2.0, 1.0, "`low` must be less than `high`. Received: low=2.0, high=1.0"),
        (float("-inf"), 0, "`low` must be a finite number. Received: low=-inf"),
        (0, float("nan"), "`high` must be a finite number. Received: high=nan"),
        (0, None, "`high` must be a finite number. Received: high=None"),
        (False, 1, "`low` must be a finite number. Received: low=False"),
    ],
)
def test_ranges(low, high, named):
    with pytest.raises(ValueError) as error:  # noqa: PT011
        checks.check_range(low, high)
    assert str(error.value) == named


@pytest.mark.parametrize(
    ("value", "bounds", "expected"),
    [
        (-1, {"least": 0}, "a finite number >= 0"),
        (0, {"above": 0}, "a finite number > 0"),
        (1, {"least": 0, "below": 1}, "a finite number >= 0 and < 1"),
        (float("nan"), {}, "a finite number"),
        (None, {}, "a finite number"),
        (float("inf"), {"optional": True}, "None or a finite number"),
        (True, {"least": 0}, "a finite number >= 0"),
        ("1", {"least": 0}, "a finite number >= 0"),
    ],
)
def test_numbers_outside_their_bounds(value, bounds, expected):
    with pytest.raises(ValueError) as error:  # noqa: PT011
        checks.check_number("alpha", value, **bounds)
    assert str(error.value) == f"`alpha` must be {expected}. Received: alpha={value!r}"


@pytest.mark.parametrize(
    ("value", "options", "expected"),
    [
        (0, {}, "an integer >= 1"),
        (1.0, {}, "an integer >= 1"),
        (True, {}, "an integer >= 1"),
        (None, {}, "an integer >= 1"),
        (0, {"optional": True}, "None or an integer >= 1"),
        (4, {"most": 3}, "an integer from 1 to 3"),
        (-1, {"most": 3, "optional": True}, "None or an integer from 1 to 3"),
    ],
)
def test_counts_outside_their_bounds(value, options, expected):
    with pytest.raises(ValueError) as error:  # noqa: PT011
        checks.check_count("k", value, 1, **options)
    assert str(error.value) == f"`k` must be {expected}. Received: k={value!r}"


@pytest.mark.parametrize(
    ("value", "choices", "options", "expected"),
    [
        ("c", ("a", "b"), {}, '"a" or "b"'),
        ("A", ("a", "b", "c"), {}, '"a", "b" or "c"'),
        (None, ("a",), {}, '"a"'),
        ("b", ("a",), {"optional": True}, 'None or "a"'),
        (3, (1, 2), {}, "1 or 2"),
        (True, (1, 2), {}, "1 or 2"),
    ],
)
def test_what_is_not_a_choice(value, choices, options, expected):
    with pytest.raises(ValueError) as error:  # noqa: PT011
        checks.check_choice("kind", value, choices, **options)
    assert str(error.value) == f"`kind` must be {expected}. Received: kind={value!r}"


def test_numbers_counts_and_choices_that_pass():
    checks.check_number("alpha", np.float32(0.5), least=0.5, below=0.6)
    checks.check_number("alpha", None, optional=True)
    checks.check_count("k", np.int64(3), least=3, most=3)
    checks.check_count("k", None, least=1, optional=True)
    checks.check_choice("kind", np.int64(2), (1, 2))
    checks.check_choice("kind", None, ("a", "b"), optional=True)


def test_finite_arrays_are_float32():
    array = checks.check_finite_array("rows", [[1, 2]], (1, 2), "(classes, dims)")
    assert array.dtype == np.float32
    assert array.tolist() == [[1, 2]]
    with pytest.raises(ValueError, match=r"must be \(classes, dims\), here \(2, 1\). Received: sh"):
        checks.check_finite_array("rows", [[1, 2]], (2, 1), "(classes, dims)")
    with pytest.raises(
        ValueError, match=r"`rows` must be finite. Received: inf at \(0, 1\) of \(classes, dims\)"
    ):
        checks.check_finite_array("rows", [[1, np.inf]], (1, 2), "(classes, dims)")


def test_costs_are_given_back_in_float64():
    costs = checks.check_costs([[0, 1, 0], [1, 0, 2], [0, 2, 0]], classes=3)
    assert costs.dtype == np.float64
    assert costs.tolist() == [[0, 1, 0], [1, 0, 2], [0, 2, 0]]
    given = np.array([[0.0, 1.0], [1.0, 0.0]])
    assert checks.check_costs(given, positive=True) is not given


@pytest.mark.parametrize(
    ("costs", "message"),
    [
        ([[0, 1, 2], [1, 0, 3]], r"square.*Received: shape \(2, 3\)"),
        ([0, 1], r"square.*Received: shape \(2,\)"),
        ([[0]], r"square.*Received: shape \(1, 1\)"),
        ([[0, 1], [1]], "numbers.*Received: "),
        ([["a", "b"], ["c", "d"]], "numbers.*Received: "),
        ([[0, -1], [-1, 0]], "at least 0. Received: -1.0 of 0 for 1"),
        ([[0, np.nan], [1, 0]], "finite.*Received: nan of 0 for 1"),
        ([[0, np.inf], [np.inf, 0]], "finite.*Received: inf of 0 for 1"),
        ([[0, 1], [1, 0.5]], "0 on the diagonal. Received: 0.5 of 1 for 1"),
        ([[0, 2], [1, 0]], "symmetric. Received: 2.0 of 0 for 1, and 1.0 of 1 for 0"),
    ],
)
def test_what_is_no_cost_matrix(costs, message):
    with pytest.raises(ValueError, match=message):
        checks.check_costs(costs)


def test_costs_of_other_classes_or_of_nothing():
    with pytest.raises(ValueError, match=r"cover all 3 classes. Received: costs of 2 classes"):
        checks.check_costs([[0, 1], [1, 0]], classes=3)
    with pytest.raises(ValueError, match=r"every mistake. Received: 0.0 of 0 for 2"):
        checks.check_costs([[0, 1, 0], [1, 0, 2], [0, 2, 0]], positive=True)
