"""Measures how long programs take to answer, and what `import mhe` adds to `import keras`.

    python tests/start/measure.py --times 5 --out log/start/times.csv

Each program shows its help and refuses a flag, in a process of its own; each backend imports Keras
and then `mhe`. Medians of wall-clock time and of processor time, the latter for machines that do
other work too.
"""

import argparse
import csv
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

BACKENDS = ("tensorflow", "jax", "torch")
IMPORT = """
import time
import keras
wall, cpu = time.perf_counter(), time.process_time()
import mhe
print(time.perf_counter() - wall, time.process_time() - cpu)
"""


def commands(root: Path) -> dict[str, list[str]]:
    """What to run for each program of a checkout, by the name of the program."""
    found = {
        path.relative_to(root).as_posix(): [str(path)]
        for folder in ("benchmarks", "gan", "sphereface_plus")
        for path in sorted((root / folder).glob("*.py"))
        if "sys.exit(program(main))" in path.read_text("utf-8")
    }
    return {**found, "-m mhe.prototypes": ["-m", "mhe.prototypes"]}


def answer(command: list[str], environment: dict[str, str]) -> tuple[float, float]:
    """Seconds by the clock and of processors until a process has ended."""
    wall, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *command], env=environment, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.perf_counter() - wall, cpu


def added(backend: str, environment: dict[str, str]) -> tuple[float, float]:
    """Seconds that `import mhe` takes after `import keras`."""
    output = subprocess.run(
        [sys.executable, "-c", IMPORT],
        env={**environment, "KERAS_BACKEND": backend},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    wall, cpu = map(float, output.split())
    return wall, cpu


def main() -> None:
    """Measures, and writes a row after each median."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--root", type=Path, default=Path(__file__).parents[2])
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--only", nargs="*", help="programs and backends (default: all)")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    environment = {**os.environ, "PYTHONPATH": str(args.root.resolve())}
    measures = {}
    for name, command in commands(args.root.resolve()).items():
        for flag in ("--help", "--out=--"):
            measures[name, flag] = lambda c=command, f=flag: answer([*c, f], environment)
    for backend in BACKENDS:
        measures[backend, "import mhe"] = lambda b=backend: added(b, environment)
    with open(args.out, "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["what", "does", "seconds", "processor_seconds", "times"])
        for (name, does), measure in measures.items():
            if args.only and name not in args.only:
                continue
            runs = [measure() for _ in range(args.times)]
            medians = map(statistics.median, zip(*runs, strict=True))
            table.writerow([name, does, *(f"{median:.3f}" for median in medians), args.times])
            file.flush()


if __name__ == "__main__":
    main()
