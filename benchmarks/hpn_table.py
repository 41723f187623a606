"""Runs of `benchmarks/hpn.py` side by side: means over the seeds, as text, CSV and figure.

`benchmarks/hpn.py` makes one of the runs that a list of flags asks for. Called by itself, this
program makes one of any complete runs, such as two models' at a learning rate of their own.
"""

import csv
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from mhe.harness import figures
from mhe.harness.errors import BadInput
from mhe.harness.flags import LineParser, program
from mhe.harness.runs import Run, replacing

Line = Mapping[str, str | float | None]

_REPORTED = ("test_accuracy", "validation_accuracy", "test_mae", "validation_mae")


def collect(finished: Sequence[Run]) -> list[Line]:
    """Averages complete runs over their seeds.

    Args:
        finished: The runs.

    Returns:
        A line for each combination of model, dimensions and task weight, in the order of the runs:
        the number of seeds, and of every metric the mean and the standard deviation of the sample,
        which divides by n - 1 and is None for one seed.

    Raises:
        BadInput: If two runs of one combination differ in more than the seed.
    """
    groups: dict[tuple, list[Run]] = {}
    for run in finished:
        key = tuple(run.config[name] for name in ("model_name", "dims", "task_weights"))
        groups.setdefault(key, []).append(run)
    lines = []
    for (model, dims, weight), runs in groups.items():
        for run in runs[1:]:
            _require_same_flags(runs[0], run)
        metrics = [run.result["metrics"] for run in runs]
        line = {"model_name": model, "dims": dims, "task_weight": weight, "seeds": len(metrics)}
        for name in metrics[0]:
            values = np.array([each[name] for each in metrics])
            line[name] = float(values.mean())
            line[f"{name}_std"] = float(values.std(ddof=1)) if values.size > 1 else None
        lines.append(line)
    return lines


def write(lines: Sequence[Line], path: Path) -> None:
    """Writes the lines as CSV; what a line does not have is an empty cell.

    Args:
        lines: As `collect` gives them.
        path: The file.
    """
    names = dict.fromkeys(name for line in lines for name in line)
    with replacing(path) as partial, open(partial, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(lines)


def text(lines: Sequence[Line]) -> str:
    """Lays the lines out as text.

    Args:
        lines: As `collect` gives them.

    Example:

    >>> line = {"model_name": "hpn", "dims": 9, "task_weight": None, "seeds": 2,
    ...         "test_accuracy": 0.85, "test_accuracy_std": 0.0707, "test_mae": 3.5,
    ...         "test_mae_std": 0.25}
    >>> print(text([line, {**line, "seeds": 1, "test_accuracy_std": None, "test_mae_std": None}]))
    model_name  dims  task_weight  seeds  test_accuracy      test_mae
    hpn            9                   2   85.00 ± 7.07  3.500 ± 0.250
    hpn            9                   1          85.00          3.500
    """
    reported = [name for name in _REPORTED if name in lines[0]]
    table = [["model_name", "dims", "task_weight", "seeds", *reported]]
    for line in lines:
        cells = [line[name] for name in table[0][:4]]
        table.append(
            ["" if cell is None else str(cell) for cell in cells]
            + [_spread(name, line) for name in reported]
        )
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return "\n".join(
        "  ".join(
            [row[0].ljust(widths[0])]
            + [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        )
        for row in table
    )


def draw(lines: Sequence[Line], path: Path, title: str) -> None:
    """Draws every reported metric over the task weights if there are several, else over the dims.

    A line without dims, the baseline's, is a level across the figure.

    Args:
        lines: As `collect` gives them.
        path: The PNG.
        title: A title for the figure.
    """
    across = "task_weight" if len({line["task_weight"] for line in lines}) > 1 else "dims"
    panels: dict[str, dict[str, list[tuple]]] = {}
    for name in (name for name in _REPORTED if name in lines[0]):
        scale = 100 if name.endswith("accuracy") else 1
        series = panels.setdefault(name.replace("_", " "), {})
        for line in lines:
            label = str(line["model_name"])
            if across == "task_weight" and line["dims"] is not None:
                label += f", {line['dims']} dims"
            spread = (line[f"{name}_std"] or 0.0) * scale
            series.setdefault(label, []).append((line[across], line[name] * scale, spread))
    figures.draw_series(panels, across.replace("_", " "), path, title)


def report(finished: Sequence[Run], out: Path, title: str) -> None:
    """Writes `table.csv` and `comparison.png`, and prints the table.

    Args:
        finished: Complete runs of one task.
        out: The folder to write to.
        title: A title for the figure.
    """
    lines = collect(finished)
    write(lines, out / "table.csv")
    draw(lines, out / "comparison.png", title)
    print(f"\n{text(lines)}\n\nTable and figure: {out}/table.csv, {out}/comparison.png")


def main(argv: Sequence[str] | None = None) -> None:
    """Makes a table of complete runs.

    Args:
        argv: The flags; those of the process by default.

    Raises:
        BadInput: If a folder holds no complete run of the program, or the runs have two tasks.
    """
    parser = LineParser(
        prog="benchmarks/hpn_table.py",
        description="Makes table.csv and comparison.png of complete runs of benchmarks/hpn.py.",
        allow_abbrev=False,
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="the folder of a run")
    parser.add_argument("--out", required=True, help="the folder to write to")
    args = parser.parse_args(argv)
    finished = [Run.resume(folder) for folder in args.runs]
    for run in finished:
        if run.config.get("program") != "benchmarks/hpn.py" or not run.finished:
            raise BadInput(f"{run.folder} is not a complete run of benchmarks/hpn.py")
    tasks = sorted({run.config["task"] for run in finished})
    if len(tasks) > 1:
        raise BadInput(f"The runs must be of one task. Received: {', '.join(tasks)}")
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    report(finished, out, tasks[0])


def _require_same_flags(first: Run, other: Run) -> None:
    """Raises a `BadInput` if two runs differ in more than the seed."""
    for name in first.config.keys() - {"seed", "versions"}:
        if first.config[name] != other.config.get(name):
            raise BadInput(
                f"Runs of one line must differ in their seeds only. Received: --{name} "
                f"{first.config[name]} in {first.folder} and {other.config.get(name)} in "
                f"{other.folder}"
            )


def _spread(name: str, line: Line) -> str:
    scale, digits = (100, 2) if name.endswith("accuracy") else (1, 3)
    mean = f"{line[name] * scale:.{digits}f}"
    spread = line[f"{name}_std"]
    return mean if spread is None else f"{mean} ± {spread * scale:.{digits}f}"


if __name__ == "__main__":
    sys.exit(program(main))
