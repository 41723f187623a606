"""Measures what sampling costs in accuracy, and what it saves in time and memory.

For `mhe.MHE(sample=k)` it prints and writes

    deviations.csv   the standard deviation of the estimate as a share of the exact energy, with the
                     control variate and as published (the mean over the sample alone), for each
                     power, distance, space and kind of neurons
    times.csv        one value and gradient of a wide layer, exact and sampled, in turn
    memory.csv       the peak memory of one sampled value and gradient, in a process of its own; of
                     layers too wide for the exact energy, too, if `--sampled_only` names some
"""

import importlib.util
import itertools
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

# Nothing is computed in this process, but Keras needs an installed backend.
os.environ.setdefault(
    "KERAS_BACKEND",
    next(filter(importlib.util.find_spec, ("tensorflow", "jax", "torch")), "tensorflow"),
)
if __name__ == "__main__":
    from mhe_startup import start

    start(__file__)

import keras
from timing.flags import add_rounds, numbers, size, timing_parser
from timing.report import memory_table
from timing.results import Results, Row, progress, variant

from mhe.energy import DISTANCES, SPACES
from mhe.harness.flags import SEVERAL, LineParser, number, program
from mhe.harness.tables import text_table

KINDS = ("random", "clustered")
SIZES = ("dims", "neurons")
CASE = ("backend", "device", *SIZES, "space", "distance", "s", "sample")
COLUMNS = {
    "deviations": (*CASE, "kind", "draws", "method", "exact", "bias", "deviation"),
    "times": (*CASE, "method", "median_ms", "min_ms", "spread_ms", "rounds", "ratio"),
    "memory": (*CASE, "seconds", "memory_mib", "note"),
}


def make_parser() -> LineParser:
    """Returns the parser of this program's flags."""
    parser = timing_parser(
        "sampled_energy",
        "Measures the accuracy, time and memory of sampled energies.",
        out="folder for the results, new or empty",
        seeded="weights",
    )
    add_rounds(parser, 3, 60.0, "wide layer")
    layer = size("dimensions x neurons", "512x10575")
    parser.add_argument("--layer", type=layer, default="512x10575", help="layer of the deviations")
    parser.add_argument("--sample", type=SEVERAL, default=256, help="number of neurons to draw")
    parser.add_argument("--draws", type=SEVERAL, default=100, help="number of sampled energies")
    parser.add_argument(
        "--kinds", nargs="*", choices=KINDS, default=KINDS, help="kinds of neurons, if any"
    )
    parser.add_argument("--spaces", nargs="+", choices=SPACES, default=SPACES, help="the spaces")
    parser.add_argument(
        "--distances", nargs="+", choices=DISTANCES, default=DISTANCES, help="the distances"
    )
    parser.add_argument(
        "--powers", nargs="+", type=number(0), default=[0, 1, 2], help="powers s of the potential"
    )
    parser.add_argument(
        "--wide",
        nargs="*",
        type=layer,
        metavar="LAYER",
        default=["512x100000"],
        help="layers to time against the exact energy, if any; Euclidean, half space, s = 2",
    )
    parser.add_argument(
        "--sampled_only",
        nargs="*",
        type=layer,
        metavar="LAYER",
        help="layers to measure without the exact energy, such as 512x1000000 (default: none)",
    )
    return parser


def measure_deviations(flags: Mapping[str, Any], output: Results) -> list[Row]:
    """Returns a row for each energy, kind of neurons and estimate."""
    job = {"task": "deviations", **{name: flags[name] for name in ("seed", "draws")}}
    cases = [
        {**shape(flags["layer"]), "kind": kind, **energy, "sample": flags["sample"]}
        for kind, energy in itertools.product(flags["kinds"], energies(flags))
    ]
    return measure("deviations", job, cases, output, {"draws": flags["draws"]})


def measure_wide(flags: Mapping[str, Any], output: Results) -> tuple[list[Row], list[Row]]:
    """Returns the rows of times and of memory."""
    energy = {"space": "half", "distance": "euclidean", "s": 2, "sample": flags["sample"]}
    job = {name: flags[name] for name in ("seed", "rounds", "seconds")}
    timed = [{**shape(layer), **energy} for layer in flags["wide"]]
    times = measure("times", {**job, "task": "estimates"}, timed, output)
    layers = dict.fromkeys((*flags["wide"], *(flags["sampled_only"] or ())))
    memory: list[Row] = []
    for layer in layers:  # One process each: a peak cannot be reset everywhere.
        case = {**shape(layer), **energy, "name": "sampled"}
        memory += measure("memory", {**job, "task": "peak"}, [case], output, before=memory)
    return times, memory


