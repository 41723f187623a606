"""The errors that a program reports in one line."""

from collections.abc import Iterator
from contextlib import contextmanager

from mhe.checkpoints.files import CannotWriteError
from mhe.memory import is_out_of_memory
from mhe.text import brief

_LONGEST = 2000  # characters of a line


class BadInput(ValueError):  # noqa: N818 - it names what was wrong, not that something was
    """Something the user passed cannot be used, and the message says why in one line.

    Programs print the message without a traceback and exit with code 2. Anything else that goes
    wrong is a defect and keeps its traceback. Line breaks in the messages of other libraries become
    spaces, and a message ends after 2000 characters.

    Args:
        message: What is wrong and what was expected, naming the file or the flag.

    Example:

    >>> from mhe.harness.errors import BadInput
    >>> raise BadInput("--epochs must be positive. Received: 0")
    Traceback (most recent call last):
        ...
    mhe.harness.errors.BadInput: --epochs must be positive. Received: 0
    """

    def __init__(self, message: str) -> None:
        super().__init__(brief(message, _LONGEST))


class CannotWrite(BadInput):
    """A file or folder cannot be written: the disk is full, a limit is reached, it is read-only."""


class Diverged(RuntimeError):  # noqa: N818 - an end that a run can come to, not a defect
    """A loss or a weight is no longer finite; the run cannot continue."""


@contextmanager
def as_bad_input(prefix: str = "") -> Iterator[None]:
    """Turns a `ValueError` of the library into a `BadInput`.

    Wrap the calls that depend on what the user gave, and no more: a `ValueError` of anything else
    is a defect, whose traceback would be lost.

    Args:
        prefix: The flag or file at fault, where the library's message does not name it.

    Example:

    >>> from mhe.checks import check_count
    >>> with as_bad_input("--dims"):
    ...     check_count("dims", 1, least=2)
    Traceback (most recent call last):
        ...
    mhe.harness.errors.BadInput: --dims: `dims` must be an integer >= 2. Received: dims=1
    """
    try:
        yield
    except ValueError as error:
        raise BadInput(f"{prefix}: {error}" if prefix else str(error)) from error


@contextmanager
def as_cannot_write() -> Iterator[None]:
    """Turns the library's error about a file that cannot be written into a `CannotWrite`.

    Example:

    >>> with as_cannot_write():
    ...     raise CannotWriteError("a.txt cannot be written: No space left on device")
    Traceback (most recent call last):
        ...
    mhe.harness.errors.CannotWrite: a.txt cannot be written: No space left on device
    """
    try:
        yield
    except CannotWriteError as error:
        raise CannotWrite(str(error)) from error


@contextmanager
def within_memory(flags: str) -> Iterator[None]:
    """Turns the error of an allocation, in whatever library, into a `BadInput`.

    Args:
        flags: The flags that determine how much memory is needed, with their values.

    Example:

    >>> with within_memory("--width 32"):
    ...     raise MemoryError("Unable to allocate 2.00 TiB")
    Traceback (most recent call last):
        ...
    mhe.harness.errors.BadInput: --width 32 needs more memory than there is: Unable to allocate 2.00
    TiB
    """
    try:
        yield
    except Exception as error:  # TensorFlow's derive from nothing else
        if isinstance(error, BadInput) or not is_out_of_memory(error):
            raise
        raise BadInput(f"{flags} needs more memory than there is: {brief(error, 200)}") from error
