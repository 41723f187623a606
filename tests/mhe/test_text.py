"""Text from any editor, and what is no text."""

import os

import pytest

from mhe import ClassTree
from mhe.prototypes.vectors import read as read_vectors
from mhe.reading import LARGEST
from mhe.text import decode_text, read_text

pytestmark = pytest.mark.one_backend


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
def test_what_editors_save_is_read_alike(tmp_path, encoding):
    path = tmp_path / "text"
    mark = "\ufeff" if encoding.endswith(("le", "be")) else ""
    path.write_bytes(f"{mark}Zoë\r\nBob\n".encode(encoding))
    assert read_text(path) == "Zoë\r\nBob\n"


def test_other_encodings_are_named_with_their_place(tmp_path):
    path = tmp_path / "names.txt"
    path.write_bytes("Ann\nZoë\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"names\.txt must be UTF-8.*0xeb on line 2.*iconv"):
        read_text(path)
    with pytest.raises(ValueError, match="must be UTF-8 text"):
        decode_text(b"\xff\xfeA", "odd")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_what_might_never_end_is_not_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", "/dev/zero"):
        with pytest.raises(ValueError, match="must be a regular file"):
            read_text(path)
    with pytest.raises(IsADirectoryError):
        read_text(tmp_path)


def test_text_has_a_largest_size(tmp_path):
    with open(tmp_path / "words.txt", "wb") as file:
        file.truncate(LARGEST + 1)
    with pytest.raises(ValueError, match=r"words\.txt must have at most 268,435,456 bytes"):
        read_text(tmp_path / "words.txt")


def test_trees_and_word_vectors_with_a_mark(tmp_path):
    path = tmp_path / "tree.txt"
    path.write_text("animal dog\nanimal cat\n", "utf-8-sig")
    assert ClassTree.from_wordnet(path).classes == ("dog", "cat")
    path.write_text('[{"id": 0, "name": "x", "kingdom": "A", "genus": "x"}]', "utf-8-sig")
    assert ClassTree.from_categories(path).depth == 3
    path.write_text("dog 1 2\ncat 3 4\n", "utf-8-sig")
    assert read_vectors(path, ["cat", "dog"]).tolist() == [[3, 4], [1, 2]]
