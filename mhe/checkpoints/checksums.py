"""Checksums of files, in a file beside them that `sha256sum --check` reads too.

HDF5 and .npy have none: where zeros take the place of numbers, as after a power cut, such a file
still loads.
"""

import hashlib
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from mhe.checkpoints.files import replacing
from mhe.text import read_text

SUFFIX = ".sha256"

_PART = 1 << 20
_LINE = re.compile(r"([0-9a-f]{64})  ([^/\n]+)\n")


class Damaged(ValueError):  # noqa: N818 - it says what a file is
    """A file is not the one that its checksum was taken of."""


def write_checksums(path: Path, files: Mapping[str, Path]) -> None:
    """Writes the checksums of files in one step.

    Args:
        path: The file to write.
        files: Where each file is now, by the name that it has or gets beside `path`.

    Example:

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> _ = (folder / "a.npy").write_bytes(b"numbers")
    >>> write_checksums(folder / "a.npy.sha256", {"a.npy": folder / "a.npy"})
    >>> require_intact(folder / "a.npy.sha256", ["a.npy"])
    >>> _ = (folder / "a.npy").write_bytes(bytes(7))
    >>> require_intact(folder / "a.npy.sha256", ["a.npy"])
    Traceback (most recent call last):
        ...
    mhe.checkpoints.checksums.Damaged: a.npy is not the file whose checksum a.npy.sha256 holds
    """
    lines = [f"{_digest(file)}  {name}\n" for name, file in files.items()]
    with replacing(path) as partial:
        partial.write_text("".join(lines), "utf-8", newline="\n")


def require_intact(path: Path, names: Collection[str]) -> None:
    """Refuses files that have changed since their checksums were written.

    Args:
        path: What `write_checksums` wrote.
        names: The files to check.

    Raises:
        Damaged: If a file is missing or another one, or `path` is no such file or lacks it.
        OSError: If a file cannot be read.
    """
    try:
        text = read_text(path)
    except ValueError as error:
        raise Damaged(f"{path.name} is damaged") from error
    lines = [_LINE.fullmatch(line) for line in text.splitlines(keepends=True)]
    listed = {line[2]: line[1] for line in lines if line}
    if None in lines or not listed.keys() >= set(names):
        raise Damaged(f"{path.name} is damaged")
    for name in names:
        file = path.with_name(name)
        if not file.is_file():
            raise Damaged(f"{name} is missing")
        if _digest(file) != listed[name]:
            raise Damaged(f"{name} is not the file whose checksum {path.name} holds")


@contextmanager
def replacing_with_checksum(path: Path) -> Iterator[Path]:
    """Like `mhe.checkpoints.files.replacing`, and writes `<name>.sha256` beside the file.

    The checksum is there first, so a kept file always has one. Use it for files that are written
    once: between the two steps a file that is replaced has the checksum of the next.

    Args:
        path: The file to write.
    """
    with replacing(path) as partial:
        yield partial
        write_checksums(beside(path), {path.name: partial})


def beside(path: Path) -> Path:
    """Returns the path of the checksum of a single file.

    Example:

    >>> beside(Path("run/prototypes.npy")).name
    'prototypes.npy.sha256'
    """
    return path.with_name(path.name + SUFFIX)


def require_own(path: Path) -> None:
    """Refuses a single file that does not have the checksum beside it.

    A file without one, such as those of earlier versions, is let through.

    Args:
        path: The file.

    Raises:
        Damaged: If it has another checksum.
        OSError: If it cannot be read.
    """
    if beside(path).exists():
        require_intact(beside(path), [path.name])


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for part in iter(lambda: file.read(_PART), b""):
            digest.update(part)
    return digest.hexdigest()
