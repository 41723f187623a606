"""A lock on a run's folder, so that no two processes write to it at once."""

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows, where nothing is locked
    fcntl = None  # type: ignore[assignment]

from mhe.harness.errors import BadInput, CannotWrite
from mhe.harness.files import make_folder

LOCK = "run.lock"

_OWN = re.compile(rb"\d{0,20}\n?")


@contextmanager
def locked(folder: str | os.PathLike) -> Iterator[None]:
    """Locks a folder while the block runs, by a file `run.lock` with the id of the process.

    The lock is the operating system's: it ends with the process, however that ends, and a file that
    is left bars nobody. Where there are no such locks (Windows, some network file systems) nothing
    is locked; for a file system a note on stderr says so.

    Args:
        folder: The folder, created if needed.

    Raises:
        BadInput: If another process has locked it, or `run.lock` is a file of another kind.
        CannotWrite: If it cannot be written to.

    Example:

    >>> import tempfile
    >>> folder = tempfile.mkdtemp()
    >>> with locked(folder):
    ...     int(Path(folder, "run.lock").read_text()) == os.getpid()
    True
    >>> os.listdir(folder)
    []
    """
    path = make_folder(Path(folder)) / LOCK
    if fcntl is None:
        yield
        return
    descriptor = _acquire(path)
    if not _OWN.fullmatch(os.pread(descriptor, 22, 0)):
        os.close(descriptor)
        raise BadInput(f"{path} must be the lock of a run. Received: another file, which is kept")
    try:
        os.ftruncate(descriptor, 0)
        os.write(descriptor, b"%d\n" % os.getpid())
        yield
    finally:
        # Before it is free: whoever has opened the file by then finds that it is no longer there.
        with suppress(OSError):
            path.unlink()
        os.close(descriptor)


def _acquire(path: Path) -> int:
    while True:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise CannotWrite(f"{path.parent} cannot be written to: {error.strerror}") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The process that held it may have removed it since it was opened.
            if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                return descriptor
        except FileNotFoundError:
            pass
        except BlockingIOError as error:
            holder = os.pread(descriptor, 20, 0).decode("ascii", "replace").strip()
            os.close(descriptor)
            raise BadInput(
                f"{path.parent} is in use by process {holder or 'that has just started'}: only one "
                "can write to it at a time"
            ) from error
        except OSError as error:
            print(f"Note: {path.parent} cannot be locked: {error.strerror}", file=sys.stderr)
            return descriptor
        os.close(descriptor)
