"""How much memory there is, and whether an error says that it cannot be allocated."""

import os
import re
from contextlib import suppress
from pathlib import Path

# NumPy and Python have an error of their own for it, and all three backends one for much else.
_NO_MEMORY = re.compile(
    r"out of memory|(can't|cannot|unable to|failed to) allocate|resource_?exhausted|oom when"
    r"|array is too big|maximum allowed dimension|size calculation overflow|would have more than 2",
    re.IGNORECASE,
)
# The limit of a control group, of version 2 and 1, as a container sees it.
_GROUPS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error says that memory cannot be allocated.

    Example:

    >>> is_out_of_memory(MemoryError()), is_out_of_memory(RuntimeError("no such file"))
    (True, False)
    """
    return isinstance(error, MemoryError) or bool(_NO_MEMORY.search(str(error)))


def total_memory() -> int | None:
    """Returns the bytes of memory that this process may use, or None where nothing tells.

    That is the memory of the machine, or less where the process's control group has a limit.

    Example:

    >>> total_memory() is None or total_memory() > 2**20
    True
    """
    limits = []
    with suppress(AttributeError, ValueError, OSError):  # Windows has no `sysconf`
        limits.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    for path in _GROUPS:
        with suppress(ValueError, OSError):  # no such file, or "max"
            limits.append(int(Path(path).read_text("ascii")))
    return min(limits, default=None)
