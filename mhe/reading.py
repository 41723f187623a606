"""What readers of files that users name rely on: that reading ends, in bounded memory."""

import lzma
import os
import stat
import struct
import zipfile
import zlib

# Bytes of a text or an image. Word vectors, which are larger, are read as a stream.
LARGEST = 2**28
# What reading a zip raises: for a member that is encrypted it is a RuntimeError, for an unknown
# method of compression a NotImplementedError, which is one.
ZIP_ERRORS = (
    *(OSError, ValueError, RuntimeError, EOFError, KeyError, struct.error),
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError),
)
_PART = 4096  # bytes of a member to unpack at once


def regular_size(path: str | os.PathLike) -> int:
    """Returns the size of a file in bytes, or refuses one of which reading might never end.

    A folder is left to what opens it, whose error says what it is.

    Args:
        path: The file.

    Raises:
        ValueError: If it is a device, a pipe or a socket.
        OSError: If there is no such file.

    Example:

    >>> regular_size(os.devnull)
    Traceback (most recent call last):
        ...
    ValueError: ... must be a regular file. Received: a device, pipe or socket
    """
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode) and not stat.S_ISDIR(status.st_mode):
        raise ValueError(
            f"{os.fspath(path)} must be a regular file. Received: a device, pipe or socket"
        )
    return status.st_size


def check_size(size: int, name: str, most: int | None = None) -> None:
    """Raises a `ValueError` if a file is too large.

    Args:
        size: Its bytes.
        name: What the error calls the file.
        most: The bytes it may have; None for 256 MiB.

    Example:

    >>> check_size(10**9, "words.txt")
    Traceback (most recent call last):
        ...
    ValueError: words.txt must have at most 268,435,456 bytes. Received: 1,000,000,000 bytes
    """
    most = LARGEST if most is None else most
    if size > most:
        raise ValueError(f"{name} must have at most {most:,} bytes. Received: {size:,} bytes")


def read_member(archive: zipfile.ZipFile, name: str, most: int | None = None) -> bytes:
    """Reads a file of a zip, in memory that does not depend on how far it is compressed.

    Args:
        archive: The zip.
        name: The file.
        most: The bytes it may have; None for 256 MiB.

    Raises:
        ValueError: If it is too large.
        ZIP_ERRORS: If it is missing, damaged, encrypted or compressed by an unknown method.

    Example:

    >>> import io
    >>> with zipfile.ZipFile(io.BytesIO(), "w") as archive:
    ...     archive.writestr("words.txt", "n01 dog")
    ...     read_member(archive, "words.txt")
    b'n01 dog'
    """
    member = archive.getinfo(name)
    check_size(member.file_size, "a file", most)
    with archive.open(member) as file:
        # In small parts: bzip2 and LZMA unpack all of what they are given, which may be far more
        # than the size that the archive states.
        return b"".join(iter(lambda: file.read(_PART), b""))
