"""Kills every training program at random moments, resumes it, and compares it with an unbroken run.

    OMP_NUM_THREADS=1 KERAS_BACKEND=torch python tests/crash/kill.py --kills 10 --out log/crash

No part of the suite: `make crash` runs it. The programs are loaded once, and every run of one is a
fork of this process, which SIGKILL ends at a moment drawn from the duration of an unbroken run. A
killed run is resumed, or started again if it has no config yet, until it is complete; then another
one starts, until there are enough kills. Runs are tiny. `kills.csv` gets a row per program.
"""

import argparse
import csv
import importlib
import importlib.util
import json
import math
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("MPLBACKEND", "Agg")

import keras
import numpy as np
from PIL import Image

from mhe.harness.datasets import load
from mhe.harness.files import write_csv
from mhe.harness.flags import LineParser, integer, program

ROOT = Path(__file__).parents[2]
DIGITS = ("--dataset", "digits")
FEW = (*DIGITS, "--train_images", "60", "--batch_size", "20", "--epochs", "3")
NETWORK = ("--arch", "conv4", "--width", "0.05")
# The flags of each program's runs; folders of data that are made here stand in braces.
PROGRAMS = {
    "benchmarks/train.py": (*FEW, "--width", "0.05", "--model_name", "half_mhe"),
    "benchmarks/hpn.py": (*FEW, *NETWORK, "--dims", "6"),
    "benchmarks/hierarchy.py": (*FEW, *NETWORK, "--dims", "4", "--model_name", "fixed_metric"),
    "benchmarks/fewshot.py": (
        *(*DIGITS, "--width", "0.05", "--ways", "4", "--shots", "1", "--queries", "2"),
        *("--episodes", "4", "--epochs", "3", "--test_episodes", "20"),
    ),
    "benchmarks/clusters.py": (*FEW, *NETWORK, "--dims", "3", "--per_class", "2"),
    "benchmarks/detection.py": (
        *(*DIGITS, "--scenes", "6", "--epochs", "3", "--batch_size", "16", "--width", "0.05"),
        *("--ways", "3", "--shots", "2", "--episodes", "2", "--queries", "1", "--dims", "4"),
    ),
    "benchmarks/interpret.py": (*FEW, *NETWORK, "--per_class", "2"),
    "sphereface_plus/train.py": (
        *("--data_dir", "{people}", "--arch", "sfnet4", "--width", "0.06", "--dims", "8"),
        *("--image_size", "16x16", "--channels", "1", "--batch_size", "8", "--epochs", "3"),
        *("--test_people", "3"),
    ),
    "sphereface_plus/plane.py": (*FEW, "--width", "0.1", "--m", "2"),
    "gan/train.py": (
        *(*DIGITS, "--train_images", "40", "--width", "0.02", "--batch_size", "8"),
        *("--steps", "5", "--snapshot_every", "2", "--score_images", "10", "--images", "12"),
        *("--splits", "2", "--classifier", "{classifier}", "--statistics", "{statistics}"),
    ),
    "gan/train_classifier.py": (*FEW, "--width", "0.05"),
}


def make_parser() -> LineParser:
    """Returns the parser of this program's flags."""
    parser = LineParser(
        prog="tests/crash/kill.py",
        description="Kills every training program at random moments, and resumes it.",
    )
    parser.add_argument("--kills", type=integer(1), default=10, help="kills per program")
    parser.add_argument("--seed", type=integer(0), default=0, help="seed of the moments")
    parser.add_argument("--out", required=True, help="folder for kills.csv")
    parser.add_argument(
        "--programs", nargs="+", choices=PROGRAMS, default=list(PROGRAMS), help="which programs"
    )
    return parser


def make_data(folder: Path) -> None:
    """Makes a folder of people, who are digits, and a classifier that has learnt nothing."""
    images, labels = load("digits").train
    for person in range(8):
        place = folder / "people" / f"p{person}"
        place.mkdir(parents=True)
        for number, image in enumerate(images[labels == person][:6]):
            pixels = Image.fromarray(image[..., 0]).resize((16, 16))
            pixels.save(place / f"p{person}_{number:04}.png")
    pixels = keras.Input((8, 8, 1))
    hidden = keras.layers.Flatten()(keras.layers.Rescaling(1 / 255)(pixels))
    keras.Model(pixels, keras.layers.Dense(3)(hidden)).save(folder / "classifier.keras")


def flags_of(path: str, folder: Path) -> list[str]:
    """The flags of a program's runs, with what `make_data` has made in a folder."""
    data = {
        "people": str(folder / "people"),
        "classifier": str(folder / "classifier.keras"),
        "statistics": str(folder / "statistics"),
    }
    return [flag.format(**data) for flag in PROGRAMS[path]]


