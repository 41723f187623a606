"""Figures of training: curves, results of several runs, and angles between neurons."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from mhe.harness.figures import canvas

Rows = Sequence[Mapping[str, float]]

_MOST_PANELS = 12
_MEAN_NORM = "norm"
# What a comparison shows of the logs that have it.
_COMPARED = {
    "val_accuracy": "test accuracy",
    "cross_entropy": "training cross-entropy",
    "energy": "mean hyperspherical energy",
    _MEAN_NORM: "norm of a kernel",
}


def draw_curves(rows: Rows, path: str | Path, title: str = "") -> None:
    """Draws the accuracy and energy of each epoch.

    Args:
        rows: The rows of a run's log, with `accuracy`, `val_accuracy`, `energy` and `energy/...`.
        path: The PNG to write.
        title: Title of the figure.

    Example:

    >>> import tempfile
    >>> row = {"accuracy": 0.5, "val_accuracy": 0.4, "energy": 0.7, "energy/conv/kernel": 0.7}
    >>> path = Path(tempfile.mkdtemp(), "curves.png")
    >>> draw_curves([{"epoch": 1, **row}, {"epoch": 2, **row}], path)
    >>> path.exists()
    True
    """
    figure = canvas.blank(10, 4, title)
    left, right = figure.subplots(1, 2)
    for name, label in (("accuracy", "training"), ("val_accuracy", "test")):
        left.plot(*_curve(rows, name), label=label, marker=_marker(rows))
    canvas.label(left, "epoch", "accuracy")
    left.legend()
    layers = [name for name in rows[-1] if name.startswith("energy/")]
    for name in layers:
        right.plot(*_curve(rows, name), color="0.75", linewidth=1)
    if layers:
        right.plot([], [], color="0.75", linewidth=1, label="one layer")
    right.plot(*_curve(rows, "energy"), label="mean over layers", marker=_marker(rows))
    canvas.label(right, "epoch", "hyperspherical energy")
    right.legend()
    canvas.save(figure, path)


def draw_metrics(rows: Rows, columns: Mapping[str, str], path: str | Path, title: str = "") -> None:
    """Draws the training and test metrics of each epoch, one panel per metric.

    Args:
        rows: The rows of a run's log.
        columns: The column of each metric by the name to show. The test's column has the prefix
            `val_`.
        path: The PNG to write.
        title: Title of the figure.

    Example:

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp(), "curves.png")
    >>> rows = [{"epoch": 1, "value_mae": 9.5, "val_value_mae": 9.9}]
    >>> draw_metrics(rows, {"mean absolute error": "value_mae"}, path)
    >>> path.exists()
    True
    """
    figure = canvas.blank(5 * len(columns), 4, title)
    panels = figure.subplots(1, len(columns), squeeze=False)[0]
    for axes, (metric, column) in zip(panels, columns.items(), strict=True):
        for name, label in ((column, "training"), (f"val_{column}", "test")):
            axes.plot(*_curve(rows, name), label=label, marker=_marker(rows))
        canvas.label(axes, "epoch", metric)
        axes.legend()
    canvas.save(figure, path)


def draw_series(
    panels: Mapping[str, Mapping[str, Sequence[tuple[float | None, float, float]]]],
    across: str,
    path: str | Path,
    title: str = "",
) -> None:
    """Draws results against a setting that varies between runs, one panel per metric.

    Args:
        panels: The series of each metric by the name to show: points `(x, mean, spread)` by the
            name of the series. A point whose x is `None` is drawn as a horizontal line.
        across: Label of the horizontal axis.
        path: The PNG to write.
        title: Title of the figure.

    Example:

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp(), "series.png")
    >>> points = {"hpn": [(10, 70.1, 0.5), (50, 72.3, 0.4)], "softmax": [(None, 71.0, 0.3)]}
    >>> draw_series({"accuracy (%)": points}, "dims", path)
    >>> path.exists()
    True
    """
    figure = canvas.blank(5 * len(panels), 4, title)
    for axes, (metric, series) in zip(
        figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True
    ):
        for color, (label, points) in enumerate(series.items()):
            placed = sorted(point for point in points if point[0] is not None)
            if placed:
                x, means, spreads = zip(*placed, strict=True)
                axes.errorbar(
                    x, means, spreads, color=f"C{color}", label=label, marker="o", capsize=3
                )
            for _, mean, spread in (point for point in points if point[0] is None):
                axes.axhline(mean, color=f"C{color}", linestyle="--", label=label)
                axes.axhspan(mean - spread, mean + spread, color=f"C{color}", alpha=0.15)
        canvas.label(axes, across, metric)
        axes.legend()
    canvas.save(figure, path)


def draw_named(
    panels: Mapping[str, Mapping[str, tuple[float, float]]], path: str | Path, title: str = ""
) -> None:
    """Draws results of named models, one row per model and one panel per metric.

    Args:
        panels: The mean and the spread of each model, by the name of the metric to show. The row of
            a model without the metric is empty.
        path: The PNG to write.
        title: Title of the figure.

    Example:

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp(), "named.png")
    >>> draw_named({"error (%)": {"softmax": (20.1, 0.5), "learnt": (19.7, 0.4)}}, path)
    >>> path.exists()
    True
    """
    names = list(dict.fromkeys(name for series in panels.values() for name in series))
    places = {name: place for place, name in enumerate(names)}
    figure = canvas.blank(4 * len(panels) + 1, 1 + 0.35 * len(names), title)
    axes = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    for each, (metric, series) in zip(axes, panels.items(), strict=True):
        for name, (mean, spread) in series.items():
            each.errorbar(mean, places[name], xerr=spread, color="C0", marker="o", capsize=3)
        canvas.label(each, metric, "")
    axes[0].set_yticks(range(len(names)), names)
    axes[0].set_ylim(len(names) - 0.5, -0.5)
    canvas.save(figure, path)


def draw_comparison(runs: Mapping[str, Sequence[Rows]], path: str | Path, title: str = "") -> None:
    """Draws how several models train, each with several seeds.

    There is a panel for each of these that was logged: test accuracy, training loss without
    regularizers, energy, and the norm of the kernels. A thin line is one seed, a thick one the
    mean over seeds; the norm is the geometric mean over kernels.

    Args:
        runs: The logs of each model, one per seed.
        path: The PNG to write.
        title: Title of the figure.

    Example:

    >>> import tempfile
    >>> rows = [{"epoch": 1, "val_accuracy": 0.4, "energy": 0.7, "norm/conv/kernel": 2.0}]
    >>> path = Path(tempfile.mkdtemp(), "comparison.png")
    >>> draw_comparison({"baseline": [rows, rows], "mhe": [rows]}, path)
    >>> path.exists()
    True
    """
    logs = {
        model: [[_with_mean_norm(row) for row in rows] for rows in seeds]
        for model, seeds in runs.items()
    }
    logged = {name for seeds in logs.values() for rows in seeds for row in rows for name in row}
    names = {name: label for name, label in _COMPARED.items() if name in logged}
    figure = canvas.blank(5 * len(names), 4, title)
    panels = figure.subplots(1, len(names), squeeze=False)[0]
    for axes, (name, label) in zip(panels, names.items(), strict=True):
        for color, (model, seeds) in enumerate(logs.items()):
            for rows in seeds:
                axes.plot(*_curve(rows, name), color=f"C{color}", alpha=0.35, linewidth=1)
            curves = [_curve(rows, name) for rows in seeds]
            length = min(len(values) for _, values in curves)
            mean = np.mean([values[:length] for _, values in curves], axis=0)
            axes.plot(
                curves[0][0][:length],
                mean,
                color=f"C{color}",
                linewidth=2.5,
                label=f"{model}, mean of {len(seeds)}",
                marker=_marker(mean),
            )
        canvas.label(axes, "epoch", label)
        if name == _MEAN_NORM:
            axes.set_yscale("log")
    panels[0].legend()
    canvas.save(figure, path)


def draw_angles(
    before: Mapping[str, np.ndarray],
    after: Mapping[str, np.ndarray],
    path: str | Path,
    title: str = "",
) -> None:
    """Draws the distribution of the angles between neurons before and after training, per layer.

    If there are more than twelve layers, twelve of them are drawn, evenly spaced from the first to
    the last.

    Args:
        before: The angles of all pairs of neurons in radians, by layer.
        after: The same after training.
        path: The PNG to write.
        title: Title of the figure.

    Example:

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp(), "angles.png")
    >>> draw_angles({"conv": np.array([1.5, 1.6])}, {"conv": np.array([1.7, 1.8])}, path)
    >>> path.exists()
    True
    """
    names = [name for name in before if before[name].size]
    shown = names
    if len(names) > _MOST_PANELS:
        places = np.linspace(0, len(names) - 1, _MOST_PANELS).round().astype(int)
        shown = [names[place] for place in places]
        title = f"{title} ({_MOST_PANELS} of {len(names)} layers)".lstrip()
    columns = min(4, max(1, len(shown)))
    lines = -(-max(1, len(shown)) // columns)
    figure = canvas.blank(3.2 * columns, 2.4 * lines + 0.6, title)
    panels = figure.subplots(lines, columns, squeeze=False).ravel()
    for axes, name in zip(panels, shown, strict=False):
        degrees = [np.degrees(before[name]), np.degrees(after[name])]
        low, high = min(map(np.min, degrees)), max(map(np.max, degrees))
        bins = np.linspace(min(low, 89.0), max(high, 91.0), 60)
        for values, label in zip(degrees, ("before", "after"), strict=True):
            # One polygon: sixty bars per panel would take seconds to lay out and draw.
            axes.hist(values, bins, histtype="stepfilled", density=True, alpha=0.6, label=label)
        axes.axvline(90, color="0.5", linewidth=0.8, linestyle=":")
        axes.set_title(name, fontsize=9)
        axes.set_yticks([])
        axes.set_xlabel("angle between two neurons (°)", fontsize=8)
    for axes in panels[len(shown) :]:
        axes.set_axis_off()
    panels[0].legend(fontsize=8)
    canvas.save(figure, path)


def _with_mean_norm(row: Mapping[str, float]) -> dict[str, float]:
    norms = [value for name, value in row.items() if name.startswith("norm/")]
    if not norms:
        return dict(row)
    return {**row, _MEAN_NORM: float(np.exp(np.mean(np.log(np.maximum(norms, 1e-12)))))}


def _curve(rows: Rows, name: str) -> tuple[list[float], list[float]]:
    points = [(row["epoch"], row[name]) for row in rows if name in row]
    return [epoch for epoch, _ in points], [value for _, value in points]


def _marker(points: Sequence) -> str | None:
    # A line through one point shows nothing.
    return "o" if len(points) == 1 else None
