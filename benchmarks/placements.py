"""Places prototypes by every method, and compares their separation.

For each size and method it reports the largest cosine, the lower bound on it, the seconds (of one
core with OMP_NUM_THREADS=1), the origin of the prototypes, and the ratio to the cosine of the
published search. Rows go to a CSV as they are measured; for the first of the methods the cosines of
all pairs are drawn as a histogram.
"""

import sys
import time
from collections.abc import Sequence

if __name__ == "__main__":
    from mhe_startup import start

    start(__file__)

import numpy as np
from timing.flags import numbers, size, timing_parser
from timing.results import Row, new_folder

from mhe.harness import figures
from mhe.harness.errors import BadInput
from mhe.harness.files import replacing, write_csv
from mhe.harness.flags import LineParser, program
from mhe.harness.tables import text_table
from mhe.prototypes import METHODS, cosine_lower_bound, find, separation

SIZES = ("100x10", "100x25", "100x50", "200x10", "200x50", "1000x100")
COLUMNS = ("classes", "dims", "method", "cosine", "bound", "seconds", "evaluations", "origin")


def make_parser() -> LineParser:
    """Returns the parser of this program's flags."""
    parser = timing_parser(
        "placements",
        "Places prototypes by every method, and compares their largest cosines.",
        out="folder for the results, new or empty",
        seeded="starts",
    )
    pair = size("classes x dimensions", "100x10")
    parser.add_argument("--sizes", nargs="+", type=pair, default=SIZES, help="classes x dimensions")
    parser.add_argument(
        "--methods",
        nargs="+",
        choices=METHODS,
        default=["auto", "lbfgs", "sgd"],
        help="the methods",
    )
    return parser


def measure(classes: int, dims: int, method: str, seed: int) -> tuple[Row, np.ndarray]:
    """Places prototypes once and measures them.

    Args:
        classes: Number of prototypes.
        dims: Dimensions of their space.
        method: One of `mhe.prototypes.METHODS`.
        seed: Random seed.

    Returns:
        The row of the table and the prototypes.
    """
    began = time.perf_counter()
    placement = find(classes, dims, method, seed, progress=sys.stderr.isatty())
    seconds = time.perf_counter() - began
    row = {
        "classes": classes,
        "dims": dims,
        "method": method,
        "cosine": separation(placement.prototypes),
        "bound": cosine_lower_bound(classes, dims),
        "seconds": round(seconds, 2),
        "evaluations": placement.evaluations,
        "origin": placement.origin,
    }
    return row, placement.prototypes


def table(rows: Sequence[Row]) -> str:
    """Returns the rows as text, with the ratio of each cosine to the published method's.

    Example:

    >>> row = {"classes": 7, "dims": 3, "cosine": 0.25, "bound": 0.2, "seconds": 1.0}
    >>> print(table([{**row, "method": "sgd", "origin": "sgd from a random start"}]))
    classes  dims  method    cosine     bound  of sgd  seconds  origin
          7     3  sgd     0.250000  0.200000   1.000      1.0  sgd from a random start
    """
    published = {
        (row["classes"], row["dims"]): row["cosine"] for row in rows if row["method"] == "sgd"
    }
    cells = []
    for row in rows:
        sgd = published.get((row["classes"], row["dims"]))
        cells.append(
            [
                *(str(row["classes"]), str(row["dims"]), row["method"]),
                *(f"{row['cosine']:.6f}", f"{row['bound']:.6f}"),
                f"{row['cosine'] / sgd:.3f}" if sgd else "-",
                *(f"{row['seconds']:.1f}", row["origin"]),
            ]
        )
    header = ["classes", "dims", "method", "cosine", "bound", "of sgd", "seconds", "origin"]
    return text_table(cells, header, left=(2, 7))


def main(argv: Sequence[str] | None = None) -> None:
    """Measures what the flags ask for, prints the table, and writes the numbers to the folder.

    Args:
        argv: The flags; those of the process by default.
    """
    flags = make_parser().parse_args(argv)
    figures.require_matplotlib()
    folder = new_folder(flags.out)
    rows: list[Row] = []
    for name in flags.sizes:
        classes, dims = numbers(name)
        for method in flags.methods:
            try:
                row, prototypes = measure(classes, dims, method, flags.seed)
            except (ValueError, ImportError, MemoryError) as error:
                raise BadInput(f"--methods {method} --sizes {name}: {error}") from error
            rows.append(row)
            if method == flags.methods[0]:
                title = f"{classes} prototypes in {dims} dimensions: {row['origin']}"
                path = folder / f"cosines-{name}.png"
                figures.draw_cosines(prototypes, path, row["bound"], title)
            write_csv(folder / "placements.csv", rows, COLUMNS)
            print(f"{name} {method}: largest cosine {row['cosine']:.6f}", flush=True)
    with replacing(folder / "table.txt") as partial:
        partial.write_text(table(rows) + "\n", "utf-8")
    print(f"\n{table(rows)}\n\nNumbers in {folder}")


if __name__ == "__main__":
    sys.exit(program(main))
