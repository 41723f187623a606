"""InsightFace's validation sets: read without unpickling, in every protocol of bytes."""

import io
import pickle
import struct

import numpy as np
import pytest
from PIL import Image

from mhe.harness.errors import BadInput
from sphereface_plus.faces import read_validation_set

pytestmark = pytest.mark.one_backend

PAIRS = 20


def picture(place):
    """The bytes of an image file: long and short ones."""
    stream = io.BytesIO()
    Image.new("RGB", (6, 5), (place, 0, 255)).save(stream, "JPEG" if place % 3 else "PNG")
    return stream.getvalue()


IMAGES = [picture(place) for place in range(2 * PAIRS)]
SAME = [place % 2 == 0 for place in range(PAIRS)]


def python_2(images, same):
    """What Python 2 wrote with its highest protocol, 2."""
    data = b"\x80\x02]q\x00("
    for place, image in enumerate(images, 1):
        short = len(image) < 256
        length = bytes([len(image)]) if short else struct.pack("<i", len(image))
        data += (b"U" if short else b"T") + length + image
        data += b"q" + bytes([place]) if place < 256 else b"r" + struct.pack("<I", place)
    data += b"e]r" + struct.pack("<I", len(images) + 1) + b"("
    return data + b"".join(b"\x88" if each else b"\x89" for each in same) + b"e\x86."


def python_2_text(images, same):
    """Protocol 1 of Python 2, whose booleans are integers in text."""
    data = b"(](" + b"".join(b"T" + struct.pack("<i", len(x)) + x for x in images) + b"e"
    return data + b"](" + b"".join(b"I01\n" if each else b"I00\n" for each in same) + b"et."


@pytest.mark.parametrize(
    "written",
    [
        *(lambda x, y, p=p: pickle.dumps((x, y), p) for p in (3, 4, 5)),
        python_2,
        python_2_text,
    ],
)
def test_every_protocol_gives_the_images_and_pairs(tmp_path, written):
    path = tmp_path / "lfw.bin"
    path.write_bytes(written(IMAGES, SAME))
    people, pairs = read_validation_set(path)
    assert pairs.rows.tolist() == [[2 * place, 2 * place + 1] for place in range(PAIRS)]
    assert pairs.same.tolist() == SAME
    assert pairs.folds.tolist() == np.repeat(range(10), 2).tolist()
    assert people.images[:3] == ("1/1", "1/2", "2/1")
    assert people._tree.read("7/2") == IMAGES[13]
    np.testing.assert_array_equal(people.read(3), np.full((5, 6, 3), (3, 0, 255)))


def test_images_that_are_one_object_and_odd_folds(tmp_path):
    path = tmp_path / "lfw.bin"
    shared = IMAGES[0]
    path.write_bytes(pickle.dumps(([shared, IMAGES[1], shared, shared], [True, False])))
    people, pairs = read_validation_set(path)
    assert [people._tree.read(name) == shared for name in people.images] == [
        True,
        False,
        True,
        True,
    ]
    assert pairs.folds is None
    # A list of a single entry has another opcode.
    path.write_bytes(pickle.dumps((IMAGES[:2], [False])))
    assert read_validation_set(path)[1].same.tolist() == [False]


class Evil:
    def __reduce__(self):
        return print, ("executed",)


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (Evil(), "STACK_GLOBAL|GLOBAL|SHORT_BINUNICODE"),
        ((IMAGES[:2], [Evil()]), "SHORT_BINUNICODE"),
        ((IMAGES[:2], [1]), "BININT1"),
        ((IMAGES[:2], ["true"]), "SHORT_BINUNICODE"),
        ((IMAGES[:2], [None]), "NONE"),
        ((IMAGES[:2], {True}), "EMPTY_SET"),
        (([np.frombuffer(IMAGES[0], "uint8")] * 2, [True]), "SHORT_BINUNICODE"),
        ((IMAGES[:2], [np.True_]), "SHORT_BINUNICODE"),
        ((bytearray(IMAGES[0]), [True]), "BYTEARRAY8|SHORT_BINUNICODE"),
        ((IMAGES[:2], [[True]]), "APPEND"),
    ],
)
def test_anything_but_bytes_and_booleans_is_refused(tmp_path, content, named, capsys):
    path = tmp_path / "lfw.bin"
    path.write_bytes(pickle.dumps(content, 5))
    message = rf"lfw.bin must be a pickle of nothing but .* Received: the opcode ({named}) at byte"
    with pytest.raises(BadInput, match=message):
        read_validation_set(path)
    assert "executed" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "content",
    [[], ([], []), (IMAGES[:2], [True], []), ([True], IMAGES[:2]), ([True, True], [True]), True],
)
def test_other_shapes_are_refused(tmp_path, content):
    path = tmp_path / "lfw.bin"
    path.write_bytes(pickle.dumps(content, 4))
    with pytest.raises(BadInput, match=r"lfw.bin must .* Received: (something|0 images|.* TUPLE3)"):
        read_validation_set(path)


def test_what_is_damaged_is_named(tmp_path):
    path = tmp_path / "lfw.bin"
    whole = pickle.dumps((IMAGES, SAME), 4)
    for cut in range(0, len(whole), 97):
        path.write_bytes(whole[:cut])
        with pytest.raises(BadInput, match=r"lfw.bin is damaged or no pickle, after byte"):
            read_validation_set(path)
    path.write_bytes(pickle.dumps(([IMAGES[0], b"words"], [True])))
    with pytest.raises(BadInput, match=r"1 file cannot be read as an image: image 2 \(not an im"):
        read_validation_set(path)
    path.write_bytes(pickle.dumps((IMAGES[:3], [True])))
    with pytest.raises(BadInput, match=r"two images for each .* Received: 3 images and 1 pairs"):
        read_validation_set(path)
    # Four gigabytes that are not there.
    path.write_bytes(b"\x80\x03]B\xff\xff\xff\xff123.")
    with pytest.raises(BadInput, match="is damaged or no pickle"):
        read_validation_set(path)
    with pytest.raises(BadInput, match=r"none.bin cannot be read: No such file"):
        read_validation_set(tmp_path / "none.bin")
