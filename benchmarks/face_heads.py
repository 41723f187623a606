"""Measures a training step of every face head over very many classes, next to a plain softmax.

A step is one of `fit`: features, logits, loss, all gradients, and SGD with momentum. The features
come from a dense layer, so that their gradient is needed too. `--class_share` adds a row for each
softmax head that looks at a share of the classes in a step (Partial FC), trained by
`LazyOptimizer` as in `sphereface_plus/train.py`; with `--momentum 0` by SGD alone. Each head is
measured in a process of its own, on the backend that `KERAS_BACKEND` names: the median time of
several steps, the increase of peak memory by building and training, and the peak of the whole
process. Prints a table with the ratios to the plain softmax, and writes a CSV.
"""

import argparse
import functools
import json
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

if __name__ == "__main__":
    from mhe_startup import start

    start(__file__)

import keras
import numpy as np
from timing import backend
from timing.flags import timing_parser
from timing.processes import Died, ask
from timing.results import Row, new_csv
from timing.rounds import summary

import mhe
from mhe.harness.files import write_csv
from mhe.harness.flags import ANY_DIMS, BATCH_SIZE, COUNT, LineParser, integer, number, program
from mhe.harness.tables import text_table
from sphereface_plus import FaceModel, LazyOptimizer, heads

# The head that all others are compared with.
PLAIN = "softmax"


HEADS: dict[str, Callable[..., keras.layers.Layer]] = {
    PLAIN: functools.partial(keras.layers.Dense, use_bias=False),
    "normface": heads.NormFace,
    "sphereface": heads.SphereFace,
    "sphereface_plus_batch": functools.partial(heads.SphereFacePlus, energy_over="batch"),
    "sphereface_plus_sample": functools.partial(
        heads.SphereFacePlus,
        energy=mhe.MHE(1.0, s=2, distance="angle", space="full", sample=1024),
    ),
    "sphereface_plus_all": heads.SphereFacePlus,
    "sphereface_r": heads.SphereFaceR,
    "sphereface2": heads.SphereFace2,
    "cosface": heads.CosFace,
    "arcface": heads.ArcFace,
    "combined": heads.CombinedMargin,
    "magface": heads.MagFace,
    "adaface": heads.AdaFace,
    "curricularface": heads.CurricularFace,
}
# Those that can look at a share of the classes, and have no energy of all.
SAMPLED = (
    *("normface", "sphereface", "sphereface_r", "cosface", "arcface"),
    *("combined", "magface", "adaface", "curricularface"),
)

COLUMNS = (
    *("backend", "device", "head", "classes", "dims", "batch", "median_ms", "min_ms", "spread_ms"),
    *("rounds", "step_gib", "process_gib", "time_ratio", "memory_ratio"),
)


def make_parser() -> LineParser:
    """Returns the parser of this program's flags."""
    parser = timing_parser(
        "face_heads",
        "Measures a training step of every face head over very many classes.",
        out="folder for the results; those of other backends are kept",
        seeded="weights, features and labels",
    )
    parser.add_argument(
        "--heads",
        nargs="+",
        choices=HEADS,
        default=[name for name in HEADS if name != "sphereface_plus_all"],
        help="the heads to measure besides the plain softmax; sphereface_plus_all, the exact "
        "energy of all classes, takes minutes at the default sizes",
    )
    parser.add_argument(
        "--classes", type=integer(2, 10**8), default=100_000, help="number of classes"
    )
    parser.add_argument("--dims", type=ANY_DIMS, default=512, help="dimensions of a feature")
    parser.add_argument("--batch_size", type=BATCH_SIZE, default=128, help="features per step")
    parser.add_argument("--steps", type=COUNT, default=7, help="timed steps, after a warm-up")
    parser.add_argument(
        "--class_share",
        type=number(0, 1, above=True),
        metavar="SHARE",
        help=f"also measure those of {', '.join(SAMPLED)} in --heads with this share of the "
        "classes in a step, as in Partial FC; their rows are named HEAD_SHARE (default: none)",
    )
    parser.add_argument(
        "--momentum", type=number(0, 1), default=0.9, help="of SGD; 0 for plain SGD"
    )
    parser.add_argument(
        "--jit_compile",
        choices=["auto", "always"],
        default="auto",
        help="auto: compile as Keras does by default, which for TensorFlow on a CPU is without "
        "XLA; always: with jit_compile=True",
    )
    parser.add_argument(
        "--limit_gib",
        type=number(0, above=True),
        default=8.0,
        help="limit on the peak memory of a process; the table shows whether all were within it",
    )
    parser.add_argument("--alone", choices=HEADS, help=argparse.SUPPRESS)
    return parser


class Clock(keras.callbacks.Callback):
    """Times every step of `fit` except the first, which compiles.

    Attributes:
        seconds: The time of each of these steps.
        losses: The loss of each step, the first included.
    """

    def __init__(self) -> None:
        super().__init__()
        self.seconds: list[float] = []
        self.losses: list[float] = []
        self._before = math.nan

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any]) -> None:
        """Reads the loss, which waits for the step to finish."""
        self.losses.append(float(logs["loss"]))
        now = time.perf_counter()
        if batch:
            self.seconds.append(now - self._before)
        self._before = now


