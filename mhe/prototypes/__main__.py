"""Places prototypes on the command line, and prints how well they are separated."""

import argparse
import functools
import math
import os
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mhe.command_line import LineParser, file_path, integer, number
from mhe.prototypes import (
    METHODS,
    Placement,
    cosine_lower_bound,
    find,
    order_kept,
    separation,
    vectors,
)
from mhe.prototypes.comparison import MOST, compare, read_known
from mhe.text import brief, read_text

_PROG = "python -m mhe.prototypes"
# Flags that make no sense for a table of placements.
_OF_ONE = (
    *("classes", "dims", "out", "overwrite"),
    *("reserve", "semantics", "names", "semantics_weight"),
)


def make_parser() -> argparse.ArgumentParser:
    """Returns the parser of this program's flags."""
    parser = LineParser(
        prog=_PROG,
        description="Places prototypes on the unit sphere, as far apart as is known or can be "
        "found, writes them as a .npy array (classes, dims) of float32, and prints the largest "
        "cosine between two of them next to a lower bound for any placement.",
    )
    for name, counted in (("classes", "classes"), ("dims", "dimensions")):
        parser.add_argument(
            f"--{name}",
            type=integer(2, MOST),
            default=argparse.SUPPRESS,
            help=f"number of {counted}, at least 2; --compare reads it from a file instead",
        )
    parser.add_argument(
        "--out",
        type=file_path,
        metavar="FILE.npy",
        help="the file; --compare prints a table instead",
        default=argparse.SUPPRESS,
    )
    parser.add_argument(
        "--compare",
        type=file_path,
        metavar="FILE",
        default=argparse.SUPPRESS,
        help="instead of placing one number of prototypes, place all that a text file lists, and "
        "print by how much the largest cosines differ from its: a line for each, with classes, "
        "dimensions and cosine",
    )
    parser.add_argument(
        "--reserve",
        type=integer(0, MOST),
        default=0,
        help="number of further prototypes for classes to come, after the others",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an existing file")
    parser.add_argument("--method", choices=METHODS, default="auto", help="placement method")
    parser.add_argument("--seed", type=integer(0, 2**32 - 1), default=0, help="random seed")
    parser.add_argument(
        "--effort", type=number(0, 1000), default=1.0, help="factor on the work of --method auto"
    )
    parser.add_argument(
        "--seconds",
        type=number(0, 10**6),
        default=argparse.SUPPRESS,
        help="time limit of the search, of each with --compare; the result then depends on the "
        "machine (default: none)",
    )
    parser.add_argument(
        "--semantics",
        type=file_path,
        metavar="FILE",
        default=argparse.SUPPRESS,
        help="word vectors whose order of similarities the prototypes should keep: a .npy array "
        "(classes, m), or word2vec or GloVe text, plain or .gz (default: none)",
    )
    parser.add_argument(
        "--names",
        type=file_path,
        metavar="FILE",
        default=argparse.SUPPRESS,
        help="the names of the classes, one per line, for word vectors as text (default: none)",
    )
    parser.add_argument(
        "--semantics_weight",
        type=number(0),
        default=1.0,
        help="weight of that order relative to the separation; 0 only assigns prototypes to "
        "classes",
    )
    parser.add_argument("--quiet", action="store_true", help="no progress on stderr")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Places prototypes as the flags say, and writes them and prints their separation.

    With `--compare` it compares their separation with a table's, and writes nothing.

    Args:
        argv: The flags; those of the process by default.

    Raises:
        ValueError: If a flag is wrong, or the file cannot be written.
        OSError: If a file cannot be read.
        KeyboardInterrupt: After Ctrl-C. The first one during the search only ends that: the best
            placement until then is written.
    """
    parser = make_parser()
    flags = vars(parser.parse_args(argv))
    if "compare" in flags:
        _compare(flags, parser)
    else:
        _place(flags)


def _compare(flags: dict[str, Any], parser: argparse.ArgumentParser) -> None:
    """Places what a file lists, and prints each beside it."""
    for name in _OF_ONE:
        if flags.get(name, parser.get_default(name)) != parser.get_default(name):
            raise ValueError(
                f"--{name} cannot be combined with --compare. Received: {brief(flags[name])}"
            )
    known = read_known(flags["compare"])
    with _Interrupt() as interrupt:
        print("classes  dims     listed     placed  difference      bound")
        for each in compare(known, functools.partial(_find, flags, interrupt)):
            if interrupt.is_pressed():  # This one was cut short.
                raise KeyboardInterrupt
            print(
                f"{each.known.classes:7}{each.known.dims:6}{each.known.cosine:11.6f}"
                f"{each.cosine:11.6f}{each.difference:+12.6f}{each.bound:11.6f}  "
                f"{each.verdict}: {each.origin}",
                flush=True,
            )


def _find(
    flags: dict[str, Any], interrupt: "_Interrupt", classes: int, dims: int, **options: Any
) -> Placement:
    return find(
        *(classes, dims, flags["method"], flags["seed"]),
        effort=flags["effort"],
        seconds=flags.get("seconds"),
        progress=not flags["quiet"] and sys.stderr.isatty(),
        stop=interrupt.is_pressed,
        **options,
    )


def _place(flags: dict[str, Any]) -> None:
    """Places prototypes, writes them and prints their separation."""
    missing = [f"--{name}" for name in ("classes", "dims", "out") if name not in flags]
    if missing:
        raise ValueError(
            f"the following arguments are required: {', '.join(missing)}; or --compare alone"
        )
    out = Path(flags["out"])
    if out.suffix != ".npy":
        raise ValueError(f"--out must end in .npy. Received: {out}")
    if out.exists() and not flags["overwrite"]:
        raise ValueError(f"--out {out} exists; pass --overwrite to replace it")
    if not out.parent.is_dir():
        raise ValueError(f"--out {out} cannot be written to: there is no folder {out.parent}")
    if "names" in flags and "semantics" not in flags:
        raise ValueError(f"--names needs --semantics. Received: --names {flags['names']}")
    semantics = None
    if "semantics" in flags:
        names = None
        if "names" in flags:
            names = read_text(flags["names"]).splitlines()
        semantics = vectors.read(flags["semantics"], names)
    with _Interrupt() as interrupt:
        placement = _find(
            *(flags, interrupt, flags["classes"], flags["dims"]),
            semantics=semantics,
            semantics_weight=flags["semantics_weight"],
            reserve=flags["reserve"],
        )
    _write(out, placement.prototypes)
    count = len(placement.prototypes)
    print(f"{count} prototypes in {flags['dims']} dimensions: {placement.origin}")
    if placement.evaluations:
        print(f"evaluations of all cosines  {placement.evaluations}")
    cosine = separation(placement.prototypes)
    bound = cosine_lower_bound(count, flags["dims"])
    if placement.unmoved is not None:
        print(f"before semantics moved them {_angle(placement.unmoved)}")
    if flags["reserve"]:
        first = separation(placement.prototypes[: flags["classes"]])
        print(f"{'of the first ' + str(flags['classes']):28}{_angle(first)}")
    print(f"largest cosine              {_angle(cosine)}")
    print(f"no placement is below       {_angle(bound)}")
    print(f"gap                         {max(0.0, cosine - bound):.6f}")
    if semantics is not None and len(semantics) > 2:
        order = order_kept(placement.prototypes, semantics)
        print(
            f"Kendall's tau of the order  {order.mean:.4f} per class, {order.pairs:.4f} all pairs"
        )
    print(f"written to {out}")
    if interrupt.is_pressed():
        raise KeyboardInterrupt


class _Interrupt:
    """Takes the first Ctrl-C for the wish to end the search; a second one ends the program."""

    def __init__(self) -> None:
        self._pressed = False

    def __enter__(self) -> "_Interrupt":
        self._usual = signal.getsignal(signal.SIGINT)
        # A process in the background ignores it.
        if self._usual is not signal.SIG_IGN:
            signal.signal(signal.SIGINT, self._press)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGINT, self._usual)

    def is_pressed(self) -> bool:
        return self._pressed

    def _press(self, *_: object) -> None:
        self._pressed = True
        signal.signal(signal.SIGINT, signal.default_int_handler)
        print(
            f"{_PROG}: ending the search with the best placement until now; "
            "press Ctrl-C again to give it up",
            file=sys.stderr,
        )


def _angle(cosine: float) -> str:
    return f"{cosine:9.6f}  ({math.degrees(math.acos(cosine)):.3f} degrees)"


def _write(out: Path, prototypes: np.ndarray) -> None:
    """Writes the file in one step: all of it or nothing."""
    try:
        descriptor, partial = tempfile.mkstemp(prefix=".partial-", suffix=".npy", dir=out.parent)
    except OSError as error:
        raise ValueError(f"--out {out} cannot be written: {error.strerror}") from error
    try:
        with os.fdopen(descriptor, "wb") as file:
            np.save(file, prototypes, allow_pickle=False)
            file.flush()
            os.fsync(file.fileno())
        # Unlike mkstemp's, this file gets the usual permissions.
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(partial, 0o666 & ~mask)
        os.replace(partial, out)
    except BaseException as error:
        os.unlink(partial)
        if isinstance(error, OSError):
            raise ValueError(f"--out {out} cannot be written: {error.strerror}") from error
        raise


def run(argv: Sequence[str] | None = None) -> int:
    """Runs `main`, with one line on stderr for bad input.

    Args:
        argv: The flags; those of the process by default.

    Returns:
        0 when done, 2 for bad input, 130 after Ctrl-C.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        main(argv)
    except (ValueError, OSError, ImportError) as error:
        print(f"{_PROG}: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except MemoryError as error:
        print(
            f"{_PROG}: error: the flags ask for more memory than there is. {error}", file=sys.stderr
        )
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(run())
