"""Figures of prototypes and embeddings: on the circle, on the sphere and in the plane."""

import itertools
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from mhe.harness.figures import canvas

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MOST_NAMES = 40


def draw_circle(
    prototypes: np.ndarray,
    embeddings: np.ndarray,
    labels: np.ndarray,
    class_names: Sequence[str],
    path: str | Path,
    title: str = "",
) -> None:
    """Draws prototypes on the circle and the directions of the embeddings of each class.

    The embeddings of each class are drawn on their own ring inside the circle, so that classes do
    not hide each other: only the direction of a point matters, not its distance from the center. A
    ray from each prototype to the center shows where on its ring a class belongs.

    Args:
        prototypes: Rows `(classes, 2)`.
        embeddings: Rows `(N, 2)` of any length.
        labels: The class of each embedding, `(N,)`.
        class_names: The names of the classes, which are written beside the prototypes if there are
            at most 40.
        path: The PNG to write.
        title: Title of the figure.

    Raises:
        ValueError: If the shapes do not match or a label is not the number of a class.

    Example:

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp(), "circle.png")
    >>> draw_circle(np.eye(2), np.array([[3.0, 1.0], [0.1, 2.0]]), [0, 1], ["cat", "dog"], path)
    >>> path.exists()
    True
    """
    units, points, labels, caption = _checked(prototypes, embeddings, labels, class_names, 2)
    figure = canvas.blank(8, 8.4, title)
    axes = figure.subplots()
    _bare(axes, 1.25 if len(units) <= _MOST_NAMES else 1.08, f"{caption}; a ring for each class")
    turn = np.linspace(0, 2 * np.pi, 361)
    axes.plot(np.cos(turn), np.sin(turn), color="0.35", linewidth=1.2)
    inner, outer = 0.4, 0.95
    width = (outer - inner) / len(units)
    # Points are spread over the width of their ring, so that many in one direction look like many.
    spread = np.random.default_rng(0).uniform(0.1, 0.9, len(points))
    radii = inner + width * (labels + spread)
    colors = canvas.colors(len(units))
    for each, (unit, name, color) in enumerate(zip(units, class_names, colors, strict=True)):
        own = labels == each
        axes.plot([0, unit[0]], [0, unit[1]], color=color, linewidth=0.8, alpha=0.6, zorder=1)
        _draw_embeddings(axes, points[own] * radii[own, None], color[None])
        if len(units) <= _MOST_NAMES:
            _write_around(axes, unit, name)
    _draw_prototypes(axes, units, colors)
    canvas.save(figure, path)


def draw_sphere(
    prototypes: np.ndarray,
    embeddings: np.ndarray,
    labels: np.ndarray,
    class_names: Sequence[str],
    path: str | Path,
    title: str = "",
) -> None:
    """Draws prototypes on the sphere and the directions of embeddings, seen from two sides.

    Each half of the sphere has its own panel, in orthographic projection, so that nothing is
    hidden. Arguments and errors are those of `draw_circle`, with rows of 3 numbers.

    Example:

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp(), "sphere.png")
    >>> draw_sphere(np.eye(3), np.eye(3), [0, 1, 2], ["cat", "dog", "eel"], path)
    >>> path.exists()
    True
    """
    units, points, labels, caption = _checked(prototypes, embeddings, labels, class_names, 3)
    figure = canvas.blank(12, 6.6, title)
    colors = canvas.colors(len(units))
    # From opposite viewpoints every point is visible exactly once.
    sides = {"front": _view(30.0, 20.0), "back": _view(210.0, -20.0)}
    for axes, (side, view) in zip(figure.subplots(1, 2), sides.items(), strict=True):
        _bare(axes, 1.12, side)
        for line in _graticule():
            x, y, depth = (line @ view).T
            axes.plot(x, np.where(depth >= 0, y, np.nan), color="0.85", linewidth=0.7, zorder=0)
        turn = np.linspace(0, 2 * np.pi, 361)
        axes.plot(np.cos(turn), np.sin(turn), color="0.35", linewidth=1.2, zorder=2)
        seen = points @ view
        near = seen[:, 2] >= 0
        _draw_embeddings(axes, seen[near], colors[labels[near]])
        seen = units @ view
        near = seen[:, 2] >= 0
        _draw_prototypes(axes, seen[near], colors[near])
        if len(units) <= _MOST_NAMES:
            for name, is_near, (x, y, _) in zip(class_names, near, seen, strict=True):
                if is_near:
                    _write_beside(axes, x, y, name)
    figure.supxlabel(caption, fontsize=10)
    canvas.save(figure, path)


