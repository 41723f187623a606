"""A tree as text, and as a picture."""

import os
from collections.abc import Sequence

import numpy as np

# In inches: a line of names, a letter, the least distance of two levels, the largest height.
_LINE = 0.16
_LETTER = 0.07
_LEVEL = 0.8
_LARGEST = 80.0


def as_text(nodes: Sequence[str], parents: np.ndarray, depths: np.ndarray) -> str:
    """A line a node, indented.

    Args:
        nodes: Names, each after its parent and right after what is below earlier siblings.
        parents: The place of each parent; -1 for the root.
        depths: Edges from the root.

    Returns:
        Lines without a last line break.

    Example:

    >>> print(as_text(["all", "a", "b"], np.array([-1, 0, 0]), np.array([0, 1, 1])))
    all
    ├── a
    └── b
    """
    last = dict(zip(parents.tolist(), range(len(nodes)), strict=True))
    lines, bars = [nodes[0]], []
    for place in range(1, len(nodes)):
        is_last = last[parents[place]] == place
        del bars[depths[place] - 1 :]
        lines.append("".join(bars) + ("└── " if is_last else "├── ") + nodes[place])
        bars.append("    " if is_last else "│   ")
    return "\n".join(lines)


def as_png(
    path: str | os.PathLike, nodes: Sequence[str], parents: np.ndarray, depths: np.ndarray
) -> None:
    """Draws the root to the left and leaves below each other.

    Args:
        path: The file to write.
        nodes: As for `as_text`.
        parents: As for `as_text`.
        depths: As for `as_text`.

    Raises:
        ImportError: If matplotlib is not installed.
    """
    try:
        from matplotlib.collections import LineCollection
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("Drawing a tree needs matplotlib: pip install mhe[train]") from error

    inner = np.zeros(len(nodes), bool)
    inner[parents[1:]] = True
    heights = np.cumsum(~inner).astype(float)
    # Children stand after their parents, so that from the end they come first. A parent stands in
    # the middle between its first child and its last.
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
    # Names stand over the edge that leads to an inner node, and to the right of a leaf.
    level = max(_LEVEL, _LETTER * max(map(len, nodes)))
    figure = Figure(figsize=(level * (depth + 1), height), layout="constrained")
    axes = figure.add_subplot()
    above = depths[parents[1:]]
    corners = [
        [(x, heights[parent]), (x, y), (x + 1, y)]
        for x, y, parent in zip(above, heights[1:], parents[1:], strict=True)
    ]
    axes.add_collection(LineCollection(corners, colors="0.6", linewidths=0.8))
    # Where lines are nearer to each other than letters are high, names get smaller with them.
    size = min(8.0, 72 * 0.8 * height / count)
    for name, x, y, is_inner in zip(nodes, depths, heights, inner, strict=True):
        over = is_inner and x > 0
        axes.annotate(
            name,
            (x, y),
            xytext=(-2, 1) if over else (2, 0),
            textcoords="offset points",
            fontsize=size,
            ha="right" if over else "left",
            va="bottom" if over else "center",
        )
    axes.set_xlim(-0.05, depth + 1)
    axes.set_ylim(count + 0.7, 0.3)
    axes.set_axis_off()
    figure.savefig(path, dpi=110, format="png")
