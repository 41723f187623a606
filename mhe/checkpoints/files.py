"""Files that are written in one step: a process killed at any moment leaves the old or the new."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PARTIAL = "partial-"
# HDF5 puts the error of the operating system into its text.
_HDF5_ERRNO = re.compile(r"errno = (\d+)")


class CannotWriteError(ValueError):
    """A file or folder cannot be written: the disk is full, a limit is reached, it is read-only."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a path to write to, then moves what was written to `path` in one step.

    Args:
        path: The file to write or replace. It is left alone if the block raises.

    Yields:
        A path in the same folder with the same suffixes.

    Raises:
        CannotWriteError: If the operating system refuses to write. Nothing is left of the attempt.

    Example:

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with replacing(Path(folder, "a.txt")) as partial:
    ...         _ = partial.write_text("all of it")
    ...     os.listdir(folder)
    ['a.txt']
    """
    partial = path.with_name(PARTIAL + path.name)
    try:
        yield partial
        with open(partial, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
    except Exception as error:
        # On a full disk, what is half written takes the room of what could still be.
        with suppress(OSError):
            partial.unlink()
        reason = _refusal(error)
        if reason is None:
            raise
        raise CannotWriteError(f"{path} cannot be written: {reason}") from error


def _refusal(error: Exception) -> str | None:
    """Why the operating system refused to write, or None if the error is about something else."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.strerror
    number = _HDF5_ERRNO.search(str(error))
    return os.strerror(int(number[1])) if number else None
