"""Errors of the library as one line for the user."""

import numpy as np
import pytest

from mhe.harness.errors import BadInput, as_bad_input, within_memory

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


def fill_memory():
    np.ones((2**20, 2**30))


def exceed_the_largest_array():
    np.ones((2**40, 2**40))


def exhaust_resources():
    # As TensorFlow, JAX and PyTorch have it; JAX's own would be an error of the backend.
    raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 4000000000000 bytes.")


def fill_memory_with_torch():
    torch = pytest.importorskip("torch")
    torch.ones(2**20, 2**30)


@pytest.mark.parametrize(
    "fill", [fill_memory, exceed_the_largest_array, exhaust_resources, fill_memory_with_torch]
)
def test_what_needs_too_much_memory_names_its_flags(fill):
    with (
        pytest.raises(BadInput, match=r"--width 32 needs more memory than there is: \S"),
        within_memory("--width 32"),
    ):
        fill()


@pytest.mark.parametrize("error", [BadInput("out of memory"), RuntimeError("no"), KeyError("OOM")])
def test_other_errors_say_nothing_of_memory(error):
    with pytest.raises(type(error)) as caught, within_memory("--width 32"):
        raise error
    assert caught.value is error
