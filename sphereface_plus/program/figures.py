"""Figures of verification, identification and features in the plane, as PNG."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mhe.harness.figures import canvas
from sphereface_plus.verification import RocCurve

_BINS = 100
_MOST_POINTS = 2000


def _corners(curve: RocCurve) -> tuple[np.ndarray, np.ndarray]:
    """Rates of false and of true accepts, from one false accept on, for an axis of logarithms.

    They are the corners of steps, as no threshold is between two, thinned to the resolution of a
    screen.
    """
    counts = np.unique(np.geomspace(1, curve.different, _MOST_POINTS).round().astype(np.int64))
    places = np.searchsorted(curve.false_accepts, counts, side="right") - 1
    return counts / curve.different, curve.tar[places]


def draw_roc(curves: Mapping[str, RocCurve], path: str | Path, title: str = "") -> None:
    """Draws ROC curves with a logarithmic axis of false accept rates.

    A curve starts at the smallest nonzero rate of its pairs, one false accept.

    Args:
        curves: The curve of each run by its name, such as `Verification.roc`.
        path: The PNG to write.
        title: The title of the figure.

    Example:

    >>> import tempfile
    >>> from sphereface_plus.verification import roc_curve
    >>> path = Path(tempfile.mkdtemp(), "roc.png")
    >>> draw_roc({"arcface": roc_curve([0.9, 0.8, 0.7, 0.1], [1, 0, 1, 0])}, path)
    >>> path.exists()
    True
    """
    figure = canvas.blank(6, 5, title)
    axes = figure.subplots()
    for name, curve in curves.items():
        far, tar = _corners(curve)
        axes.step(far, tar, where="post", label=f"{name} (AUC {curve.auc:.4f})")
    axes.set_xscale("log")
    axes.set_ylim(0, 1.02)
    canvas.label(axes, "false accept rate", "true accept rate")
    axes.legend(loc="lower right")
    canvas.save(figure, path)


def draw_det(curves: Mapping[str, RocCurve], path: str | Path, title: str = "") -> None:
    """Draws DET curves: false rejects over false accepts, both on logarithmic axes.

    A curve has the rates from one false accept and one false reject on; rates of zero have no place
    on these axes.

    Args:
        curves: The curve of each run by its name, such as `Verification.roc`.
        path: The PNG to write.
        title: The title of the figure.

    Example:

    >>> import tempfile
    >>> from sphereface_plus.verification import roc_curve
    >>> path = Path(tempfile.mkdtemp(), "det.png")
    >>> draw_det({"arcface": roc_curve([0.9, 0.8, 0.7, 0.1], [1, 0, 1, 0])}, path)
    >>> path.exists()
    True
    """
    figure = canvas.blank(6, 5, title)
    axes = figure.subplots()
    for name, curve in curves.items():
        far, tar = _corners(curve)
        # Where nobody is rejected there is nothing to draw.
        rejects = np.where(tar < 1, 1 - tar, np.nan)
        axes.step(far, rejects, where="post", label=f"{name} (EER {curve.eer:.4f})")
    axes.set_xscale("log")
    axes.set_yscale("log")
    # Also where nothing is drawn, as all pairs are told apart.
    axes.set_xlim(min(1 / curve.different for curve in curves.values()) / 2, 1)
    axes.set_ylim(min(1 / curve.same for curve in curves.values()) / 2, 1)
    canvas.label(axes, "false accept rate", "false reject rate")
    axes.legend(loc="lower left")
    canvas.save(figure, path)


def draw_hardest(
    rows: Mapping[str, Sequence[tuple[np.ndarray, np.ndarray, float]]],
    path: str | Path,
    title: str = "",
) -> None:
    """Draws pairs of faces side by side with their scores, a row of pairs for each kind.

    Args:
        rows: By what they have in common, pairs of faces, uint8 `(h, w, 1 or 3)`, with their
            scores.
        path: The PNG to write.
        title: The title of the figure.

    Example:

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp(), "hardest.png")
    >>> face = np.zeros((14, 12, 1), "uint8")
    >>> draw_hardest({"one person": [(face, face, 0.1)], "two people": []}, path)
    >>> path.exists()
    True
    """
    columns = max(1, *(len(pairs) for pairs in rows.values()))
    figure = canvas.blank(1.6 * columns, 1.5 * len(rows), title)
    panels = figure.subplots(len(rows), columns, squeeze=False)
    for axes in panels.ravel():
        axes.set_axis_off()
    for row, (name, pairs) in zip(panels, rows.items(), strict=True):
        row[0].set_title(name, loc="left", fontsize=8)
        for axes, (one, other, score) in zip(row, pairs, strict=False):
            both = np.concatenate([one, other], axis=1)
            axes.imshow(both.repeat(3, axis=2) if both.shape[2] == 1 else both)
            axes.text(0.5, -0.02, f"{score:.3f}", ha="center", va="top", transform=axes.transAxes)
    canvas.save(figure, path)


def draw_scores(
    scores: Any, same: Any, path: str | Path, threshold: float | None = None, title: str = ""
) -> None:
    """Draws the distributions of the scores of pairs of the same and of different people.

    Args:
        scores: Numbers `(n,)`.
        same: Whether each pair is of the same person, bool `(n,)`.
        path: The PNG to write.
        threshold: Position of a vertical line, or None.
        title: The title of the figure.

    Example:

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp(), "scores.png")
    >>> draw_scores([0.9, 0.8, 0.7, 0.1], [True, False, True, False], path, threshold=0.5)
    >>> path.exists()
    True
    """
    scores, same = np.asarray(scores), np.asarray(same, bool)
    figure = canvas.blank(6, 4, title)
    axes = figure.subplots()
    bins = np.linspace(scores.min(), scores.max(), _BINS + 1)
    for kind, label in ((same, "same person"), (~same, "different people")):
        # Two densities, as pairs of different people are far more.
        axes.hist(
            scores[kind],
            bins.tolist(),
            density=True,
            alpha=0.6,
            label=f"{label} ({np.count_nonzero(kind):,})",
        )
    if threshold is not None:
        axes.axvline(threshold, color="0.35", linestyle="--", label=f"threshold {threshold:.3f}")
    canvas.label(axes, "cosine", "density")
    # Finding the best place would take long, and matplotlib warns of it.
    axes.legend(loc="upper center")
    canvas.save(figure, path)


def draw_cmc(rates: Mapping[str, np.ndarray], path: str | Path, title: str = "") -> None:
    """Draws cumulative match characteristics: the identification rate at each rank.

    Args:
        rates: The identification rates of each run at ranks 1, 2, … by its name, such as
            `Identification.cmc`.
        path: The PNG to write.
        title: The title of the figure.

    Example:

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp(), "cmc.png")
    >>> draw_cmc({"arcface": np.array([0.75, 0.75, 1.0])}, path)
    >>> path.exists()
    True
    """
    from matplotlib.ticker import MaxNLocator

    figure = canvas.blank(6, 4, title)
    axes = figure.subplots()
    for name, each in rates.items():
        label = f"{name} (rank 1: {each[0]:.3f})"
        axes.plot(np.arange(1, len(each) + 1), each, marker=".", label=label)
    axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
    canvas.label(axes, "rank", "identification rate")
    axes.legend(loc="lower right")
    canvas.save(figure, path)


@dataclass(frozen=True)
class Plane:
    """Features in two dimensions, and the directions of the class vectors.

    Attributes:
        features: `(N, 2)`.
        labels: The class of each, `(N,)`.
        classes: The class vectors `(classes, 2)`, of any length.
    """

    features: np.ndarray
    labels: np.ndarray
    classes: np.ndarray


def draw_planes(
    planes: Mapping[str, Plane], class_names: Sequence[str], path: str | Path, title: str = ""
) -> None:
    """Draws features in the plane, one panel per network, with a ray along each class vector.

    Args:
        planes: The features of each network by its name.
        class_names: The names of the classes, for the legend.
        path: The PNG to write.
        title: The title of the figure.

    Example:

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp(), "plane.png")
    >>> plane = Plane(np.array([[2.0, 0.1], [0.0, 3.0]]), np.array([0, 1]), np.eye(2))
    >>> draw_planes({"m = 1": plane}, ["cat", "dog"], path)
    >>> path.exists()
    True
    """
    colors = canvas.colors(len(class_names))
    columns = min(len(planes), 4)
    rows = math.ceil(len(planes) / columns)
    figure = canvas.blank(4 * columns, 4.2 * rows, title)
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, (name, plane) in zip(panels, planes.items(), strict=False):
        # Without the longest features, so that an outlier does not shrink the rest.
        reach = float(np.percentile(np.linalg.norm(plane.features, axis=1), 99)) or 1.0
        lengths = np.linalg.norm(plane.classes, axis=1, keepdims=True)
        rays = reach * plane.classes / np.where(lengths > 0, lengths, 1.0)
        for ray, color in zip(rays, colors, strict=True):
            axes.plot([0, ray[0]], [0, ray[1]], color=color, linewidth=0.8, zorder=1)
        axes.scatter(
            *plane.features.T, s=5, c=colors[plane.labels], alpha=0.6, linewidths=0, zorder=2
        )
        axes.set_xlim(-1.1 * reach, 1.1 * reach)
        axes.set_ylim(-1.1 * reach, 1.1 * reach)
        axes.set_aspect("equal")
        axes.set_title(name, fontsize=10)
        axes.grid(alpha=0.3)
    for axes in panels[len(planes) :]:
        axes.set_axis_off()
    handles = [
        panels[0].scatter([], [], s=20, color=[color], label=name)
        for name, color in zip(class_names, colors, strict=True)
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 10))
    canvas.save(figure, path)
