"""Times the energy against the published formula and against two bare matrix products.

On every installed backend, in one process each, it takes turns between

    kernel      value and gradient of `mhe.hyperspherical_energy`
    published   the paper's formula over one matrix of all pairs, differentiated by the backend
    floor       the two matrix products that no exact method can do without, 4N²D operations

for each layer and each energy, and prints a table with the ratios, the memory taken, and what the
project asks for beside what was measured. `--memory`, `--step` and `--sampling` measure very wide
layers, whole training steps, and the spread of sampled energies instead.
"""

import argparse
import csv
import importlib.util
import itertools
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

# Nothing is computed in this process, but Keras wants a backend that is there.
os.environ.setdefault(
    "KERAS_BACKEND",
    next(filter(importlib.util.find_spec, ("tensorflow", "jax", "torch")), "tensorflow"),
)
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from timing.report import (
    compare,
    describe,
    draw,
    memory_table,
    sampling_table,
    step_table,
    table,
    targets,
)

import mhe
from mhe.harness import figures
from mhe.harness.errors import BadInput
from mhe.harness.files import replacing
from mhe.harness.flags import LineParser, integer, number, program

Row = dict[str, Any]

BACKENDS = ("tensorflow", "jax", "torch")
INSTALLED = [name for name in BACKENDS if importlib.util.find_spec(name)]
LAYERS = ("576x64", "1152x128", "2304x256", "4608x512", "512x4096", "512x10575")
SAMPLES = (64, 128, 256, 512, 1024, 2048)
STEP_BATCHES = {"cnn9": 128, "resnet50": 8}
WORKER = Path(__file__).with_name("timing") / "worker.py"
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
    "sampling": [
        *("backend", "kind", "dims", "neurons", "space", "sample", "draws"),
        *("exact", "bias", "deviation"),
    ],
}


# --- flags --------------------------------------------------------------------------------------


