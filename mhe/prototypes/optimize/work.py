"""How much a search may do: work is counted, so that a seed gives one placement everywhere."""

import contextlib
import math
import sys
import time
from collections.abc import Callable, Iterator

Progress = Callable[[str], None]

# Evaluations of less work than this run on one thread.
_PARALLEL = 0.01


class Stopped(Exception):  # noqa: N818 - it is no error
    """A search is stopped before what it is computing is done."""


class Effort:
    """What a search has done and may still do.

    Args:
        work: How much it may do, in the seconds that `evaluation_work` estimates.
        seconds: When to stop by the clock, or None. The result then depends on the machine.
        progress: Called with a line for each stage.
        stop: Asked after every iteration, and within those that take long, whether to stop there,
            or None.

    Attributes:
        evaluations: How often all cosines have been computed.

    Example:

    >>> effort = Effort(1.0)
    >>> effort.count(1000, 100)
    >>> effort.evaluations, effort.exhausted
    (1, False)
    """

    def __init__(
        self,
        work: float = math.inf,
        seconds: float | None = None,
        progress: Progress | None = None,
        stop: Callable[[], bool] | None = None,
    ) -> None:
        self.allow(work)
        self.evaluations = 0
        self._until = math.inf if seconds is None else time.monotonic() + seconds
        self._progress = progress
        self._stop = stop

    def allow(self, work: float) -> None:
        """Sets how much may be done from now on.

        Args:
            work: See the class.
        """
        self.left = self._allowed = work

    def count(self, points: int, images: int, dims: int = 0) -> None:
        """Counts an evaluation of the cosines between `points` points and `images` images."""
        self.left -= evaluation_work(points, images, dims)
        self.evaluations += 1

    @property
    def is_stopped(self) -> bool:
        """Whether the seconds have passed, or `stop` says so."""
        return time.monotonic() > self._until or (self._stop is not None and self._stop())

    def go_on(self) -> None:
        """Raises `Stopped` if the search is: for the midst of what may take minutes."""
        if self.is_stopped:
            raise Stopped

    @property
    def exhausted(self) -> bool:
        """Whether the work is done or the search is stopped."""
        return self.left <= 0 or self.is_stopped

    def tell(self, message: str) -> None:
        """Reports a line of progress, and the share of the work that is done if it is known."""
        if self._progress is not None:
            done = min(1 - self.left / self._allowed, 1) if math.isfinite(self._allowed) else 0
            self._progress(f"{message} ({done:.0%})" if done else message)


def evaluation_work(points: int, images: int, dims: int) -> float:
    """Estimates the seconds that `soft_maximum` and its gradient take on one core of 2020.

    Args:
        points: N.
        images: The number of points that each is compared with.
        dims: D.

    Example:

    >>> round(evaluation_work(1000, 1000, 100), 3)
    0.027
    """
    return 1e-4 + points * images * (7e-9 + 2e-10 * dims)


@contextlib.contextmanager
def thread_limit(points: int, dims: int) -> Iterator[None]:
    """Keeps linear algebra on one thread while it is too small for several.

    Threads that wait for each other after every small product cost up to twenty times the
    processor time of the product itself.

    Args:
        points: N.
        dims: D.

    Raises:
        ImportError: If SciPy or threadpoolctl is not installed.

    Example:

    >>> import numpy as np
    >>> from mhe.prototypes.optimize import soft_maximum
    >>> with thread_limit(2, 2):
    ...     value, _ = soft_maximum(np.array([[1.0, 0.0], [0.0, 1.0]]), 10.0)
    """
    if evaluation_work(points, points, dims) >= _PARALLEL:
        yield
        return
    require_scipy()
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1, user_api="blas"):
        yield


def to_stderr(message: str) -> None:
    """Prints a line of progress on stderr.

    Args:
        message: The line.
    """
    print(message, file=sys.stderr, flush=True)


def require_scipy() -> None:
    """Raises an `ImportError` that says how to install what a search needs if it is missing."""
    try:
        import scipy.optimize  # noqa: F401
        import threadpoolctl  # noqa: F401
    except ImportError as error:
        raise ImportError(
            "Searching for a placement needs SciPy and threadpoolctl: pip install mhe[prototypes]"
        ) from error
