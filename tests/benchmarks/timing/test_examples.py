"""Every part of the timing programs: its examples run."""

import doctest

import pytest


@pytest.mark.parametrize(
    "name", ["backend", "energies", "flags", "processes", "report", "results", "rounds"]
)
def test_examples(part, name):
    tried = doctest.testmod(part(name), optionflags=doctest.NORMALIZE_WHITESPACE)
    assert tried.attempted > 0
    assert tried.failed == 0
