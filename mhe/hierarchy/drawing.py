"""A tree as text and as a picture."""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# In inches: the height of a name, the width of a letter, the smallest distance between levels, the
# largest height of the picture.
_LINE = 0.16
_LETTER = 0.07
_LEVEL = 0.8
_LARGEST = 80.0


def as_text(nodes: Sequence[str], parents: np.ndarray, depths: np.ndarray) -> str:
    """One indented line per node, without a final line break.

    Args:
        nodes: Names in depth-first order.
        parents: The index of each node's parent; -1 for the root.
        depths: Edges from the root.

    Example:

    >>> print(as_text(["all", "a", "b"], np.array([-1, 0, 0]), np.array([0, 1, 1])))
    all
    ├── a
    └── b
    """
    last = dict(zip(parents.tolist(), range(len(nodes)), strict=True))
    lines = [nodes[0]]
    bars: list[str] = []
    for place in range(1, len(nodes)):
        is_last = last[parents[place]] == place
        del bars[depths[place] - 1 :]
        lines.append("".join(bars) + ("└── " if is_last else "├── ") + nodes[place])
        bars.append("    " if is_last else "│   ")
    return "\n".join(lines)


def as_png(
    path: str | os.PathLike, nodes: Sequence[str], parents: np.ndarray, depths: np.ndarray
) -> None:
    """Writes what `as_figure` draws.

    Args:
        path: The file to write.
        nodes: As for `as_text`.
        parents: As for `as_text`.
        depths: As for `as_text`.

    Raises:
        ImportError: If matplotlib is not installed.
    """
    figure, _ = as_figure(nodes, parents, depths)
    figure.savefig(path, dpi=110, format="png")


def as_figure(
    nodes: Sequence[str],
    parents: np.ndarray,
    depths: np.ndarray,
    widths: Sequence[float] | None = None,
    colors: Sequence[str] | None = None,
) -> tuple["Figure", np.ndarray]:
    """Draws the root on the left and leaves below each other.

    Args:
        nodes: As for `as_text`.
        parents: As for `as_text`.
        depths: As for `as_text`, the horizontal positions of the nodes.
        widths: The width of the edge to each node but the root, in points; None for thin ones.
        colors: The color of each of these edges, or None.

    Returns:
        The figure, with one panel, and the vertical position of each node in it.

    Raises:
        ImportError: If matplotlib is not installed.

    Example:

    >>> nodes, parents, depths = ["all", "a", "b"], np.array([-1, 0, 0]), np.array([0, 1, 1])
    >>> as_figure(nodes, parents, depths)[1]
    array([1.5, 1. , 2. ])
    """
    try:
        from matplotlib.collections import LineCollection
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("Drawing a tree needs matplotlib: pip install mhe[train]") from error

    inner = np.zeros(len(nodes), bool)
    inner[parents[1:]] = True
    heights = np.cumsum(~inner).astype(float)
    # Backwards, children come before their parents. A parent is centered between its first and its
    # last child.
    lowest, highest = np.where(inner, -np.inf, heights), np.where(inner, np.inf, heights)
    for place in range(len(nodes) - 1, 0, -1):
        heights[place] = (lowest[place] + highest[place]) / 2
        parent = parents[place]
        lowest[parent] = max(lowest[parent], heights[place])
        highest[parent] = min(highest[parent], heights[place])
    heights[0] = (lowest[0] + highest[0]) / 2

    count = int((~inner).sum())
    depth = int(depths.max())
    height = min(_LINE * count + 0.5, _LARGEST)
    # The name of an inner node is above its edge, that of a leaf to its right.
    level = max(_LEVEL, _LETTER * max(map(len, nodes)))
    figure = Figure(figsize=(level * (depth + 1), height), layout="constrained")
    axes = figure.add_subplot()
    above = depths[parents[1:]]
    corners = [
        [(x, heights[parent]), (x, y), (x + 1, y)]
        for x, y, parent in zip(above, heights[1:], parents[1:], strict=True)
    ]
    axes.add_collection(
        LineCollection(
            corners,
            colors="0.6" if colors is None else colors,
            linewidths=0.8 if widths is None else widths,
        )
    )
    # If lines are closer than letters are high, names shrink with them.
    size = min(8.0, 72 * 0.8 * height / count)
    lifts = np.ones(len(nodes)) if widths is None else 1 + np.r_[0.0, widths] / 2
    for name, x, y, is_inner, lift in zip(nodes, depths, heights, inner, lifts, strict=True):
        over = is_inner and x > 0
        axes.annotate(
            name,
            (x, y),
            xytext=(-2, lift) if over else (2, 0),
            textcoords="offset points",
            fontsize=size,
            ha="right" if over else "left",
            va="bottom" if over else "center",
        )
    axes.set_xlim(-0.05, depth + 1)
    axes.set_ylim(count + 0.7, 0.3)
    axes.set_axis_off()
    return figure, heights
