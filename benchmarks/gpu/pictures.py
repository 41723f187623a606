"""The tables and pictures of a session, from its CSVs."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from timing import report
from timing.results import Row

from gpu.plan import Part
from mhe.harness.files import replacing
from mhe.harness.tables import text_table

# The column that the picture of a part shows, and what it is.
SHOWN = {
    "steps": ("ratio", "time over the step without an energy"),
    "memory": ("memory_mib", "MiB over weight and gradient"),
    "distances": ("ratio", "time over the matrix product"),
    "heads": ("ratio", "time over the step with a plain softmax"),
    "gan": ("ratio", "time over the step without an energy"),
    "head_memory": ("step_gib", "GiB by building and training"),
}


def measured(rows: Iterable[Mapping[str, str]]) -> list[Row]:
    """Returns the rows of a CSV with numbers and truth values for text; empty cells are left out.

    Example:

    >>> measured([{"dims": "8", "ratio": "1.5", "as_keras": "True", "mode": "", "name": "floor"}])
    [{'dims': 8, 'ratio': 1.5, 'as_keras': True, 'name': 'floor'}]
    """
    return [{name: _value(text) for name, text in row.items() if text} for row in rows]


def _value(text: str) -> str | bool | int | float:
    if text in ("True", "False"):
        return text == "True"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def write(part: Part, rows: Sequence[Mapping[str, str]], folder: Path) -> None:
    """Writes the table and the picture of a part.

    Args:
        part: The part.
        rows: The rows of its CSV, as text.
        folder: The folder of the session.
    """
    path = folder / f"{part.name}.png"
    if part.name == "energy":
        cases = energies(measured(rows))
        report.draw(cases, path)
        apart: dict[str, list[Row]] = {}
        for case in cases:
            apart.setdefault(case["backend"], []).append(case)
        text = "\n\n".join(
            f"{name}, ms\n{report.table(mine)}\n\n{goals(mine)}" for name, mine in apart.items()
        )
    else:
        column, title = SHOWN[part.name]
        points = measured(rows)
        draw([row for row in points if column in row], part, column, title, path)
        text = table(part, points)
    with replacing(folder / f"{part.name}.txt") as partial:
        partial.write_text(f"{text}\n", "utf-8")


def energies(rows: Iterable[Row]) -> list[Row]:
    """Puts the methods of an energy side by side, each precision as a backend of its own.

    Args:
        rows: Of the part `energy`.

    Returns:
        What `timing.report.compare` returns.
    """
    apart = [{**row, "backend": f"{row['backend']}, {row['precision']}"} for row in rows]
    # A row without `as_keras` is a note.
    return report.compare({"as_keras": False, "name": "all", **row} for row in apart)


def goals(cases: Sequence[Row]) -> str:
    """Returns what is asked of a GPU as text, beside the worst and the median.

    Args:
        cases: From `energies`, of one backend and precision.

    Example:

    >>> case = {"dims": 4608, "neurons": 512, "distance": "angle", "s": 2}
    >>> cases = [{**case, "space": "full", "over_floor": 1.25, "times": {"kernel": 2.0}},
    ...          {**case, "space": "half", "over_floor": 1.5, "times": {"kernel": 2.5}}]
    >>> print(goals(cases))
    neurons >= 512                asked  worst  median
    kernel over two products     <= 1.5   1.50    1.38
    half space over full space  about 1   1.25    1.25
    """
    wide = [case for case in cases if case["neurons"] >= 512]
    names = ("dims", "neurons", "distance", "s")
    kernels = {
        (case["space"], *(case[name] for name in names)): case["times"]["kernel"]
        for case in wide
        if "kernel" in case["times"]
    }
    halves = [
        time / kernels[("full", *rest)]
        for (space, *rest), time in kernels.items()
        if space == "half" and ("full", *rest) in kernels
    ]
    floors = [case["over_floor"] for case in wide if case["over_floor"] is not None]
    lines = [
        [what, asked, *(f"{pick(ratios):.2f}" if ratios else "-" for pick in (max, np.median))]
        for what, asked, ratios in (
            ("kernel over two products", "<= 1.5", floors),
            ("half space over full space", "about 1", halves),
        )
    ]
    return text_table(lines, ["neurons >= 512", "asked", "worst", "median"])


def label(part: Part, row: Row) -> str:
    """Returns what a row measures, in a few words."""
    words = [f"{name} {row[name]}" for name in part.keys if name in row and name != "name"]
    return ", ".join([row["backend"], *words, str(row.get("method", ""))]).rstrip(", ")


def draw(rows: Sequence[Row], part: Part, column: str, title: str, path: Path) -> None:
    """Draws a column, one line per row, with quartiles of ratios as whiskers.

    Args:
        rows: Rows that have the column.
        part: Their part.
        column: `"ratio"`, or any other of numbers.
        title: What it is.
        path: The PNG to write.
    """
    from matplotlib.figure import Figure

    # What others are compared with is the line at 1.
    shown = [row for row in rows if column != "ratio" or row["ratio_low"] != row["ratio_high"]]
    figure = Figure(figsize=(11, 0.22 * len(shown) + 1.4), layout="constrained")
    axes = figure.subplots()
    values = np.array([row[column] for row in shown], float)
    places = np.arange(len(shown))
    axes.plot(values, places, "o", markersize=4)
    if column == "ratio":
        low, high = (np.array([row[f"ratio_{end}"] for row in shown]) for end in ("low", "high"))
        axes.hlines(places, low, high, linewidth=1)
        axes.axvline(1, color="0.5", linewidth=0.8)
    axes.set_yticks(places, [label(part, row) for row in shown], fontsize=7)
    axes.invert_yaxis()
    axes.set_xlabel(title)
    axes.grid(alpha=0.3, axis="x")
    with replacing(path) as partial:
        figure.savefig(partial, dpi=120, format="png")


def table(part: Part, rows: Sequence[Row]) -> str:
    """Returns the rows of a part as text, without columns that are empty.

    Example:

    >>> part = Part("gan", "gan", 1, ["batch"], ["method", "ratio"], [], {})
    >>> print(table(part, [{"backend": "jax", "batch": 64, "method": "mhe", "ratio": 1.25}]))
    backend  batch  method  ratio
    jax         64     mhe   1.25
    """
    columns = [name for name in part.columns if any(name in row for row in rows)]
    cells = [[_cell(row.get(name)) for name in columns] for row in rows]
    return text_table(cells, columns)


def _cell(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
