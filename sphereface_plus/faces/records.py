"""Training sets in InsightFace's form: MXNet's RecordIO, `train.rec` and `train.idx`.

Read without MXNet, which is no longer maintained. Nothing in the files is executed: they hold
numbers and images.
"""

import itertools
import os
import struct
import threading
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import overload

import numpy as np

from mhe.harness.errors import BadInput
from mhe.reading import check_size, regular_size
from mhe.text import brief

_SUFFIX = ".rec"
# How files of images begin: JPEG, PNG, GIF, BMP, WebP, TIFF and PNM.
_BEGINNINGS = (
    *(b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"BM", b"RIFF", b"II*\0", b"MM\0*"),
    *(b"P1", b"P2", b"P3", b"P4", b"P5", b"P6"),
)
_BEGINNING = 8  # bytes by which an image is recognized
_MAGIC = 0xCED7230A
_JOINT = struct.pack("<I", _MAGIC)
_PART = struct.Struct("<II")  # the magic number; 3 bits of flag and 29 of length
_WHOLE, _FIRST, _MIDDLE, _LAST = range(4)  # the flags
_HEADER = struct.Struct("<IfQQ")  # the number of labels that follow, or 0 and a label; two ids
_AHEAD = _PART.size + _HEADER.size + 2 * 4 + _BEGINNING
_LARGEST_INDEX = 2**31  # bytes, about 100 million lines
_LONGEST_LINE = 64  # bytes of an index; more are not two numbers
_MOST_DIGITS = 18  # of int64
_NAMED = 3  # records that an error names, before it only counts


def is_record_file(path: str | os.PathLike) -> bool:
    """Whether a path names a .rec file; folders may have any name.

    Example:

    >>> is_record_file("faces/train.rec"), is_record_file("faces.zip")
    (True, False)
    """
    place = os.path.expanduser(os.fspath(path))
    return place.lower().endswith(_SUFFIX) and not os.path.isdir(place)


def is_image_data(data: bytes) -> bool:
    r"""Whether the first bytes of a file are those of an image.

    Example:

    >>> is_image_data(b"\x89PNG and so on"), is_image_data(b"words")
    (True, False)
    """
    return data.startswith(_BEGINNINGS)


class Stretches:
    """A file of which stretches are read by several threads.

    Args:
        path: The file.

    Raises:
        BadInput: If it cannot be opened, or is no regular file.
    """

    def __init__(self, path: str | os.PathLike):
        self.name = os.fspath(path)
        place = os.path.expanduser(path)
        try:
            self.size = regular_size(place)
            self._file = open(place, "rb", buffering=0)  # noqa: SIM115 - read until the end
        except OSError as error:
            raise BadInput(f"{self.name} cannot be read: {error.strerror}") from error
        except ValueError as error:
            raise BadInput(str(error)) from error
        self._lock = threading.Lock()

    def at(self, start: int, length: int) -> bytes:
        """Returns the bytes of a stretch, fewer where the file ends before it does."""
        with self._lock:
            self._file.seek(start)
            parts = []
            while length > 0 and (part := self._file.read(length)):
                parts.append(part)
                length -= len(part)
        return b"".join(parts)

    def __del__(self) -> None:
        """Closes the file."""
        if hasattr(self, "_file"):
            self._file.close()


class RecordNames(Sequence[str]):
    """The names `<person>/<record>` of images, made when they are asked for.

    Args:
        people: The name of each person.
        labels: The person of each image, integers `(N,)`.
        keys: The record of each image, integers `(N,)`.

    Example:

    >>> names = RecordNames(["3", "10"], np.array([0, 1, 1]), np.array([7, 8, 9]))
    >>> names[1], list(names[1:]), len(names.take([0, 2]))
    ('10/8', ['10/8', '10/9'], 2)
    """

    def __init__(self, people: Sequence[str], labels: np.ndarray, keys: np.ndarray):
        self._people, self._labels, self._keys = people, labels, keys

    def __len__(self) -> int:
        """The number of images."""
        return len(self._keys)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[str]: ...

    def __getitem__(self, index: int | slice) -> str | Sequence[str]:
        """The name of an image, or the names of a slice."""
        if isinstance(index, slice):
            return self.take(np.arange(len(self))[index])
        return f"{self._people[self._labels[index]]}/{self._keys[index]}"

    def take(self, rows: Sequence[int] | np.ndarray) -> "RecordNames":
        """The names of some images."""
        return RecordNames(self._people, self._labels[rows], self._keys[rows])