def build(flags: Mapping[str, Any], name: str) -> keras.Model:
    """Builds and compiles a model with one of `HEADS`, to be trained by SGD.

    Args:
        flags: The flags of this program; with a `class_share` the head looks at one.
        name: The name of the head.
    """
    keras.utils.set_random_seed(flags["seed"])
    dims = flags["dims"]
    backbone = keras.Sequential([keras.Input((dims,)), keras.layers.Dense(dims)])
    share = flags["class_share"]
    options = {} if share is None else {"sample": share}
    model = FaceModel(backbone, HEADS[name](flags["classes"], **options))
    plain = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    optimizer = keras.optimizers.SGD(0.01, momentum=flags["momentum"])
    if share is not None and flags["momentum"]:
        optimizer = LazyOptimizer(optimizer)
    model.compile(
        optimizer,
        loss=plain if name == PLAIN else None,
        jit_compile=True if flags["jit_compile"] == "always" else "auto",
    )
    return model


def draw(flags: Mapping[str, Any], count: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns random features and labels."""
    rng = np.random.default_rng(flags["seed"])
    features = rng.normal(size=(count, flags["dims"])).astype("float32")
    return features, rng.integers(flags["classes"], size=count)


def train(flags: Mapping[str, Any], name: str, clock: Clock) -> None:
    """Trains a model with one of `HEADS` for a few steps.

    Args:
        flags: The flags of this program.
        name: The name of the head.
        clock: Times the steps.
    """
    model = build(flags, name)
    features, labels = draw(flags, flags["batch_size"] * (flags["steps"] + 1))
    model.fit(features, labels, flags["batch_size"], verbose=0, callbacks=[clock])


def measure(flags: Mapping[str, Any], name: str) -> Row:
    """Trains one head in this process for a few steps.

    Args:
        flags: The flags of this program.
        name: One of `HEADS`.

    Returns:
        Its row without the ratios. Memory is None on systems that do not report it.

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
        "head": label(name, flags["class_share"]),
        "classes": flags["classes"],
        "dims": flags["dims"],
        "batch": flags["batch_size"],
        **summary(np.array(clock.seconds)),
        "step_gib": _gib(step),
        "process_gib": _gib(backend.peak_resident()),
    }


def label(name: str, share: float | None) -> str:
    """The name of a head's row.

    Example:

    >>> label("cosface", None), label("cosface", 0.1)
    ('cosface', 'cosface_0.1')
    """
    return name if share is None else f"{name}_{share:g}"


def _gib(memory: int | None) -> float | None:
    return None if memory is None else round(memory / 2**30, 3)


def measure_alone(flags: Mapping[str, Any], name: str, share: float | None = None) -> Row:
    """Measures one head in a process of its own, on the backend of this one.

    Args:
        flags: The flags of this program.
        name: One of `HEADS`.
        share: The share of the classes in a step, or None for all.

    Returns:
        What `measure` returns there.

    Raises:
        RuntimeError: If that process failed, for instance by running out of memory.
    """
    arguments = [__file__, "--alone", name]
    for flag in ("classes", "dims", "batch_size", "steps", "momentum", "jit_compile", "seed"):
        arguments += [f"--{flag}", str(flags[flag])]
    if share is not None:
        arguments += ["--class_share", str(share)]
    try:
        (row,) = ask(label(name, share), arguments)
    except Died as error:
        raise RuntimeError(f"{label(name, share)} {error}") from error
    return row


def compare(rows: Sequence[Row]) -> list[Row]:
    """Adds to each row its ratios to the first one, the plain softmax.

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
    """Returns the rows as text.

    Example:

    >>> row = {"head": "arcface", "median_ms": 300.0, "spread_ms": 9.5, "time_ratio": 1.2}
    >>> row = {**row, "step_gib": 0.75, "memory_ratio": 1.1, "process_gib": None}
    >>> print(table([row], limit_gib=8))
    head     median, ms  spread, ms  ratio  step, GiB  ratio  process, GiB
    arcface       300.0         9.5   1.20      0.750   1.10       unknown
    <BLANKLINE>
    Every process within 8 GiB: unknown
    """
    columns = (
        *(("head", "head", ""), ("median, ms", "median_ms", ".1f")),
        *(("spread, ms", "spread_ms", ".1f"), ("ratio", "time_ratio", ".2f")),
        *(("step, GiB", "step_gib", ".3f"), ("ratio", "memory_ratio", ".2f")),
        ("process, GiB", "process_gib", ".3f"),
    )
    cells = [
        ["unknown" if row[name] is None else format(row[name], spec) for _, name, spec in columns]
        for row in rows
    ]
    peaks = [row["process_gib"] for row in rows]
    within = "unknown" if None in peaks else "yes" if max(peaks) <= limit_gib else "no"
    text = text_table(cells, [title for title, _, _ in columns])
    return f"{text}\n\nEvery process within {limit_gib:g} GiB: {within}"


def main(argv: Sequence[str] | None = None) -> None:
    """Measures what the flags ask for, prints the table, and writes the numbers to the folder.

    Args:
        argv: The flags; those of the process by default.
    """
    flags = vars(make_parser().parse_args(argv))
    if flags["alone"]:
        print(json.dumps(measure(flags, flags["alone"])))
        return
    path = new_csv(flags["out"], backend.BACKEND)
    names = [PLAIN, *(name for name in HEADS if name in flags["heads"] and name != PLAIN)]
    wanted: list[tuple[str, float | None]] = [(name, None) for name in names]
    if flags["class_share"] is not None:
        wanted += [(name, flags["class_share"]) for name in names if name in SAMPLED]
    rows: list[Row] = []
    for name, share in wanted:
        rows = compare([*rows, measure_alone(flags, name, share)])
        write_csv(path, rows, COLUMNS)
    print(f"{backend.BACKEND} on {backend.device()}\n{table(rows, flags['limit_gib'])}")
    print(f"\nNumbers in {path}")


if __name__ == "__main__":
    sys.exit(program(main))
