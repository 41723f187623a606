"""Measures a training step of every face head over very many classes, beside a plain softmax.

A step is what `fit` does: features, logits, loss, all gradients, and SGD with momentum. A dense
layer makes the features, so that their gradient is needed too. Each head is measured in a process
of its own, on the backend that `KERAS_BACKEND` names: the median time of several steps, by how much
building and training raise the memory in use at the peak, and the peak of the whole process. Prints
a table with the ratios to the plain softmax, and writes a CSV.
"""

import argparse
import csv
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from timing import backend
from timing.worker import summary

import mhe
from mhe.harness.errors import BadInput
from mhe.harness.files import replacing
from mhe.harness.flags import LineParser, integer, number, program
from sphereface_plus import FaceModel, heads

Row = dict[str, Any]

# What all others are compared with.
PLAIN = "softmax"


def _sphereface_plus(**options):
    return lambda classes: heads.SphereFacePlus(classes, **options)


HEADS: dict[str, Callable[[int], keras.layers.Layer]] = {
    PLAIN: lambda classes: keras.layers.Dense(classes, use_bias=False),
    "normface": heads.NormFace,
    "sphereface": heads.SphereFace,
    "sphereface_plus_batch": _sphereface_plus(energy_over="batch"),
    "sphereface_plus_sample": _sphereface_plus(
        energy=mhe.MHE(1.0, s=2, distance="angle", space="full", sample=1024)
    ),
    "sphereface_plus_all": heads.SphereFacePlus,
    "sphereface_r": heads.SphereFaceR,
    "sphereface2": heads.SphereFace2,
    "cosface": heads.CosFace,
    "arcface": heads.ArcFace,
}

COLUMNS = (
    *("backend", "device", "head", "classes", "dims", "batch", "median_ms", "min_ms", "spread_ms"),
    *("rounds", "step_gib", "process_gib", "time_ratio", "memory_ratio"),
)


def make_parser() -> LineParser:
    """Returns the parser of this program's flags."""
    parser = LineParser(
        prog="benchmarks/face_heads.py",
        description="Measures a training step of every face head over very many classes.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    positive = integer(1)
    parser.add_argument(
        "--heads",
        nargs="+",
        choices=HEADS,
        default=[name for name in HEADS if name != "sphereface_plus_all"],
        help="which heads beside the plain softmax; sphereface_plus_all, the exact energy of all "
        "classes, takes minutes at the default sizes",
    )
    parser.add_argument("--classes", type=integer(2), default=100_000, help="how many classes")
    parser.add_argument("--dims", type=positive, default=512, help="numbers of a feature")
    parser.add_argument("--batch_size", type=positive, default=128, help="features of a step")
    parser.add_argument("--steps", type=positive, default=7, help="steps that are timed, after one")
    parser.add_argument(
        "--limit_gib",
        type=number(0, above=True),
        default=8.0,
        help="what a process may take at its peak; the table says whether it did",
    )
    parser.add_argument("--seed", type=integer(0, 2**32 - 1), default=0, help="seed of the numbers")
    parser.add_argument(
        "--out", default="runs/face_heads", help="folder for the results; other backends' are kept"
    )
    parser.add_argument("--alone", choices=HEADS, help=argparse.SUPPRESS)
    return parser


class Clock(keras.callbacks.Callback):
    """Takes the time of every step of `fit` but the first, which compiles.

    Attributes:
        seconds: Of the steps.
        losses: Of the first step, too.
    """

    def __init__(self) -> None:
        super().__init__()
        self.seconds: list[float] = []
        self.losses: list[float] = []
        self._before = math.nan

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any]) -> None:
        """Reads the loss, for which the step has to be done."""
        self.losses.append(float(logs["loss"]))
        now = time.perf_counter()
        if batch:
            self.seconds.append(now - self._before)
        self._before = now


def train(flags: Mapping[str, Any], name: str, clock: Clock) -> None:
    """Builds a model with one of `HEADS` and trains it, with SGD and momentum, for a few steps.

    Args:
        flags: The flags of this program.
        name: Of the head.
        clock: Is told of each step.
    """
    keras.utils.set_random_seed(flags["seed"])
    dims, count = flags["dims"], flags["batch_size"] * (flags["steps"] + 1)
    backbone = keras.Sequential([keras.Input((dims,)), keras.layers.Dense(dims)])
    model = FaceModel(backbone, HEADS[name](flags["classes"]))
    plain = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.01, momentum=0.9), loss=plain if name == PLAIN else None)
    rng = np.random.default_rng(flags["seed"])
    features = rng.normal(size=(count, dims)).astype("float32")
    labels = rng.integers(flags["classes"], size=count)
    model.fit(features, labels, flags["batch_size"], verbose=0, callbacks=[clock])


