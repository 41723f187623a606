"""Times the energy against the published formula and against two bare matrix products.

On every installed backend, in one process each, it alternates between

    kernel      value and gradient of `mhe.hyperspherical_energy`
    published   the paper's formula over one matrix of all pairs, differentiated by the backend
    floor       the two matrix products that every exact method needs, 4N²D operations

for each layer and each energy, and prints a table of the ratios, the memory, and the project's
targets beside the measurements. `--memory`, `--step`, `--sampling` and `--family` measure very wide
layers, whole training steps, the spread of sampled energies, and MHE's relatives instead.
"""

import argparse
import importlib.util
import itertools
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

# Nothing is computed in this process, but Keras needs an installed backend.
os.environ.setdefault(
    "KERAS_BACKEND",
    next(filter(importlib.util.find_spec, ("tensorflow", "jax", "torch")), "tensorflow"),
)
if __name__ == "__main__":
    from mhe_startup import start

    start(__file__)

from timing.flags import add_rounds, numbers, require_installed, size, timing_parser
from timing.report import (
    compare,
    draw,
    family_table,
    memory_table,
    sampling_table,
    step_table,
    table,
    targets,
)
from timing.results import Results, Row, progress

from mhe.harness import figures
from mhe.harness.flags import COUNT, SEVERAL, SIDE, WIDTH, LineParser, number, program

BACKENDS = ("tensorflow", "jax", "torch")
INSTALLED = [name for name in BACKENDS if importlib.util.find_spec(name)]
LAYERS = ("576x64", "1152x128", "2304x256", "4608x512", "512x4096", "512x10575")
SAMPLES = (64, 128, 256, 512, 1024, 2048)
FAMILY_LAYERS = ("2304x256", "4608x512")
STEP_BATCHES = {"cnn9": 128, "resnet50": 8}
COLUMNS = {
    "speed": [
        *("backend", "device", "dims", "neurons", "space", "distance", "s", "method", "as_keras"),
        *("median_ms", "min_ms", "spread_ms", "rounds", "memory_mib", "note"),
    ],
    "memory": ["backend", "device", "dims", "neurons", "seconds", "memory_mib", "note"],
    "step": [
        *("backend", "device", "model", "batch", "method"),
        *("median_ms", "min_ms", "spread_ms", "rounds", "note"),
    ],
    "family": [
        *("backend", "device", "dims", "neurons", "method"),
        *("median_ms", "min_ms", "spread_ms", "rounds", "ratio", "note"),
    ],
    "sampling": [
        *("backend", "kind", "dims", "neurons", "space", "sample", "draws"),
        *("exact", "bias", "deviation"),
    ],
}


# --- flags --------------------------------------------------------------------------------------


