"""The flags of programs: a parser whose errors are one line, and the types of their values.

A type refuses what no program could use, so that it is refused before anything is loaded: names
that no file can have, and numbers far beyond sense.
"""

import argparse
import math
import sys
import unicodedata
from collections.abc import Callable
from typing import Any, NoReturn

import numpy as np

from mhe.text import brief, is_utf8

# What file systems allow in a name; and in a path macOS allows 1024, of which programs need some
# for the files that they put into a folder.
_LONGEST_NAME = 255
_LONGEST_PATH = 900
_LONGEST_LINE = 2000
# Twice this is within 32 bits, which backends count in.
_LARGEST_INTEGER = 10**9
# Numbers are computed with in float32, whose largest is 3.4e38.
_LARGEST_NUMBER = 1e30


class Defaults(argparse.ArgumentDefaultsHelpFormatter):
    """Shows the defaults, except where the help puts the default into words."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default is None:
            return action.help
        if isinstance(action.default, list | tuple):
            return f"{action.help} (default: {' '.join(map(str, action.default))})"
        return super()._get_help_string(action)


class LineParser(argparse.ArgumentParser):
    """An argument parser whose help shows defaults and whose errors are one line.

    Args:
        **options: Those of `argparse.ArgumentParser`.

    Example:

    >>> LineParser(prog="speed.py").parse_args(["--fast"])
    Traceback (most recent call last):
        ...
    ValueError: unrecognized arguments: --fast
    """

    def __init__(self, **options: Any):
        super().__init__(**{**options, "formatter_class": Defaults, "allow_abbrev": False})

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parses as argparse does, except that `--flag=--` is an error.

        argparse takes it for the end of the flags, and returns an empty list for the flag.
        """
        given = list(sys.argv[1:] if args is None else args)
        for each in given:
            flag, _, value = each.partition("=")
            if flag.startswith("--") and value == "--":
                self.error(f"argument {flag}: must have a value. Received: --")
        return super().parse_known_args(given, namespace)

    def error(self, message: str) -> NoReturn:
        """Reports an error of argparse in one line.

        Args:
            message: What is wrong.

        Raises:
            ValueError: Always.
        """
        raise ValueError(brief(message, _LONGEST_LINE))


def file_path(text: str) -> str:
    """An argparse type: the path of a file or folder, which need not exist.

    Args:
        text: The value.

    Raises:
        argparse.ArgumentTypeError: If no file can have this path on every system.

    Example:

    >>> file_path("runs/first")
    'runs/first'
    """
    if not _names_file(text):
        raise argparse.ArgumentTypeError(
            f"must be a path in UTF-8 of at most {_LONGEST_PATH} bytes, {_LONGEST_NAME} in each "
            f"name. Received: {_quoted(text)}"
        )
    return text


def file_paths(text: str) -> str:
    """An argparse type: a path, or comma-separated paths.

    Args:
        text: The value.

    Raises:
        argparse.ArgumentTypeError: If no file can have one of the paths.

    Example:

    >>> file_paths("small1.zip,small2.zip")
    'small1.zip,small2.zip'
    """
    # A path may have commas in it, which need not separate paths.
    return text if _names_file(text) else ",".join(map(file_path, text.split(",")))


def plain_text(text: str) -> str:
    """An argparse type: a name or pattern, or comma-separated ones.

    Args:
        text: The value.

    Raises:
        argparse.ArgumentTypeError: If it is blank, has control characters such as line breaks, or
            is no UTF-8.

    Example:

    >>> plain_text("Sanskrit,Tagalog")
    'Sanskrit,Tagalog'
    """
    if not text.strip() or not is_utf8(text) or any(map(_is_control, text)):
        raise argparse.ArgumentTypeError(f"must be plain text in UTF-8. Received: {_quoted(text)}")
    return text


# The types above: their values are text, in the config of a run too.
TEXTS = (file_path, file_paths, plain_text)


def integer(low: int, high: int = _LARGEST_INTEGER) -> Callable[[str], int]:
    """Returns an argparse type: an integer.

    Args:
        low: The smallest value allowed.
        high: The largest value allowed.

    Example:

    >>> integer(1)("20")
    20
    """

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = low - 1
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(
                f"must be an integer from {low} to {high}. Received: {brief(text)}"
            )
        return value

    return parse


def number(
    low: float, high: float = _LARGEST_NUMBER, *, above: bool = False
) -> Callable[[str], float]:
    """Returns an argparse type: a number.

    Args:
        low: The smallest value allowed; at least -1e30.
        high: The largest value allowed.
        above: Whether `low` itself is refused, and what is no more than it in float32.

    Example:

    >>> number(0)("0.5")
    0.5
    """
    low = max(low, -_LARGEST_NUMBER)
    bounds = f"above {low:g} and at most {high:g}" if above else f"from {low:g} to {high:g}"

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        is_within = low <= value <= high
        if not is_within or (above and np.float32(value) <= low):
            raise argparse.ArgumentTypeError(f"must be a number {bounds}. Received: {brief(text)}")
        return value

    return parse


def _names_file(text: str) -> bool:
    if not text.strip() or "\0" in text or not is_utf8(text):
        return False
    sizes = [len(part.encode()) for part in text.split("/")]
    return max(sizes) <= _LONGEST_NAME and sum(sizes) + len(sizes) - 1 <= _LONGEST_PATH


def _is_control(character: str) -> bool:
    return unicodedata.category(character) == "Cc"


def _quoted(text: str) -> str:
    count = f" ({len(text):,} characters)" if len(text) > 100 else ""
    return f"{brief(repr(text))}{count}"
