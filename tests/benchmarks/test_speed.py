"""The speed program from end to end: its tables, files and errors."""

import csv
import doctest
import itertools
import json
import re

import keras
import pytest

import mhe
from mhe.harness.errors import BadInput
from mhe.harness.flags import program

BACKEND = keras.backend.backend()
SMALL = ("--backends", BACKEND, "--rounds", "3", "--seconds", "0.01")


# A process for each backend is what these take; one backend's tells whether the program is right.
@pytest.fixture
def speed(load):
    return load("speed")


def read(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.one_backend
def test_table_from_end_to_end(speed, tmp_path, capsys):
    out = tmp_path / "speed"
    flags = ["--layers", "16x8", "16x12", "--spaces", "half", "--powers", "0", "2"]
    speed.main([*SMALL, *flags, "--distances", "angle", "--peaks", "none", "--out", str(out)])
    rows = read(out / "speed.csv")
    layers = [(row["dims"], row["neurons"], row["s"]) for row in rows]
    assert list(dict.fromkeys(layers)) == list(itertools.product(["16"], ["8", "12"], ["0", "2"]))
    assert {row["rounds"] for row in rows} == {"3"}
    assert all(float(row["min_ms"]) <= float(row["median_ms"]) for row in rows)
    assert {row["backend"] for row in rows} == {BACKEND}
    machine = json.loads((out / "machine.json").read_text())
    assert machine["keras"] == keras.__version__
    assert machine["backends"][BACKEND]["device"] == rows[0]["device"]
    assert (out / "speed.png").exists()
    printed = capsys.readouterr()
    assert "16x12  half a2" in printed.out
    lines = [line.split() for line in printed.out.splitlines() if " half a" in line]
    shown = {(words[0], words[2]): words[3:] for words in lines}
    for row in rows:
        cells = shown[f"{row['dims']}x{row['neurons']}", f"a{row['s']}"]
        assert f"{float(row['median_ms']):.4g}" in cells
    assert "not measured" in printed.out
    # Its errors do not go to a terminal here, so it shows no progress.
    assert "left" not in printed.err


@pytest.mark.one_backend
def test_peaks_are_measured_for_what_was_timed(speed, tmp_path, capsys):
    out = tmp_path / "speed"
    flags = ["--layers", "64x600", "--spaces", "full", "--distances", "euclidean"]
    flags += ["--powers", "0", "2", "--memory_limit", "1e-9", "--out", str(out)]
    speed.main([*SMALL, *flags])
    rows = {(row["method"], row["s"]): row for row in read(out / "speed.csv")}
    assert "MiB kernel" in capsys.readouterr().out
    assert rows["published", "2"]["note"] == "needs about 0.0 GiB"
    # One energy is enough, the last, and the floor is no energy.
    assert rows["kernel", "0"]["memory_mib"] == rows["floor", "2"]["memory_mib"] == ""
    square = 4 * 600**2 / 2**20
    assert square / 2 < float(rows["kernel", "2"]["memory_mib"]) < 40 * square


@pytest.mark.one_backend
def test_memory_of_wide_layers(speed, tmp_path, capsys):
    out = tmp_path / "memory"
    speed.main(["--backends", BACKEND, "--memory", "16x3000", "--out", str(out)])
    (row,) = read(out / "memory.csv")
    assert (row["dims"], row["neurons"], row["note"]) == ("16", "3000", "")
    # At least two arrays of a block of pairs, and by far not as much as the published formula.
    block, square = (4 * count**2 / 2**20 for count in (mhe.energy.block_size(3000), 3000))
    assert 2 * block <= float(row["memory_mib"]) < 4 * square
    words = capsys.readouterr().out.splitlines()[1].split()
    assert words[1:] == [
        "16x3000",
        *(f"{float(row[name]):.1f}" for name in ("seconds", "memory_mib")),
    ]


@pytest.mark.one_backend
def test_family(speed, tmp_path, capsys):
    out = tmp_path / "family"
    speed.main([*SMALL, "--family", "40x12", "--out", str(out)])
    assert "srip" in capsys.readouterr().out
    rows = read(out / "family.csv")
    assert [row["method"] for row in rows][:3] == ["mhe", "comhe", "mhs"]
    assert len(rows) == 12
    for row in rows:
        over = float(row["median_ms"]) / float(rows[0]["median_ms"])
        assert float(row["ratio"]) == pytest.approx(over, rel=0.01, abs=1e-3)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--layers", "512"], "--layers: must be dimensions x neurons, .* Received: 512"),
        (["--memory", "0x64"], "--memory: must be dimensions x neurons"),
        (["--backends", "numpy"], "--backends: invalid choice: 'numpy'"),
        (["--powers", "-1"], "--powers: must be a number from 0 to"),
        (["--spaces", "quarter"], "--spaces: invalid choice"),
        (["--step", "vgg"], "--step: invalid choice"),
        (["--rounds", "0"], "--rounds: must be an integer"),
        (["--out", "{full}"], "is not empty, and nothing in it is overwritten"),
    ],
    ids=str,
)
def test_bad_input_is_one_line(flags, words, speed, tmp_path, capsys):
    (tmp_path / "kept.txt").write_text("kept")
    flags = [flag.format(full=tmp_path) for flag in flags]
    assert program(speed.main, ["--out", str(tmp_path / "new"), *flags]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(words, line)
    assert [path.name for path in tmp_path.iterdir()] == ["kept.txt"]


def test_backends_that_are_not_installed_are_refused(speed, monkeypatch, tmp_path):
    monkeypatch.setattr(speed, "INSTALLED", ["jax"])
    with pytest.raises(BadInput, match=r"--backends torch is not installed\. Installed: jax"):
        speed.main(["--backends", "jax", "torch", "--out", str(tmp_path / "new")])


def test_flags_without_numbers_take_the_published_ones(speed):
    flags = vars(speed.make_parser().parse_args(["--step", "--sampling"]))
    assert flags["step"] == flags["sampling"] == []
    assert not {"memory", "memory_limit", "step_batch"} & flags.keys()
    assert "512x10575" in flags["layers"]


def test_examples_run(speed):
    tried = doctest.testmod(speed, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert tried.attempted > 0
    assert tried.failed == 0
