"""Files of a folder and of a zip, by the same paths."""

import os
import struct
import tracemalloc
import zipfile

import pytest

from mhe.harness.datasets import tree as tree_module
from mhe.harness.datasets.tree import Tree
from mhe.harness.errors import BadInput
from mhe.reading import LARGEST

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
def test_members_that_cannot_be_unpacked_are_one_line(tmp_path, damage, message):
    path = zipped(tmp_path / "data.zip", {"words.txt": b"n01 dog"})
    path.write_bytes(damage(path.read_bytes()))
    with Tree(path) as tree:
        with pytest.raises(BadInput, match=r"data\.zip: words\.txt cannot be read: ") as caught:
            tree.text("words.txt")
        assert message in str(caught.value)
        with pytest.raises(BadInput):
            tree.read("words.txt")


@pytest.mark.parametrize(
    "method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA], ids=str
)
@pytest.mark.parametrize("stated", [None, 10], ids=["honest", "lying"])
def test_members_that_unpack_to_far_more_are_not_unpacked(tmp_path, method, stated, monkeypatch):
    monkeypatch.setattr("mhe.reading.LARGEST", 2**20)
    path, size = tmp_path / "data.zip", 2**25
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("words.txt", bytes(size))
    if stated is not None:
        data = bytearray(path.read_bytes())
        for signature, place in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
            struct.pack_into("<I", data, data.index(signature) + place, stated)
        path.write_bytes(data)
    with Tree(path) as tree:
        tracemalloc.start()
        with pytest.raises(BadInput, match="Bad CRC" if stated else "at most 1,048,576 bytes"):
            tree.text("words.txt")
        # bzip2 and LZMA unpack all of what they are given, 4 kB at a time.
        if stated is None or method == zipfile.ZIP_DEFLATED:
            assert tracemalloc.get_traced_memory()[1] < size / 8
        tracemalloc.stop()


def test_files_have_a_largest_size(tmp_path):
    with open(tmp_path / "words.txt", "wb") as file:
        file.truncate(LARGEST + 1)
    with Tree(tmp_path) as tree, pytest.raises(BadInput, match="at most 268,435,456 bytes"):
        tree.text("words.txt")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_what_is_no_file_is_refused(tmp_path):
    (tmp_path / "data").mkdir()
    os.mkfifo(tmp_path / "data" / "0.png")
    with Tree(tmp_path / "data") as tree, pytest.raises(BadInput, match="must be a regular file"):
        tree.read("0.png")
    os.mkfifo(tmp_path / "data.zip")
    for path in (tmp_path / "data.zip", "/dev/zero"):
        with pytest.raises(BadInput, match="must be a regular file"):
            Tree(path)


def test_the_search_of_a_folder_has_an_end(tmp_path, monkeypatch):
    for number in range(30):
        (tmp_path / f"{number % 3}").mkdir(exist_ok=True)
        (tmp_path / f"{number % 3}" / f"{number}.txt").touch()
    monkeypatch.setattr(tree_module, "_MOST_OTHERS", 25)
    with pytest.raises(BadInput, match=r"Received: 0 images and 30 other files in the first 4"):
        Tree(tmp_path)
    (tmp_path / "0" / "0.png").touch()
    assert len(Tree(tmp_path).names) == 34
    monkeypatch.setattr(tree_module, "_MOST", 30)
    with pytest.raises(BadInput, match="must be a folder of images"):
        Tree(tmp_path)


def test_links_that_lead_around_in_a_circle_are_named(tmp_path):
    (tmp_path / "train" / "a").mkdir(parents=True)
    (tmp_path / "train" / "a" / "again").symlink_to(tmp_path, target_is_directory=True)
    with pytest.raises(BadInput, match=r"the link .*again leads to a folder around itself"):
        Tree(tmp_path)


def test_names_that_no_other_system_would_read_are_named(tmp_path):
    path = zipped(tmp_path / "data.zip", {"train\\a\\1.png": b""})
    with pytest.raises(BadInput, match=r"must end in slashes.*Received: train\\a\\1\.png"):
        Tree(path)
    folder = tmp_path / "folder"
    folder.mkdir()
    try:
        (folder / os.fsdecode(b"Zo\xeb.png")).touch()
    except OSError:
        pytest.skip("a file system of UTF-8 names")
    with pytest.raises(BadInput, match=r"must be UTF-8\. Received: 'Zo\\udceb\.png'"):
        Tree(folder)


def test_neither_folder_nor_zip(tmp_path):
    (tmp_path / "data.zip").write_bytes(b"text")
    for name in ("data.zip", "missing.zip"):
        with pytest.raises(BadInput, match=rf"{name} is not a readable zip: "):
            Tree(tmp_path / name)
