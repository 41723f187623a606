"""Validation sets in InsightFace's form, such as `lfw.bin`: images, and pairs of one person or two.

The file is a pickle, which could run any program when it is loaded. It is never loaded: its opcodes
are read one by one, and any that is not of lists, bytes and booleans is refused.
"""

import os
import pickletools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from mhe.harness.datasets.images import unreadable
from mhe.harness.errors import BadInput
from mhe.reading import check_size
from mhe.text import brief
from sphereface_plus.faces.people import People
from sphereface_plus.faces.records import Stretches, is_image_data
from sphereface_plus.pairs import Pairs

_SUFFIX = ".bin"
_LARGEST = 2**33
_MOST_OPCODES = 2**23  # several million images
_LINE = 2**12  # bytes; none of the opcodes that are read has a longer one
_FOLDS = 10
# The bytes between the start of an opcode and that of its data.
_BYTES = {
    "SHORT_BINBYTES": 2,
    "BINBYTES": 5,
    "BINBYTES8": 9,
    "SHORT_BINSTRING": 2,  # those of Python 2
    "BINSTRING": 5,
}
_MARK = object()


def is_validation_set(path: str | os.PathLike) -> bool:
    """Whether a path names a .bin file.

    Example:

    >>> is_validation_set("faces/lfw.bin"), is_validation_set("pairs.txt")
    (True, False)
    """
    return os.fspath(path).lower().endswith(_SUFFIX)


def read_validation_set(path: str | os.PathLike) -> tuple[People, Pairs]:
    """Reads a validation set of InsightFace, such as `lfw.bin`, `cfp_fp.bin` or `agedb_30.bin`.

    It is a pickle of `(images, same)`: image files as bytes, two for each pair, and whether each
    pair is of one person. It is read without unpickling, and its images when they are needed.

    Args:
        path: The file.

    Returns:
        The people and the pairs. Image `7/2` is the second of the seventh pair. Nothing says who
        anybody is, so each image counts as a person of its own. The folds are tenths of the pairs
        in their order, as InsightFace takes them; None if one of these lacks pairs of a kind.

    Raises:
        BadInput: If the file cannot be read, is cut short, holds anything but bytes and booleans,
            or images that are none, or not two images for each pair.

    Example:

    >>> import io, pathlib, pickle, tempfile
    >>> from PIL import Image
    >>> stream = io.BytesIO()
    >>> Image.new("L", (96, 112)).save(stream, "PNG")
    >>> path = pathlib.Path(tempfile.mkdtemp(), "lfw.bin")
    >>> _ = path.write_bytes(pickle.dumps(([stream.getvalue()] * 4, [True, False])))
    >>> people, pairs = read_validation_set(path)
    >>> people.images, pairs.rows.tolist(), pairs.same.tolist()
    (('1/1', '1/2', '2/1', '2/2'), [[0, 1], [2, 3]], [True, False])
    >>> _ = path.write_bytes(pickle.dumps(print))
    >>> read_validation_set(path)
    Traceback (most recent call last):
        ...
    mhe.harness.errors.BadInput: .../lfw.bin must be a pickle of nothing but lists of bytes and
    booleans, as InsightFace writes. Received: the opcode SHORT_BINUNICODE at byte 11
    """
    file = Stretches(path)
    try:
        check_size(file.size, file.name, _LARGEST)
    except ValueError as error:
        raise BadInput(str(error)) from error
    images, same = _images_and_same(file)
    wrong = [
        (f"image {place + 1}", "not an image")
        for place, image in enumerate(images)
        if not image.is_image
    ]
    if wrong:
        raise BadInput(f"{file.name}: {unreadable(wrong)}")
    if len(images) != 2 * len(same) or not same:
        raise BadInput(
            f"{file.name} must hold two images for each of its pairs. "
            f"Received: {len(images):,} images and {len(same):,} pairs"
        )
    places = tuple(f"{pair}/{side}" for pair in range(1, len(same) + 1) for side in (1, 2))
    labels = np.arange(len(images))
    people = People(
        file.name, places, places, labels, frozenset(places), _Entries(file, tuple(images)), ""
    )
    matches = np.array(same)
    return people, Pairs(labels.reshape(-1, 2), matches, _tenths(matches))


class _Image(NamedTuple):
    """Where the bytes of an image are in the file."""

    start: int
    length: int
    is_image: bool


@dataclass(frozen=True)
class _Entries:
    """The images of a file by their names, `<pair>/<1 or 2>`."""

    file: Stretches
    images: tuple[_Image, ...]

    def read(self, name: str) -> bytes:
        pair, side = map(int, name.split("/"))
        image = self.images[2 * pair + side - 3]
        data = self.file.at(image.start, image.length)
        if len(data) != image.length:
            raise BadInput("the file has changed since it was opened")
        return data