def measure(flags: Mapping[str, Any], name: str) -> Row:
    """Trains one head in this process for a few steps.

    Args:
        flags: The flags of this program.
        name: One of `HEADS`.

    Returns:
        Its row without the ratios. Memory is None where the system does not tell.

    Raises:
        RuntimeError: If a loss is not finite.
    """
    clock = Clock()
    step = backend.peak_memory(lambda: train(flags, name, clock))
    if not all(map(math.isfinite, clock.losses)):
        raise RuntimeError(f"The losses of {name} must be finite. Received: {clock.losses}")
    return {
        "backend": backend.BACKEND,
        "device": backend.device(),
        "head": name,
        "classes": flags["classes"],
        "dims": flags["dims"],
        "batch": flags["batch_size"],
        **summary(np.array(clock.seconds)),
        "step_gib": _gib(step),
        "process_gib": _gib(backend.peak_resident()),
    }


def _gib(memory: int | None) -> float | None:
    return None if memory is None else round(memory / 2**30, 3)


def ask(flags: Mapping[str, Any], name: str) -> Row:
    """Has one head measured in a process of its own, on the backend of this one.

    Args:
        flags: The flags of this program.
        name: One of `HEADS`.

    Returns:
        What `measure` returns there.

    Raises:
        RuntimeError: If that process failed, as one does that runs out of memory.
    """
    given = ("classes", "dims", "batch_size", "steps", "seed")
    command = [sys.executable, __file__, "--alone", name]
    for flag in given:
        command += [f"--{flag}", str(flags[flag])]
    paths = [
        str(Path(mhe.__file__).parents[1]),
        str(Path(__file__).parent),
        os.environ.get("PYTHONPATH", ""),
    ]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(
            f"{name} ended with {done.returncode}, which is minus a signal's number:\n{done.stderr}"
            if done.returncode < 0
            else f"{name} failed:\n{done.stderr}"
        )
    return json.loads(done.stdout.splitlines()[-1])


def compare(rows: Sequence[Row]) -> list[Row]:
    """Adds to each row the ratios to the plain softmax, which is the first one.

    Example:

    >>> rows = [{"median_ms": 2.0, "step_gib": 1.0}, {"median_ms": 3.0, "step_gib": 1.5}]
    >>> [(row["time_ratio"], row["memory_ratio"]) for row in compare(rows)]
    [(1.0, 1.0), (1.5, 1.5)]
    """
    plain = rows[0]

    def ratio(row: Row, column: str) -> float | None:
        known = row[column] is not None and plain[column]
        return round(row[column] / plain[column], 3) if known else None

    return [
        {**row, "time_ratio": ratio(row, "median_ms"), "memory_ratio": ratio(row, "step_gib")}
        for row in rows
    ]


def table(rows: Sequence[Row], limit_gib: float) -> str:
    """The rows as text.

    Example:

    >>> row = {"head": "arcface", "median_ms": 300.0, "spread_ms": 9.5, "time_ratio": 1.2}
    >>> row = {**row, "step_gib": 0.75, "memory_ratio": 1.1, "process_gib": 1.25}
    >>> print(table([row], limit_gib=8))
    head                     median, ms  spread, ms  ratio  step, GiB  ratio  process, GiB
    arcface                       300.0         9.5   1.20      0.750   1.10         1.250
    <BLANKLINE>
    Every process within 8 GiB: yes
    """
    lines = [
        f"{'head':<24} {'median, ms':>10} {'spread, ms':>11} {'ratio':>6} {'step, GiB':>10}"
        f" {'ratio':>6} {'process, GiB':>13}"
    ]
    for row in rows:
        memory = ((row[name], digits) for name, digits in (("step_gib", 3), ("memory_ratio", 2)))
        step, ratio = ("unknown" if n is None else f"{n:.{digits}f}" for n, digits in memory)
        process = "unknown" if row["process_gib"] is None else f"{row['process_gib']:.3f}"
        lines.append(
            f"{row['head']:<24} {row['median_ms']:>10.1f} {row['spread_ms']:>11.1f}"
            f" {row['time_ratio']:>6.2f} {step:>10} {ratio:>6} {process:>13}"
        )
    peaks = [row["process_gib"] for row in rows]
    within = "unknown" if None in peaks else "yes" if max(peaks) <= limit_gib else "no"
    return "\n".join([*lines, "", f"Every process within {limit_gib:g} GiB: {within}"])


def main(argv: Sequence[str] | None = None) -> None:
    """Measures what the flags say, prints the table, and leaves the numbers in the folder.

    Args:
        argv: The flags; those of the process by default.
    """
    flags = vars(make_parser().parse_args(argv))
    if flags["alone"]:
        print(json.dumps(measure(flags, flags["alone"])))
        return
    path = Path(flags["out"]) / f"{backend.BACKEND}.csv"
    if path.exists():
        raise BadInput(f"--out {flags['out']} has {path.name}, and nothing is overwritten")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"--out {flags['out']} cannot be written to: {error.strerror}") from error
    names = [PLAIN, *(name for name in HEADS if name in flags["heads"] and name != PLAIN)]
    rows: list[Row] = []
    for name in names:
        rows = compare([*rows, ask(flags, name)])
        with (
            replacing(path) as partial,
            open(partial, "w", newline="", encoding="utf-8") as file,
        ):
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(rows)
    print(f"{backend.BACKEND} on {backend.device()}\n{table(rows, flags['limit_gib'])}")
    print(f"\nNumbers in {path}")


if __name__ == "__main__":
    sys.exit(program(main))
