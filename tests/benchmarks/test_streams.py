"""Programs on images that stay on disk: the numbers of those in memory, resumed and damaged too."""

import importlib
import io
import json
import tarfile

import keras
import numpy as np
import pytest
from PIL import Image

from mhe.harness import datasets
from mhe.harness.flags import program


def add(tar, name, data):
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


def png(pixels):
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture
def shards(tmp_path):
    """Some of the digits, in two shards to train on and one to test on."""
    digits = datasets.load("digits")
    folder = tmp_path / "digits"
    folder.mkdir()
    for name, (images, labels), part in (
        ("train-0", digits.train, slice(0, 50)),
        ("train-1", digits.train, slice(50, 80)),
        ("test-0", digits.test, slice(0, 40)),
    ):
        with tarfile.open(folder / f"{name}.tar", "w") as tar:
            for place, (pixels, label) in enumerate(
                zip(images[part], labels[part], strict=True), part.start
            ):
                add(tar, f"{place:03}.png", png(pixels[..., 0]))
                add(tar, f"{place:03}.cls", str(label).encode())
    return folder


SHORT = [
    *("--model_name", "mhe", "--batch_size", "20", "--base_lr", "0.02", "--epochs", "3"),
    *("--augment", "crop", "--recipe", "modern"),
]


@pytest.mark.one_backend
def test_an_interrupted_stream_ends_as_a_run_in_memory(
    shards, load, small, tmp_path, capsys, interrupted, assert_same_log
):
    train = load("train")
    flags = ["--dataset", str(shards), *SHORT]
    names = keras.backend.clear_session  # the names of weights, as in a process of its own
    names()
    assert program(train.main, [*flags, "--out", str(tmp_path / "whole")]) == 0
    expected = "80 training and 40 test images of 8x8 pixels, "
    assert f"{expected}in memory (0.00 GiB)" in capsys.readouterr().out
    streamed = tmp_path / "streamed"
    names()
    with interrupted(after=2):
        assert program(train.main, [*flags, "--memory", "0", "--out", str(streamed)]) == 130
    assert f"{expected}streamed from disk (0.00 GiB decoded)" in capsys.readouterr().out
    names()
    assert program(train.main, ["--resume", str(streamed), "--memory", "0"]) == 0
    assert "streamed from disk" in capsys.readouterr().out
    assert_same_log(tmp_path / "whole", streamed)


def test_an_image_that_turns_out_to_be_damaged_ends_a_run_in_one_line(
    shards, load, small, tmp_path, capsys
):
    path = shards / "train-1.tar"
    with tarfile.open(path) as tar:
        start = tar.getmember("070.png").offset_data
    data = bytearray(path.read_bytes())
    data[start + 45 : start + 60] = bytes(15)  # behind the header
    path.write_bytes(data)
    flags = ["--dataset", str(shards), *SHORT, "--memory", "0", "--out", str(tmp_path / "run")]
    assert program(load("train").main, flags) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert f"{shards}: 1 file cannot be read as an image: train-1.tar/070.png (" in error


PROGRAMS = {
    "hierarchy": ["--model_name", "softmax", "--tree", "digits", "--epochs", "1"],
    "hpn": ["--model_name", "hpn", "--dims", "9", "--epochs", "1"],
    "clusters": ["--model_name", "magnet", "--per_class", "1", "--epochs", "1", "--members", "4"],
    "sphereface_plus.plane": ["--model_name", "cosface", "--epochs", "1"],
    "gan.train_classifier": ["--epochs", "1"],
    "gan.train": [
        *("--model_name", "sn", "--steps", "4", "--snapshot_every", "2", "--score_images", "0"),
        *("--images", "0", "--width", "0.02", "--image_size", "16"),
    ],
}


@pytest.mark.one_backend
@pytest.mark.parametrize("name", PROGRAMS)
def test_every_program_that_streams_gives_the_numbers_of_images_in_memory(
    name, shards, load, small, tmp_path
):
    module = importlib.import_module(name) if "." in name else load(name)
    flags = ["--dataset", str(shards), "--batch_size", "20", *PROGRAMS[name]]
    metrics = []
    for memory in ("1", "0"):
        out = tmp_path / memory
        assert program(module.main, [*flags, "--memory", memory, "--out", str(out)]) == 0
        metrics.append(json.loads((out / "result.json").read_text())["metrics"])
    assert metrics[1] == pytest.approx(metrics[0], rel=1e-4, nan_ok=True)


@pytest.mark.one_backend
def test_what_needs_all_images_in_memory_is_refused(shards, load, assert_refused):
    flags = [*PROGRAMS["hpn"], "--task", "regression", "--target", "rotation", "--memory", "0"]
    message = "--target rotation needs all images in memory, which --memory has to allow. Received"
    assert_refused(load("hpn").main, ["--dataset", str(shards), *flags], message)


@pytest.mark.one_backend
def test_statistics_of_real_images_do_not_depend_on_where_they_are(shards):
    from gan.scores.reference import _digest

    whole, streamed = (datasets.load(str(shards), memory=memory) for memory in (None, 0))
    assert _digest(streamed.train[0]) == _digest(np.ascontiguousarray(whole.train[0]))
