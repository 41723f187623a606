"""Times distances to prototypes against the matrix product that they need.

On the backend that `KERAS_BACKEND` names it takes turns between

    product     embeddings times transposed prototypes, and nothing else
    euclidean   `mhe.layers.distances`, and so for each of the other distances

once for the value alone, and once with the gradient of its squares along the prototypes, where the
product has a gradient of its own, which is another product. Prototypes are normal numbers. So are
embeddings that are `far` from all of them; those that are `near` are a prototype each, off by a
twentieth of its length, so that their distances have to be found with care. Prints the median of
each with its ratio to the product of the same embeddings, and writes a CSV.
"""

import argparse
import csv
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from keras import ops
from timing import backend
from timing.worker import interleaved, normal_layer, summary

from mhe.harness.errors import BadInput
from mhe.harness.files import replacing
from mhe.harness.flags import LineParser, integer, number, program
from mhe.layers import distances
from mhe.layers.distance import DISTANCES

Row = dict[str, Any]

PLACED = ("far", "near")

COLUMNS = (
    *("backend", "device", "embeddings", "classes", "dims", "placed", "method", "mode"),
    *("as_keras", "gradient", "median_ms", "min_ms", "spread_ms", "rounds", "ratio"),
)


def make_parser() -> LineParser:
    """Returns the parser of this program's flags."""
    parser = LineParser(
        prog="benchmarks/distances.py",
        description="Times distances to prototypes against the matrix product that they need.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    positive = integer(1)
    parser.add_argument("--embeddings", type=positive, default=256, help="how many embeddings")
    parser.add_argument("--classes", type=positive, default=10000, help="how many prototypes")
    parser.add_argument("--dims", type=positive, default=512, help="numbers in each of them")
    parser.add_argument(
        "--distances", nargs="+", choices=DISTANCES, default=DISTANCES, help="which distances"
    )
    parser.add_argument(
        "--placed", nargs="+", choices=PLACED, default=PLACED, help="where the embeddings are"
    )
    parser.add_argument(
        "--rounds", type=positive, default=25, help="how often each call is timed at most"
    )
    parser.add_argument(
        "--seconds",
        type=number(0, above=True),
        default=60.0,
        help="no round begins when so many have passed, for values and for gradients, far and "
        "near, in each way to compile; three there are",
    )
    parser.add_argument("--seed", type=integer(0, 2**32 - 1), default=0, help="seed of the numbers")
    parser.add_argument(
        "--out", default="runs/distances", help="folder for the results; other backends' are kept"
    )
    return parser


def functions(
    embeddings: np.ndarray, names: Sequence[str], gradient: bool
) -> dict[str, Callable[[Any], Any]]:
    """What is compared, by name: functions of prototypes, of their squares' sum if `gradient`.

    Example:

    >>> compared = functions(np.ones((1, 2), "float32"), ["squared"], gradient=False)
    >>> {name: round(float(each(3 * ops.ones((1, 2)))[0, 0])) for name, each in compared.items()}
    {'product': 6, 'squared': 8}
    """
    embeddings = ops.convert_to_tensor(embeddings)
    values = {"product": lambda p: ops.matmul(embeddings, ops.transpose(p))}
    for name in names:
        values[name] = lambda p, name=name: distances(embeddings, p, name)
    if not gradient:
        return values
    return {name: lambda p, f=each: ops.sum(ops.square(f(p))) for name, each in values.items()}


def measure(flags: Mapping[str, Any], placed: str, gradient: bool) -> list[Row]:
    """Times all of them in turn, one way to compile after the other.

    Args:
        flags: The flags of this program.
        placed: Whether embeddings are `"far"` from all prototypes or `"near"` to one each.
        gradient: Whether the gradient along the prototypes is computed with the value.

    Returns:
        A row for each, with the ratio of its median to that of the product compiled alike.
    """
    prototypes = normal_layer(flags["classes"], flags["dims"], flags["seed"])
    embeddings = normal_layer(flags["embeddings"], flags["dims"], flags["seed"] + 1)
    if placed == "near":
        own = np.arange(len(embeddings)) % len(prototypes)
        embeddings = prototypes[own] + np.float32(0.05) * embeddings
    compared = functions(embeddings, flags["distances"], gradient)
    rows = []
    for mode in backend.modes():
        calls = {
            name: backend.compiled(function, prototypes, mode, gradient)
            for name, function in compared.items()
        }
        times = interleaved(calls, flags["rounds"], flags["seconds"])
        product = summary(times["product"])["median_ms"]
        for name, each in times.items():
            found = summary(each)
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
            rows.append({**row, **found, "ratio": round(found["median_ms"] / product, 3)})
    return rows


def table(rows: Sequence[Row]) -> str:
    """The rows as text.

    Example:

    >>> row = {"method": "huber", "mode": "XLA", "gradient": True, "median_ms": 2.5, "ratio": 1.2}
    >>> print(table([{**row, "placed": "far", "spread_ms": 0.1}]))
    method           placed gradient    median, ms   spread, ms    ratio
    huber (XLA)         far      yes         2.500        0.100     1.20
    """
    lines = [
        f"{'method':<16} {'placed':>6} {'gradient':>8} {'median, ms':>13} {'spread, ms':>12}"
        f" {'ratio':>8}"
    ]
    for row in rows:
        title = f"{row['method']} ({row['mode']})" if row["mode"] else row["method"]
        lines.append(
            f"{title:<16} {row['placed']:>6} {'yes' if row['gradient'] else 'no':>8}"
            f" {row['median_ms']:>13.3f} {row['spread_ms']:>12.3f} {row['ratio']:>8.2f}"
        )
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    """Measures what the flags say, prints the table, and leaves the numbers in the folder.

    Args:
        argv: The flags; those of the process by default.
    """
    flags = vars(make_parser().parse_args(argv))
    path = Path(flags["out"]) / f"{backend.BACKEND}.csv"
    if path.exists():
        raise BadInput(f"--out {flags['out']} has {path.name}, and nothing is overwritten")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"--out {flags['out']} cannot be written to: {error.strerror}") from error
    rows = []
    for placed in flags["placed"]:
        rows += measure(flags, placed, gradient=False) + measure(flags, placed, gradient=True)
    with (
        replacing(path) as partial,
        open(partial, "w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    print(f"{backend.BACKEND} on {backend.device()}\n{table(rows)}\n\nNumbers in {path}")


if __name__ == "__main__":
    sys.exit(program(main))