def draw_plane(
    prototypes: np.ndarray,
    embeddings: np.ndarray,
    labels: np.ndarray,
    class_names: Sequence[str],
    costs: np.ndarray,
    path: str | Path,
    title: str = "",
) -> None:
    """Draws prototypes and embeddings in the plane, in colors that follow the costs of mistakes.

    Classes have similar colors if they are cheap to confuse, by the `costs` `(classes, classes)` of
    mistaking one class for another. The other arguments, and errors, are those of `draw_circle`.

    Example:

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp(), "plane.png")
    >>> draw_plane(np.eye(2), np.eye(2), [0, 1], ["cat", "dog"], 1 - np.eye(2), path)
    >>> path.exists()
    True
    """
    from matplotlib import colormaps

    labels = _checked_labels(prototypes, embeddings, labels, class_names, 2)
    colors = colormaps["hsv"](_hues(np.asarray(costs, np.float64)))
    figure = canvas.blank(8, 8.2, title)
    axes = figure.subplots()
    _draw_embeddings(axes, np.asarray(embeddings), colors[labels])
    _draw_prototypes(axes, np.asarray(prototypes), colors, zorder=1)
    if len(prototypes) <= _MOST_NAMES:
        for (x, y), name in zip(prototypes, class_names, strict=True):
            _write_beside(axes, x, y, name)
    axes.set_aspect("equal", "datalim")
    canvas.label(axes, "", "")
    canvas.save(figure, path)


def _checked(
    prototypes: ArrayLike,
    embeddings: ArrayLike,
    labels: ArrayLike,
    class_names: Sequence[str],
    dims: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, str]:
    """Unit prototypes, the directions and labels of nonzero embeddings, and a caption."""
    labels = _checked_labels(prototypes, embeddings, labels, class_names, dims)
    units, points = directions(prototypes), directions(embeddings)
    nonzero = points.any(axis=1)
    is_right = np.argmax(points @ units.T, axis=1)[nonzero] == labels[nonzero]
    share = np.mean(is_right) if is_right.size else 0
    caption = f"{len(points):,} embeddings, {100 * share:.1f}% nearest to their class's prototype"
    if not nonzero.all():
        caption += f"; {np.count_nonzero(~nonzero):,} are zero and not drawn"
    return units, points[nonzero], labels[nonzero], caption


def _checked_labels(
    prototypes: ArrayLike,
    embeddings: ArrayLike,
    labels: ArrayLike,
    class_names: Sequence[str],
    dims: int,
) -> np.ndarray:
    rows, points, labels = np.asarray(prototypes), np.asarray(embeddings), np.asarray(labels)
    shapes = (rows.shape, points.shape, labels.shape, len(class_names))
    if shapes != ((len(rows), dims), (len(points), dims), (len(points),), len(rows)):
        raise ValueError(
            f"`prototypes` must be (classes, {dims}), `embeddings` (N, {dims}) and `labels` (N,), "
            "with one name per class. "
            f"Received: shapes {rows.shape}, {points.shape} and {labels.shape}, "
            f"{len(class_names)} names"
        )
    if labels.dtype.kind not in "iu" or (
        labels.size and not 0 <= labels.min() <= labels.max() < len(rows)
    ):
        raise ValueError(
            f"`labels` must be integers from 0 to {len(rows) - 1}. "
            f"Received: {labels.dtype}" + (f" up to {labels.max()}" if labels.size else "")
        )
    return labels


