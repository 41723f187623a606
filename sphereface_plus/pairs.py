"""Lists of pairs of images to verify, such as `pairs.txt` of Labeled Faces in the Wild."""

import csv
import os
import warnings
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np

from mhe.text import lookalike, read_text

_MOST_FAULTS = 10
_MOST_DIGITS = 9
_SAME = {"1": True, "0": False, "true": True, "false": False}
_QUOTED = 200  # characters of a line that an error quotes


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
    r"""Reads a list of pairs: in the format of Labeled Faces in the Wild, or of paths.

    A line is `name n1 n2`, two images of one person, or `name1 n1 name2 n2`, images of two people,
    separated by tabs or spaces; names with spaces need tabs. Equal names are one person, too. Image
    7 of `Ann` is `Ann/Ann_0007` with any extension, in any parent folder. An optional first line of
    two numbers, such as `10 300`, says that the pairs come in 10 folds with 300 pairs of each kind;
    a single number, such as the 500 of `pairsDevTest.txt`, is the number of pairs of each kind.

    Or a line is `image1 image2 same`, with `same` 1 or `true` for one person and 0 or `false` for
    two, or `image1 image2 same fold`. Of a path, the file and its folder count, with or without
    extension.

    A file that ends in .csv has commas, or else semicolons, quotes where needed, a line of titles
    or none, and lines of either form: the `pairs.csv` and `matchpairsDevTest.csv` in which LFW is
    passed around, among others. Empty cells at the end of a line are left out.

    Pairs of an image with itself, and pairs listed twice, are kept, with a warning.

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
        text = read_text(path)
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error
    if os.fspath(path).lower().endswith(".csv"):
        lines = _rows_of_csv(path, text)
    else:
        lines = [(number, _fields(line)) for number, line in enumerate(text.splitlines(), 1)]
        lines = [(number, fields) for number, fields in lines if fields]
    header: list[int] = []
    if lines and len(lines[0][1]) <= 2 and all(map(_is_number, lines[0][1])):
        header = [int(field) for field in lines.pop(0)[1]]
    if not lines:
        raise ValueError(f"{path} must be a list of pairs. Received: no pairs")
    by_name = defaultdict(list)
    for row, image in enumerate(images):
        by_name[_without_extension(image)].append(row)
    rows, same = [], []
    folds: list[int | None] = []
    faults: list[str] = []
    for number, fields in lines:
        try:
            one, other, is_same, fold = _pair(fields)
            hinted = len(faults) < _MOST_FAULTS
            rows.append([_row(name, by_name, images, hinted) for name in (one, other)])
            same.append(is_same)
            folds.append(fold)
            if (fold is None) != (folds[0] is None):
                raise _WrongLineError("all lines must have a fold, or none")
        except _WrongLineError as error:
            faults.append(f"line {number}: {error}")
    if faults:
        raise ValueError(_listed(path, faults))
    listed = [fold for fold in folds if fold is not None]
    if listed and not header:
        known: np.ndarray | None = np.unique(listed, return_inverse=True)[1]
    else:
        known = _folds(path, np.array(same), header)
    pairs = Pairs(np.array(rows), np.array(same), known)
    _warn_of_repeats(path, rows, [number for number, _ in lines])
    return pairs


class _WrongLineError(Exception):
    """What is wrong with a line."""


def _fields(line: str) -> list[str]:
    separator = "\t" if "\t" in line.strip() else None
    return [field.strip() for field in line.strip().split(separator)]


def _is_number(field: str) -> bool:
    return field.isdecimal() and len(field) <= _MOST_DIGITS


def _rows_of_csv(path: str | os.PathLike, text: str) -> list[tuple[int, list[str]]]:
    """The rows of a CSV with their lines, without titles and without empty cells at the ends."""
    reader = csv.reader(
        text.splitlines(keepends=True),
        delimiter=";" if "," not in text.partition("\n")[0] else ",",
    )
    rows = []
    try:
        for row in reader:
            cells = [cell.strip() for cell in row]
            while cells and not cells[-1]:
                cells.pop()
            if cells:
                rows.append((reader.line_num, cells))
    except csv.Error as error:
        raise ValueError(f"{path} cannot be read: line {reader.line_num}: {error}") from error
    is_titled = rows and not (_is_number(rows[0][1][-1]) or rows[0][1][-1].lower() in _SAME)
    return rows[1:] if is_titled else rows


def _pair(fields: list[str]) -> tuple[str, str, bool, int | None]:
    """The images of a line, such as `Ann/Ann_0007`, if they are of one person, and the fold."""
    is_listed = len(fields) in (3, 4) and not _is_number(fields[1])
    if is_listed and fields[2].lower() in _SAME and all(map(_is_number, fields[3:])):
        one, other = (_without_extension(field) for field in fields[:2])
        return one, other, _SAME[fields[2].lower()], int(fields[3]) if fields[3:] else None
    one, other = _names(fields)
    return one, other, PurePosixPath(one).parent == PurePosixPath(other).parent, None


def _names(fields: list[str]) -> tuple[str, str]:
    """The two images of a line, such as `Ann/Ann_0007`."""
    whole = [fields[0], fields[1], fields[0], fields[2]] if len(fields) == 3 else fields
    if len(whole) != 4 or not (_is_number(whole[1]) and _is_number(whole[3])):
        files = any(PurePosixPath(field).suffix for field in fields[1:])
        hint = "; an image such as Ann_0007.jpg is number 7 of Ann" if files else ""
        raise _WrongLineError(
            "it must be a name and two numbers, two names and numbers, or two images and 1 or 0, "
            f"not {str(fields)[:_QUOTED]}{hint}"
        )
    one, first, other, second = whole
    return f"{one}/{one}_{int(first):04d}", f"{other}/{other}_{int(second):04d}"


def _warn_of_repeats(path: str | os.PathLike, rows: list[list[int]], numbers: list[int]) -> None:
    """Warns of pairs of an image with itself, and of pairs listed more than once."""
    alike = [number for number, (one, other) in zip(numbers, rows, strict=True) if one == other]
    seen, twice = set(), []
    for number, row in zip(numbers, rows, strict=True):
        if frozenset(row) in seen:
            twice.append(number)
        seen.add(frozenset(row))
    for found, what in ((alike, "of an image with itself"), (twice, "listed before")):
        if found:
            count = f"{len(found):,} pair{'s' * (len(found) > 1)}"
            warnings.warn(f"{path} has {count} {what}, first in line {found[0]}", stacklevel=3)


def _without_extension(image: str) -> str:
    path = PurePosixPath(image)
    return f"{path.parent.name}/{path.stem}"


def _row(name: str, by_name: dict[str, list[int]], images: Sequence[str], hinted: bool) -> int:
    rows = by_name.get(name, [])
    if not rows:
        hint = lookalike(name, by_name) if hinted else ""
        raise _WrongLineError(f"there is no image {name}.*{hint}")
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
