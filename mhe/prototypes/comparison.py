"""Placements beside a table of known ones, such as a list of records."""

import os
import re
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from mhe.prototypes.bounds import cosine_lower_bound, separation
from mhe.prototypes.placement import Placement
from mhe.text import brief, read_text

# Tables have four digits or more.
TOLERANCE = 1e-4
# Of classes and of dimensions: no machine has the memory for more.
MOST = 10**6


class Known(NamedTuple):
    """The best placement of a size that a table lists.

    Attributes:
        classes: Number of prototypes.
        dims: Dimensions of their space.
        cosine: The largest cosine between two of them.
    """

    classes: int
    dims: int
    cosine: float


class Compared(NamedTuple):
    """A placement beside the one that a table lists.

    Attributes:
        known: What the table lists.
        cosine: The largest cosine of the placement.
        bound: No placement is below this.
        origin: Where the placement comes from.
    """

    known: Known
    cosine: float
    bound: float
    origin: str

    @property
    def difference(self) -> float:
        """By how much the largest cosine is above the listed one; negative is better."""
        return self.cosine - self.known.cosine

    @property
    def verdict(self) -> str:
        """`better`, `equal` or `worse`, by more than 1e-4; or that the table must be wrong.

        Example:

        >>> known = Known(100, 8, 0.4305)
        >>> [Compared(known, cosine, 0.3, "").verdict for cosine in (0.4304, 0.4301, 0.4365)]
        ['equal', 'better', 'worse']
        >>> Compared(known, 0.45, 0.44, "").verdict
        'the listed cosine is below the bound'
        """
        if self.known.cosine < self.bound - TOLERANCE:
            return "the listed cosine is below the bound"
        if abs(self.difference) <= TOLERANCE:
            return "equal"
        return "better" if self.difference < 0 else "worse"


def read_known(path: str | os.PathLike) -> list[Known]:
    r"""Reads a table of placements: a line for each, with its classes, dimensions and cosine.

    They are separated by commas or blanks. What follows a `#` is a comment, and the first line may
    name the columns.

    Args:
        path: The file, text.

    Raises:
        ValueError: If a line is no such placement, two are of one size, or there is none.
        OSError: If the file cannot be opened.

    Example:

    >>> import pathlib, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp(), "records.txt")
    >>> _ = path.write_text("classes dims cosine\n20 8 0.1195\n100 8 0.4305  # a search\n")
    >>> read_known(path)
    [Known(classes=20, dims=8, cosine=0.1195), Known(classes=100, dims=8, cosine=0.4305)]
    """
    name = os.fspath(path)
    known: dict[tuple[int, int], Known] = {}
    lines = (line.partition("#")[0].strip() for line in read_text(path).splitlines())
    for number, line in enumerate(lines, 1):
        cells = re.split(r"\s*,\s*|\s+", line)
        is_header = not known and cells[0].lower() == "classes"
        if not line or is_header:
            continue
        each = _parse(cells, f"Line {number} of {name}")
        if each[:2] in known:
            raise ValueError(
                f"{name} must list each size once. "
                f"Received: {each.classes} classes in {each.dims} dimensions again on line {number}"
            )
        known[each[:2]] = each
    if not known:
        raise ValueError(f"{name} must list at least one placement. Received: none")
    return list(known.values())


def _parse(cells: list[str], place: str) -> Known:
    try:
        classes, dims, cosine = int(cells[0]), int(cells[1]), float(cells[2])
        is_known = min(classes, dims) >= 2 and max(classes, dims) <= MOST and abs(cosine) <= 1
    except (ValueError, IndexError):
        is_known = False
    if not is_known or len(cells) != 3:
        raise ValueError(
            f"{place} must be a number of classes and one of dimensions, from 2 to {MOST:,}, and "
            f"a cosine, from -1 to 1, such as `100 8 0.4305`. Received: {brief(' '.join(cells))}"
        )
    return Known(classes, dims, cosine)


def compare(known: Iterable[Known], find: Callable[[int, int], Placement]) -> Iterator[Compared]:
    """Yields a placement beside each one that a table lists, as soon as it is found.

    Args:
        known: What the table lists.
        find: From classes and dimensions to a placement.

    Example:

    >>> from mhe.prototypes import find
    >>> (simplex,) = compare([Known(4, 3, -1 / 3)], find)
    >>> simplex.verdict, simplex.origin
    ('equal', 'simplex')
    """
    for each in known:
        placement = find(each.classes, each.dims)
        cosine = separation(placement.prototypes)
        bound = cosine_lower_bound(each.classes, each.dims)
        yield Compared(each, cosine, bound, placement.origin)
