"""Checksums, and a run each of whose files is damaged in turn."""

import shutil
import subprocess

import keras
import numpy as np
import pytest

from mhe.harness import recipes
from mhe.harness.checksums import (
    Damaged,
    beside,
    replacing_with_checksum,
    require_intact,
    require_own,
    write_checksums,
)
from mhe.harness.comparisons import Comparison, Varied
from mhe.harness.flags import Parser, program
from mhe.harness.run import Run
from mhe.harness.training import ImageTask, Program

pytestmark = pytest.mark.one_backend


@pytest.fixture
def sums(tmp_path):
    """The checksums of two files."""
    files = {name: tmp_path / name for name in ("a.h5", "b c.csv")}
    for name, path in files.items():
        path.write_text(name * 100)
    write_checksums(tmp_path / "both.sha256", files)
    return tmp_path / "both.sha256"


def test_intact_files_pass_here_and_in_coreutils(sums):
    require_intact(sums, ["a.h5", "b c.csv"])
    if shutil.which("sha256sum"):
        command = ["sha256sum", "--check", "--strict", "--status", sums.name]
        assert subprocess.run(command, cwd=sums.parent).returncode == 0


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.h5", b"a.h5" * 99 + b"A.h5", "a.h5 is not the file whose checksum both.sha256 holds"),
        ("a.h5", None, "a.h5 is missing"),
        ("both.sha256", bytes(100), "both.sha256 is damaged"),
        ("both.sha256", b"", "both.sha256 is damaged"),
        ("both.sha256", b"\xff\xff", "both.sha256 is damaged"),
        ("both.sha256", b"0" * 64 + b"  ../a.h5\n", "both.sha256 is damaged"),
        ("both.sha256", b"0" * 64 + b"  b c.csv\n", "both.sha256 is damaged"),
    ],
)
def test_what_has_changed_is_named(sums, name, content, message):
    path = sums.with_name(name)
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(Damaged, match=message):
        require_intact(sums, ["a.h5"])


def test_a_single_file_has_its_checksum_beside_it(tmp_path):
    path = tmp_path / "prototypes.npy"
    path.write_text("of an earlier version")
    require_own(path)
    with replacing_with_checksum(path) as partial:
        partial.write_text("numbers")
    assert (path.read_text(), beside(path).exists()) == ("numbers", True)
    require_own(path)
    path.write_text("others")
    with pytest.raises(Damaged, match="is not the file"):
        require_own(path)


COMPARISON = Comparison("benchmarks/damaged.py", [Varied("model_name")], {})


class Wide(ImageTask):
    """A network whose weights fill some blocks of a disk."""

    def __init__(self, args, run):
        super().__init__(args, run)
        images = np.arange(8 * 16, dtype="uint8").reshape(8, 4, 4, 1)
        self.use((images, np.arange(8) % 2), None)

    def build(self):
        model = keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Flatten()])
        model.add(keras.layers.Dense(48, activation="relu"))
        model.add(keras.layers.Dense(2))
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        optimizer = keras.optimizers.SGD(0.1, momentum=0.9)
        model.compile(optimizer, loss, run_eagerly=keras.backend.backend() == "tensorflow")
        return model

    def report(self, run):
        total = sum(float(np.abs(np.asarray(weight)).sum()) for weight in self.model.get_weights())
        return {"loss": run.rows[-1]["loss"], "total": total}


def make_parser():
    parser = Parser(COMPARISON.program, "Trains.")
    parser.add_argument("--model_name", default="wide")
    parser.add_argument("--dataset", default="eight")
    recipes.add_seeds(parser)
    recipes.add_step_flags(parser, batch_size=4, base_lr=0.1, epochs=3)
    return parser


main = Program(make_parser, Wide, COMPARISON, folder="damaged").main


def places(folder):
    """Every 4 KB of every file, by its path in the folder."""
    return [
        (path.relative_to(folder), offset)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
        for offset in range(0, path.stat().st_size, 4096)
    ]


def without_seconds(run):
    return [{**row, "seconds": None} for row in run.rows]


@pytest.mark.parametrize("finished", [False, True])
def test_zeros_anywhere_give_the_right_result_or_one_line(tmp_path, capsys, finished):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert program(main, ["--out", str(whole)]) == 0
    expected = Run.resume(whole)
    shutil.copytree(whole, stopped)
    if not finished:
        # As if it had been killed before it recorded the last epoch.
        (stopped / "result.json").unlink()
        for path in stopped.glob("checkpoints/epoch-000003.*"):
            path.unlink()
        shutil.copy(whole / "checkpoints" / "epoch-000002.csv", stopped / "log.csv")
        assert program(main, ["--out", str(tmp_path / "two"), "--epochs", "1"]) == 0
        for path in (tmp_path / "two" / "checkpoints").iterdir():
            shutil.copy(path, stopped / "checkpoints")
    codes = []
    for number, (name, offset) in enumerate(places(stopped)):
        folder = tmp_path / str(number)
        shutil.copytree(stopped, folder)
        with open(folder / name, "r+b") as file:
            size = file.seek(0, 2)
            file.seek(offset)
            file.write(bytes(min(512, size - offset)))
        capsys.readouterr()
        code = program(main, ["--resume", str(folder)])
        error = capsys.readouterr().err
        codes.append(code)
        if code:
            assert (code, error.count("\n")) == (2, 1), (name, offset, error)
            assert name.name in error
            continue
        run = Run.resume(folder)
        assert without_seconds(run) == without_seconds(expected), (name, offset)
        assert run.result["metrics"] == expected.result["metrics"], (name, offset)
    # Only the config and the result have no copy.
    assert codes.count(2) == 1 + finished