@dataclass(frozen=True, eq=False)
class Records:
    """The images of a .rec file, of which the headers are read at once and the pixels when needed.

    Attributes:
        keys: The keys of the records with images, increasing int64 `(N,)`.
        labels: The person of each, int64 `(N,)`.
    """

    keys: np.ndarray
    labels: np.ndarray
    _starts: np.ndarray = field(repr=False)
    _file: Stretches = field(repr=False)

    def read(self, name: str) -> bytes:
        """Returns the bytes of an image file.

        Args:
            name: `<person>/<record>`.

        Raises:
            BadInput: If the record has changed. The message leaves out its name.
        """
        place = np.searchsorted(self.keys, int(name.rpartition("/")[2]))
        try:
            data = _joined(self._file, int(self._starts[place]))
            return data[_contents(data)[1] :]
        except _WrongRecordError as error:
            raise BadInput(f"record {self.keys[place]}: {error}") from error


def read_records(path: str | os.PathLike) -> Records:
    r"""Reads the headers of InsightFace's training set: a `.rec` file, and its `.idx` beside it.

    A `.rec` is a sequence of records, each the magic number 0xced7230a, 3 bits of flag with 29 bits
    of length, and the data, filled up to 4 bytes; data that hold the magic number are split there.
    A record of an image is a header of 24 bytes (the number of labels, one label, two ids), further
    labels if their number is not 0, and an image file. Record 0 of InsightFace's sets has no image
    but two labels: images are the records from 1 up to the first, exclusive. That is a float32: in
    a set of more than 2**24 images, 16.8 million, it may be rounded, and then the records after it
    are left out or, if there are none, the set is refused. A line of the `.idx` is the key of a
    record and where it starts, separated by a tab.

    The header of every record, and how its image begins, are checked; images are decoded when they
    are needed.

    Args:
        path: The `.rec`; the `.idx` has the same name otherwise.

    Returns:
        The records.

    Raises:
        BadInput: If a file cannot be read, the `.idx` does not fit, or a record is cut short,
            damaged, without a label or without an image; the first few are named.

    Example:

    >>> import pathlib, tempfile
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> record = _HEADER.pack(0, 5.0, 0, 0) + b"\xff\xd8\xff\xe0"
    >>> _ = (folder / "train.rec").write_bytes(_PART.pack(_MAGIC, len(record)) + record)
    >>> _ = (folder / "train.idx").write_text("0\t0\n")
    >>> records = read_records(folder / "train.rec")
    >>> records.keys.tolist(), records.labels.tolist(), records.read("5/0")[:2]
    ([0], [5], b'\xff\xd8')
    """
    file = Stretches(path)
    index = os.path.splitext(file.name)[0] + ".idx"
    keys, starts = _read_index(index)
    places = _image_places(file, index, keys, starts)
    keys, starts = keys[places], starts[places]
    labels = np.empty(len(keys), np.int64)
    faults: list[str] = []
    wrong = 0
    for place, start in enumerate(starts.tolist()):
        try:
            labels[place] = _label_of_image(file, start)
        except _WrongRecordError as error:
            wrong += 1
            if wrong <= _NAMED:
                faults.append(f"record {keys[place]} ({error})")
    if wrong:
        more = f"; and {wrong - _NAMED:,} more" if wrong > _NAMED else ""
        count = f"{wrong:,} record{'s' * (wrong > 1)}"
        raise BadInput(f"{file.name}: {count} cannot be used: {'; '.join(faults)}{more}")
    return Records(keys, labels, starts, file)


class _WrongRecordError(Exception):
    """What is wrong with a record."""


