"""Figures of prototypes that are images: what is pasted where, and what is said of it."""

import numpy as np
import pytest

from mhe.harness import figures

pytestmark = pytest.mark.one_backend

RNG = np.random.default_rng(0)


def sheet(figure):
    """The one image of a figure, its texts and its frames, with where they stand."""
    (axes,) = figure.axes
    (image,) = axes.images
    texts = [(text.get_text(), text.get_position(), text.get_color()) for text in axes.texts]
    frames = [(patch.get_xy(), patch.get_edgecolor()) for patch in axes.patches]
    return np.asarray(image.get_array()), texts, frames


def found(whole, picture):
    """The corner of a picture, enlarged to 64 pixels, in a sheet."""
    zoom = 64 // picture.shape[0]
    large = np.broadcast_to(picture, (*picture.shape[:2], 3))
    large = large.repeat(zoom, axis=0).repeat(zoom, axis=1)
    places = np.argwhere(np.all(whole == large[0, 0], axis=2))
    return [
        (int(top), int(left))
        for top, left in places
        if np.array_equal(whole[top : top + 64, left : left + 64], large)
    ]


def test_each_prototype_stands_in_the_line_of_its_class_beside_its_like(tmp_path, drawn):
    start, learnt = RNG.integers(256, size=(2, 2, 3, 8, 8, 1), dtype=np.uint8)
    path = tmp_path / "prototypes.png"
    figures.draw_input_prototypes({"start": start, "learnt": learnt}, ["cat", "dog"], path, "some")
    assert path.read_bytes().startswith(b"\x89PNG")
    assert drawn[0].get_suptitle() == "some"
    whole, texts, _ = sheet(drawn[0])
    last = -1
    for place in range(3):
        for arrays in (start, learnt):
            ((upper, left),) = found(whole, arrays[0, place])
            ((lower, below),) = found(whole, arrays[1, place])
            assert left == below > last
            assert lower >= upper + 64
            last = left + 63
    names = {text: y for text, (_, y), _ in texts if text in ("cat", "dog")}
    assert names == {"cat": upper + 32, "dog": lower + 32}
    assert [text for text, *_ in texts].count("learnt") == 3


def test_of_many_classes_some_are_drawn(tmp_path, drawn):
    pictures = RNG.integers(256, size=(41, 1, 8, 8, 1), dtype=np.uint8)
    names = [f"n{each}" for each in range(41)]
    figures.draw_input_prototypes({"learnt": pictures}, names, tmp_path / "prototypes.png")
    whole, texts, _ = sheet(drawn[0])
    assert len(found(whole, pictures[0, 0])) == len(found(whole, pictures[-1, 0])) == 1
    assert sum(text.startswith("n") for text, *_ in texts) == 20
    assert drawn[0].get_suptitle() == "(20 of 41 classes)"


def test_an_explanation_frames_what_decided_and_says_how_similar_it_is(tmp_path, drawn):
    image = RNG.integers(256, size=(8, 8, 3), dtype=np.uint8)
    prototypes = RNG.integers(256, size=(2, 2, 8, 8, 3), dtype=np.uint8)
    similar = np.array([[0.912, 0.5], [123.4, -0.02]])
    lines = [
        figures.Explanation(image, label, ("cat", "dog"), (0.8, 0.15), prototypes, similar)
        for label in ("cat", "eel")
    ]
    figures.draw_explanations(lines, tmp_path / "explanations.png")
    whole, texts, frames = sheet(drawn[0])
    assert len(found(whole, image)) == 2
    corners = found(whole, prototypes[0, 0])
    assert [xy for xy, _ in frames] == [(left - 0.5, top - 0.5) for top, left in corners]
    assert frames[0][1] != frames[1][1]  # right and wrong
    said = [text for text, *_ in texts]
    line = ["taken for\ncat\n80 %", "0.91", "0.50", "runner-up\ndog\n15 %", "123", "-0.02"]
    assert said == ["cat", *line, "eel", *line]
    top, left = min(found(whole, prototypes[1, 1]))
    ((x, y),) = [xy for text, xy, _ in texts[:7] if text == "-0.02"]
    assert x == left + 32
    assert y < top


@pytest.mark.parametrize(
    ("pictures", "names"),
    [
        ({"a": np.zeros((2, 3, 8, 8, 1)), "b": np.zeros((2, 1, 8, 8, 1))}, ["cat", "dog"]),
        ({"a": np.zeros((2, 3, 8, 8, 1))}, ["cat"]),
        ({"a": np.zeros((2, 3, 8, 8, 4))}, ["cat", "dog"]),
    ],
)
def test_pictures_that_do_not_fit_are_refused(tmp_path, pictures, names):
    with pytest.raises(ValueError, match=r"Received: \(2, "):
        figures.draw_input_prototypes(pictures, names, tmp_path / "prototypes.png")
    with pytest.raises(ValueError, match="Received: none"):
        figures.draw_explanations([], tmp_path / "explanations.png")
