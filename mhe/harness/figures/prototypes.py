"""Figures of prototypes: on the circle, on the sphere, and the cosines between them."""

import itertools
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mhe.harness.figures import canvas

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MOST_NAMES = 40
# Odd, so that cosines which are all equal fall within a bar and not on an edge.
_BINS = 81
# Rows of cosines at a time hold at most this many numbers (32 MiB in float64).
_BLOCK = 1 << 22
# What is shown of less is rounding.
_NARROWEST = 1e-3


def draw_circle(
    prototypes: np.ndarray,
    embeddings: np.ndarray,
    labels: np.ndarray,
    class_names: Sequence[str],
    path: str | Path,
    title: str = "",
) -> None:
    """Draws prototypes on the circle, and which way the embeddings of each class point.

    The embeddings of a class lie on a ring of its own within the circle, so that classes do not
    hide each other: the direction of a point counts, its distance from the middle does not. A ray
    from each prototype to the middle crosses the rings where the embeddings of its class belong.

    Args:
        prototypes: Rows `(classes, 2)`.
        embeddings: Rows `(N, 2)` of any length.
        labels: The class of each embedding, `(N,)`.
        class_names: The names of the classes; written beside the prototypes when they are 40 or
            fewer.
        path: The PNG to write.
        title: A title for the figure.

    Raises:
        ValueError: If the shapes do not fit together or a label is no class.

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
    # A ring has some breadth, so that many points in one direction are seen as many.
    breadth = np.random.default_rng(0).uniform(0.1, 0.9, len(points))
    radii = inner + width * (labels + breadth)
    colors = canvas.colors(len(units))
    for each, (unit, name, color) in enumerate(zip(units, class_names, colors, strict=True)):
        own = labels == each
        axes.plot([0, unit[0]], [0, unit[1]], color=color, linewidth=0.8, alpha=0.6, zorder=1)
        axes.scatter(
            *(points[own] * radii[own, None]).T, s=6, color=[color], alpha=0.5, linewidths=0
        )
        if len(units) <= _MOST_NAMES:
            _write_around(axes, unit, name)
    axes.scatter(*units.T, s=110, c=colors, edgecolors="black", linewidths=1.2, zorder=3)
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

    Each half of the sphere is projected from afar, on a panel of its own, and nothing is hidden.

    Args:
        prototypes: Rows `(classes, 3)`.
        embeddings: Rows `(N, 3)` of any length.
        labels: The class of each embedding, `(N,)`.
        class_names: The names of the classes; written beside the prototypes when they are 40 or
            fewer.
        path: The PNG to write.
        title: A title for the figure.

    Raises:
        ValueError: If the shapes do not fit together or a label is no class.

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
    # The second is seen from the opposite point, so that each point shows in one of the two.
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
        axes.scatter(*seen[near, :2].T, s=6, c=colors[labels[near]], alpha=0.5, linewidths=0)
        seen = units @ view
        near = seen[:, 2] >= 0
        axes.scatter(
            *seen[near, :2].T, s=110, c=colors[near], edgecolors="black", linewidths=1.2, zorder=3
        )
        if len(units) <= _MOST_NAMES:
            for place in np.flatnonzero(near):
                _write_beside(axes, seen[place, :2], class_names[place])
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

    Classes that are cheap to take for each other have colors that are next to each other.

    Args:
        prototypes: Rows `(classes, 2)`.
        embeddings: Rows `(N, 2)`.
        labels: The class of each embedding, `(N,)`.
        class_names: The names of the classes; written beside the prototypes when they are 40 or
            fewer.
        costs: What it costs to take one class for another, `(classes, classes)`.
        path: The PNG to write.
        title: A title for the figure.

    Raises:
        ValueError: If the shapes do not fit together or a label is no class.

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
    axes.scatter(*np.transpose(embeddings), s=6, c=colors[labels], alpha=0.5, linewidths=0)
    axes.scatter(*np.transpose(prototypes), s=110, c=colors, edgecolors="black", linewidths=1.2)
    if len(prototypes) <= _MOST_NAMES:
        for place, name in zip(prototypes, class_names, strict=True):
            _write_beside(axes, place, name)
    axes.set_aspect("equal", "datalim")
    canvas.label(axes, "", "")
    canvas.save(figure, path)


def draw_cosines(
    prototypes: np.ndarray, path: str | Path, bound: float | None = None, title: str = ""
) -> None:
    """Draws how the cosines between prototypes are distributed, and how far from the best they are.

    Beside them stands the density of cosines between points that are spread by chance alone.

    Args:
        prototypes: Rows `(classes, dims)`.
        path: The PNG to write.
        bound: What `mhe.prototypes.cosine_lower_bound` says no placement can have its largest
            cosine below, or None to leave it out.
        title: A title for the figure.

    Raises:
        ValueError: If there are fewer than two prototypes.

    Example:

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp(), "cosines.png")
    >>> draw_cosines(np.eye(4), path, bound=-1 / 3)
    >>> path.exists()
    True
    """
    units = _directions(prototypes)
    if units.ndim != 2 or len(units) < 2:
        raise ValueError(
            "`prototypes` must be rows (classes, dims) of two classes or more. "
            f"Received: shape {units.shape}"
        )
    extremes = np.array([[block.min(), block.max()] for block in _cosines(units)])
    low, high = extremes[:, 0].min(), extremes[:, 1].max()
    middle, half = (low + high) / 2, max(high - low, _NARROWEST) * (0.5 + 1e-9)
    edges = np.linspace(middle - half, middle + half, _BINS + 1)
    counts = sum(np.histogram(block, edges)[0] for block in _cosines(units))
    figure = canvas.blank(8, 4.5, title)
    axes = figure.subplots()
    shares = 100 * counts / counts.sum()
    axes.stairs(shares, edges, fill=True, color="C0", alpha=0.7, label="pairs of prototypes")
    chance = 100 * np.diff(_chance(units.shape[1], edges))
    axes.stairs(chance, edges, color="0.45", linestyle="--", label="points spread by chance")
    axes.axvline(high, color="C3", label=f"largest: {high:.4f}")
    if bound is not None:
        axes.axvline(
            bound, color="black", linestyle=":", label=f"bound on the largest: {bound:.4f}"
        )
    canvas.label(axes, "cosine between two prototypes", "share of all pairs (%)")
    axes.legend(fontsize=9)
    canvas.save(figure, path)


def _checked(
    prototypes: Any, embeddings: Any, labels: Any, class_names: Sequence[str], dims: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, str]:
    """Unit prototypes, the directions of embeddings that have one, their labels, what they are."""
    labels = _checked_labels(prototypes, embeddings, labels, class_names, dims)
    units, points = _directions(prototypes), _directions(embeddings)
    some = points.any(axis=1)
    right = np.mean(np.argmax(points @ units.T, axis=1)[some] == labels[some]) if some.any() else 0
    caption = f"{len(points):,} embeddings, {100 * right:.1f}% nearest to their class's prototype"
    if not some.all():
        caption += f"; {int((~some).sum()):,} are zero and not drawn"
    return units, points[some], labels[some], caption


def _checked_labels(
    prototypes: Any, embeddings: Any, labels: Any, class_names: Sequence[str], dims: int
) -> np.ndarray:
    rows, points, labels = np.asarray(prototypes), np.asarray(embeddings), np.asarray(labels)
    shapes = (rows.shape, points.shape, labels.shape, len(class_names))
    if shapes != ((len(rows), dims), (len(points), dims), (len(points),), len(rows)):
        raise ValueError(
            f"`prototypes` (classes, {dims}), `embeddings` (N, {dims}), `labels` (N,) and a name "
            "for each class are expected. "
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
    """A place on the color circle, from 0 to 1, for each class.

    From each class it goes on to the one, of those that are left, that is cheapest to take it for:
    classes of one branch of a tree follow each other. Steps are as long as they cost.
    """
    order, left = [0], set(range(1, len(costs)))
    while left:
        order.append(min(left, key=lambda each: (costs[order[-1], each], each)))
        left.remove(order[-1])
    steps = np.array([costs[a, b] for a, b in itertools.pairwise([*order, 0])])
    hues = np.empty(len(costs))
    hues[order] = np.cumsum([0, *steps[:-1]]) / steps.sum()
    return hues


def _directions(rows: Any) -> np.ndarray:
    rows = np.asarray(rows, np.float64)
    norms = np.linalg.norm(rows, axis=-1, keepdims=True)
    return rows / np.where(norms == 0, 1.0, norms)


def _bare(axes: "Axes", reach: float, title: str) -> None:
    axes.set_xlim(-reach, reach)
    axes.set_ylim(-reach, reach)
    axes.set_aspect("equal")
    axes.set_axis_off()
    axes.set_title(title, fontsize=10)


def _write_around(axes: "Axes", unit: np.ndarray, name: str) -> None:
    """Writes a name outside the circle, along the ray of its prototype, never upside down."""
    degrees = math.degrees(math.atan2(unit[1], unit[0]))
    left = abs(degrees) > 90
    axes.annotate(
        name,
        unit * 1.05,
        rotation=degrees + 180 if left else degrees,
        rotation_mode="anchor",
        ha="right" if left else "left",
        va="center",
        fontsize=9,
    )


def _write_beside(axes: "Axes", place: np.ndarray, name: str) -> None:
    from matplotlib.patheffects import withStroke

    axes.annotate(
        name,
        place,
        xytext=(0, 9),
        textcoords="offset points",
        ha="center",
        fontsize=9,
        zorder=4,
        path_effects=[withStroke(linewidth=2.5, foreground="white")],
    )


def _view(azimuth: float, elevation: float) -> np.ndarray:
    """What turns rows (x, y, z) into (right, up, towards the viewer); angles in degrees."""
    a, e = math.radians(azimuth), math.radians(elevation)
    towards = np.array([math.cos(e) * math.cos(a), math.cos(e) * math.sin(a), math.sin(e)])
    right = np.array([-math.sin(a), math.cos(a), 0.0])
    return np.stack([right, np.cross(towards, right), towards], axis=1)


def _graticule() -> Iterator[np.ndarray]:
    """Circles of latitude and meridians, 30° apart, as rows of points."""
    turn = np.linspace(0, 2 * np.pi, 361)
    for latitude in np.radians(np.arange(-60, 61, 30)):
        ring = np.cos(latitude) * np.stack([np.cos(turn), np.sin(turn)], axis=1)
        yield np.column_stack([ring, np.full(len(turn), np.sin(latitude))])
    for longitude in np.radians(np.arange(0, 180, 30)):
        ring = np.cos(turn)
        yield np.stack([ring * np.cos(longitude), ring * np.sin(longitude), np.sin(turn)], axis=1)


def _cosines(units: np.ndarray) -> Iterator[np.ndarray]:
    """The cosines of all pairs i < j, a bounded number at a time."""
    height = max(1, _BLOCK // len(units))
    for top in range(0, len(units) - 1, height):
        block = units[top : top + height] @ units[top:].T
        yield block[np.triu(np.ones(block.shape, bool), 1)]


def _chance(dims: int, edges: np.ndarray) -> np.ndarray:
    """The chance that two independent uniform points have a cosine below each edge.

    The angle between them has density sin(θ)^(dims − 2); the integral is taken by the midpoints of
    a fine division of the angles.
    """
    division = np.linspace(0, np.pi, 20_001)
    log_density = (dims - 2) * np.log(np.sin((division[1:] + division[:-1]) / 2))
    below = np.concatenate([[0.0], np.cumsum(np.exp(log_density))])
    angles = np.arccos(np.clip(edges, -1.0, 1.0))
    return 1 - np.interp(angles, division, below / below[-1])