def _hues(costs: np.ndarray) -> np.ndarray:
    """A position on the color circle, from 0 to 1, for each class.

    Each class is followed by the remaining one that is cheapest to confuse with it, so that classes
    of one branch of a tree are neighbors. The steps are proportional to the costs.
    """
    order, left = [0], set(range(1, len(costs)))
    while left:
        order.append(min(left, key=lambda each: (costs[order[-1], each], each)))
        left.remove(order[-1])
    steps = np.array([costs[a, b] for a, b in itertools.pairwise([*order, 0])])
    hues = np.empty(len(costs))
    hues[order] = np.cumsum([0, *steps[:-1]]) / steps.sum()
    return hues


def directions(vectors: ArrayLike) -> np.ndarray:
    """Scales rows to unit length, in float64; zero rows stay zero.

    Args:
        vectors: Rows `(N, D)`.

    Example:

    >>> directions([[3.0, 4.0], [0.0, 0.0]])
    array([[0.6, 0.8],
           [0. , 0. ]])
    """
    rows = np.asarray(vectors, np.float64)
    norms = np.linalg.norm(rows, axis=-1, keepdims=True)
    return rows / np.where(norms == 0, 1.0, norms)


def _bare(axes: "Axes", reach: float, title: str) -> None:
    axes.set_xlim(-reach, reach)
    axes.set_ylim(-reach, reach)
    axes.set_aspect("equal")
    axes.set_axis_off()
    axes.set_title(title, fontsize=10)


def _draw_embeddings(axes: "Axes", points: np.ndarray, colors: np.ndarray) -> None:
    axes.scatter(points[:, 0], points[:, 1], s=6, c=colors, alpha=0.5, linewidths=0)


def _draw_prototypes(
    axes: "Axes", points: np.ndarray, colors: np.ndarray, zorder: float = 3
) -> None:
    x, y = points[:, 0], points[:, 1]
    axes.scatter(x, y, s=110, c=colors, edgecolors="black", linewidths=1.2, zorder=zorder)


def _write_around(axes: "Axes", unit: np.ndarray, name: str) -> None:
    """Writes a name outside the circle, along the ray of its prototype, never upside down."""
    x, y = unit.tolist()
    degrees = math.degrees(math.atan2(y, x))
    left = abs(degrees) > 90
    axes.annotate(
        name,
        (1.05 * x, 1.05 * y),
        rotation=degrees + 180 if left else degrees,
        rotation_mode="anchor",
        ha="right" if left else "left",
        va="center",
        fontsize=9,
    )


def _write_beside(axes: "Axes", x: float, y: float, name: str) -> None:
    from matplotlib.patheffects import withStroke

    axes.annotate(
        name,
        (x, y),
        xytext=(0, 9),
        textcoords="offset points",
        ha="center",
        fontsize=9,
        zorder=4,
        path_effects=[withStroke(linewidth=2.5, foreground="white")],
    )


def _view(azimuth: float, elevation: float) -> np.ndarray:
    """The matrix that maps rows (x, y, z) to (right, up, towards the viewer); angles in degrees."""
    a, e = math.radians(azimuth), math.radians(elevation)
    towards = np.array([math.cos(e) * math.cos(a), math.cos(e) * math.sin(a), math.sin(e)])
    right = np.array([-math.sin(a), math.cos(a), 0.0])
    return np.stack([right, np.cross(towards, right), towards], axis=1)


def _graticule() -> Iterator[np.ndarray]:
    """Yields circles of latitude and meridians, 30° apart, as rows of points."""
    turn = np.linspace(0, 2 * np.pi, 361)
    for latitude in np.radians(np.arange(-60, 61, 30)):
        ring = np.cos(latitude) * np.stack([np.cos(turn), np.sin(turn)], axis=1)
        yield np.column_stack([ring, np.full(len(turn), np.sin(latitude))])
    for longitude in np.radians(np.arange(0, 180, 30)):
        ring = np.cos(turn)
        yield np.stack([ring * np.cos(longitude), ring * np.sin(longitude), np.sin(turn)], axis=1)
