"""Trains every program on one device and on several, and compares what the runs leave.

    OMP_NUM_THREADS=1 KERAS_BACKEND=torch python tests/crash/spread.py --out log/distribute

Devices are simulated: JAX takes their number from
`XLA_FLAGS=--xla_force_host_platform_device_count=2`, TensorFlow from `MHE_CPU_DEVICES=2`, and on
PyTorch each of two processes is one. No part of the suite. The runs are those of `kill.py`, as
forks of this process; a file of this program's name and the backend's gets a row per program.

A third run, on one device, has the images of every batch to train on in reverse order, where the
program has `Batches`. Without dropout that changes the rounding of sums only: an example of what
rounding does to such a run.
"""

import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import kill
import numpy as np
import processes

from mhe.harness.batches import Batches
from mhe.harness.files import write_csv
from mhe.harness.flags import LineParser, program

# An episode at a time.
ALONE = ("benchmarks/fewshot.py",)
PROGRAMS = [path for path in kill.PROGRAMS if path not in ALONE]


def make_parser() -> LineParser:
    """Returns the parser of this program's flags."""
    parser = LineParser(
        prog="tests/crash/spread.py",
        description="Trains every program on one device and on several, and compares the runs.",
    )
    parser.add_argument(
        "--distribute", choices=["data", "classes"], default="data", help="what is split"
    )
    parser.add_argument("--out", required=True, help="folder for spread-BACKEND-DISTRIBUTE.csv")
    parser.add_argument(
        "--programs", nargs="+", choices=PROGRAMS, default=PROGRAMS, help="which programs"
    )
    return parser


def train(main: Callable[[Any], None], argv: list[str], log: Path) -> int | None:
    """Runs a program, on PyTorch in two processes if it is to be split; returns the exit code."""
    if keras.backend.backend() != "torch" or "--distribute" not in argv:
        return kill.run(main, argv, log)[0]
    os.environ.update(
        {"MASTER_ADDR": "localhost", "MASTER_PORT": str(processes.free_port()), "WORLD_SIZE": "2"}
    )
    other = os.fork()
    os.environ["RANK"] = "0" if other else "1"
    code, _ = kill.run(main, argv, log)
    if not other:
        os._exit(code or 0)
    os.waitpid(other, 0)
    return code


def reversed_batches(main: Callable[[Any], None]) -> Callable[[Any], None]:
    """Returns a program that reverses the order of the images in every batch to train on."""
    draw = Batches.__getitem__

    def drawn(self: Batches, index: int) -> Any:
        batch = draw(self, index)
        if not self.shuffle:
            return batch
        return keras.tree.map_structure(lambda each: np.ascontiguousarray(each[::-1]), batch)

    def run(argv: Any) -> None:
        Batches.__getitem__ = drawn  # type: ignore[method-assign]
        main(argv)

    return run


def compare(path: str, flags: list[str], how: str, folder: Path) -> dict[str, Any]:
    """Trains a program on one device, on several, and on one with its batches reversed.

    Returns:
        The exit codes, the largest difference of a number in the last checkpoint from that of one
        device, and the largest relative one of the logs and results.
    """
    one, many, reverse = (folder / name for name in ("one", "many", "reversed"))
    log = folder / "log.txt"
    main = kill.load_main(path)
    runs = {
        one: (main, []),
        many: (main, ["--distribute", how]),
        reverse: (reversed_batches(main), []),
    }
    codes: list[int | None] = []
    row: dict[str, Any] = {"program": path}
    for out, (each, split) in runs.items():
        codes.append(train(each, [*flags, "--out", str(out), *split], log))
        row["codes"] = " ".join(map(str, codes))
        if codes[-1] != 0:
            return row | {"said": log.read_text().strip().splitlines()[-1]}
    for out in (many, reverse):
        weights = processes.difference(processes.numbers(one), processes.numbers(out))
        row |= {f"weights, {out.name}": weights, f"logs, {out.name}": kill.difference(one, out)}
    return row


def main(argv: Any = None) -> None:
    """Compares the programs, and prints and writes what came of it."""
    args = make_parser().parse_args(argv)
    out = Path(args.out).absolute()
    out.mkdir(parents=True, exist_ok=True)
    os.chdir(kill.ROOT)
    name = f"spread-{keras.backend.backend()}-{args.distribute}.csv"
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        # No backend starts in this process, which is forked.
        kill.run(lambda _: kill.make_data(Path(folder)), [], Path(folder, "data.txt"))
        for path in args.programs:
            place = Path(folder, path.replace("/", "-"))
            place.mkdir()
            flags = kill.flags_of(path, Path(folder))
            rows.append(compare(path, flags, args.distribute, place))
            print("  ".join(f"{key} {value}" for key, value in rows[-1].items()), flush=True)
            write_csv(out / name, rows)


if __name__ == "__main__":
    sys.exit(program(main))
