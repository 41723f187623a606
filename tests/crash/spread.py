"""Trains every program on one device and on several, and compares what the runs leave.

    OMP_NUM_THREADS=1 KERAS_BACKEND=torch python tests/crash/spread.py --out log/distribute

Devices are simulated: JAX takes their number from
`XLA_FLAGS=--xla_force_host_platform_device_count=2`, TensorFlow from `MHE_CPU_DEVICES=2`, and on
PyTorch each of two processes is one. No part of the suite. The runs are those of `kill.py`, as
forks of this process; a file of this program's name and the backend's gets a row per program.
"""

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import keras
import kill
import processes

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


def train(path: str, argv: list[str], log: Path) -> int | None:
    """Runs a program, on PyTorch in two processes if it is to be split; returns the exit code."""
    main = kill.load_main(path)
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


def compare(path: str, flags: list[str], how: str, folder: Path) -> dict[str, Any]:
    """Trains a program on one device and on several.

    Returns:
        The exit codes, the largest difference of a number in the last checkpoint, and the largest
        relative one of the logs and results.
    """
    one, many, log = folder / "one", folder / "many", folder / "log.txt"
    codes = [
        train(path, [*flags, "--out", str(out), *split], log)
        for out, split in ((one, []), (many, ["--distribute", how]))
    ]
    row: dict[str, Any] = {"program": path, "codes": " ".join(map(str, codes))}
    if any(codes):
        return row | {"said": log.read_text().strip().splitlines()[-1]}
    return row | {
        "weights": processes.difference(processes.numbers(one), processes.numbers(many)),
        "logs": kill.difference(one, many),
    }


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
