"""One way to read text that people have made or edited, in whatever editor."""

import codecs
import os
import stat

# Word vectors, which are larger, are read as a stream.
LARGEST = 2**28
_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


def read_text(path: str | os.PathLike) -> str:
    r"""Reads a text file: UTF-8, or UTF-16 with a byte-order mark, which is dropped.

    Line ends are kept as they are.

    Args:
        path: The file.

    Raises:
        ValueError: If it is no regular file (reading a pipe or a device might not end), is larger
            than 256 MiB, or is not text of this kind.
        OSError: If it cannot be opened.

    Example:

    >>> import pathlib, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp(), "tree.txt")
    >>> _ = path.write_text("animal/dog\n", "utf-8-sig")  # as Windows' Notepad saves it
    >>> read_text(path)
    'animal/dog\n'
    """
    path = os.fspath(path)
    mode = os.stat(path).st_mode
    # A folder is left to `open`, whose error says what it is.
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise ValueError(f"{path} must be a regular file. Received: a device, pipe or socket")
    with open(path, "rb") as file:
        return decode_text(file.read(LARGEST + 1), path)


def decode_text(data: bytes, name: str) -> str:
    """Decodes the bytes of a text file, as `read_text` does.

    Args:
        data: The bytes.
        name: What errors call the file.

    Raises:
        ValueError: If there are more than 256 MiB, or they are neither UTF-8 nor UTF-16.

    Example:

    >>> decode_text("Zoë".encode("latin-1"), "people.txt")
    Traceback (most recent call last):
        ...
    ValueError: people.txt must be UTF-8 text. Received: byte 0xeb on line 1. Convert text in
    another encoding, for example with `iconv -f LATIN1 -t UTF-8`
    """
    if len(data) > LARGEST:
        raise ValueError(f"{name} must be text of at most {LARGEST:,} bytes. Received: more")
    mark = next((mark for mark in _MARKS if data.startswith(mark)), b"")
    try:
        return data.decode(_MARKS.get(mark, "utf-8"))
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"{name} must be UTF-8 text. Received: byte 0x{data[error.start]:02x} on line {line}. "
            "Convert text in another encoding, for example with `iconv -f LATIN1 -t UTF-8`"
        ) from error
