"""Files of a folder and of a zip, by the same paths."""

import struct
import zipfile

import pytest

from mhe.harness.datasets.tree import Tree
from mhe.harness.errors import BadInput

pytestmark = pytest.mark.one_backend

FILES = {"train/a/1.png": b"one", "train/a/0.png": b"zero", "train/.hidden/2.png": b"?"}


def zipped(path, names):
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in names.items():
            archive.writestr(name, data)
    return path


@pytest.mark.parametrize("wrapper", ["", "published-archive/"])
def test_a_folder_and_a_zip_with_or_without_a_wrapper_have_the_same_files(wrapper, tmp_path):
    folder = tmp_path / "folder"
    for name, data in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    path = zipped(tmp_path / "data.zip", {wrapper + name: data for name, data in FILES.items()})
    for source in (folder, path):
        with Tree(source) as tree:
            files = [name for name in tree.names if not name.endswith("/")]
            assert files == ["train/a/0.png", "train/a/1.png"]
            assert [tree.read(name) for name in files] == [b"zero", b"one"]
            assert tree.name == str(source)


def test_a_top_folder_that_is_no_wrapper_is_part_of_the_paths(tmp_path):
    with Tree(zipped(tmp_path / "data.zip", {"Greek/character01/1.png": b""})) as tree:
        assert tree.names == ["Greek/character01/1.png"]


def test_members_that_point_outside_are_never_written(tmp_path):
    (tmp_path / "in").mkdir()
    path = zipped(tmp_path / "in" / "data.zip", {"train/a/../../../../out.png": b"out"})
    with Tree(path) as tree:
        # Any part that begins with a dot is hidden, so what climbs out has no name at all.
        assert tree.names == []
    assert sorted(each.name for each in tmp_path.rglob("*")) == ["data.zip", "in"]


def test_text_is_utf8_with_or_without_a_byte_order_mark(tmp_path):
    (tmp_path / "marked.csv").write_bytes(b"\xef\xbb\xbfid")
    (tmp_path / "wrong.csv").write_bytes(b"\xe9")
    with Tree(tmp_path) as tree:
        assert tree.text("marked.csv") == "id"
        with pytest.raises(BadInput, match=r"wrong\.csv cannot be read: "):
            tree.text("wrong.csv")
        with pytest.raises(BadInput, match=r"missing\.csv cannot be read: "):
            tree.text("missing.csv")


def changed_headers(data, offset, value):
    """A zip of one stored member, with a field of both of its headers changed."""
    data = bytearray(data)
    for signature, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        struct.pack_into("<H", data, data.index(signature) + place + offset, value)
    return bytes(data)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: changed_headers(data, 0, 1), "encrypted"),
        (lambda data: changed_headers(data, 2, 97), "compression method"),
        (lambda data: data.replace(b"n01 dog", b"n01 cat"), "Bad CRC-32"),
        (lambda data: changed_headers(data, 2, zipfile.ZIP_DEFLATED), ""),
        (lambda data: changed_headers(data, 2, zipfile.ZIP_LZMA), ""),
    ],
    ids=["encrypted", "unknown method", "damaged", "damaged deflate", "damaged lzma"],
)
def test_text_that_cannot_be_unpacked_is_one_line(tmp_path, damage, message):
    path = zipped(tmp_path / "data.zip", {"words.txt": b"n01 dog"})
    path.write_bytes(damage(path.read_bytes()))
    with Tree(path) as tree, pytest.raises(BadInput) as caught:
        tree.text("words.txt")
    assert "words.txt cannot be read: " in str(caught.value)
    assert message in str(caught.value)


def test_neither_folder_nor_zip(tmp_path):
    (tmp_path / "data.zip").write_bytes(b"text")
    for name in ("data.zip", "missing.zip"):
        with pytest.raises(BadInput, match=rf"{name} is not a readable zip: "):
            Tree(tmp_path / name)
