"""Semantic vectors of classes, read from a file of word vectors."""

import codecs
import gzip
import os
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import BinaryIO, NamedTuple, TypeAlias

import numpy as np

from mhe.arrays import read_array
from mhe.reading import regular_size
from mhe.text import brief

# Bytes that no text has; binary word vectors contain some within their first few numbers.
_BINARY = re.compile(rb"[\x00-\x08\x0e-\x1f]")
_HEAD = 1 << 12
_LONGEST = 1 << 22  # bytes of a line
_MOST_DIGITS = 12
_QUOTED = 200  # characters of a line that an error quotes
_SEPARATORS = re.compile(r"[\s_-]+")


_File: TypeAlias = BinaryIO | gzip.GzipFile


class _Token(NamedTuple):
    """A line of the file that matches a wanted name.

    `rank` is 0 for an exact match, 1 if only the separators differ, 2 if the case differs.
    """

    rank: int
    line: int
    vector: np.ndarray


def read(path: str | os.PathLike, names: Sequence[str] | None = None) -> np.ndarray:
    r"""Reads a vector for each class, as the `semantics` of `mhe.prototypes.place`.

    The file is a `.npy` array `(classes, m)`, in the order of the classes; or word vectors as text,
    a word and its numbers per line, as word2vec writes it (with a first line `count dims`) or GloVe
    (without), plain or gzip-compressed. Text is read line by line and only the wanted vectors are
    kept, so files may be larger than memory.

    In text a class matches a word equal to its name; else the first word that differs in separators
    only (`aquarium_fish`, `aquarium-fish`, `aquarium fish`); else in separators and case. A name of
    several words without a match gets the mean of the vectors of its words, each matched likewise.

    Args:
        path: The file.
        names: The names of the classes, in order. Required for text; for an array, only their
            number is checked.

    Returns:
        A float32 array `(classes, m)`.

    Raises:
        ValueError: If names are repeated or missing from the file (all of these are listed); if
            the file has another format, ends early, or has an invalid line or row.
        OSError: If the file cannot be opened.

    Example:

    >>> import pathlib, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp(), "words.txt")
    >>> _ = path.write_text("fish 1 0\nAquarium 0 1\ndog 3 4\n")
    >>> read(path, ["dog", "aquarium_fish"])
    array([[3. , 4. ], [0.5, 0.5]], dtype=float32)

    Reference:
        The formats of Mikolov et al., word2vec (https://code.google.com/archive/p/word2vec) and
        Pennington et al., GloVe (https://nlp.stanford.edu/projects/glove).
    """
    names = None if names is None else _checked_names(names)
    regular_size(path)
    with open(path, "rb") as file:
        magic = file.read(6)
        file.seek(0)
        if magic == b"\x93NUMPY":
            return _from_array(path, names)
        if names is None:
            raise ValueError(
                f"{path} is not a .npy array: reading words from text needs the `names` of the "
                "classes. Received: names=None"
            )
        try:
            if not magic.startswith(b"\x1f\x8b"):
                return _from_text(file, path, names)
            with gzip.open(file) as text:
                return _from_text(text, path, names)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise ValueError(f"{path} is damaged and cannot be decompressed: {error}") from error


def _checked_names(names: Sequence[str]) -> list[str]:
    if isinstance(names, str) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"`names` must be strings, one per class. Received: {names!r}")
    names = list(names)
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice or not all(map(_words, names)):
        raise ValueError(
            "`names` must be distinct and contain a word each. Received: "
            + (f"twice {', '.join(twice)}" if twice else f"{names!r}")
        )
    return names


def _from_array(path: str | os.PathLike, names: list[str] | None) -> np.ndarray:
    array = read_array(path)
    if array.ndim != 2 or array.dtype.kind not in "fiu":
        raise ValueError(
            f"{path} must hold an array of numbers (classes, m). "
            f"Received: {array.dtype} of shape {array.shape}"
        )
    if names is not None and len(array) != len(names):
        raise ValueError(
            f"{path} must hold a row for each of the {len(names)} classes. "
            f"Received: {len(array)} rows"
        )
    with np.errstate(over="ignore"):  # overflow is refused below
        array = array.astype(np.float32)
    wrong = np.flatnonzero(~np.isfinite(array).all(axis=1))
    if wrong.size:
        raise ValueError(
            f"{path} must hold finite numbers. Received: others in row {wrong[0]} (counted from 0)"
        )
    return array