def make_parser() -> LineParser:
    """Returns the parser of this program's flags."""
    parser = timing_parser(
        "speed",
        "Times the energy against the published formula and two matrix products.",
        out="folder for the results, new or empty",
        seeded="weights",
    )
    add_rounds(parser, 25, 20.0, "layer and energy")
    layer = size("dimensions x neurons", "512x4096")
    parser.add_argument(
        "--backends",
        nargs="+",
        choices=BACKENDS,
        default=INSTALLED,
        help="the backends, one process each",
    )
    parser.add_argument(
        "--layers", nargs="+", type=layer, default=LAYERS, help="the layers, dimensions x neurons"
    )
    parser.add_argument(
        "--spaces", nargs="+", choices=["full", "half"], default=["full", "half"], help="the spaces"
    )
    parser.add_argument(
        "--distances",
        nargs="+",
        choices=["euclidean", "angle"],
        default=["euclidean", "angle"],
        help="the distances",
    )
    parser.add_argument(
        "--powers",
        nargs="+",
        type=number(0),
        default=[0, 1, 2],
        help="powers s of the potential",
    )
    parser.add_argument(
        "--memory_limit",
        type=number(0, above=True),
        metavar="GIB",
        default=argparse.SUPPRESS,
        help="skip the published formula where it would take more (default: three quarters of "
        "the free memory of the device)",
    )
    parser.add_argument(
        "--peaks",
        choices=["none", "some", "all"],
        default="some",
        help="measure the peak memory, in one process each, of no energy, of the Euclidean one "
        "with the last of the powers, or of all",
    )
    parser.add_argument(
        "--memory",
        nargs="+",
        type=layer,
        metavar="LAYER",
        default=argparse.SUPPRESS,
        help="instead: measure peak memory and seconds of one call of the kernel, full space, s=2, "
        "for layers such as 512x50000 512x100000",
    )
    parser.add_argument(
        "--step",
        nargs="*",
        choices=list(STEP_BATCHES),
        default=argparse.SUPPRESS,
        help="instead: time whole training steps of these networks, of all if none is named",
    )
    parser.add_argument(
        "--step_batch",
        type=COUNT,
        default=argparse.SUPPRESS,
        help="batch size of a step (default: 128 for cnn9, 8 for resnet50)",
    )
    parser.add_argument(
        "--step_side",
        type=SIDE,
        default=argparse.SUPPRESS,
        help="pixels per side of a step's images (default: 32 for cnn9, 224 for resnet50)",
    )
    parser.add_argument(
        "--width",
        type=WIDTH,
        default=1.0,
        help="factor on cnn9's filters",
    )
    parser.add_argument(
        "--sampling",
        nargs="*",
        type=SEVERAL,
        metavar="SAMPLE",
        default=argparse.SUPPRESS,
        help="instead: measure the spread of energies (s=2) of this many sampled neurons about the "
        "exact one; 64 128 ... 2048 if none is given. Uses the last of --layers",
    )
    parser.add_argument(
        "--family",
        nargs="*",
        type=layer,
        metavar="LAYER",
        default=argparse.SUPPRESS,
        help="instead: time MHE and its relatives on these layers; 2304x256 4608x512 if none is "
        "given",
    )
    parser.add_argument("--draws", type=SEVERAL, default=200, help="number of sampled energies")
    return parser


def measure_table(flags: Mapping[str, Any], output: Results) -> str:
    """Times kernel, published formula and floor for every layer and energy; writes CSV and PNG."""
    powers = [int(s) if s == int(s) else s for s in flags["powers"]]
    cases = [
        {**shape(layer), "space": space, "distance": distance, "s": s}
        for layer, space, distance, s in itertools.product(
            flags["layers"], flags["spaces"], flags["distances"], powers
        )
    ]
    rows: list[Row] = []
    job = {**common(flags), "rounds": flags["rounds"], "seconds": flags["seconds"]}
    with progress(len(cases) * len(flags["backends"])) as bar:
        for backend in flags["backends"]:
            for measured in output.measure(backend, {**job, "task": "times"}, cases, bar):
                rows += measured
                output.write("speed", rows)
    taking = [row for row in rows if takes_memory(row, flags["peaks"], powers[-1])]
    with progress(len(taking)) as bar:
        for row in taking:
            for (peak,) in output.measure(row["backend"], {**job, "task": "peak"}, [row], bar):
                row.update({name: peak[name] for name in ("memory_mib", "note") if name in peak})
            output.write("speed", rows)
    compared = compare(rows)
    draw(compared, output.folder / "speed.png")
    parts = []
    for backend in flags["backends"]:
        mine = [case for case in compared if case["backend"] == backend]
        device = output.machine["backends"][backend]["device"]
        parts.append(f"{backend} on {device}, ms\n{table(mine)}\n\n{targets(mine)}")
    return "\n\n".join(parts)


def takes_memory(row: Row, peaks: str, power: float) -> bool:
    """Whether `--peaks` asks for the memory of what was timed in a row; `power` is the last one."""
    if "median_ms" not in row or row["name"] == "floor":
        return False
    return peaks == "all" or (peaks, row["distance"], row["s"]) == ("some", "euclidean", power)