def load_main(path: str) -> Callable[[Any], None]:
    """Loads a program as Python does when it is called."""
    if path.startswith("benchmarks/"):
        if str(ROOT / "benchmarks") not in sys.path:
            sys.path.insert(0, str(ROOT / "benchmarks"))
        name = f"crash_{Path(path).stem}"
        spec = importlib.util.spec_from_file_location(name, ROOT / path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    else:
        module = importlib.import_module(path.removesuffix(".py").replace("/", "."))
    return module.main  # type: ignore[no-any-return]


def run(
    main: Callable[[Any], None], argv: list[str], log: Path, kill_after: float = math.inf
) -> tuple[int | None, float]:
    """Runs a program in a fork.

    Returns:
        Its exit code, None if it was killed, and its seconds.
    """
    sys.stdout.flush()
    began = time.monotonic()
    child = os.fork()
    if child == 0:
        file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(file, 1)
        os.dup2(file, 2)
        code = 70
        try:
            code = program(main, argv)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            os._exit(code)
    while time.monotonic() - began < kill_after:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status), time.monotonic() - began
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return None if code == -signal.SIGKILL else code, time.monotonic() - began


def difference(one: Path, other: Path) -> float:
    """The largest relative difference between the numbers of two runs, inf if more differs."""
    names = [
        {p.relative_to(run).as_posix() for p in run.rglob("*") if "tfevents" not in p.name}
        for run in (one, other)
    ]
    if names[0] != names[1]:
        print(f"files: {sorted(names[0] ^ names[1])}")
        return math.inf
    largest = 0.0
    for name in sorted(names[0]):
        rows: list[list[Any]] = []
        if name in ("classes.csv", "people.csv"):
            if (one / name).read_bytes() != (other / name).read_bytes():
                print(f"{name}: other bytes")
                return math.inf
        elif name.endswith(".csv"):
            rows = [list(csv.DictReader((run / name).open(newline=""))) for run in (one, other)]
        elif name == "result.json":
            rows = [[json.loads((run / name).read_text())["metrics"]] for run in (one, other)]
        elif name == "prototypes.npy":
            rows = [[dict(enumerate(np.load(run / name).flat))] for run in (one, other)]
        if not rows:
            continue
        if len(rows[0]) != len(rows[1]):
            print(f"{name}: {len(rows[0])} and {len(rows[1])} rows")
            return math.inf
        for mine, others in zip(*rows, strict=True):
            for column in (mine.keys() | others.keys()) - {"seconds"}:
                largest = max(largest, apart(mine.get(column), others.get(column)))
    return largest


def apart(one: Any, other: Any) -> float:
    """The relative difference of two cells: 0 if they are equal, inf if they are no numbers."""
    if one == other:
        return 0.0
    try:
        a, b = float(one), float(other)
    except (TypeError, ValueError):
        return math.inf
    return abs(a - b) / max(abs(a), abs(b))


def crash(path: str, flags: list[str], kills: int, folder: Path) -> dict[str, Any]:
    """Kills and resumes runs of one program, and compares each with an unbroken one."""
    main, log = load_main(path), folder / "log.txt"
    whole = folder / "whole"
    code, _ = run(main, [*flags, "--out", str(whole)], log)
    # The second is not slowed down by what the first caches.
    again, seconds = run(main, [*flags, "--out", str(folder / "again")], log)
    row: dict[str, Any] = {
        "program": path,
        "seconds": round(seconds, 2),
        "kills": 0,
        "runs": 0,
        "before_config": 0,
        "in_training": 0,
        "after_training": 0,
        "difference": difference(whole, folder / "again"),
        "failures": int(code != 0) + int(again != 0),
    }
    while row["kills"] < kills:
        row["runs"] += 1
        out = folder / f"run{row['runs']}"
        while not (out / "result.json").exists():
            started = (out / "config.json").exists()
            argv = ["--resume", str(out)] if started else [*flags, "--out", str(out)]
            left = row["kills"] < kills
            after = random.uniform(0, 1.1 * seconds) if left else math.inf
            code, _ = run(main, argv, log, after)
            if code is not None:
                row["failures"] += code != 0
                if code:
                    break
                continue
            row["kills"] += 1
            epochs = len(list(out.glob("checkpoints/epoch-*.weights.h5")))
            done = (out / "log.csv").exists() and epochs == 2
            moment = "after_training" if done and last_epoch(out, whole) else "in_training"
            row[moment if (out / "config.json").exists() else "before_config"] += 1
        else:
            row["difference"] = max(row["difference"], difference(whole, out))
    if "Traceback" in log.read_text():
        row["failures"] += 1
    return row


def last_epoch(run: Path, whole: Path) -> bool:
    """Whether a run has the newest checkpoint of the unbroken one."""
    return all(
        (run / path.relative_to(whole)).exists() for path in whole.glob("checkpoints/*.weights.h5")
    )


def main(argv: Any = None) -> None:
    """Kills what the flags ask for, and prints and writes what came of it."""
    args: argparse.Namespace = make_parser().parse_args(argv)
    random.seed(args.seed)
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    os.chdir(ROOT)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        make_data(Path(folder))
        for path in args.programs:
            place = Path(folder, path.replace("/", "-"))
            place.mkdir()
            rows.append(crash(path, flags_of(path, Path(folder)), args.kills, place))
            print("  ".join(f"{name} {value}" for name, value in rows[-1].items()), flush=True)
            write_csv(out / "kills.csv", rows)
            if rows[-1]["failures"] or rows[-1]["difference"] == math.inf:
                shutil.copy(place / "log.txt", out / f"{place.name}.txt")
    if any(row["failures"] or row["difference"] > 2e-3 for row in rows):
        sys.exit(1)


if __name__ == "__main__":
    sys.exit(program(main))
