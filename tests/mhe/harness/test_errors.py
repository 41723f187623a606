"""Errors of the library as one line for the user."""

import pytest

from mhe.harness.errors import BadInput, as_bad_input

pytestmark = pytest.mark.one_backend


@pytest.mark.parametrize(("prefix", "expected"), [("--dims", "--dims: a b"), ("", "a b")])
def test_value_errors_become_one_line(prefix, expected):
    with pytest.raises(BadInput) as caught, as_bad_input(prefix):
        raise ValueError("a\n  b")
    assert str(caught.value) == expected
    assert isinstance(caught.value.__cause__, ValueError)


def test_other_errors_stay_defects():
    with pytest.raises(TypeError, match="a defect"), as_bad_input("--dims"):
        raise TypeError("a defect")
