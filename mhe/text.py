"""One way to read text that people have made or edited, in whatever editor."""

import codecs
import os
import unicodedata
from collections.abc import Iterable

from mhe.reading import check_size, regular_size

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
    check_size(regular_size(path), path)
    with open(path, "rb") as file:
        return decode_text(file.read(), path)


def decode_text(data: bytes, name: str) -> str:
    """Decodes the bytes of a text file, as `read_text` does.

    Args:
        data: The bytes.
        name: What errors call the file.

    Raises:
        ValueError: If they are neither UTF-8 nor UTF-16.

    Example:

    >>> decode_text("Zoë".encode("latin-1"), "people.txt")
    Traceback (most recent call last):
        ...
    ValueError: people.txt must be UTF-8 text. Received: byte 0xeb on line 1. Convert text in
    another encoding, for example with `iconv -f LATIN1 -t UTF-8`
    """
    mark = next((mark for mark in _MARKS if data.startswith(mark)), b"")
    try:
        return data.decode(_MARKS.get(mark, "utf-8"))
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"{name} must be UTF-8 text. Received: byte 0x{data[error.start]:02x} on line {line}. "
            "Convert text in another encoding, for example with `iconv -f LATIN1 -t UTF-8`"
        ) from error


def brief(value: object, most: int = 100) -> str:
    r"""The start of a text from elsewhere, in one line that a terminal shows as it is.

    Args:
        value: What an error quotes; an exception without a message gives its type.
        most: The characters after which it ends.

    Example:

    >>> brief("wide\n open\x1b"), brief(ValueError()), brief("a" * 9, 4)
    ('wide open\\x1b', 'ValueError', 'aaaa …')
    """
    start = str(value)[: 10 * most]
    text = " ".join(start.split()) or (type(value).__name__ if isinstance(value, Exception) else "")
    shown = "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode() for each in text
    )
    return shown if len(shown) <= most and start == str(value) else f"{shown[:most].rstrip()} …"


def is_utf8(name: str) -> bool:
    r"""Whether a name can be written as UTF-8: not that of a file whose bytes are something else.

    Example:

    >>> is_utf8("Zoë"), is_utf8(b"Zo\xeb".decode("utf-8", "surrogateescape"))
    (True, False)
    """
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def lookalike(name: str, known: Iterable[str]) -> str:
    r"""Says, for an error about a missing name, that one that looks the same is there.

    Letters with accents may be one character (NFC) or two (NFD, as in archives from macOS).

    Args:
        name: The missing name.
        known: The names that are there.

    Returns:
        Text to append to the error, empty if no name looks the same.

    Example:

    >>> lookalike("Zo\u00eb", ["Zoe\u0308"])
    ' (it is there in another Unicode normalization form)'
    >>> lookalike("Zoë", ["Zoe", "Zoé"])
    ''
    """
    if name.isascii():
        return ""
    wanted = unicodedata.normalize("NFC", name)
    found = any(
        unicodedata.normalize("NFC", each) == wanted for each in known if not each.isascii()
    )
    return " (it is there in another Unicode normalization form)" if found else ""
