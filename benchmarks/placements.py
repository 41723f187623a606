"""Places prototypes in every way there is, and shows how far apart they come to stand.

For each size and method a row: the largest cosine, the lower bound that no placement can be below,
the seconds it took (of one core with OMP_NUM_THREADS=1), what the prototypes come from, and the
ratio to what the published search reached. Rows go to a CSV as they are measured; for the first of
the methods the cosines of all pairs are drawn as a histogram.
"""

import argparse
import csv
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mhe.harness import figures
from mhe.harness.errors import BadInput
from mhe.harness.files import replacing
from mhe.harness.flags import LineParser, integer, program
from mhe.prototypes import METHODS, cosine_lower_bound, find, separation

Row = dict[str, Any]

SIZES = ("100x10", "100x25", "100x50", "200x10", "200x50", "1000x100")
COLUMNS = ("classes", "dims", "method", "cosine", "bound", "seconds", "evaluations", "origin")


def make_parser() -> LineParser:
    """Returns the parser of this program's flags."""
    parser = LineParser(
        prog="benchmarks/placements.py",
        description="Places prototypes by every method, and compares their largest cosines.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--sizes", nargs="+", type=size, default=SIZES, help="classes x dimensions")
    parser.add_argument(
        "--methods",
        nargs="+",
        choices=METHODS,
        default=["auto", "lbfgs", "sgd"],
        help="the ways to place them",
    )
    parser.add_argument("--seed", type=integer(0, 2**32 - 1), default=0, help="seed of all starts")
    parser.add_argument(
        "--out", default="runs/placements", help="folder for the results, new or empty"
    )
    return parser


def size(text: str) -> str:
    """Argparse type: a size such as `"100x10"`, classes x dimensions.

    Example:

    >>> size("100x10")
    '100x10'
    """
    parts = text.split("x")
    if len(parts) != 2 or not all(part.isdecimal() and int(part) >= 2 for part in parts):
        raise argparse.ArgumentTypeError(
            f"must be classes x dimensions, such as 100x10, at least 2 each. Received: {text}"
        )
    return text


def measure(classes: int, dims: int, method: str, seed: int) -> tuple[Row, np.ndarray]:
    """Places prototypes once, and measures them.

    Args:
        classes: How many.
        dims: Of their space.
        method: One of `mhe.prototypes.METHODS`.
        seed: Seeds what is random.

    Returns:
        The row of the table and the prototypes.
    """
    began = time.perf_counter()
    found = find(classes, dims, method, seed, progress=sys.stderr.isatty())
    seconds = time.perf_counter() - began
    row = {
        "classes": classes,
        "dims": dims,
        "method": method,
        "cosine": separation(found.prototypes),
        "bound": cosine_lower_bound(classes, dims),
        "seconds": round(seconds, 2),
        "evaluations": found.evaluations,
        "origin": found.origin,
    }
    return row, found.prototypes


def table(rows: Sequence[Row]) -> str:
    """The rows as text, each size with its methods' largest cosines beside the published one's.

    Example:

    >>> row = {"classes": 7, "dims": 3, "cosine": 0.25, "bound": 0.2, "seconds": 1.0}
    >>> print(table([{**row, "method": "sgd", "origin": "sgd from a random start"}]))
    classes   dims  method       cosine     bound     of sgd   seconds  origin
          7      3  sgd        0.250000  0.200000      1.000       1.0  sgd from a random start
    """
    published = {
        (row["classes"], row["dims"]): row["cosine"] for row in rows if row["method"] == "sgd"
    }
    lines = [
        f"{'classes':>7} {'dims':>6}  {'method':<9} {'cosine':>9} {'bound':>9} {'of sgd':>10}"
        f" {'seconds':>9}  origin"
    ]
    for row in rows:
        sgd = published.get((row["classes"], row["dims"]))
        ratio = f"{row['cosine'] / sgd:.3f}" if sgd else "-"
        lines.append(
            f"{row['classes']:>7} {row['dims']:>6}  {row['method']:<9} {row['cosine']:>9.6f}"
            f" {row['bound']:>9.6f} {ratio:>10} {row['seconds']:>9.1f}  {row['origin']}"
        )
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    """Measures what the flags say, prints the table, and leaves the numbers in the folder.

    Args:
        argv: The flags; those of the process by default.
    """
    flags = make_parser().parse_args(argv)
    figures.require_matplotlib()
    folder = Path(flags.out)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise BadInput(f"--out {folder} is not empty, and nothing in it is overwritten")
    except OSError as error:
        raise BadInput(f"--out {folder} cannot be written to: {error.strerror}") from error
    rows: list[Row] = []
    for name in flags.sizes:
        classes, dims = map(int, name.split("x"))
        for method in flags.methods:
            try:
                row, prototypes = measure(classes, dims, method, flags.seed)
            except (ValueError, ImportError) as error:
                raise BadInput(f"--methods {method} --sizes {name}: {error}") from error
            rows.append(row)
            if method == flags.methods[0]:
                title = f"{classes} prototypes in {dims} dimensions: {row['origin']}"
                path = folder / f"cosines-{name}.png"
                figures.draw_cosines(prototypes, path, row["bound"], title)
            with (
                replacing(folder / "placements.csv") as partial,
                open(partial, "w", newline="", encoding="utf-8") as file,
            ):
                writer = csv.DictWriter(file, COLUMNS)
                writer.writeheader()
                writer.writerows(rows)
            print(table(rows[-1:]).splitlines()[-1], flush=True)
    with replacing(folder / "table.txt") as partial:
        partial.write_text(table(rows) + "\n", "utf-8")
    print(f"\n{table(rows)}\n\nNumbers in {folder}")


if __name__ == "__main__":
    sys.exit(program(main))
