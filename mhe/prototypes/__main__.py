"""Places prototypes from the command line, and says how well they are separated."""

import argparse
import math
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import numpy as np

from mhe.prototypes import METHODS, cosine_lower_bound, find, order_kept, separation, vectors

_PROG = "python -m mhe.prototypes"


class _Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line, without the usage before it."""

    def error(self, message: str) -> NoReturn:
        """Raises what argparse complains of."""
        raise ValueError(message)


def make_parser() -> argparse.ArgumentParser:
    """Returns the parser of this program's flags."""
    parser = _Parser(
        prog=_PROG,
        description="Places prototypes on the unit sphere, as far apart as is known or can be "
        "found, writes them as a .npy array (classes, dims) of float32, and prints the largest "
        "cosine between two of them beside a bound that no placement can be below.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--classes", type=int, required=True, help="how many, at least 2")
    parser.add_argument("--dims", type=int, required=True, help="of their space, at least 2")
    parser.add_argument("--out", required=True, metavar="FILE.npy", help="the file to write")
    parser.add_argument(
        "--overwrite", action="store_true", help="replace the file if it is there already"
    )
    parser.add_argument("--method", choices=METHODS, default="auto", help="how to place them")
    parser.add_argument("--seed", type=int, default=0, help="same seed, same prototypes")
    parser.add_argument(
        "--effort", type=float, default=1.0, help="factor of the work of --method auto"
    )
    parser.add_argument(
        "--seconds",
        type=float,
        default=argparse.SUPPRESS,
        help="end the search then, if it is not done before; the result depends on the machine "
        "(default: no such end)",
    )
    parser.add_argument(
        "--semantics",
        metavar="FILE",
        default=argparse.SUPPRESS,
        help="word vectors whose order of similarities the prototypes should keep: a .npy array "
        "(classes, m), or word2vec or GloVe text, plain or .gz (default: none)",
    )
    parser.add_argument(
        "--names",
        metavar="FILE",
        default=argparse.SUPPRESS,
        help="the classes' names, a line each, for word vectors as text (default: none)",
    )
    parser.add_argument(
        "--semantics_weight",
        type=float,
        default=1.0,
        help="weight of that order beside the separation; 0 only assigns prototypes to classes",
    )
    parser.add_argument("--quiet", action="store_true", help="no progress on stderr")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Places what the flags ask for, writes it and prints what was reached.

    Args:
        argv: The flags; those of the process by default.

    Raises:
        ValueError: If a flag is wrong.
        OSError: If a file cannot be read or written.
    """
    flags = vars(make_parser().parse_args(argv))
    out = Path(flags["out"])
    if out.suffix != ".npy":
        raise ValueError(f"--out must end in .npy. Received: {out}")
    if out.exists() and not flags["overwrite"]:
        raise ValueError(f"--out {out} is there already; give --overwrite to replace it")
    if not out.parent.is_dir():
        raise ValueError(f"--out {out} cannot be written to: there is no folder {out.parent}")
    if "names" in flags and "semantics" not in flags:
        raise ValueError(f"--names needs --semantics. Received: --names {flags['names']}")
    semantics = None
    if "semantics" in flags:
        names = None
        if "names" in flags:
            names = Path(flags["names"]).read_text("utf-8").splitlines()
        semantics = vectors.read(flags["semantics"], names)
    found = find(
        *(flags["classes"], flags["dims"], flags["method"], flags["seed"], semantics),
        semantics_weight=flags["semantics_weight"],
        effort=flags["effort"],
        seconds=flags.get("seconds"),
        progress=not flags["quiet"] and sys.stderr.isatty(),
    )
    _write(out, found.prototypes)
    print(f"{flags['classes']} prototypes in {flags['dims']} dimensions: {found.origin}")
    if found.evaluations:
        print(f"evaluations of all cosines  {found.evaluations}")
    cosine = separation(found.prototypes)
    bound = cosine_lower_bound(flags["classes"], flags["dims"])
    if found.unmoved is not None:
        print(f"before semantics moved them {_angle(found.unmoved)}")
    print(f"largest cosine              {_angle(cosine)}")
    print(f"no placement is below       {_angle(bound)}")
    print(f"gap                         {max(0.0, cosine - bound):.6f}")
    if semantics is not None and len(semantics) > 2:
        order = order_kept(found.prototypes, semantics)
        print(f"Kendall's tau of the order  {order.mean:.4f} a class, {order.pairs:.4f} all pairs")
    print(f"written to {out}")


def _angle(cosine: float) -> str:
    return f"{cosine:9.6f}  ({math.degrees(math.acos(cosine)):.3f} degrees)"


def _write(out: Path, prototypes: np.ndarray) -> None:
    """Writes all of the file or nothing."""
    descriptor, partial = tempfile.mkstemp(prefix=".partial-", suffix=".npy", dir=out.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            np.save(file, prototypes, allow_pickle=False)
            file.flush()
            os.fsync(file.fileno())
        # mkstemp's file is for its owner alone; this one is as any other.
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(partial, 0o666 & ~mask)
        os.replace(partial, out)
    except BaseException:
        os.unlink(partial)
        raise


def run(argv: Sequence[str] | None = None) -> int:
    """Runs `main`, with one line on stderr for what the user got wrong.

    Args:
        argv: The flags; those of the process by default.

    Returns:
        0 when done, 2 for bad input, 130 after Ctrl-C.
    """
    try:
        main(argv)
    except (ValueError, OSError, ImportError) as error:
        print(f"{_PROG}: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(run())
