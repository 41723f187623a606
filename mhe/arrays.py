"""One way to read arrays of numbers from files, which checks them before it believes them (NumPy).

A header may declare more than there is, which NumPy would allocate, or what is no number.
"""

import io
import math
import os
import warnings
import zipfile
from collections.abc import Sequence
from typing import BinaryIO

import numpy as np

from mhe.reading import ZIP_ERRORS, read_member, regular_size
from mhe.text import brief

_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def read_array(path: str | os.PathLike) -> np.ndarray:
    """Reads an array of numbers from a .npy file.

    Args:
        path: The file.

    Raises:
        ValueError: If it is no regular file, no .npy, holds no numbers, or has another size than
            its header says.
        OSError: If it cannot be opened.

    Example:

    >>> import pathlib, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp(), "a.npy")
    >>> np.save(path, np.eye(2))
    >>> read_array(path).tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    >>> path.write_bytes(path.read_bytes()[:-8])
    152
    >>> read_array(path)
    Traceback (most recent call last):
        ...
    ValueError: .../a.npy must hold as many numbers as its header declares. Received: 24 bytes for
    float64 of shape (2, 2)
    """
    size = regular_size(path)
    with open(path, "rb") as file:
        return _checked(file, size, os.fspath(path), "biuf")


def read_arrays(
    path: str | os.PathLike, names: Sequence[str], texts: Sequence[str] = ()
) -> dict[str, np.ndarray]:
    """Reads arrays by name from an .npz file that `numpy.savez` wrote.

    Args:
        path: The file.
        names: The arrays of numbers to read.
        texts: The arrays of text to read.

    Returns:
        The arrays by name.

    Raises:
        ValueError: If it is no regular file, is damaged, lacks an array, or an array
            is not what its header says.
        OSError: If it cannot be opened.

    Example:

    >>> import pathlib, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp(), "a.npz")
    >>> np.savez(path, labels=[0, 1])
    >>> read_arrays(path, ["labels"])["labels"].tolist()
    [0, 1]
    >>> read_arrays(path, ["features"])
    Traceback (most recent call last):
        ...
    ValueError: .../a.npz cannot be read: it must hold the array features. Received: labels
    """
    size = regular_size(path)
    arrays = {}
    with open(path, "rb") as file:
        # Reading a damaged zip may raise an `OSError` too: it may start before the file does.
        try:
            with zipfile.ZipFile(file) as archive:
                for name in (*names, *texts):
                    if f"{name}.npy" not in archive.namelist():
                        known = ", ".join(each.removesuffix(".npy") for each in archive.namelist())
                        raise ValueError(f"it must hold the array {name}. Received: {brief(known)}")
                    # Stored as they are, as `savez` does: none is larger than the file.
                    data = read_member(archive, f"{name}.npy", size)
                    kinds = "U" if name in texts else "biuf"
                    arrays[name] = _checked(io.BytesIO(data), len(data), f"its {name}", kinds)
        except ZIP_ERRORS as error:
            raise ValueError(f"{os.fspath(path)} cannot be read: {error}") from error
    return arrays


def _checked(file: BinaryIO, size: int, name: str, kinds: str) -> np.ndarray:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about headers that Python 2 wrote
            shape, _, dtype = _HEADERS[np.lib.format.read_magic(file)](file)
    # A header is the source of a Python object, whose parser raises many kinds of errors.
    except Exception as error:
        raise ValueError(f"{name} must be a .npy array. Received: {brief(error)}") from error
    if dtype.kind not in kinds:
        expected = "text" if kinds == "U" else "numbers"
        raise ValueError(f"{name} must hold {expected}. Received: dtype {brief(dtype)}")
    left = size - file.tell()
    if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != left:
        raise ValueError(
            f"{name} must hold as many numbers as its header declares. "
            f"Received: {left:,} bytes for {brief(dtype)} of shape {brief(shape)}"
        )
    file.seek(0)
    try:
        return np.load(file, allow_pickle=False)
    except ValueError as error:
        raise ValueError(f"{name} cannot be read as an array: {brief(error)}") from error
