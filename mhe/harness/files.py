"""Files that are written in one step: a process killed at any moment leaves the old or the new."""

import csv
import io
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from mhe.checkpoints import files
from mhe.checkpoints.files import PARTIAL as PARTIAL
from mhe.harness.errors import BadInput, CannotWrite, as_cannot_write
from mhe.text import read_text

_LARGEST_NUMBER = sys.float_info.max
_QUOTED = 200  # characters of a file that an error quotes


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a path to write to, then moves what was written to `path` in one step.

    Args:
        path: The file to write or replace. It is left alone if the block raises.

    Yields:
        A path in the same folder with the same suffixes.

    Raises:
        CannotWrite: If the operating system refuses to write. Nothing is left of the attempt.

    Example:

    >>> import os, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with replacing(Path(folder, "a.txt")) as partial:
    ...         _ = partial.write_text("all of it")
    ...     os.listdir(folder)
    ['a.txt']
    """
    with as_cannot_write(), files.replacing(path) as partial:
        yield partial


def make_folder(path: Path) -> Path:
    """Creates a folder, with those above it, unless it is there.

    Args:
        path: The folder.

    Returns:
        The folder.

    Raises:
        CannotWrite: If it cannot be created.

    Example:

    >>> import os, tempfile
    >>> make_folder(Path(tempfile.mkdtemp(), "runs", "mine")).name
    'mine'
    >>> make_folder(Path(os.devnull, "runs"))
    Traceback (most recent call last):
        ...
    mhe.harness.errors.CannotWrite: /dev/null/runs cannot be created: Not a directory
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CannotWrite(f"{path} cannot be created: {error.strerror}") from error
    return path


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes a JSON file in one step.

    Args:
        path: The file.
        content: JSON-serializable values without NaN or infinity.
    """
    with replacing(path) as partial:
        partial.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", "utf-8")


class Settings(dict[str, Any]):
    """What a JSON file holds; asking for what it lacks is a `BadInput` that names the file.

    Args:
        path: The file.
        content: What it holds.

    Example:

    >>> Settings(Path("config.json"), {"seed": 0})["epochs"]
    Traceback (most recent call last):
        ...
    mhe.harness.errors.BadInput: config.json must have the entry epochs. Received: seed
    """

    def __init__(self, path: Path, content: Mapping[str, Any]):
        super().__init__(content)
        self._path = path

    def __missing__(self, name: str) -> NoReturn:
        """Raises a `BadInput`."""
        raise BadInput(
            f"{self._path} must have the entry {name}. Received: {', '.join(self)[:_QUOTED]}"
        )

    def require(self, name: str, kinds: type | tuple[type, ...], expected: str) -> Any:
        """Returns an entry, or raises a `BadInput` if it is of another kind.

        Args:
            name: The entry.
            kinds: The types it may have; that of `True` is not `int`.
            expected: The kinds in words.

        Example:

        >>> Settings(Path("config.json"), {"seed": None}).require("seed", int, "an integer")
        Traceback (most recent call last):
            ...
        mhe.harness.errors.BadInput: config.json: seed must be an integer. Received: null
        """
        value = self[name]
        if isinstance(value, bool) or not isinstance(value, kinds):
            raise BadInput(
                f"{self._path}: {name} must be {expected}. Received: {json.dumps(value)[:_QUOTED]}"
            )
        return value

    def numbers(self, name: str) -> "Settings":
        """Returns an entry that is an object of finite numbers.

        Args:
            name: The entry.

        Raises:
            BadInput: If it is something else.

        Example:

        >>> Settings(Path("result.json"), {"metrics": {"loss": 0.5}}).numbers("metrics")
        {'loss': 0.5}
        """
        expected = "an object of finite numbers"
        own = Settings(self._path, self.require(name, dict, expected))
        for each in own:
            if not abs(own.require(each, (int, float), "a finite number")) <= _LARGEST_NUMBER:
                raise BadInput(f"{self._path}: {each} must be a finite number. Received: another")
        return own


def read_json(path: Path) -> Settings:
    """Reads a JSON object.

    Args:
        path: The file.

    Raises:
        BadInput: If the file cannot be read or holds something else.
    """
    try:
        content = json.loads(read_text(path))
    except (OSError, ValueError, RecursionError) as error:
        raise BadInput(f"{path} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise BadInput(f"{path} must hold a JSON object. Received: {type(content).__name__}")
    return Settings(path, content)


def read_csv(path: Path) -> list[dict[str, str]]:
    """Reads the rows of a CSV file with a line of column names.

    Args:
        path: The file.

    Raises:
        BadInput: If the file cannot be read, or a row has more or fewer cells than columns.

    Example:

    >>> import pathlib, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp(), "table.csv")
    >>> write_csv(path, [{"epoch": 1, "loss": 0.5}])
    >>> read_csv(path)
    [{'epoch': '1', 'loss': '0.5'}]
    """
    try:
        text = read_text(path)
    except (OSError, ValueError) as error:
        raise BadInput(f"{path} cannot be read: {error}") from error
    rows = table_rows(text, str(path))
    for line, row in rows:
        if None in row or None in row.values():
            raise BadInput(f"{path}, line {line}: a row must have a cell for each column")
    return [row for _, row in rows]


def table_rows(
    text: str, name: str, columns: Sequence[str] = ()
) -> list[tuple[int, dict[str, str]]]:
    r"""Splits CSV text into rows by column.

    Args:
        text: A line of column names, and the rows.
        name: What errors call the table.
        columns: Columns that it must have; there may be others.

    Returns:
        The number of the line that ends each row, and the row.

    Raises:
        BadInput: If the text is no CSV, holds zero bytes, or lacks a column.

    Example:

    >>> table_rows("id,year\n7,1630\n", "train.csv", ["year"])
    [(2, {'id': '7', 'year': '1630'})]
    """
    zero = text.find("\0")
    if zero >= 0:
        line = text.count("\n", 0, zero) + 1
        raise BadInput(f"{name}, line {line}, is damaged: it holds zero bytes")
    rows = csv.DictReader(io.StringIO(text, newline=""))
    try:
        header = list(rows.fieldnames or ())
        twice = sorted({column for column in header if header.count(column) > 1})
        if twice:
            raise BadInput(f"{name} must have each column once. Received: {', '.join(twice)} twice")
        for column in columns:
            if column not in header:
                raise BadInput(
                    f"{name} must have the column {column}. "
                    f"Received: {', '.join(header) or 'an empty file'}"
                )
        return [(rows.line_num, row) for row in rows]
    except csv.Error as error:
        raise BadInput(f"{name}, line {rows.line_num}, is no CSV: {error}") from error


def write_csv(
    path: Path, rows: Sequence[Mapping[str, Any]], columns: Sequence[str] | None = None
) -> None:
    """Writes rows as CSV in one step; a cell that a row lacks stays empty.

    Args:
        path: The file.
        rows: Values by column.
        columns: Their order; by default that in which the rows first mention them.

    Example:

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp(), "table.csv")
    >>> write_csv(path, [{"model_name": "a", "seeds": 1}, {"model_name": "b", "energy": 0.5}])
    >>> path.read_text().splitlines()
    ['model_name,seeds,energy', 'a,1,', 'b,,0.5']
    """
    if columns is None:
        columns = list(dict.fromkeys(name for row in rows for name in row))
    with replacing(path) as partial, open(partial, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)


def write_array(path: Path, array: np.ndarray) -> None:
    """Writes a .npy in one step.

    Args:
        path: The file.
        array: An array of numbers.
    """
    with replacing(path) as partial, open(partial, "wb") as file:
        np.save(file, array, allow_pickle=False)
