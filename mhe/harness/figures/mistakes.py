"""Figures of mistakes: between which classes, where in their tree, and at what cost."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from mhe import checks
from mhe.harness.figures import canvas
from mhe.hierarchy import drawing
from mhe.hierarchy.tree import ClassTree

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MOST_NAMES = 60
# In inches: the side of a cell, and the smallest and largest side of the matrix.
_CELL, _SMALLEST, _LARGEST = 0.22, 4.0, 14.0
# In points: the thinnest and the thickest edge, and the diameter of the largest disk.
_THIN, _THICK, _DISK = 0.8, 6.0, 14.0
# A light red, on which the disks show.
_PASSED = "#f1aea7"


def draw_confusion(
    tree: ClassTree, labels: ArrayLike, answers: ArrayLike, path: str | Path, title: str = ""
) -> None:
    """Draws which classes are taken for which, with the classes in the order of their tree.

    A row is a true class, and its colors are shares of the images of the class. Mistakes within a
    branch are near the diagonal; lines separate the branches at the root. The colors follow the
    square roots of the shares, so that rare mistakes show.

    Args:
        tree: The classes.
        labels: The class of each image, `(N,)`.
        answers: The class it was taken for, `(N,)`.
        path: The PNG to write.
        title: Title of the figure.

    Raises:
        ValueError: If a label or an answer is not a class, or their numbers differ.

    Example:

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp(), "confusion.png")
    >>> tree = ClassTree.from_paths(["animal/dog", "animal/cat", "oak"])
    >>> draw_confusion(tree, [0, 0, 1, 2], [0, 1, 1, 2], path)
    >>> path.exists()
    True
    """
    from matplotlib.colors import PowerNorm

    order = np.argsort(tree.leaves)
    counts = confusion(labels, answers, len(tree.classes))[np.ix_(order, order)]
    shares = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = float(np.clip(_CELL * len(order), _SMALLEST, _LARGEST))
    figure = canvas.blank(side + 2.5, side + 1.5, title)
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", norm=PowerNorm(0.5, 0, 100), interpolation="nearest")
    branches = tree.classes_below()[order][:, 1:][:, np.asarray(tree.depths)[1:] == 1]
    branch = branches.argmax(axis=1)
    starts = np.flatnonzero(np.diff(branch)) + 0.5
    for place in starts:
        axes.axhline(place, color="0.6", linewidth=0.8)
        axes.axvline(place, color="0.6", linewidth=0.8)
    _name_classes(axes, tree, order, branch)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    figure.colorbar(image, ax=axes, shrink=0.8, label="share of the true class (%)")
    canvas.save(figure, path)


def draw_mistakes(
    tree: ClassTree, labels: ArrayLike, answers: ArrayLike, path: str | Path, title: str = ""
) -> None:
    """Draws the tree of the classes with the mistakes on it.

    A mistake leads from the true class up to the lowest node above both classes and down to the
    predicted one. Edges are the thicker the more mistakes pass them; disks lie on the nodes where
    mistakes turn, and their areas are the numbers of these. Beside the name of an inner node is
    that number, beside that of a class its error rate.

    Args:
        tree: The classes.
        labels: The class of each image, `(N,)`.
        answers: The class it was taken for, `(N,)`.
        path: The PNG to write.
        title: Title of the figure.

    Raises:
        ValueError: If a label or an answer is not a class, or their numbers differ.

    Example:

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp(), "mistakes.png")
    >>> tree = ClassTree.from_paths(["animal/dog", "animal/cat", "oak"])
    >>> draw_mistakes(tree, [0, 0, 1, 2], [0, 1, 1, 0], path)
    >>> path.exists()
    True
    """
    counts = confusion(labels, answers, len(tree.classes))
    passing, turning = mistakes_on(tree, counts)
    totals = counts.sum(axis=1)
    wrong = totals - np.diag(counts)
    names = [
        f"{name} ({turning[place]:,})" if turning[place] else name
        for place, name in enumerate(tree.nodes)
    ]
    for label, place in enumerate(tree.leaves):
        rate = f"{100 * wrong[label] / totals[label]:.1f} %" if totals[label] else "no images"
        names[place] = f"{tree.nodes[place]} ({rate})"
    share = passing[1:] / max(int(passing.max()), 1)
    figure, heights = drawing.as_figure(
        *(names, tree.parents, tree.depths),
        widths=(_THIN + (_THICK - _THIN) * share).tolist(),
        colors=[_PASSED if each else "0.6" for each in share],
    )
    places = np.flatnonzero(turning)
    figure.axes[0].scatter(
        np.asarray(tree.depths)[places],
        heights[places],
        s=_DISK**2 * turning[places] / max(int(turning.max()), 1),
        color="C3",
        alpha=0.8,
        linewidths=0,
        zorder=3,
    )
    caption = f"{wrong.sum():,} mistakes in {totals.sum():,} images"
    figure.suptitle(f"{title}: {caption}" if title else caption)
    canvas.save(figure, path)


def draw_coverage(
    curves: Mapping[str, tuple[np.ndarray, np.ndarray]], path: str | Path, title: str = ""
) -> None:
    """Draws what answers cost if only the surest are given.

    Args:
        curves: For each way to decide, by its name, shares of the images that are answered, from 0
            to 1, and the average cost of these answers.
        path: The PNG to write.
        title: Title of the figure.

    Example:

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp(), "coverage.png")
    >>> draw_coverage({"largest score": (np.array([0.5, 1.0]), np.array([0.0, 0.75]))}, path)
    >>> path.exists()
    True
    """
    figure = canvas.blank(6, 4.5, title)
    axes = figure.subplots()
    for name, (shares, costs) in curves.items():
        label = f"{name} ({costs[-1]:.3f} over all)"
        marker = "o" if len(shares) == 1 else None
        axes.plot(100 * shares, costs, label=label, marker=marker)
    axes.set_xlim(0, 101)
    axes.set_ylim(bottom=0)
    canvas.label(axes, "images answered, the surest first (%)", "average cost of the answers")
    axes.legend(loc="upper left")
    canvas.save(figure, path)


def confusion(labels: ArrayLike, answers: ArrayLike, classes: int) -> np.ndarray:
    """Counts how often each class is taken for each.

    Args:
        labels: Integers `(N,)`.
        answers: Integers `(N,)`.
        classes: Number of classes.

    Returns:
        Integers `(classes, classes)`, a row for each true class.

    Raises:
        ValueError: If a label or an answer is not a class, or their numbers differ.

    Example:

    >>> confusion([0, 0, 1], [0, 1, 1], 2)
    array([[1, 1],
           [0, 1]])
    """
    labels, answers = np.asarray(labels), np.asarray(answers)
    checks.check_same_length(labels=labels, answers=answers)
    for each in (labels, answers):
        checks.check_labels(each, classes)
    counts = np.zeros((classes, classes), int)
    np.add.at(counts, (labels.astype(int), answers.astype(int)), 1)
    return counts


def mistakes_on(tree: ClassTree, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Counts the mistakes on each edge and node of a tree.

    Args:
        tree: The classes.
        counts: What `confusion` returned.

    Returns:
        For each node, the number of mistakes that pass the edge above it, which lead out of or into
        its branch; and the number of those that turn at it, the lowest node above both classes.

    Example:

    >>> tree = ClassTree.from_paths(["animal/dog", "animal/cat", "oak"])
    >>> passing, turning = mistakes_on(tree, confusion([0, 1, 2], [1, 0, 0], 3))
    >>> dict(zip(tree.nodes, passing.tolist()))
    {'/': 0, 'animal': 1, 'dog': 3, 'cat': 2, 'oak': 1}
    >>> dict(zip(tree.nodes, turning.tolist()))
    {'/': 1, 'animal': 2, 'dog': 0, 'cat': 0, 'oak': 0}
    """
    below = tree.classes_below().astype(int)
    wrong = counts - np.diag(np.diag(counts))
    within = np.sum(below * (wrong @ below), axis=0)
    passing = (wrong.sum(axis=0) + wrong.sum(axis=1)) @ below - 2 * within
    turning = within.copy()
    np.subtract.at(turning, tree.parents[1:], within[1:])
    return passing, turning


def _name_classes(axes: "Axes", tree: ClassTree, order: np.ndarray, branch: np.ndarray) -> None:
    """Names the classes or, if there are too many, the branches at the root."""
    places: Sequence[float] = range(len(order))
    names = [tree.classes[label] for label in order]
    if len(order) > _MOST_NAMES:
        nodes = [name for name, depth in zip(tree.nodes, tree.depths, strict=True) if depth == 1]
        places = [float(np.flatnonzero(branch == each).mean()) for each in range(len(nodes))]
        names = nodes
        if len(nodes) > _MOST_NAMES:
            places, names = [], []
    axes.set_xticks(places, names, rotation=90, fontsize=8)
    axes.set_yticks(places, names, fontsize=8)
