"""The types of flags, and the parser that all programs share."""

import argparse
import math
import re

import numpy as np
import pytest

from mhe.command_line import LineParser, file_path, file_paths, integer, number, plain_text

pytestmark = pytest.mark.one_backend


@pytest.mark.parametrize(
    "text", ["", "  ", "a\0b", "a" * 256, "é" * 128, "/".join(["b" * 200] * 5), "\ud800", "a\udcff"]
)
def test_what_names_no_file_is_no_path(text):
    with pytest.raises(argparse.ArgumentTypeError, match="must be a path in UTF-8") as caught:
        file_path(text)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 250
    with pytest.raises(argparse.ArgumentTypeError, match="must be a path in UTF-8"):
        file_paths(f"{'a' * 256},{text}")


@pytest.mark.parametrize("text", [".", "a" * 255, "Zoë/a b", "~/runs", "-1", "a\nb", "*"])
def test_what_names_a_file_is_a_path(text):
    assert file_path(text) == text
    # More names in a list than one name may be long.
    assert file_paths(",".join([text] * 300)) == ",".join([text] * 300)


@pytest.mark.parametrize("text", ["", "\t", "a\nb", "a\0", "\x1b[2J", "\udcff"])
def test_control_characters_are_no_text(text):
    with pytest.raises(argparse.ArgumentTypeError, match="must be plain text in UTF-8"):
        plain_text(text)


def test_numbers_beyond_sense_are_refused():
    for text in ("99999999999999999999999", "9" * 5000, "-1", "1.0", "1e3", "nan", ""):
        with pytest.raises(argparse.ArgumentTypeError, match="an integer from 0 to 1000000000"):
            integer(0)(text)
    for text in ("1e99", "-1e99", "inf", "nan", "1e31", "9" * 5000, "x"):
        with pytest.raises(argparse.ArgumentTypeError, match=re.escape("from -1e+30 to 1e+30")):
            number(-math.inf)(text)
    # They are computed with in float32, in which these are 0 and 1.
    for low, text in ((0, "1e-99"), (1, "1.00000000001")):
        with pytest.raises(argparse.ArgumentTypeError, match=f"must be a number above {low} and"):
            number(low, above=True)(text)
    assert number(0, above=True)("1e-30") > 0
    assert np.isfinite(np.float32(number(0)("1e30")))


@pytest.mark.parametrize("nargs", [None, "+", "*"])
def test_two_dashes_are_no_value(nargs):
    parser = LineParser()
    parser.add_argument("--out", nargs=nargs)
    with pytest.raises(ValueError, match=r"--out: must have a value\. Received: --"):
        parser.parse_args(["--out=--"])
    parser.add_argument("runs", nargs="*")
    assert parser.parse_args(["--out=a=--", "--", "b"]).runs == ["b"]
