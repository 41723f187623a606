"""Arrays in files, and headers that declare what is not there."""

import io
import os
import zipfile

import numpy as np
import pytest

from mhe.arrays import read_array, read_arrays
from mhe.prototypes.vectors import read as read_vectors

pytestmark = pytest.mark.one_backend


def npy(header, data=b"", version=1):
    """The bytes of a .npy with any header."""
    text = header.encode("latin-1") if isinstance(header, str) else header
    length = len(text).to_bytes(2 if version == 1 else 4, "little")
    return b"\x93NUMPY" + bytes([version, 0]) + length + text + data


def declared(shape, descr="'<f8'"):
    return f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}\n"


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6.0).reshape(2, 3),
        np.arange(6.0).reshape(2, 3).T,
        np.arange(3, dtype=">i2"),
        np.float16(0.5),
        np.zeros((0, 4), bool),
    ],
    ids=lambda array: f"{array.dtype}{array.shape}",
)
def test_arrays_of_numbers_come_back(tmp_path, array):
    np.save(tmp_path / "a.npy", array)
    read = read_array(tmp_path / "a.npy")
    np.testing.assert_array_equal(read, array)
    assert read.dtype == array.dtype


def npz():
    stream = io.BytesIO()
    np.savez(stream, a=np.eye(2))
    return stream.getvalue()


WRONG = {
    "728 TiB": (
        npy(declared("(100000000000000, 1)")),
        "as its header declares.*: 0 bytes",
    ),
    "short": (npy(declared("(2,)"), bytes(15)), "Received: 15 bytes for float64 of shape"),
    "long": (npy(declared("(2,)"), bytes(17)), "Received: 17 bytes for float64 of shape"),
    "negative": (npy(declared("(-1, -2)"), bytes(16)), "as its header declares"),
    "digits": (npy(declared(f"({'9' * 4000},)")), "as its header declares"),
    "more digits": (npy(declared(f"({'9' * 5000},)")), r"must be a \.npy array"),
    "dimensions": (npy(declared(f"({'1, ' * 100})"), bytes(8)), "cannot be read as an array"),
    "void": (npy(declared("(1,)", "'|V8'"), bytes(8)), r"must hold numbers\. Received: dtype \|V8"),
    "object": (npy(declared("(1,)", "'|O'"), b"cos\nsystem\n"), "must hold numbers"),
    "text": (npy(declared("(1,)", "'<U2'"), bytes(8)), "must hold numbers"),
    "records": (npy(declared("(1,)", "[('x', '<f8')]"), bytes(8)), "must hold numbers"),
    "deep": (npy("-" * 9000), r"must be a \.npy array"),
    "brackets": (npy("(" * 9000), r"must be a \.npy array"),
    "no header": (b"\x93NUMPY\x01\x00", r"must be a \.npy array"),
    "version": (npy(declared("(1,)"), bytes(8), version=9), r"must be a \.npy array"),
    "npz": (npz(), r"must be a \.npy array"),
    "nothing": (b"", r"must be a \.npy array"),
}


@pytest.mark.parametrize(("data", "message"), WRONG.values(), ids=WRONG)
def test_what_is_no_array_is_one_line(tmp_path, data, message):
    path = tmp_path / "a.npy"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=rf"a\.npy .*{message}") as caught:
        read_array(path)
    assert len(str(caught.value)) < 400 + len(str(path))
    assert "\n" not in str(caught.value)
    if data.startswith(b"\x93NUMPY"):
        with pytest.raises(ValueError, match=message):
            read_vectors(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_what_might_never_end_is_not_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", "/dev/zero"):
        for read in (read_array, read_vectors, lambda path: read_arrays(path, ["a"])):
            with pytest.raises(ValueError, match="must be a regular file"):
                read(path)
    with pytest.raises(IsADirectoryError):
        read_array(tmp_path)


def test_several_arrays_in_one_file(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, numbers=np.eye(2), key=np.array("text"))
    found = read_arrays(path, ["numbers"], texts=["key"])
    np.testing.assert_array_equal(found["numbers"], np.eye(2))
    assert str(found["key"]) == "text"
    with pytest.raises(ValueError, match=r"a\.npz .*the array x\. Received: numbers, key"):
        read_arrays(path, ["x"])
    with pytest.raises(ValueError, match=r"a\.npz .*its key must hold numbers"):
        read_arrays(path, ["key"])
    path.write_bytes(path.read_bytes().replace(np.eye(2).tobytes(), np.ones(4).tobytes()))
    with pytest.raises(ValueError, match=r"a\.npz cannot be read: Bad CRC"):
        read_arrays(path, ["numbers"])
    path.write_bytes(npy(declared("(1,)"), bytes(8)))
    with pytest.raises(ValueError, match=r"a\.npz cannot be read: "):
        read_arrays(path, ["numbers"])


def test_an_array_that_unpacks_to_far_more_is_not_unpacked(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.npy", npy(declared("(4000000,)"), bytes(32_000_000)))
    with pytest.raises(ValueError, match=r"a file must have at most"):
        read_arrays(tmp_path / "a.npz", ["a"])


def test_an_archive_without_its_first_byte_is_damaged(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, a=np.eye(2))
    path.write_bytes(path.read_bytes()[1:])
    with pytest.raises(ValueError, match=r"a\.npz cannot be read: "):
        read_arrays(path, ["a"])
