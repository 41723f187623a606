"""Lists of pairs of images to verify, such as `pairs.txt` of Labeled Faces in the Wild."""

import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np

_MOST_FAULTS = 10


@dataclass(frozen=True)
class Pairs:
    """Pairs of images, and whether each is of the same person.

    Attributes:
        rows: The two images of each pair, integers `(n, 2)`.
        same: Whether they are of the same person, bool `(n,)`.
        folds: The fold of each pair, integers `(n,)`, or None if the list has no folds.
    """

    rows: np.ndarray
    same: np.ndarray
    folds: np.ndarray | None


def read_pairs(path: str | os.PathLike, images: Sequence[str]) -> Pairs:
    r"""Reads a list of pairs in the format of Labeled Faces in the Wild.

    A line is `name n1 n2`, two images of one person, or `name1 n1 name2 n2`, images of two people,
    separated by tabs or spaces; names with spaces need tabs. Image 7 of `Ann` is `Ann/Ann_0007`
    with any extension, in any parent folder. An optional first line of two numbers, such as
    `10 300`, says that the pairs come in 10 folds with 300 pairs of each kind; a single number,
    such as the 500 of `pairsDevTest.txt`, is the number of pairs of each kind.

    Args:
        path: The list.
        images: The names of the images, such as `People.images`.

    Returns:
        The pairs, as rows of `images`.

    Raises:
        ValueError: If the list cannot be read, a line has another form, an image is missing or
            ambiguous, or the numbers of pairs differ from the first line. The error names up to ten
            wrong lines.

    Example:

    >>> import pathlib, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp(), "pairs.txt")
    >>> _ = path.write_text("1\nAnn\t1\t2\nAnn\t1\tBob\t1\n")
    >>> pairs = read_pairs(path, ["Ann/Ann_0001.jpg", "Ann/Ann_0002.jpg", "Bob/Bob_0001.png"])
    >>> pairs.rows.tolist(), pairs.same.tolist()
    ([[0, 1], [0, 2]], [True, False])
    >>> read_pairs(path, ["Ann/Ann_0001.jpg", "Bob/Bob_0001.png"])
    Traceback (most recent call last):
        ...
    ValueError: .../pairs.txt has 1 line that cannot be used: line 2: there is no
    image Ann/Ann_0002.*

    Reference:
        Huang et al., Labeled Faces in the Wild: a database for studying face recognition in
        unconstrained environments, University of Massachusetts, Amherst, 07-49, 2007.
    """
    try:
        with open(path, encoding="utf-8-sig") as file:
            lines = [(number, _fields(line)) for number, line in enumerate(file, 1)]
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} must be a list of pairs as text. Received: {error}") from error
    lines = [(number, fields) for number, fields in lines if fields]
    header: list[int] = []
    if lines and len(lines[0][1]) <= 2 and all(field.isdecimal() for field in lines[0][1]):
        header = [int(field) for field in lines.pop(0)[1]]
    if not lines:
        raise ValueError(f"{path} must be a list of pairs. Received: no pairs")
    by_name = defaultdict(list)
    for row, image in enumerate(images):
        by_name[_without_extension(image)].append(row)
    rows, faults = [], []
    for number, fields in lines:
        try:
            rows.append([_row(name, by_name, images) for name in _names(fields)])
        except _WrongLineError as error:
            faults.append(f"line {number}: {error}")
    if faults:
        raise ValueError(_listed(path, faults))
    same = np.array([len(fields) == 3 for _, fields in lines])
    return Pairs(np.array(rows), same, _folds(path, same, header))


class _WrongLineError(Exception):
    """What is wrong with a line."""


def _fields(line: str) -> list[str]:
    separator = "\t" if "\t" in line.strip() else None
    return [field.strip() for field in line.strip().split(separator)]


def _names(fields: list[str]) -> tuple[str, str]:
    """The two images of a line, such as `Ann/Ann_0007`."""
    if len(fields) == 3:
        fields = [fields[0], fields[1], fields[0], fields[2]]
    if len(fields) != 4 or not (fields[1].isdecimal() and fields[3].isdecimal()):
        raise _WrongLineError(
            f"it must be a name and two numbers, or two names and numbers, not {fields}"
        )
    one, first, other, second = fields
    return f"{one}/{one}_{int(first):04d}", f"{other}/{other}_{int(second):04d}"


def _without_extension(image: str) -> str:
    path = PurePosixPath(image)
    return f"{path.parent.name}/{path.stem}"


def _row(name: str, by_name: dict[str, list[int]], images: Sequence[str]) -> int:
    rows = by_name.get(name, [])
    if not rows:
        raise _WrongLineError(f"there is no image {name}.*")
    if len(rows) > 1:
        raise _WrongLineError(f"{name} may be {images[rows[0]]} or {images[rows[1]]}")
    return rows[0]


def _listed(path: str | os.PathLike, faults: Iterable[str]) -> str:
    faults = list(faults)
    count = f"{len(faults):,} line{'s' * (len(faults) > 1)}"
    more = "; …" if len(faults) > _MOST_FAULTS else ""
    return f"{path} has {count} that cannot be used: {'; '.join(faults[:_MOST_FAULTS])}{more}"


def _folds(path: str | os.PathLike, same: np.ndarray, header: list[int]) -> np.ndarray | None:
    """The folds that the first line announces, or None."""
    if not header:
        return None
    *folds, each = header
    count = folds[0] if folds else 1
    if len(same) != 2 * count * each:
        raise ValueError(
            f"{path} must hold {2 * count * each:,} pairs, as its first line says. "
            f"Received: {len(same):,}"
        )
    matches = same.reshape(count, 2 * each).sum(axis=1)
    wrong = np.flatnonzero(matches != each)
    if len(wrong):
        where = f"fold {wrong[0] + 1}" if folds else "the list"
        raise ValueError(
            f"{path} must hold {each:,} pairs of the same person in {where}, as its first line "
            f"says. Received: {matches[wrong[0]]:,}"
        )
    return np.repeat(np.arange(count), 2 * each) if folds else None