def make_parser() -> LineParser:
    """Returns the parser of this program's flags."""
    parser = LineParser(
        prog="benchmarks/speed.py",
        description="Times the energy against the published formula and two matrix products.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    positive = integer(1)
    parser.add_argument(
        "--backends",
        nargs="+",
        choices=BACKENDS,
        default=INSTALLED,
        help="which backends, a process each",
    )
    parser.add_argument(
        "--layers", nargs="+", type=layer, default=LAYERS, help="layers, dimensions x neurons"
    )
    parser.add_argument(
        "--spaces", nargs="+", choices=["full", "half"], default=["full", "half"], help="spaces"
    )
    parser.add_argument(
        "--distances",
        nargs="+",
        choices=["euclidean", "angle"],
        default=["euclidean", "angle"],
        help="distances",
    )
    parser.add_argument(
        "--powers", nargs="+", type=number(0), default=[0, 1, 2], help="powers s of the potential"
    )
    parser.add_argument(
        "--rounds", type=positive, default=25, help="how often each call is timed at most"
    )
    parser.add_argument(
        "--seconds",
        type=number(0, above=True),
        default=20.0,
        help="no round begins when so many have passed for one layer and energy; three there are",
    )
    parser.add_argument(
        "--memory_limit",
        type=number(0, above=True),
        metavar="GIB",
        default=argparse.SUPPRESS,
        help="leave out the published formula where it would take more (default: three quarters "
        "of what is free on the device)",
    )
    parser.add_argument(
        "--peaks",
        choices=["none", "some", "all"],
        default="some",
        help="measure the peak memory, a process for each, of no energy, of the Euclidean one "
        "with the last of the powers, or of all",
    )
    parser.add_argument(
        "--memory",
        nargs="+",
        type=layer,
        metavar="LAYER",
        default=argparse.SUPPRESS,
        help="instead: peak memory and seconds of one call of the kernel, full space, s=2, for "
        "layers such as 512x50000 512x100000",
    )
    parser.add_argument(
        "--step",
        nargs="*",
        choices=list(STEP_BATCHES),
        default=argparse.SUPPRESS,
        help="instead: whole training steps of these networks, of all if none is named",
    )
    parser.add_argument(
        "--step_batch",
        type=positive,
        default=argparse.SUPPRESS,
        help="images in a step's batch (default: 128 for cnn9, 8 for resnet50)",
    )
    parser.add_argument(
        "--step_side",
        type=positive,
        default=argparse.SUPPRESS,
        help="pixels each way (default: 32 for cnn9, 224 for resnet50)",
    )
    parser.add_argument(
        "--width", type=number(0, above=True), default=1.0, help="factor on cnn9's filters"
    )
    parser.add_argument(
        "--sampling",
        nargs="*",
        type=integer(2),
        metavar="SAMPLE",
        default=argparse.SUPPRESS,
        help="instead: the spread of energies of so many sampled neurons (s=2) about the exact "
        "one; 64 128 ... 2048 if none is given. Uses the last of --layers",
    )
    parser.add_argument("--draws", type=integer(2), default=200, help="sampled energies for each")
    parser.add_argument("--seed", type=integer(0, 2**32 - 1), default=0, help="seed of the weights")
    parser.add_argument("--out", default="runs/speed", help="folder for the results, new or empty")
    return parser


def layer(text: str) -> str:
    """Argparse type: a layer such as `"512x4096"`, dimensions x neurons.

    Example:

    >>> layer("512x4096")
    '512x4096'
    """
    if len(sizes(text)) != 2 or min(sizes(text)) < 2:
        raise argparse.ArgumentTypeError(
            f"must be dimensions x neurons, such as 512x4096, at least 2 each. Received: {text}"
        )
    return text


def sizes(text: str) -> list[int]:
    """Returns the numbers of `"512x4096"`; none if they are no such numbers.

    Example:

    >>> sizes("512x4096"), sizes("wide")
    ([512, 4096], [])
    """
    parts = text.split("x")
    return [int(part) for part in parts] if all(map(str.isdecimal, parts)) else []


# --- processes ----------------------------------------------------------------------------------


class Died(RuntimeError):  # noqa: N818 - an end that a process can come to, not a defect
    """The process of a backend was killed, as a system does that runs out of memory."""


def ask(backend: str, job: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Has a job done in a process of its own.

    Args:
        backend: The backend it runs on.
        job: What `timing.worker.answers` takes.

    Yields:
        Its answers, as they come.

    Raises:
        Died: If a signal ended the process.
        RuntimeError: If it ended with an error of its own.
    """
    paths = [
        str(Path(mhe.__file__).parents[1]),
        str(Path(__file__).parent),
        os.environ.get("PYTHONPATH", ""),
    ]
    environment = {
        **os.environ,
        "KERAS_BACKEND": backend,
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        # A GPU's memory is taken as it is needed, so that it can be measured.
        "TF_FORCE_GPU_ALLOW_GROWTH": "true",
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
    }
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            [sys.executable, str(WORKER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=environment,
        )
        try:
            with process.stdin as stdin:
                json.dump(job, stdin)
            yield from map(json.loads, process.stdout)
            process.wait()
        finally:
            process.kill()
            process.wait()
            process.stdout.close()
        if process.returncode < 0:
            raise Died(f"died (signal {-process.returncode}), perhaps out of memory")
        if process.returncode > 0:
            errors.seek(0)
            raise RuntimeError(f"{WORKER.name} failed on {backend}:\n{errors.read()}")


class Progress:
    """What is measured and how long all of it still takes, on a terminal only.

    Args:
        total: How many cases there are.

    Example:

    >>> show = Progress(2)
    >>> show.begin("jax 512x64")
    >>> show.done("jax 512x128")
    """

    def __init__(self, total: int):
        self.total = total
        self.behind = 0
        self.began = time.perf_counter()
        self.terminal = sys.stderr.isatty()

    def begin(self, what: str) -> None:
        """Shows what is measured now."""
        if not self.terminal:
            return
        left = ""
        if self.behind:
            seconds = time.perf_counter() - self.began
            minutes = seconds / self.behind * (self.total - self.behind) / 60
            left = f", about {minutes:.0f} min left"
        print(
            f"\r{self.behind + 1}/{self.total} {what}{left}",
            end="\x1b[K",
            file=sys.stderr,
            flush=True,
        )

    def done(self, next_one: str) -> None:
        """Counts a case as done and shows what comes next."""
        self.behind += 1
        if self.behind < self.total:
            self.begin(next_one)
        elif self.terminal:
            print("\r", end="\x1b[K", file=sys.stderr, flush=True)


# --- what there is to measure -------------------------------------------------------------------


class Results:
    """The folder of the results, and what has been measured for it so far.

    Args:
        folder: A new or empty folder.

    Raises:
        BadInput: If it is not, or cannot be written to.
    """

    def __init__(self, folder: str):
        self.folder = Path(folder)
        self.machine = machine()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if any(self.folder.iterdir()):
                raise BadInput(f"--out {folder} is not empty, and nothing in it is overwritten")
        except OSError as error:
            raise BadInput(f"--out {folder} cannot be written to: {error.strerror}") from error

    def write(self, name: str, rows: Sequence[Row]) -> None:
        """Writes rows as CSV, and what they were measured on beside them.

        Args:
            name: The file's name without suffix, one of `COLUMNS`.
            rows: All rows so far.
        """
        with (
            replacing(self.folder / f"{name}.csv") as partial,
            open(partial, "w", newline="", encoding="utf-8") as file,
        ):
            writer = csv.DictWriter(file, COLUMNS[name], extrasaction="ignore")
            writer.writeheader()
            writer.writerows(rows)
        with replacing(self.folder / "machine.json") as partial:
            partial.write_text(json.dumps(self.machine, indent=2) + "\n", "utf-8")

    def measure(
        self, backend: str, job: Mapping[str, Any], cases: Sequence[Row], show: Progress
    ) -> Iterator[list[Row]]:
        """Has cases measured in one process; what kills it is noted, and the next one goes on.

        Args:
            backend: The backend to run on.
            job: The job without its cases.
            cases: What is measured.
            show: Is told of each case.

        Yields:
            The rows of a case, each with its backend, device and case.
        """
        left = list(cases)
        known = {"backend": backend}
        while left:
            answers = ask(backend, {**job, "cases": left})
            show.begin(f"{backend} {describe(left[0])}")
            try:
                runs_on = next(answers)
                known["device"] = runs_on["device"]
                self.machine["backends"][backend] = runs_on
                for answer in answers:
                    case = left.pop(0)
                    show.done(f"{backend} {describe(left[0])}" if left else backend)
                    yield [{**known, **case, **row} for row in answer["rows"]]
            except Died as error:
                case = left.pop(0)
                show.done(backend)
                yield [{**known, **case, "note": str(error)}]


def machine() -> dict[str, Any]:
    """Describes what the times are taken on.

    Example:

    >>> sorted(machine())
    ['backends', 'cores', 'cpu', 'keras', 'mhe', 'numpy', 'python', 'ram_gib', 'system']
    """
    cpu = platform.processor()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = [line.split(":", 1) for line in info.read_text("utf-8").splitlines() if ":" in line]
        cpu = next((text.strip() for name, text in lines if name.strip() == "model name"), cpu)
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "ram_gib": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "mhe": mhe.__version__,
        "keras": keras.__version__,
        "numpy": np.__version__,
        "backends": {},
    }


def measure_table(flags: Mapping[str, Any], results: Results) -> str:
    """Times kernel, published formula and floor for every layer and energy; writes CSV and PNG."""
    powers = [int(s) if s == int(s) else s for s in flags["powers"]]
    cases = [
        {"dims": sizes(layer)[0], "neurons": sizes(layer)[1], "space": space, "distance": d, "s": s}
        for layer, space, d, s in itertools.product(
            flags["layers"], flags["spaces"], flags["distances"], powers
        )
    ]
    rows: list[Row] = []
    job = {**common(flags), "rounds": flags["rounds"], "seconds": flags["seconds"]}
    show = Progress(len(cases) * len(flags["backends"]))
    for backend in flags["backends"]:
        for found in results.measure(backend, {**job, "task": "times"}, cases, show):
            rows += found
            results.write("speed", rows)
    taking = [
        row
        for row in rows
        if "median_ms" in row
        and row["name"] != "floor"
        and (
            flags["peaks"] == "all"
            or (flags["peaks"], row["distance"], row["s"]) == ("some", "euclidean", powers[-1])
        )
    ]
    show = Progress(len(taking))
    for row in taking:
        for (peak,) in results.measure(row["backend"], {**job, "task": "peak"}, [row], show):
            row.update({name: peak[name] for name in ("memory_mib", "note") if name in peak})
        results.write("speed", rows)
    compared = compare(rows)
    draw(compared, results.folder / "speed.png")
    parts = []
    for backend in flags["backends"]:
        mine = [case for case in compared if case["backend"] == backend]
        device = results.machine["backends"][backend]["device"]
        parts.append(f"{backend} on {device}, ms\n{table(mine)}\n\n{targets(mine)}")
    return "\n\n".join(parts)


def measure_memory(flags: Mapping[str, Any], results: Results) -> str:
    """Measures one call of the kernel for very wide layers, a process each."""
    rows: list[Row] = []
    energy = {"name": "kernel", "space": "full", "distance": "euclidean", "s": 2}
    cases = [dict(zip(("dims", "neurons"), sizes(each), strict=True)) for each in flags["memory"]]
    show = Progress(len(cases) * len(flags["backends"]))
    for backend, case in itertools.product(flags["backends"], cases):
        job = {**common(flags), "task": "peak"}
        for found in results.measure(backend, job, [{**energy, **case}], show):
            rows += found
            results.write("memory", rows)
    return memory_table(rows)


def measure_steps(flags: Mapping[str, Any], results: Results) -> str:
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
    show = Progress(len(cases) * len(flags["backends"]))
    for backend in flags["backends"]:
        for found in results.measure(backend, job, cases, show):
            rows += found
            results.write("step", rows)
    return step_table(rows)


def measure_sampling(flags: Mapping[str, Any], results: Results) -> str:
    """Measures the spread of sampled energies, on the first of the backends."""
    rows: list[Row] = []
    dims, neurons = sizes(flags["layers"][-1])
    cases = [
        {"dims": dims, "neurons": neurons, "kind": kind, "space": space, "sample": sample}
        for kind, space, sample in itertools.product(
            ("random", "clustered"), flags["spaces"], flags["sampling"] or SAMPLES
        )
    ]
    job = {**common(flags), "task": "sampling", "draws": flags["draws"]}
    show = Progress(len(cases))
    for found in results.measure(flags["backends"][0], job, cases, show):
        rows += [{**row, "draws": flags["draws"]} for row in found]
        results.write("sampling", rows)
    return sampling_table(rows)


MEASURES: dict[str, Callable[[Mapping[str, Any], Results], str]] = {
    "memory": measure_memory,
    "step": measure_steps,
    "sampling": measure_sampling,
}


def common(flags: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what every job needs."""
    limit = flags.get("memory_limit")
    return {"seed": flags["seed"], "memory_limit": limit and limit * 2**30}


def main(argv: Sequence[str] | None = None) -> None:
    """Measures what the flags say, prints the tables, and leaves the numbers in the folder.

    Args:
        argv: The flags; those of the process by default.
    """
    flags = vars(make_parser().parse_args(argv))
    for name in flags["backends"]:
        if name not in INSTALLED:
            raise BadInput(f"--backends {name} is not installed. Installed: {', '.join(INSTALLED)}")
    asked = [name for name in MEASURES if name in flags]
    if not asked:
        figures.require_matplotlib()
    results = Results(flags["out"])
    for measure in [MEASURES[name] for name in asked] or [measure_table]:
        print(f"{measure(flags, results)}\n", flush=True)
    print(f"Numbers in {results.folder}")


if __name__ == "__main__":
    sys.exit(program(main))
