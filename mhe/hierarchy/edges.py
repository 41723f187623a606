"""Checks of the edges and the classes of a tree."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

# An error lists this many names.
_LISTED = 5


def parents_by_name(edges: Iterable[tuple[str, str]]) -> dict[str, str]:
    """The parent of each child, or a `ValueError`."""
    above: dict[str, str] = {}
    for child, parent in edges:
        for name in (child, parent):
            if not isinstance(name, str) or not name:
                raise ValueError(f"A node must have a name, a string. Received: {name!r}")
        if child in above:
            raise ValueError(
                "A node must have one parent. "
                f"Received: {child!r} below {above[child]!r} and {parent!r}"
            )
        above[child] = parent
    if not above:
        raise ValueError("A tree must have classes. Received: none")
    return above


def find_root(above: Mapping[str, str]) -> str:
    """The one node without a parent, or a `ValueError`."""
    roots = list(dict.fromkeys(name for name in above.values() if name not in above))
    if len(roots) > 1:
        raise ValueError(f"A tree must have one root. Received: {listed(roots)}")
    safe = set(roots)
    for start in above:
        path: dict[str, None] = {}
        name = start
        while name not in safe:
            if name in path:
                cycle = list(path)[list(path).index(name) :]
                raise ValueError(
                    f"A tree must not have a cycle. Received: {' → '.join([*cycle, name])}"
                )
            path[name] = None
            name = above[name]
        safe.update(path)
    return roots[0]


def checked_classes(classes: Sequence[str], above: Mapping[str, str], root: str) -> tuple[str, ...]:
    """The classes as a tuple, or a `ValueError` unless they are distinct leaves."""
    classes = tuple(classes)
    unknown = [name for name in classes if name not in above and name != root]
    if unknown:
        raise ValueError(f"The tree has no such class. Received: {listed(unknown)}")
    twice = [name for name, count in Counter(classes).items() if count > 1]
    if twice:
        raise ValueError(f"A class is given twice. Received: {listed(twice)}")
    if not classes:
        raise ValueError("A tree must have classes. Received: none")
    chosen = set(classes)
    seen = set()
    for each in classes:
        name = each
        while name in above and name not in seen:
            seen.add(name)
            name = above[name]
            if name in chosen:
                raise ValueError(
                    "A class must be a leaf, with no other class below it. "
                    f"Received: {name!r}, which is above {each!r}"
                )
    return classes


def listed(names: Iterable[str]) -> str:
    """Names for an error, a few of them if there are many."""
    names = list(names)
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(map(repr, names[:_LISTED])) + more
