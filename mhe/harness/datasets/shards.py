"""Images in tar shards as WebDataset has them, `{prefix}-train-000000.tar` and so on, in place.

Not WebDataset itself, which reads shards from front to end: a run could not resume in the middle of
its shuffle buffer. Shards are indexed once here, and images are then read from where they lie.
"""

import json
import re
import tarfile
from collections.abc import Iterator
from contextlib import suppress
from typing import NamedTuple

from mhe.harness.datasets.images import SUFFIXES, is_image
from mhe.harness.errors import BadInput
from mhe.reading import check_size, regular_size
from mhe.text import brief

SHARD = ".tar"
# A split and a number, in the names of a shard and of the folder around it.
_NAME = re.compile(r"((?:.*[-_/])?(train|test|validation|val)[-_/](?:[^/]*[-_])?)(\d+)\.tar")
_RANGE = re.compile(r"(.*)\{([0-9]{1,18})\.\.([0-9]{1,18})\}([^{}]*)")
_MOST_SHARDS = 10**6
_EXPECTED = "shards must be named {prefix}-train-{number}.tar and {prefix}-test-{number}.tar"
_BLOCK = tarfile.BLOCKSIZE


class _Place(NamedTuple):
    """Where a file lies in a shard."""

    shard: str
    start: int
    size: int


def expand(path: str) -> list[str]:
    """Returns the shards that a range such as `train-{000000..000012}.tar` stands for.

    Args:
        path: A path, with at most one range.

    Raises:
        BadInput: If the range ends before it begins.

    Example:

    >>> expand("shards/train-{08..10}.tar")
    ['shards/train-08.tar', 'shards/train-09.tar', 'shards/train-10.tar']
    >>> expand("shards")
    ['shards']
    """
    match = _RANGE.fullmatch(path)
    if not match:
        return [path]
    before, first, last, after = match.groups()
    if not 0 <= int(last) - int(first) < _MOST_SHARDS:
        raise BadInput(
            f"--dataset must have ranges {{first..last}} of up to {_MOST_SHARDS:,} shards. "
            f"Received: {brief(path)}"
        )
    return [f"{before}{number:0{len(first)}}{after}" for number in range(int(first), int(last) + 1)]


