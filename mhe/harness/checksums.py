"""Checksums as in `mhe.checkpoints.checksums`, with the errors of programs."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from mhe.checkpoints import checksums
from mhe.checkpoints.checksums import SUFFIX, Damaged, beside, require_intact, require_own
from mhe.harness.errors import as_cannot_write

__all__ = [
    "SUFFIX",
    "Damaged",
    "beside",
    "replacing_with_checksum",
    "require_intact",
    "require_own",
    "write_checksums",
]


def write_checksums(path: Path, files: Mapping[str, Path]) -> None:
    """As `mhe.checkpoints.checksums.write_checksums`.

    Args:
        path: The file to write.
        files: Where each file is now, by the name that it has or gets beside `path`.

    Raises:
        CannotWrite: If the operating system refuses to write.
    """
    with as_cannot_write():
        checksums.write_checksums(path, files)


@contextmanager
def replacing_with_checksum(path: Path) -> Iterator[Path]:
    """As `mhe.checkpoints.checksums.replacing_with_checksum`.

    Args:
        path: The file to write.

    Raises:
        CannotWrite: If the operating system refuses to write.
    """
    with as_cannot_write(), checksums.replacing_with_checksum(path) as partial:
        yield partial
