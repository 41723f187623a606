"""Docstrings in Keras's style become reStructuredText."""

import importlib.util
from pathlib import Path

import pytest

PATH = Path(__file__).parents[2] / "docs" / "_ext" / "keras_docstrings.py"

pytestmark = pytest.mark.one_backend


@pytest.fixture(scope="module")
def to_rst():
    spec = importlib.util.spec_from_file_location("keras_docstrings", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.to_rst


def test_links(to_rst):
    line = "Liu et al. ([arXiv:1](https://arxiv.org/abs/1)), [two](http://b.c)."
    assert to_rst([line]) == [
        "Liu et al. (`arXiv:1 <https://arxiv.org/abs/1>`__), `two <http://b.c>`__."
    ]


def test_indented_text_is_shown_as_it_is(to_rst):
    text = [
        "The distances:",
        "",
        "    a    d",
        "    [x](https://y.z)",
        "",
        "    b",
        "",
        "After.",
    ]
    shown = ["The distances:", "", "::", "", *text[2:]]
    assert to_rst(text) == shown


def test_sections_are_left_to_napoleon(to_rst):
    text = ["Title.", "", "Args:", "    x: Text.", "", "    More.", "", "Raises:", "    E: If."]
    assert to_rst(text) == text


def test_continued_lines_are_no_block(to_rst):
    text = ["- an item", "    that goes on", "", "Text."]
    assert to_rst(text) == text