def _read_index(index: str) -> tuple[np.ndarray, np.ndarray]:
    """The keys, which increase, and where their records start."""
    expected = f"{index} must have lines of a key and the start of its record"
    numbers = array("q")
    place = os.path.expanduser(index)
    try:
        check_size(regular_size(place), index, _LARGEST_INDEX)
        with open(place, "rb") as file:
            for count in itertools.count(1):
                line = file.readline(_LONGEST_LINE)
                if not line:
                    break
                key, tab, start = line.rstrip(b"\r\n").partition(b"\t")
                # The digits of bytes are those of ASCII alone.
                if not (tab and key.isdigit() and start.isdigit()) or (
                    max(len(key), len(start)) > _MOST_DIGITS
                ):
                    shown = brief(line.decode("latin-1").rstrip())
                    raise BadInput(f"{expected}. Received: line {count}: {shown}")
                numbers.extend((int(key), int(start)))
    except OSError as error:
        raise BadInput(f"{index} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise BadInput(str(error)) from error
    if not numbers:
        raise BadInput(f"{expected}. Received: no lines")
    table = np.frombuffer(numbers, np.int64).reshape(-1, 2)
    for column, what in ((0, "key"), (1, "start")):
        values, counts = np.unique(table[:, column], return_counts=True)
        if counts.max() > 1:
            raise BadInput(
                f"{index} must have every {what} once. "
                f"Received: {values[counts.argmax()]} {counts.max()} times"
            )
    order = np.argsort(table[:, 0])
    return table[order, 0], table[order, 1]


def _image_places(
    file: Stretches, index: str, keys: np.ndarray, starts: np.ndarray
) -> np.ndarray | slice:
    """Which of the records are of images: all, or those that record 0 says."""
    if keys[0] != 0:
        return slice(None)
    try:
        data = _beginning(file, int(starts[0]))
        labels, _ = _contents(data)
        if len(labels) < 2:
            return slice(None)
    except _WrongRecordError as error:
        raise BadInput(f"{file.name}: record 0 cannot be used: {error}") from error
    end = float(labels[0])
    shape = ",.0f" if end.is_integer() else "g"
    if not (end.is_integer() and 1 < end <= keys[-1] + 1):
        raise BadInput(
            f"{index} does not fit {file.name}: the first label of record 0 must be where the "
            f"images end, at most {keys[-1] + 1}. Received: {end:{shape}}"
        )
    places = np.flatnonzero((keys > 0) & (keys < end))
    if len(places) != int(end) - 1:
        missing = np.setdiff1d(np.arange(1, int(end)), keys)
        raise BadInput(
            f"{index} does not fit {file.name}: it must have the records 1 to {int(end) - 1} of "
            f"images. Received: none for {len(missing):,}, such as {missing[0]}"
        )
    return places


def _label_of_image(file: Stretches, start: int) -> int:
    data = _beginning(file, start)
    labels, begin = _contents(data)
    label = float(labels[0])
    # Whole numbers beyond have no neighbours in float32, so people would share them.
    if not (label.is_integer() and 0 <= label <= 2**24):
        raise _WrongRecordError(f"its label must be an integer from 0, not {label:g}")
    image = data[begin : begin + _BEGINNING]
    if len(image) < _BEGINNING:
        image = _joined(file, start)[begin : begin + _BEGINNING]
    if not is_image_data(image):
        raise _WrongRecordError("it holds no image")
    return int(label)


def _part(file: Stretches, start: int, head: bytes) -> tuple[int, int]:
    """The flag and the length of a part, which is in the file whole."""
    if start + _PART.size > file.size:
        raise _WrongRecordError(
            f"it is cut short: it starts at byte {start:,}, the file ends at {file.size:,}"
        )
    if len(head) < _PART.size:
        raise _WrongRecordError("the file has changed since it was opened")
    magic, packed = _PART.unpack_from(head)
    if magic != _MAGIC:
        raise _WrongRecordError(f"no record starts at byte {start:,}, where the .idx has it")
    length = packed & (1 << 29) - 1
    end = start + _PART.size + length
    if end > file.size:
        raise _WrongRecordError(
            f"it is cut short: it ends at byte {end:,}, the file at {file.size:,}"
        )
    return packed >> 29, length


def _beginning(file: Stretches, start: int) -> bytes:
    """The first bytes of a record's data, all of them if it is split."""
    head = file.at(start, _AHEAD)
    flag, length = _part(file, start, head)
    if flag != _WHOLE:
        return _joined(file, start)
    return head[_PART.size : _PART.size + length]


def _joined(file: Stretches, start: int) -> bytes:
    """The data of a record."""
    parts: list[bytes] = []
    size = 0
    while True:
        flag, length = _part(file, start, file.at(start, _PART.size))
        if flag not in ((_MIDDLE, _LAST) if parts else (_WHOLE, _FIRST)):
            raise _WrongRecordError(f"its part at byte {start:,} has flag {flag}")
        size += length + len(_JOINT)
        try:
            check_size(size, "it")
        except ValueError as error:
            raise _WrongRecordError(str(error)) from error
        data = file.at(start + _PART.size, length)
        if len(data) != length:
            raise _WrongRecordError("the file has changed since it was opened")
        parts.append(data)
        if flag in (_WHOLE, _LAST):
            return _JOINT.join(parts)
        start += _PART.size + (length + 3) // 4 * 4


def _contents(data: bytes) -> tuple[np.ndarray, int]:
    """The labels of a record, the first two at most, and where its image begins."""
    if len(data) < _HEADER.size:
        raise _WrongRecordError(f"its header has {_HEADER.size} bytes, not {len(data)}")
    count, label, _, _ = _HEADER.unpack_from(data)
    if count == 0:
        return np.array([label], np.float32), _HEADER.size
    known = data[_HEADER.size : _HEADER.size + 4 * min(count, 2)]
    if len(known) < 4 * min(count, 2):
        raise _WrongRecordError(f"it has no room for its {count:,} labels")
    return np.frombuffer(known, "<f4"), _HEADER.size + 4 * count
