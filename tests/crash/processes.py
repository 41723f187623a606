"""Trains a run in two processes, against one; and kills one of two, and resumes on one.

    KERAS_BACKEND=jax python tests/crash/processes.py --out /tmp/processes

The processes meet on loopback. It prints the largest difference of all numbers in the checkpoint
after 20 steps, what the process that was left said after the other one was killed and how long it
took to end, and whether the folder resumed.
"""

import argparse
import csv
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np

ROOT = Path(__file__).parents[2]
FLAGS = [
    *("--dataset", "digits", "--train_images", "192", "--test_images", "58"),
    *("--model_name", "half_mhe", "--recipe", "modern", "--augment", "crop"),
    *("--batch_size", "24", "--base_lr", "0.1", "--seed", "3"),
]
# The program on a network that compiles fast.
SMALL = """
import sys
sys.path[:0] = ["benchmarks", "tests/mhe/harness"]
import test_devices, train
from mhe.harness import models
from mhe.harness.flags import program
models.build = test_devices.network
sys.argv[0] = "train.py"
sys.exit(program(train.main))
"""


def free_port():
    """A port that is free, and the next one too."""
    while True:
        with socket.socket() as one, socket.socket() as two:
            one.bind(("localhost", 0))
            port = one.getsockname()[1]
            try:
                two.bind(("localhost", port + 1))
            except (OSError, OverflowError):
                continue
            return port


def start(flags, processes=1):
    """Starts the program, once or in several processes that train together."""
    port = free_port()
    backend = os.environ["KERAS_BACKEND"]
    if processes > 1:
        flags = [*flags, "--distribute", "data", "--processes", str(processes)]
    started = []
    for process in range(processes):
        names = {"PYTHONPATH": str(ROOT)}
        if processes > 1 and backend == "torch":
            names |= {"RANK": str(process), "WORLD_SIZE": str(processes)}
            names |= {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
        elif processes > 1:
            names |= {"KERAS_DISTRIBUTION_JOB_ADDRESSES": f"localhost:{port}"}
            names |= {"KERAS_DISTRIBUTION_PROCESS_ID": str(process)}
        started.append(
            subprocess.Popen(
                [sys.executable, "-c", SMALL, *flags],
                env={**os.environ, **names},
                cwd=ROOT,
                text=True,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
        )
    return started


def ends(started, timeout=600):
    """Waits for processes, and returns their codes, and what they printed to each stream."""
    printed = [each.communicate(timeout=timeout) for each in started]
    return [(each.returncode, *texts) for each, texts in zip(started, printed, strict=True)]


def numbers(folder):
    """All numbers of the newest checkpoint of a run, by name."""
    found = {}
    (*_, newest) = sorted((folder / "checkpoints").glob("*.weights.h5"))
    with h5py.File(newest) as file:
        file.visititems(
            lambda name, each: (
                found.__setitem__(name, np.array(each, "float64"))
                if isinstance(each, h5py.Dataset)
                else None
            )
        )
    return found


def difference(one, two):
    """The largest difference of two checkpoints."""
    assert one.keys() == two.keys()
    return max(float(np.abs(one[name] - two[name]).max(initial=0)) for name in one)


def rows(folder):
    """The number of complete epochs of a run."""
    try:
        with open(folder / "log.csv", newline="") as file:
            return len(list(csv.DictReader(file)))
    except FileNotFoundError:
        return 0


def train_twice(out):
    """Trains on one process and on two; returns how the processes ended, and both checkpoints."""
    flags = [*FLAGS, "--steps", "20"]
    ended = ends(start([*flags, "--out", str(out / "one")]))
    ended += ends(start([*flags, "--out", str(out / "two")], 2))
    return ended, numbers(out / "one"), numbers(out / "two")


def kill_one(out, victim):
    """Kills one of two processes after two epochs.

    Returns:
        How the other one ended, how many seconds that took, and how the folder resumed on one.
    """
    folder = out / f"killed{victim}"
    # Far more epochs than there is time for; the resumed run has none left but a few.
    flags = [*FLAGS, "--epochs", "400"]
    started = start([*flags, "--out", str(folder)], 2)
    while rows(folder) < 2:
        assert started[0].poll() is None, started[0].communicate()
        time.sleep(0.05)
    os.kill(started[victim].pid, signal.SIGKILL)
    killed = time.monotonic()
    (left,) = ends([started[1 - victim]])
    seconds = time.monotonic() - killed
    ends([started[victim]])
    before = rows(folder)
    (resumed,) = start(["--resume", str(folder)])
    while rows(folder) < before + 2 and resumed.poll() is None:
        time.sleep(0.05)
    resumed.send_signal(signal.SIGINT)
    ends([resumed])
    return left, seconds, before, rows(folder)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--kill", nargs="*", type=int, choices=[0, 1], default=[1, 0])
    args = parser.parse_args()
    out = args.out
    out.mkdir(parents=True)
    ended, one, two = train_twice(out)
    for code, _, errors in ended:
        assert code == 0, errors
    print(
        f"20 steps, largest difference of two processes from one: {difference(one, two):.2e}",
        flush=True,
    )
    for victim in args.kill:
        (code, _, errors), seconds, before, after = kill_one(out, victim)
        print(f"process {victim} killed after {before} epochs: the other ended with {code} in")
        print(
            f"{seconds:.1f} s; resumed on one, {after} epochs. It said:\n{errors.strip()}\n",
            flush=True,
        )


if __name__ == "__main__":
    main()