def measure_memory(flags: Mapping[str, Any], output: Results) -> str:
    """Measures one call of the kernel for very wide layers, in one process each."""
    rows: list[Row] = []
    energy = {"name": "kernel", "space": "full", "distance": "euclidean", "s": 2}
    cases = [shape(each) for each in flags["memory"]]
    with progress(len(cases) * len(flags["backends"])) as bar:
        for backend, case in itertools.product(flags["backends"], cases):
            job = {**common(flags), "task": "peak"}
            for measured in output.measure(backend, job, [{**energy, **case}], bar):
                rows += measured
                output.write("memory", rows)
    return memory_table(rows)


def measure_steps(flags: Mapping[str, Any], output: Results) -> str:
    """Times whole training steps without an energy, with MHE and as published."""
    rows: list[Row] = []
    job = {
        **common(flags),
        "task": "step",
        "rounds": flags["rounds"],
        "seconds": flags["seconds"],
        "width": flags["width"],
        "side": flags.get("step_side"),
    }
    cases = [
        {"model": model, "batch": flags.get("step_batch", STEP_BATCHES[model])}
        for model in flags["step"] or STEP_BATCHES
    ]
    with progress(len(cases) * len(flags["backends"])) as bar:
        for backend in flags["backends"]:
            for measured in output.measure(backend, job, cases, bar):
                rows += measured
                output.write("step", rows)
    return step_table(rows)


def measure_sampling(flags: Mapping[str, Any], output: Results) -> str:
    """Measures the spread of sampled energies on the first of the backends."""
    rows: list[Row] = []
    cases = [
        {**shape(flags["layers"][-1]), "kind": kind, "space": space, "sample": sample}
        for kind, space, sample in itertools.product(
            ("random", "clustered"), flags["spaces"], flags["sampling"] or SAMPLES
        )
    ]
    job = {**common(flags), "task": "sampling", "draws": flags["draws"]}
    with progress(len(cases)) as bar:
        for measured in output.measure(flags["backends"][0], job, cases, bar):
            rows += [{**row, "draws": flags["draws"]} for row in measured]
            output.write("sampling", rows)
    return sampling_table(rows)


def measure_family(flags: Mapping[str, Any], output: Results) -> str:
    """Times MHE and its relatives."""
    rows: list[Row] = []
    cases = [shape(layer) for layer in flags["family"] or FAMILY_LAYERS]
    job = {**common(flags), "task": "family"}
    job |= {name: flags[name] for name in ("rounds", "seconds")}
    with progress(len(cases) * len(flags["backends"])) as bar:
        for backend in flags["backends"]:
            for measured in output.measure(backend, job, cases, bar):
                rows += measured
                output.write("family", rows)
    return family_table(rows)


MEASURES: dict[str, Callable[[Mapping[str, Any], Results], str]] = {
    "memory": measure_memory,
    "step": measure_steps,
    "sampling": measure_sampling,
    "family": measure_family,
}


def shape(layer: str) -> Row:
    """Returns the columns of a layer such as `"512x4096"`.

    Example:

    >>> shape("512x4096")
    {'dims': 512, 'neurons': 4096}
    """
    return dict(zip(("dims", "neurons"), numbers(layer), strict=True))


def common(flags: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the options of every job."""
    limit = flags.get("memory_limit")
    return {"seed": flags["seed"], "memory_limit": limit and limit * 2**30}


def check(args: argparse.Namespace) -> None:
    """Refuses backends that are not installed.

    Args:
        args: The flags.

    Raises:
        BadInput: If there is one.
    """
    require_installed(args.backends, INSTALLED)


def main(argv: Sequence[str] | None = None) -> None:
    """Measures what the flags ask for, prints the tables, and writes the numbers to the folder.

    Args:
        argv: The flags; those of the process by default.
    """
    args = make_parser().parse_args(argv)
    check(args)
    flags = vars(args)
    measures = [measure for name, measure in MEASURES.items() if name in flags]
    if not measures:
        figures.require_matplotlib()
    output = Results(flags["out"], COLUMNS)
    for measure in measures or [measure_table]:
        print(f"{measure(flags, output)}\n", flush=True)
    print(f"Numbers in {output.folder}")


if __name__ == "__main__":
    sys.exit(program(main))
