"""Few-shot detection: boxes, average precision, scenes, what is told of them, a run, bad input."""

import doctest
import importlib
import json
from pathlib import Path

import keras
import numpy as np
import pytest

from mhe.harness import runs
from mhe.harness.flags import program

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="NumPy only, and a program over tested parts"
)

SMALL = [
    *("--dataset", "digits", "--scenes", "6", "--epochs", "1", "--batch_size", "16"),
    *("--ways", "3", "--shots", "2", "--episodes", "2", "--queries", "1", "--dims", "4"),
]


@pytest.fixture
def boxes(load):
    return importlib.import_module("tasks.boxes")


@pytest.fixture
def scenes(boxes, load):
    return importlib.import_module("tasks.scenes")


@pytest.fixture
def detection(scenes, load):
    return load("detection")


@pytest.fixture
def small(load, monkeypatch):
    """Trades the published network, which takes long to compile, for a small one."""
    network = load("small_train", folder=Path(__file__).parent).network
    monkeypatch.setattr("mhe.harness.models.build", network)


def test_average_precision_is_the_area_under_the_curve(boxes):
    rng = np.random.default_rng(0)
    for _ in range(20):
        count = rng.integers(1, 12)
        scores, right = rng.permutation(count) / 10, rng.random(count) < 0.5
        objects = right.sum() + rng.integers(1, 3)
        order = np.argsort(-scores)
        points = [
            (right[order[: n + 1]].sum() / objects, right[order[: n + 1]].mean())
            for n in range(count)
        ]
        # At each recall the best precision there or further on; 0 where none is reached.
        recalls = np.arange(1, objects + 1) / objects
        best = [max([p for r, p in points if r >= each - 1e-9], default=0) for each in recalls]
        assert boxes.average_precision(scores, right, objects) == pytest.approx(np.mean(best))


def test_overlaps_are_shared_pixels(boxes):
    rng = np.random.default_rng(1)
    corners = rng.integers(0, 10, size=(6, 2))
    made = np.concatenate([corners, corners + rng.integers(1, 8, size=(6, 2))], axis=1)
    masks = np.zeros((6, 20, 20), bool)
    for mask, (top, left, bottom, right) in zip(masks, made, strict=True):
        mask[top:bottom, left:right] = True
    shared = (masks[:, None] & masks).sum((2, 3)) / (masks[:, None] | masks).sum((2, 3))
    np.testing.assert_allclose(boxes.overlaps(made, made), shared)
    kept = boxes.without_doubles(made, scores := rng.random(6), threshold=0.2)
    assert kept[0] == scores.argmax()
    assert np.all(shared[np.ix_(kept, kept)][~np.eye(len(kept), dtype=bool)] < 0.2)
    for place in set(range(6)) - set(kept.tolist()):
        assert np.any((shared[place, kept] >= 0.2) & (scores[kept] > scores[place]))


def test_every_object_of_a_scene_stands_in_its_box(scenes, boxes):
    rng = np.random.default_rng(2)
    images = np.full((5, 12, 12, 1), 200, "uint8")
    drawn = scenes.draw_scenes(images, np.arange(5), 20, rng)
    proposals = scenes.proposals()
    best = []
    for scene in drawn:
        inside = np.zeros(scene.canvas.shape, bool)
        for top, left, bottom, right in scene.boxes:
            inside[top:bottom, left:right] = True
        np.testing.assert_array_equal(scene.canvas > 0, inside)
        shared = boxes.overlaps(scene.boxes, scene.boxes)
        np.testing.assert_array_equal(shared, np.eye(len(shared)))
        best += boxes.overlaps(scene.boxes, proposals).max(axis=1).tolist()
    # The grid alone can find nearly all of them.
    assert np.mean(np.array(best) >= 0.5) > 0.98
    regions, labels = scenes.regions(drawn, 5, rng)
    assert regions.shape[1:] == (28, 28, 1)
    covered = (regions > 0).mean(axis=(1, 2, 3))
    assert covered[labels < 5].min() > 0.5
    assert np.median(covered[labels == 5]) < 0.5
    assert 0.4 < np.mean(labels == 5) < 0.6


def test_a_perfect_embedding_detects_everything(detection, scenes, boxes, monkeypatch):
    """Brightness tells classes and, against black, how well a box fits."""
    levels = np.array([80, 160, 240], "uint8")
    images = np.broadcast_to(levels[:, None, None, None], (3, 12, 12, 1))
    drawn = scenes.draw_scenes(images, np.arange(3), 4, np.random.default_rng(3))

    def embedded(embed, regions):
        mean, spread = regions.mean(axis=(1, 2, 3)), regions.std(axis=(1, 2, 3))
        return np.stack([mean, spread], axis=1).astype("float32") / 100

    monkeypatch.setattr(detection, "_embedded", embedded)
    few = np.stack([levels / 100, 0 * levels], axis=1)[:, None]
    head = detection.Representatives(3, 1, 2, representatives=few)
    args, _ = detection.make_parser().settle([])
    found = detection.detect(args, None, head, drawn)
    assert detection.mean_average_precision(found, drawn) > 0.8
    swapped = [[scene[1], scene[0], scene[2]] for scene in found]
    assert detection.mean_average_precision(swapped, drawn) < 0.6


def test_a_run_scores_classes_it_was_not_trained_on(
    detection, small, tmp_path, capsys, monkeypatch
):
    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        # Ctrl-C after the training; what it was tested on is drawn again.
        patch.setattr(detection, "episode", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        assert program(detection.main, [*SMALL, "--out", str(folder)]) == 130
    assert runs.Run.resume(folder).epoch == 1
    assert program(detection.main, ["--resume", str(folder)]) == 0
    metrics = json.loads((folder / "result.json").read_text())["metrics"]
    precision = metrics["test_mean_average_precision"]
    assert 0 <= precision <= 1
    assert f"test mean average precision {precision:.4f}" in capsys.readouterr().out
    args, _ = detection.make_parser().settle(["--resume", str(folder)])
    split = detection.prepare(args)
    assert not set(split.train[1]) & set(split.test[1])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--ways", "6"], "--ways must be at most the 5 classes to test on. Received: 6"),
        (["--shots", "500"], "--shots must leave a drawing of each class to detect; "),
        (["--drops", "2"], "--drops must be rising numbers"),
        (["--test_alphabets", "Greek"], "--test_alphabets needs Omniglot"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    detection, tmp_path, capsys, monkeypatch, flags, message
):
    monkeypatch.chdir(tmp_path)
    assert program(detection.main, [*SMALL, *flags]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_examples_run(detection, scenes, boxes):
    for module in (detection, scenes, boxes):
        tried = doctest.testmod(module)
        assert tried.attempted > 0
        assert tried.failed == 0
