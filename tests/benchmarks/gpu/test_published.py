"""The script of the published recipe: it trains seed after seed, stops in time, and resumes."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.one_backend

SCRIPT = Path(__file__).parents[3] / "benchmarks" / "gpu" / "published.sh"
TOY = ["--train_images", "40", "--width", "0.06", "--steps", "2", "--batch_size", "20"]
# Stands in for Python: notes its arguments, and "trains" as long as told.
STUB = """#!/usr/bin/env bash
echo "$*" >> {notes}
program=$(basename "$1")
while [ $# -gt 0 ]; do
    case $1 in --out) out=$2 ;; --seed) seed=$2 ;; esac
    shift
done
[ "$program" = train.py ] || exit 0
trap 'exit 130' INT
for ((tick = 0; tick < {ticks}; tick++)); do sleep 0.1; done
mkdir -p "$out/baseline-seed$seed"
echo '{{}}' > "$out/baseline-seed$seed/result.json"
exit {code}
"""


def call(*arguments, **environment):
    return subprocess.run(
        [str(SCRIPT), *map(str, arguments)],
        env={**os.environ, "PYTHON": sys.executable, **environment},
        capture_output=True,
        text=True,
        timeout=600,
    )


@pytest.fixture
def stub(tmp_path):
    def stub(ticks=0, code=0):
        path = tmp_path / "python"
        path.write_text(STUB.format(notes=tmp_path / "notes", ticks=ticks, code=code))
        path.chmod(0o755)
        return {"PYTHON": str(path)}

    return stub


def test_seed_after_seed_and_a_table(stub, tmp_path):
    out = tmp_path / "runs"
    done = call("faces.zip", 1, out, "--width", "0.5", **stub(), SEEDS="2")
    assert done.returncode == 0, done.stderr
    notes = (tmp_path / "notes").read_text().splitlines()
    for seed, note in enumerate(notes[:2]):
        assert note.endswith(
            "train.py --dataset faces.zip --recipe published --model_name baseline half_mhe "
            f"--seed {seed} --out {out} --width 0.5"
        )
    runs = " ".join(f"{out}/baseline-seed{seed}" for seed in range(2))
    assert notes[2].endswith(f"table.py {runs} --out {out}/all")


def test_it_stops_in_time(stub, tmp_path):
    out = tmp_path / "runs"
    done = call("faces.zip", 0.0006, out, **stub(ticks=600))
    assert done.returncode == 0, done.stderr
    assert "Time ran out in seed 0; the same command resumes it" in done.stdout
    assert "is complete yet" in done.stdout


def test_an_error_of_the_program_ends_it(stub, tmp_path):
    done = call("faces.zip", 1, tmp_path / "runs", **stub(code=2))
    assert done.returncode == 2
    assert len((tmp_path / "notes").read_text().splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["faces.zip"], "DATASET and HOURS are required"),
        (["faces.zip", "long"], "HOURS must be a number. Received: long"),
    ],
)
def test_bad_input_is_one_line(arguments, words, tmp_path):
    done = call(*arguments)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert words in line


def test_a_toy_of_the_recipe(tmp_path):
    out = tmp_path / "runs"
    done = call("digits", 1, out, *TOY, SEEDS="1")
    assert done.returncode == 0, done.stderr
    with open(out / "all" / "table.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["model_name"] for row in rows] == ["baseline", "half_mhe"]
    assert {row["seeds"] for row in rows} == {"1"}
