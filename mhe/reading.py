"""What all readers of files that users name rely on: reading them ends."""

import os
import stat


def regular_size(path: str | os.PathLike) -> int:
    """Returns the size of a file in bytes, or refuses one of which reading might never end.

    A folder is left to what opens it, whose error says what it is.

    Args:
        path: The file.

    Raises:
        ValueError: If it is a device, a pipe or a socket.
        OSError: If there is no such file.

    Example:

    >>> regular_size(os.devnull)
    Traceback (most recent call last):
        ...
    ValueError: ... must be a regular file. Received: a device, pipe or socket
    """
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode) and not stat.S_ISDIR(status.st_mode):
        raise ValueError(
            f"{os.fspath(path)} must be a regular file. Received: a device, pipe or socket"
        )
    return status.st_size