def _from_text(file: _File, path: str | os.PathLike, names: list[str]) -> np.ndarray:
    head = file.read(_HEAD)
    if head.startswith(b"PK") or _BINARY.search(head):
        raise ValueError(
            f"{path} must be a .npy array, or words and numbers as text, plain or gzip. Received: "
            "binary data. An archive must be unpacked, and binary word vectors written as text"
        )
    file.seek(0)
    wanted = [*names, *(word for name in names for word in _words(name))]
    found = _search(_lines(file, path), dict.fromkeys(wanted), path)
    vectors, missing = [], []
    for name in names:
        absent = [word for word in _words(name) if word not in found]
        if name in found:
            vectors.append(found[name].vector)
        elif not absent:
            vectors.append(np.mean([found[word].vector for word in _words(name)], axis=0))
        else:
            missing.append(name if absent == [name] else f"{name} ({', '.join(absent)})")
    if missing:
        raise ValueError(
            f"{path} must hold all {len(names)} classes, or their words. "
            f"Received: no vectors for {', '.join(missing)}"
        )
    return np.array(vectors, np.float32)


def _search(
    lines: Iterator[tuple[int, str, bytes]], wanted: Iterable[str], path: str | os.PathLike
) -> dict[str, _Token]:
    """The best match for each wanted name that has one."""
    by_key: dict[str, list[str]] = {}
    for each in wanted:
        by_key.setdefault(_key(each), []).append(each)
    found: dict[str, _Token] = {}
    for number, token, numbers in lines:
        for each in by_key.get(_key(token), ()):
            rank = 0 if token == each else 1 if _joined(token) == _joined(each) else 2
            known = found.get(each)
            if known is None or rank < known.rank:
                found[each] = _Token(rank, number, _vector(numbers, number, path))
            elif rank == known.rank == 0 and not np.array_equal(
                known.vector, _vector(numbers, number, path)
            ):
                raise ValueError(
                    f"{path} must hold a word once. "
                    f"Received: {token!r} with different vectors in lines {known.line} and {number}"
                )
    return found


def _lines(file: _File, path: str | os.PathLike) -> Iterator[tuple[int, str, bytes]]:
    """Yields the number of each line, its word, and its numbers as text."""
    count = dims = None
    words = 0
    for line, text in enumerate(iter(lambda: file.readline(_LONGEST), b""), 1):
        if len(text) == _LONGEST:
            raise ValueError(f"{path}: line {line} must have less than {_LONGEST:,} bytes")
        if line == 1:
            text = text.removeprefix(codecs.BOM_UTF8)
        text = text.replace(b"\t", b" ").rstrip()
        if not text:
            continue
        if dims is None:
            cells = text.split()
            if len(cells) == 2 and all(map(_is_count, cells)):
                count, dims = map(int, cells)
                continue
            dims = len(cells) - 1
        token, _, numbers = text.partition(b" ")
        received = text.count(b" ")
        if received > dims > 0:
            # Some words of GloVe contain spaces, such as ". . ."; none ends in a number.
            token, *cells = text.rsplit(b" ", dims)
            numbers = b" ".join(cells)
            if not _is_number(token.split(b" ")[-1]):
                received = dims
        if received != dims or not dims:
            raise ValueError(
                f"{path}: line {line} must be a word and, as in the first line, {dims or 'its'} "
                f"numbers. Received: {received} numbers"
            )
        words += 1
        yield line, token.decode("utf-8", "replace").strip(), numbers
    if not words:
        raise ValueError(f"{path} must hold words, each with its numbers. Received: none")
    if count not in (None, words):
        raise ValueError(
            f"{path} must hold {count} words, as its first line says. Received: {words} words"
        )


def _vector(numbers: bytes, line: int, path: str | os.PathLike) -> np.ndarray:
    try:
        vector = np.array([float(cell) for cell in numbers.split()])
    except ValueError as error:
        raise ValueError(
            f"{path}: line {line} must hold numbers. Received: {str(error)[:_QUOTED]}"
        ) from error
    # Numbers were told by the spaces between them, which is faster.
    spaces = numbers.count(b" ")
    if vector.size != spaces + 1:
        raise ValueError(
            f"{path}: line {line} must have one space before each number. "
            f"Received: {vector.size} numbers and {spaces + 1} spaces"
        )
    with np.errstate(over="ignore"):
        finite = np.isfinite(vector.astype(np.float32)).all()
    if not finite:
        raise ValueError(f"{path}: line {line} must hold finite numbers. Received: {brief(vector)}")
    return vector


def _is_count(cell: bytes) -> bool:
    return cell.isdigit() and len(cell) <= _MOST_DIGITS


def _is_number(cell: bytes) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _joined(text: str) -> str:
    return _SEPARATORS.sub("_", text)


def _key(text: str) -> str:
    return _joined(text).lower()


def _words(name: str) -> list[str]:
    return [word for word in _SEPARATORS.split(name) if word]