class _Stream:
    """A file as `pickletools` reads it, which asks for as many bytes as an opcode declares."""

    def __init__(self, file: Stretches):
        self._file, self._place = file, 0

    def tell(self) -> int:
        return self._place

    def read(self, size: int = -1) -> bytes:
        left = self._file.size - self._place
        size = min(size, left) if size >= 0 else left
        check_size(size, "an entry")
        data = self._file.at(self._place, size)
        self._place += len(data)
        return data

    def readline(self) -> bytes:
        line = self._file.at(self._place, _LINE)
        line = line[: line.find(b"\n") + 1] or line
        self._place += len(line)
        return line


def _opcodes(file: Stretches) -> Iterator[tuple[str, Any, int]]:
    """The name, the argument and the place of each opcode."""
    stream: Any = _Stream(file)
    try:
        for number, (opcode, argument, place) in enumerate(pickletools.genops(stream)):
            if number >= _MOST_OPCODES:
                raise BadInput(
                    f"{file.name} must have at most {_MOST_OPCODES:,} opcodes. Received: more"
                )
            yield opcode.name, argument, int(place or 0)
    except BadInput:
        raise
    # Its errors are of encodings and numbers too.
    except ValueError as error:
        raise BadInput(
            f"{file.name} is damaged or no pickle, after byte {stream.tell():,}: {brief(error)}"
        ) from error


def _images_and_same(file: Stretches) -> tuple[list[_Image], list[bool]]:
    """Follows the opcodes of `(images, same)`, with a stack as the one of an unpickler."""
    expected = (
        f"{file.name} must be a pickle of nothing but lists of bytes and booleans, as InsightFace "
        "writes"
    )
    stack: list[Any] = []
    memo: dict[int, Any] = {}
    for name, argument, place in _opcodes(file):
        wrong = BadInput(f"{expected}. Received: the opcode {name} at byte {place:,}")
        try:
            if name in _BYTES:
                data = argument.encode("latin-1") if isinstance(argument, str) else argument
                stack.append(_Image(place + _BYTES[name], len(data), is_image_data(data)))
            elif name in ("NEWTRUE", "NEWFALSE") or (name == "INT" and type(argument) is bool):
                stack.append(argument if name == "INT" else name == "NEWTRUE")
            elif name in ("EMPTY_LIST", "MARK"):
                stack.append([] if name == "EMPTY_LIST" else _MARK)
            elif name == "APPEND":
                entry = stack.pop()
                _extend(stack[-1], [entry])
            elif name in ("APPENDS", "LIST", "TUPLE", "TUPLE2"):
                entries = _popped(stack, 2 if name == "TUPLE2" else None)
                if name == "APPENDS":
                    _extend(stack[-1], entries)
                elif name == "LIST":
                    stack.append(_extend([], entries))
                else:
                    stack.append(tuple(entries))
            elif name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
                memo[len(memo) if name == "MEMOIZE" else argument] = stack[-1]
            elif name in ("GET", "BINGET", "LONG_BINGET"):
                stack.append(memo[argument])
            elif name not in ("PROTO", "FRAME", "STOP"):
                raise wrong
        # An empty stack, no such memo, or an entry that is none of these.
        except (IndexError, KeyError, TypeError) as error:
            raise wrong from error
    both = stack.pop() if len(stack) == 1 else None
    if isinstance(both, tuple) and len(both) == 2 and all(type(each) is list for each in both):
        images, same = both
        if all(type(x) is _Image for x in images) and all(type(x) is bool for x in same):
            return images, same
    raise BadInput(
        f"{expected}. Received: something other than a list of bytes and a list of booleans"
    )


def _popped(stack: list[Any], count: int | None) -> list[Any]:
    """Removes what is above the last mark and the mark, or the last entries."""
    if count is None:
        start = len(stack) - 1
        while stack[start] is not _MARK:
            if start == 0:
                raise IndexError
            start -= 1
        entries = stack[start + 1 :]
        del stack[start:]
        return entries
    if len(stack) < count or _MARK in stack[-count:]:
        raise IndexError
    entries = stack[-count:]
    del stack[-count:]
    return entries


def _extend(entries: list[Any], more: list[Any]) -> list[Any]:
    if type(entries) is not list or not all(type(each) in (_Image, bool) for each in more):
        raise TypeError
    entries.extend(more)
    return entries


def _tenths(same: np.ndarray) -> np.ndarray | None:
    """The fold of each pair, or None if a fold would lack pairs of a kind."""
    folds = np.arange(len(same)) * _FOLDS // len(same)
    counts = np.bincount(2 * folds + same, minlength=2 * _FOLDS)
    return folds if counts.min() > 0 else None
