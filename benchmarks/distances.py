"""Times distances to prototypes against the matrix product that they need.

On the backend that `KERAS_BACKEND` names it alternates between

    product     embeddings times transposed prototypes
    euclidean   `mhe.layers.distances`, and likewise each of the other distances

once for the value alone, and once with the gradient of the sum of its squares with respect to the
prototypes, which for the product is another product. Prototypes are normal random numbers, and so
are embeddings that are `far` from all of them; a `near` embedding is a prototype plus noise of a
twentieth of its length, which makes distances sensitive to rounding. Prints the median of each with
its ratio to the product of the same embeddings, and writes a CSV.
"""

import functools
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

if __name__ == "__main__":
    from mhe_startup import start

    start(__file__)

import numpy as np
from keras import ops
from timing import backend
from timing.energies import normal_layer
from timing.flags import add_rounds, timing_parser
from timing.results import Row, new_csv
from timing.rounds import compared, interleaved, paired

from mhe.harness.errors import within_memory
from mhe.harness.files import write_csv
from mhe.harness.flags import ANY_DIMS, COUNT, LineParser, program
from mhe.harness.tables import text_table
from mhe.layers import distances
from mhe.layers.distance import DISTANCES
from mhe.types import Tensor

PLACED = ("far", "near")

COLUMNS = (
    *("backend", "device", "embeddings", "classes", "dims", "placed", "method", "mode"),
    *("as_keras", "gradient", "median_ms", "min_ms", "spread_ms", "rounds"),
    *("ratio", "ratio_low", "ratio_high"),
)


def make_parser() -> LineParser:
    """Returns the parser of this program's flags."""
    parser = timing_parser(
        "distances",
        "Times distances to prototypes against the matrix product that they need.",
        out="folder for the results; those of other backends are kept",
        seeded="embeddings and prototypes",
    )
    add_rounds(parser, 25, 60.0, "gradient, place and way to compile")
    parser.add_argument("--embeddings", type=COUNT, default=256, help="number of embeddings")
    parser.add_argument("--classes", type=COUNT, default=10000, help="number of prototypes")
    parser.add_argument("--dims", type=ANY_DIMS, default=512, help="dimensions of both")
    parser.add_argument(
        "--distances", nargs="+", choices=DISTANCES, default=DISTANCES, help="the distances"
    )
    parser.add_argument(
        "--placed",
        nargs="+",
        choices=PLACED,
        default=PLACED,
        help="far from all prototypes, or each near one",
    )
    return parser


def functions(
    embeddings: Tensor, names: Sequence[str], gradient: bool
) -> dict[str, Callable[[Tensor], Tensor]]:
    """Returns functions of prototypes by name, with `gradient` the sums of their squares.

    Example:

    >>> compared = functions(np.ones((1, 2), "float32"), ["squared"], gradient=False)
    >>> {name: round(float(each(3 * ops.ones((1, 2)))[0, 0])) for name, each in compared.items()}
    {'product': 6, 'squared': 8}
    """
    embeddings = ops.convert_to_tensor(embeddings)
    values: dict[str, Callable[[Tensor], Tensor]] = {
        "product": lambda p: ops.matmul(embeddings, ops.transpose(p)),
        **{name: functools.partial(_distances, embeddings, name) for name in names},
    }
    if not gradient:
        return values
    return {name: functools.partial(_sum_of_squares, each) for name, each in values.items()}


def _distances(embeddings: Tensor, name: str, prototypes: Tensor) -> Tensor:
    return distances(embeddings, prototypes, name)


def _sum_of_squares(function: Callable[[Tensor], Tensor], prototypes: Tensor) -> Tensor:
    return ops.sum(ops.square(function(prototypes)))


def measure(flags: Mapping[str, Any], placed: str, gradient: bool) -> list[Row]:
    """Times all functions in turn, for each way to compile.

    Args:
        flags: The flags of this program. With a seed as `order` the calls of a round are timed in
            random order.
        placed: Whether embeddings are `"far"` from all prototypes or `"near"` to one each.
        gradient: Whether to compute the gradient with respect to the prototypes too.

    Returns:
        A row per function, with the ratio of its median to that of the product compiled alike, and
        the quartiles of the ratios round by round.
    """
    prototypes = normal_layer(flags["classes"], flags["dims"], flags["seed"])
    embeddings = normal_layer(flags["embeddings"], flags["dims"], flags["seed"] + 1)
    if placed == "near":
        own = np.arange(len(embeddings)) % len(prototypes)
        embeddings = prototypes[own] + np.float32(0.05) * embeddings
    measured = functions(embeddings, flags["distances"], gradient)
    rows = []
    for mode in backend.modes():
        calls = {
            name: backend.compiled(function, prototypes, mode, gradient)
            for name, function in measured.items()
        }
        times = interleaved(calls, flags["rounds"], flags["seconds"], seed=flags.get("order"))
        pairs = paired(times, "product")
        for name, numbers in compared(times).items():
            row = {
                "backend": backend.BACKEND,
                "device": backend.device(),
                **{size: flags[size] for size in ("embeddings", "classes", "dims")},
                "placed": placed,
                "method": name,
                "mode": mode,
                "as_keras": mode == backend.keras_mode(),
                "gradient": gradient,
            }
            rows.append({**row, **pairs[name], **numbers})
    return rows


def table(rows: Sequence[Row]) -> str:
    """Returns the rows as text.

    Example:

    >>> row = {"method": "huber", "mode": "XLA", "gradient": True, "median_ms": 2.5, "ratio": 1.2}
    >>> print(table([{**row, "placed": "far", "spread_ms": 0.1}]))
    method       placed  gradient  median, ms  spread, ms  ratio
    huber (XLA)     far       yes       2.500       0.100   1.20
    """
    cells = [
        [
            backend.titled(row["method"], row["mode"]),
            row["placed"],
            "yes" if row["gradient"] else "no",
            f"{row['median_ms']:.3f}",
            f"{row['spread_ms']:.3f}",
            f"{row['ratio']:.2f}",
        ]
        for row in rows
    ]
    header = ["method", "placed", "gradient", "median, ms", "spread, ms", "ratio"]
    return text_table(cells, header)


def main(argv: Sequence[str] | None = None) -> None:
    """Measures what the flags ask for, prints the table, and writes the numbers to the folder.

    Args:
        argv: The flags; those of the process by default.
    """
    flags = vars(make_parser().parse_args(argv))
    path = new_csv(flags["out"], backend.BACKEND)
    rows: list[Row] = []
    sizes = " ".join(f"--{name} {flags[name]}" for name in ("embeddings", "classes", "dims"))
    with within_memory(sizes):
        for placed in flags["placed"]:
            rows += measure(flags, placed, gradient=False) + measure(flags, placed, gradient=True)
    write_csv(path, rows, COLUMNS)
    print(f"{backend.BACKEND} on {backend.device()}\n{table(rows)}\n\nNumbers in {path}")


if __name__ == "__main__":
    sys.exit(program(main))
