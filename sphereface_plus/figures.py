"""Figures of verification and identification as PNG."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mhe.harness.figures import canvas
from sphereface_plus.verification import RocCurve

_BINS = 100
_MOST_POINTS = 2000


def draw_roc(curves: Mapping[str, RocCurve], path: str | Path, title: str = "") -> None:
    """Draws ROC curves over a logarithmic axis of false accept rates.

    A curve begins at the least rate but 0 that its pairs can show, one false accept.

    Args:
        curves: The curve of each run, by the name to show, such as `Verification.roc`.
        path: The PNG to write.
        title: A title for the figure.

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
        # Steps, as between two corners no threshold is; thinned to what a screen shows.
        counts = np.unique(np.geomspace(1, curve.different, _MOST_POINTS).round().astype(np.int64))
        places = np.searchsorted(curve.false_accepts, counts, side="right") - 1
        label = f"{name} (AUC {curve.auc:.4f})"
        axes.step(counts / curve.different, curve.tar[places], where="post", label=label)
    axes.set_xscale("log")
    axes.set_ylim(0, 1.02)
    canvas.label(axes, "false accept rate", "true accept rate")
    axes.legend(loc="lower right")
    canvas.save(figure, path)


def draw_scores(
    scores: Any, same: Any, path: str | Path, threshold: float | None = None, title: str = ""
) -> None:
    """Draws how the scores of pairs of the same person and of different people are distributed.

    Args:
        scores: Numbers `(n,)`.
        same: Whether a pair is of the same person, bool `(n,)`.
        path: The PNG to write.
        threshold: Where a line is drawn, or None.
        title: A title for the figure.

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
        # A density each: pairs of different people are many more.
        axes.hist(
            scores[kind],
            bins,
            density=True,
            alpha=0.6,
            label=f"{label} ({np.count_nonzero(kind):,})",
        )
    if threshold is not None:
        axes.axvline(threshold, color="0.35", linestyle="--", label=f"threshold {threshold:.3f}")
    canvas.label(axes, "cosine", "density")
    axes.legend()
    canvas.save(figure, path)


def draw_cmc(rates: Mapping[str, np.ndarray], path: str | Path, title: str = "") -> None:
    """Draws cumulative match characteristics: how many probes find their person by which rank.

    Args:
        rates: The identification rates of each run at ranks 1, 2, …, by the name to show, such as
            `Identification.cmc`.
        path: The PNG to write.
        title: A title for the figure.

    Example:

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp(), "cmc.png")
    >>> draw_cmc({"arcface": np.array([0.75, 0.75, 1.0])}, path)
    >>> path.exists()
    True
    """
    figure = canvas.blank(6, 4, title)
    axes = figure.subplots()
    for name, each in rates.items():
        label = f"{name} (rank 1: {each[0]:.3f})"
        axes.plot(np.arange(1, len(each) + 1), each, marker=".", label=label)
    axes.xaxis.get_major_locator().set_params(integer=True)
    canvas.label(axes, "rank", "identification rate")
    axes.legend(loc="lower right")
    canvas.save(figure, path)
