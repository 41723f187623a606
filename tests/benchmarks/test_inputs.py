"""The benchmark of inputs: both sides are measured, and a dataset that cannot stream is refused."""

import csv
import doctest

import keras
import pytest
from PIL import Image

from mhe.harness.flags import program

pytestmark = pytest.mark.one_backend


@pytest.fixture
def folder(tmp_path):
    for split in ("train", "test"):
        for name in "ab":
            place = tmp_path / "images" / split / name
            place.mkdir(parents=True)
            for number in range(5):
                Image.new("RGB", (32, 32), (number, 0, 0)).save(place / f"{number}.png")
    return tmp_path / "images"


def test_images_in_memory_and_streamed(load, folder, tmp_path, capfd):
    inputs = load("inputs")
    assert doctest.testmod(inputs).failed == 0
    out = tmp_path / "out"
    flags = ["--dataset", str(folder), "--arch", "conv4", "--width", "0.05", "--batch_size", "2"]
    flags += ["--rounds", "1", "--seconds", "0.01", "--out", str(out)]
    assert program(inputs.main, flags) == 0
    printed = capfd.readouterr().out
    assert "10 training and 10 test images of 32x32 pixels, streamed from disk" in printed
    with open(out / f"inputs-{keras.backend.backend()}.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["what"] for row in rows] == ["batches", "training", "memory_mib"]
    for row in rows:
        assert float(row["in memory"]) > 0 < float(row["streamed"])
        ratio = float(row["streamed"]) / float(row["in memory"])
        assert float(row["ratio"]) == pytest.approx(ratio, rel=0.1, abs=1e-3)
    assert program(inputs.main, flags) == 2
    assert "nothing is overwritten" in capfd.readouterr().err


def test_data_that_is_never_on_disk(load, assert_refused):
    main = load("inputs").main
    assert_refused(main, ["--dataset", "digits"], "which can be streamed from disk. Received: dig")


def test_an_image_that_is_damaged_behind_its_header(load, folder, tmp_path, capsys):
    path = folder / "train" / "a" / "3.png"
    path.write_bytes(path.read_bytes()[:45])
    flags = ["--dataset", str(folder), "--batch_size", "2", "--out", str(tmp_path / "out")]
    assert program(load("inputs").main, flags) == 2
    assert "3.png" in capsys.readouterr().err


def test_too_few_images_for_a_batch(load, folder, assert_refused):
    flags = ["--dataset", str(folder), "--batch_size", "11"]
    assert_refused(load("inputs").main, flags, "A batch needs at least 11 images. Received: 10")
