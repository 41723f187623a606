"""Readers of files and arrays that hold a hierarchy of classes."""

import itertools
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from mhe.text import read_text

_TREES = Path(__file__).parent / "trees"
_RANKS = ("kingdom", "phylum", "class", "order", "family", "genus")


def ready_path(name: str) -> Path:
    """The file of a tree that comes with the library.

    Args:
        name: Name of the tree.

    Raises:
        ValueError: If there is no such tree.

    Example:

    >>> ready_path("cifar100").name
    'cifar100.txt'
    """
    names = sorted(path.stem for path in _TREES.glob("*.txt"))
    if name not in names:
        raise ValueError(f"The ready trees are {', '.join(names)}. Received: {name!r}")
    return _TREES / f"{name}.txt"


def pairs(path: str | os.PathLike) -> Iterator[tuple[str, str]]:
    """Yields `(child, parent)` from lines that hold a parent and its child.

    Args:
        path: The file.

    Raises:
        ValueError: If a line that is neither empty nor a comment does not hold two names.
        OSError: If the file cannot be opened.

    Example:

    >>> list(pairs(ready_path("cifar100")))[-1]
    ('worm', 'non-insect_invertebrates')
    """
    for number, line in enumerate(read_text(path).splitlines(), 1):
        names = line.split()
        if not names or names[0].startswith("#"):
            continue
        if len(names) != 2:
            raise ValueError(
                f"{path}, line {number}: a line must be a parent and its child. "
                f"Received: {line.strip()!r}"
            )
        parent, child = names
        yield child, parent


@contextmanager
def naming(path: str | os.PathLike) -> Iterator[None]:
    """Lets the errors of what is made from a file begin with its name.

    Args:
        path: The file.

    Example:

    >>> with naming("tree.txt"):
    ...     raise ValueError("A tree must have classes. Received: none")
    Traceback (most recent call last):
        ...
    ValueError: tree.txt: A tree must have classes. Received: none
    """
    try:
        yield
    except ValueError as error:
        if str(error).startswith(os.fspath(path)):
            raise
        raise ValueError(f"{os.fspath(path)}: {error}") from error


def categories(path: str | os.PathLike) -> list[tuple[str, ...]]:
    """The path to each iNaturalist category, in the order of their ids.

    Args:
        path: A JSON file with a list of categories, or an object with one as `categories`.

    Returns:
        Tuples of names, from the kingdom to the category's own.

    Raises:
        ValueError: If the file is neither, or has an id twice.
        OSError: If the file cannot be opened.
    """
    text = read_text(path)
    try:
        stored = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} must be a JSON file. Received: {error}") from error
    rows = stored.get("categories") if isinstance(stored, dict) else stored
    if not isinstance(rows, list) or not rows:
        raise ValueError(
            f"{path} must hold a list of categories, or an object with one as `categories`. "
            f"Received: {type(stored).__name__}"
        )
    for each in rows:
        if (
            not isinstance(each, dict)
            or not isinstance(each.get("id"), int)
            or not each.get("name")
            or not any(each.get(rank) for rank in _RANKS)
        ):
            raise ValueError(
                f"{path}: a category must have an integer `id`, a `name`, and names from "
                f"`kingdom` to `genus`. Received: {each!r:.200}"
            )
    rows = sorted(rows, key=lambda each: each["id"])
    for one, other in itertools.pairwise(rows):
        if one["id"] == other["id"]:
            raise ValueError(
                f"{path}: a category must have an id of its own. Received: id {one['id']} of "
                f"{one['name']!r:.80} and {other['name']!r:.80}"
            )
    return [
        (*(str(each[rank]) for rank in _RANKS if each.get(rank)), str(each["name"]))
        for each in rows
    ]


def linkage_pairs(merges: Any) -> np.ndarray:
    """The two nodes that each step of a hierarchical clustering merges.

    Args:
        merges: `(classes - 1, 2)` from scikit-learn, or `(classes - 1, 4)` from SciPy.

    Returns:
        Integers `(classes - 1, 2)`: classes from 0, followed by the results of step 0, 1, …

    Raises:
        ValueError: If a node is merged before it exists, twice or never.

    Example:

    >>> linkage_pairs([[0.0, 2.0, 0.5, 2.0], [1.0, 3.0, 0.9, 3.0]])
    array([[0, 2],
           [1, 3]])
    """
    merges = np.asarray(merges)
    if merges.ndim != 2 or not len(merges) or merges.shape[1] not in (2, 4):
        raise ValueError(
            "`merges` must be (classes - 1, 2) from scikit-learn, or (classes - 1, 4) from SciPy. "
            f"Received: shape {merges.shape}"
        )
    nodes = merges[:, :2]
    integers = nodes.astype(int)
    known = len(nodes) + 1 + np.arange(len(nodes))[:, None]
    wrong = (integers != nodes) | (nodes < 0) | (nodes >= known)
    if wrong.any():
        step = int(np.argmax(wrong.any(axis=1)))
        raise ValueError(
            "A step may merge classes and the results of earlier steps. "
            f"Received: {nodes[step].tolist()} in step {step} of a clustering of "
            f"{len(nodes) + 1} classes"
        )
    times = np.bincount(integers.ravel())
    if times.max() > 1:
        raise ValueError(f"A node must be merged once. Received: {int(times.argmax())} twice")
    return integers