def measure(
    name: str,
    job: Mapping[str, Any],
    cases: Sequence[Row],
    output: Results,
    known: Mapping[str, Any] | None = None,
    before: Sequence[Row] = (),
) -> list[Row]:
    """Measures cases, and writes the rows so far to a CSV after each.

    Args:
        name: The name of the CSV.
        job: The options of all cases.
        cases: What to measure.
        output: The folder.
        known: Columns of every row.
        before: Rows of the CSV that are there already.
    """
    rows: list[Row] = []
    with progress(len(cases)) as bar:
        for measured in output.measure(keras.backend.backend(), job, cases, bar) if cases else ():
            rows += [{**row, **(known or {})} for row in measured]
            output.write(name, [*before, *rows])
    return rows


def energies(flags: Mapping[str, Any]) -> list[Row]:
    """Returns the columns of each energy."""
    powers = [int(s) if s == int(s) else s for s in flags["powers"]]
    return [
        {"space": space, "distance": distance, "s": s}
        for space, distance, s in itertools.product(flags["spaces"], flags["distances"], powers)
    ]


def shape(layer: str) -> Row:
    """Returns the columns of a layer such as `"512x4096"`.

    Example:

    >>> shape("512x4096")
    {'dims': 512, 'neurons': 4096}
    """
    return dict(zip(SIZES, numbers(layer), strict=True))


def deviation_table(rows: Sequence[Row]) -> str:
    """Returns the standard deviations as text, those of both estimates side by side.

    Args:
        rows: The rows of `deviations.csv`.

    Example:

    >>> case = {"kind": "random", "space": "half", "distance": "angle", "s": 2}
    >>> both = [{"method": "control variate", "deviation": 2e-7}, {"method": "plain"}]
    >>> both[1]["deviation"] = 1e-5
    >>> print(deviation_table([{**case, **each} for each in both]))
    neurons  energy   control variate    plain  plain/control variate
    random   half a2          2.0e-07  1.0e-05                     50
    """
    lines = []
    notes = [f"{row['kind']} {variant(row)}: {row['note']}" for row in rows if "note" in row]
    kept = [row for row in rows if "note" not in row]
    for ours, plain in zip(kept[::2], kept[1::2], strict=True):
        ratio = plain["deviation"] / ours["deviation"] if ours["deviation"] else float("inf")
        shares = [f"{row['deviation']:.1e}" for row in (ours, plain)]
        lines.append([ours["kind"], variant(ours), *shares, f"{ratio:.0f}"])
    header = ["neurons", "energy", "control variate", "plain", "plain/control variate"]
    return "\n".join([text_table(lines, header, left=(0, 1)), *notes])


def time_table(rows: Sequence[Row]) -> str:
    """Returns the seconds of one value and gradient as text, with the share of the exact one's.

    Args:
        rows: The rows of `times.csv`.

    Example:

    >>> case = {"dims": 512, "neurons": 9000, "sample": 64}
    >>> rows = [{**case, "method": "exact", "median_ms": 9000.0, "ratio": 1.0},
    ...         {**case, "method": "sampled", "median_ms": 90.0, "ratio": 0.01}]
    >>> print(time_table(rows))
    layer     sample   method  seconds   share
    512x9000      64    exact     9.00  100.0%
    512x9000      64  sampled     0.09    1.0%
    """
    lines = []
    notes = []
    for row in rows:
        layer = f"{row['dims']}x{row['neurons']}"
        if "note" in row:
            notes.append(f"{layer}: {row['note']}")
            continue
        seconds, share = f"{row['median_ms'] / 1000:.2f}", f"{100 * row['ratio']:.1f}%"
        lines.append([layer, str(row["sample"]), row["method"], seconds, share])
    header = ["layer", "sample", "method", "seconds", "share"]
    return "\n".join([text_table(lines, header), *notes])


def main(argv: Sequence[str] | None = None) -> None:
    """Measures what the flags ask for, prints the tables, and writes the numbers to the folder.

    Args:
        argv: The flags; those of the process by default.
    """
    flags = vars(make_parser().parse_args(argv))
    output = Results(flags["out"], COLUMNS)
    if flags["kinds"]:
        print(f"{deviation_table(measure_deviations(flags, output))}\n", flush=True)
    if flags["wide"] or flags["sampled_only"]:
        times, memory = measure_wide(flags, output)
        print(*filter(None, (times and time_table(times), memory_table(memory))), sep="\n\n")
    print(f"\nNumbers in {output.folder}")


if __name__ == "__main__":
    sys.exit(program(main))
