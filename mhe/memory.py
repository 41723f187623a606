"""Whether an error says that memory cannot be allocated, in whatever library."""

import re

# NumPy and Python have an error of their own for it, and all three backends one for much else.
_NO_MEMORY = re.compile(
    r"out of memory|(can't|cannot|unable to|failed to) allocate|resource_?exhausted|oom when"
    r"|array is too big|maximum allowed dimension|size calculation overflow|would have more than 2",
    re.IGNORECASE,
)


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error says that memory cannot be allocated.

    Example:

    >>> is_out_of_memory(MemoryError()), is_out_of_memory(RuntimeError("no such file"))
    (True, False)
    """
    return isinstance(error, MemoryError) or bool(_NO_MEMORY.search(str(error)))