class Shards:
    """The samples of tar shards: files of one name but for their suffix.

    A sample is an image, `key.jpg` or of any other format that Pillow reads, and its class, in
    `key.cls` as text or in `key.json` under `"label"` or `"cls"`. Other files of a sample are
    passed over.

    Args:
        name: What errors and the dataset are called.
        paths: The shards, by what errors call them; they begin with what tells the split.

    Attributes:
        name: As given.
        train: The images of `train` shards with their classes, in the order of the shards.
        test: The same of `test` shards or, if there are none, of `validation` or `val` ones.
        class_names: The classes of `train`: in numeric order if all are numbers, else
            alphabetically.

    Raises:
        BadInput: If a shard is missing from the middle, truncated, damaged or compressed, a sample
            lacks its image or its class, or a split or a class is missing.
    """

    def __init__(self, name: str, paths: dict[str, str]):
        self.name = name
        self._paths = paths
        self._places: dict[str, _Place] = {}
        splits = self._splits()
        tested = next((each for each in ("test", "validation", "val") if each in splits), None)
        if "train" not in splits or tested is None:
            raise BadInput(f"{name}: {_EXPECTED}. Received: {', '.join(splits)} shards only")
        self.train = [each for shard in splits["train"] for each in self._samples(shard)]
        self.test = [each for shard in splits[tested] for each in self._samples(shard)]
        for split, samples in (("train", self.train), (tested, self.test)):
            if not samples:
                raise BadInput(f"{name}: the {split} shards hold no samples")
        labels = {label for _, label in self.train}
        are_numbers = all(map(_is_number, labels))
        self.class_names = sorted(labels, key=int if are_numbers else None)
        for image, label in self.test:
            if label not in labels:
                raise BadInput(
                    f"{name}: the class of {image} is in no train shard. Received: {brief(label)}"
                )

    def read(self, name: str, most: int | None = None) -> bytes:
        """Returns the bytes of an image.

        Args:
            name: The image, as in `train` and `test`.
            most: How many bytes to read at most, from its beginning; None for all.

        Raises:
            BadInput: If the shard can no longer be read.
        """
        place = self._places[name]
        length = place.size if most is None else min(most, place.size)
        try:
            with open(self._paths[place.shard], "rb", buffering=0) as file:
                file.seek(place.start)
                data = file.read(length)
                while len(data) < length and (part := file.read(length - len(data))):
                    data += part
        except OSError as error:
            raise BadInput(f"{place.shard} cannot be read: {error.strerror}") from error
        if len(data) < length:
            raise BadInput(f"{place.shard} has changed: it ends before {name} does")
        return data

    def _splits(self) -> dict[str, list[str]]:
        """The shards of each split, in order."""
        splits: dict[str, list[str]] = {}
        numbers: dict[str, dict[int, str]] = {}
        for shard in sorted(self._paths):
            match = _NAME.fullmatch(shard)
            if not match:
                raise BadInput(f"{self.name}: {_EXPECTED}. Received: {shard}")
            splits.setdefault(match[2], []).append(shard)
            numbers.setdefault(match[1], {})[int(match[3])] = match[3]
        for prefix, found in numbers.items():
            first, last = min(found), max(found)
            if len(found) < last - first + 1:
                missing = next(each for each in range(first, last) if each not in found)
                raise BadInput(
                    f"{self.name}: the shard {prefix}{missing:0{len(found[first])}}.tar is missing "
                    f"between {prefix}{found[first]}.tar and {prefix}{found[last]}.tar"
                )
        return splits

    def _samples(self, shard: str) -> Iterator[tuple[str, str]]:
        """Indexes a shard, and yields its images with their classes."""
        samples: dict[str, dict[str, _Place]] = {}
        for name, place in self._members(shard):
            folder, _, file = name.rpartition("/")
            stem, _, suffix = file.partition(".")
            if not stem:
                continue  # hidden
            key = f"{folder}/{stem}" if folder else stem
            files = samples.setdefault(key, {})
            if suffix.lower() in files:
                raise BadInput(f"{shard} must have every file once. Received: {name} twice")
            files[suffix.lower()] = place
        for key, files in samples.items():
            images = [suffix for suffix in files if is_image(f".{suffix}") and "." not in suffix]
            if len(images) != 1:
                raise BadInput(
                    f"{shard}: the sample {key} must have one image, with a suffix of "
                    f"{' '.join(SUFFIXES)}. Received: {', '.join(f'.{each}' for each in files)}"
                )
            image = f"{shard}/{key}.{images[0]}"
            self._places[image] = files[images[0]]
            yield image, self._label(shard, key, files)

    def _label(self, shard: str, key: str, files: dict[str, _Place]) -> str:
        for suffix in ("cls", "json"):
            if suffix not in files:
                continue
            name = f"{shard}/{key}.{suffix}"
            self._places[name] = files[suffix]
            data = self.read(name)
            del self._places[name]
            label = _label_of_json(data) if suffix == "json" else _text(data)
            if label:
                return label
            raise BadInput(
                f"{name} must hold a class, a .json under label or cls. "
                f"Received: {brief(repr(data[:100]))}"
            )
        raise BadInput(
            f"{shard}: the sample {key} must have its class in {key}.cls or {key}.json. "
            f"Received: {', '.join(f'.{each}' for each in files)}"
        )

    def _members(self, shard: str) -> Iterator[tuple[str, _Place]]:
        """The regular files of a shard."""
        path = self._paths[shard]
        try:
            size = regular_size(path)
            with tarfile.open(path, "r:") as tar:
                while (member := tar.next()) is not None:
                    tar.members = []  # type: ignore[attr-defined]  # which grows with every file
                    if member.isreg() and not member.issparse():
                        check_size(member.size, f"{shard}: {member.name}")
                        yield member.name, _Place(shard, member.offset_data, member.size)
                end = tar.offset
            # The module takes a file that is cut short at the header of a member for a whole one.
            with open(path, "rb") as file:
                file.seek(end)
                block = file.read(_BLOCK)
        except (tarfile.TarError, OSError, ValueError) as error:
            start = b""
            with suppress(OSError), open(path, "rb") as file:
                start = file.read(_BLOCK)
            if start.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")):
                raise BadInput(
                    f"{shard} is compressed, and is read in place: unpack it to a plain .tar"
                ) from error
            raise BadInput(f"{shard} is truncated or no tar: {error}") from error
        if len(block) < _BLOCK:
            raise BadInput(
                f"{shard} is truncated: it has {size:,} bytes and no end-of-archive mark"
            )
        if block.strip(b"\0"):
            raise BadInput(f"{shard} is damaged: no file begins at byte {end:,}")


def _is_number(label: str) -> bool:
    return label.isascii() and label.isdigit() and len(label) < 19


def _text(data: bytes) -> str:
    try:
        return data[:1000].decode("utf-8").strip()
    except UnicodeDecodeError:
        return ""


def _label_of_json(data: bytes) -> str:
    try:
        content = json.loads(data)
    except (ValueError, RecursionError):
        return ""
    if not isinstance(content, dict):
        return ""
    label = content.get("label", content.get("cls"))
    is_class = isinstance(label, (int, str)) and not isinstance(label, bool)
    return str(label).strip() if is_class else ""
