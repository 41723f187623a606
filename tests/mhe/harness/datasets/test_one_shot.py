"""Omniglot's published one-shot runs."""

import io
import zipfile

import numpy as np
import pytest
from PIL import Image

from mhe.harness.datasets import load_one_shot_runs
from mhe.harness.errors import BadInput

pytestmark = pytest.mark.one_backend


def drawing(seed):
    pixels = np.random.default_rng(seed).integers(2, size=(8, 8), dtype=np.uint8) * 255
    stream = io.BytesIO()
    Image.fromarray(pixels).convert("1").save(stream, "PNG")
    return 255 - pixels, stream.getvalue()


def one_shot_files(run="run01", ways=3):
    """A run in the published layout: item i belongs to class 3 - i."""
    files = {}
    lines = []
    for n in range(1, ways + 1):
        files[f"{run}/training/class{n:02}.png"] = drawing(n)[1]
        files[f"{run}/test/item{n:02}.png"] = drawing(10 + n)[1]
        lines.append(f"{run}/test/item{n:02}.png {run}/training/class{ways + 1 - n:02}.png")
    files[f"{run}/class_labels.txt"] = "\n".join([*lines, ""]).encode()
    return files


@pytest.mark.parametrize("inside", ["", "all_runs/"])
def test_one_shot_runs_in_their_published_layout(inside, tmp_path):
    with zipfile.ZipFile(tmp_path / "runs.zip", "w") as archive:
        for name, data in {**one_shot_files("run02"), **one_shot_files()}.items():
            archive.writestr(inside + name, data)
    runs = load_one_shot_runs(tmp_path / "runs.zip")
    assert [run.name for run in runs] == ["run01", "run02"]
    for run in runs:
        assert run.answers.tolist() == [2, 1, 0]
        for n in (1, 2, 3):
            np.testing.assert_array_equal(run.support[n - 1, ..., 0], drawing(n)[0])
            np.testing.assert_array_equal(run.items[n - 1, ..., 0], drawing(10 + n)[0])
    (small, _) = load_one_shot_runs(tmp_path / "runs.zip", size=4)
    assert small.support.shape == (3, 4, 4, 1)


LABELS = "run01/class_labels.txt"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({LABELS: None}, r"must hold run01/training/.*Received: no run01/class_labels.txt"),
        ({LABELS: b"\n"}, r"run01/class_labels.txt lists no items"),
        ({LABELS: b"run01/test/item01.png"}, r"line 1 must name an item and its support image"),
        ({"run01/test/item02.png": None}, r"line 2 names an image that is missing.*item02.png"),
        ({"run01/training/class03.png": None}, r"line 1 names .* missing.*class03.png"),
        ({LABELS: b"run01/test/item01.png run01/test/item02.png"}, r"an image in run01/training/"),
        (
            {LABELS: 2 * b"run01/test/item01.png run01/training/class01.png\n"},
            r"line 2 names an item for the second time\. Received: run01/test/item01\.png$",
        ),
        ({"run01/training/class03.png": b"?"}, r"run01/training/class03.png \(not an image\)"),
    ],
)
def test_one_shot_runs_that_cannot_be_read(changes, message, tmp_path):
    for name, data in {**one_shot_files(), **changes}.items():
        if data is not None:
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
    with pytest.raises(BadInput, match=message):
        load_one_shot_runs(tmp_path)
