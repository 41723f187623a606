"""Measures on an NVIDIA GPU what `speed.py` and its siblings measure, within a given time.

On the backend that `KERAS_BACKEND` names, PyTorch or else JAX if it names none, it measures and
writes to a folder, each with a picture (`.png`) and a table (`.txt`):

    energy.csv        value and gradient of every energy from 576x64 to 512x100000, in float32, TF32
                      and products of bfloat16, beside the published formula, on PyTorch also
                      compiled by `torch.compile`, and two bare matrix products
    steps.csv         whole steps of CNN-9, ResNet-50 and a head of 1,000,000 classes with MHE,
                      without, and with the published formula
    memory.csv        the peak memory of one value and gradient
    distances.csv     distances to prototypes beside the matrix product that they need
    heads.csv         steps with face heads over 100,000 classes beside a plain softmax
    gan.csv           steps of the GAN with the published energy and without
    head_memory.csv   the memory of a step with each face head
    session.json      the card, its driver, and all versions

A reading of the clock waits for the device. Alternatives are timed in one process, in random order
within each round; `ratio` is the median of their ratios round by round, `ratio_low` and
`ratio_high` are the quartiles. Every row is written as soon as it is measured, and the same command
goes on with what is missing. A case that runs out of memory has a row that says so.
"""

import argparse
import importlib.util
import os
import sys
import time
from collections.abc import Sequence

# Nothing is computed in this process, but Keras needs an installed backend.
os.environ.setdefault(
    "KERAS_BACKEND",
    next(filter(importlib.util.find_spec, ("torch", "jax", "tensorflow")), "torch"),
)
if __name__ == "__main__":
    from mhe_startup import start

    start(__file__)

from gpu import pictures, plan
from gpu.session import FAILED, Session
from timing.flags import require_installed, timing_parser

from mhe.harness import figures
from mhe.harness.flags import LineParser, number, program

BACKENDS = ("torch", "jax", "tensorflow")
INSTALLED = [name for name in BACKENDS if importlib.util.find_spec(name)]
# Share of the time, and seconds at most, that are kept for tables and pictures.
PICTURES = (0.1, 45.0)


def make_parser() -> LineParser:
    """Returns the parser of this program's flags."""
    parser = timing_parser(
        "gpu_speed",
        "Measures energies, steps, distances, heads and GANs on a GPU within a given time.",
        out="folder for the results; those of an earlier call are kept and completed",
        seeded="weights, data and order of timing",
    )
    parser.add_argument(
        "--minutes",
        type=number(0, 10_000, above=True),
        default=25,
        help="time that the call may take, shared by the backends; what does not fit is left out, "
        "the least important first",
    )
    parser.add_argument(
        "--backends",
        nargs="+",
        choices=BACKENDS,
        default=[os.environ["KERAS_BACKEND"]],
        help="the backends, one after the other; that of KERAS_BACKEND if none is named",
    )
    parser.add_argument(
        "--parts", nargs="+", choices=plan.NAMES, default=plan.NAMES, help="what to measure"
    )
    parser.add_argument(
        "--toy",
        action="store_true",
        help="measure something small, on a CPU too, to see whether all works",
    )
    return parser


def measure(session: Session, backend: str, parts: Sequence[plan.Part], end: float) -> None:
    """Measures parts, in their shares of the time first, then in what the others left of it.

    Args:
        session: The session.
        backend: The backend.
        parts: The most important first.
        end: In seconds since 1970.
    """
    for shared in (True, False):
        for place, part in enumerate(parts):
            before = len(session.left(part, backend))
            now = time.time()
            if not before or now >= end:
                continue
            shares = [each.share for each in parts[place:] if session.left(each, backend)]
            until = now + (end - now) * (part.share / sum(shares) if shared else 1)
            session.measure(part, backend, until, end)
            after = len(session.left(part, backend))
            print(
                f"{backend} {part.name}: {before - after} of {before} cases in "
                f"{time.time() - now:.0f} s{_notes(session, part, backend)}",
                flush=True,
            )


def _notes(session: Session, part: plan.Part, backend: str) -> str:
    notes = [row["note"] for row in session.rows(part) if row["backend"] == backend]
    failed = [note for note in notes if note.startswith(FAILED)]
    memory = [note for note in notes if "memory" in note and note not in failed]
    words = [f"{len(memory)} out of memory"] if memory else []
    words += [f"{len(failed)} {failed[-1]}"] if failed else []
    return "".join(f"; {each}" for each in words)


def check(args: argparse.Namespace) -> None:
    """Refuses backends that are not installed.

    Args:
        args: The flags.

    Raises:
        BadInput: If there is one.
    """
    require_installed(args.backends, INSTALLED)


def main(argv: Sequence[str] | None = None) -> None:
    """Measures what the flags ask for, and writes rows, tables and pictures to the folder.

    Args:
        argv: The flags; those of the process by default.
    """
    began = time.time()
    args = make_parser().parse_args(argv)
    check(args)
    flags = vars(args)
    figures.require_matplotlib()
    seconds = 60 * flags["minutes"]
    share, most = PICTURES
    end = began + seconds - min(share * seconds, most)
    session = Session(flags["out"], flags["toy"], flags["seed"])
    left_out: dict[str, dict[str, int]] = {}
    for place, backend in enumerate(flags["backends"]):
        own_end = time.time() + (end - time.time()) / (len(flags["backends"]) - place)
        parts = [part for part in plan.parts(backend, flags["toy"]) if part.name in flags["parts"]]
        runs_on = session.start(backend, own_end - time.time())
        print(f"{backend} {runs_on['version']} on {runs_on['device']}", flush=True)
        measure(session, backend, parts, own_end)
        counts = {part.name: len(session.left(part, backend)) for part in parts}
        left_out[backend] = {name: count for name, count in counts.items() if count}
        for part in parts:
            if session.rows(part):
                pictures.write(part, session.rows(part), session.folder)
    session.finish(left_out)
    for backend, counts in left_out.items():
        if counts:
            words = ", ".join(f"{name} {count}" for name, count in counts.items())
            print(f"{backend}: no time for {words}; the same command goes on with them")
    print(f"Numbers in {session.folder}")


if __name__ == "__main__":
    sys.exit(program(main))
