"""Prototypes as images: where they start, what is measured of them, and explanations by them."""

import doctest

import keras
import numpy as np
import pytest

from mhe.harness.batches import normalize

pytestmark = pytest.mark.one_backend

FLAGS = [
    *("--dataset", "digits", "--train_images", "60", "--batch_size", "30", "--epochs", "2"),
    *("--per_class", "2", "--base_lr", "0.01"),
]


@pytest.fixture
def interpret(load):
    return load("interpret")


@pytest.fixture
def task(load_task):
    return load_task("interpret")


def test_starts_are_training_images_of_their_class_or_noise(interpret, task, parsed):
    data = task.prepare(parsed(interpret, *FLAGS, "--seed", "3"))
    images, labels = data.train
    assert len(images) == 60
    for label, own in enumerate(data.start):
        known = [normalize(image) for image in images[labels == label]]
        assert all(any(np.array_equal(each, image) for image in known) for each in own)
        assert not np.array_equal(*own)
    noise = task.prepare(parsed(interpret, *FLAGS, "--start", "noise")).start
    assert -1 <= noise.min() < -0.9
    assert 0.9 < noise.max() <= 1
    assert abs(noise.mean()) < 0.1


def test_readability_of_images_of_noise_and_of_the_wrong_class(interpret, task, parsed):
    data = task.prepare(parsed(interpret, *FLAGS))
    right = task.readability(data.start, data)
    assert right["own_class_nearest"] == 1
    assert right["distance_ratio"] == pytest.approx(0, abs=1e-6)
    assert right["roughness"] == pytest.approx(1, abs=0.15)
    wrong = task.readability(data.start[::-1], data)
    assert wrong == pytest.approx({**right, "own_class_nearest": 0})
    # Means of two images: blurred, and as far from one as from the other.
    pairs = data.start.mean(axis=1, keepdims=True)
    between = task.readability(pairs, data)
    assert between["roughness"] < 0.95 * right["roughness"]
    images = normalize(data.train[0]).reshape(60, -1).astype("float64")
    fresh = normalize(data.test[0]).reshape(len(data.test[0]), -1).astype("float64")

    def distance(rows):
        return np.linalg.norm(rows[:, None] - images, axis=2).min(axis=1).mean()

    expected = distance(pairs.reshape(10, -1)) / distance(fresh)
    assert between["distance_ratio"] == pytest.approx(expected, rel=1e-4)


@pytest.mark.usefixtures("small", "weights_from_numpy")
def test_explanations_are_what_the_logits_come_from(interpret, task, tmp_path, monkeypatch, parsed):
    args = parsed(interpret, *FLAGS)
    data = task.prepare(args)
    model = task.build(args, data, steps=1)
    drawn = []
    monkeypatch.setattr(
        task.figures, "draw_explanations", lambda explained, *_: drawn.extend(explained)
    )
    head = model.get_layer("prototypes")
    task.draw_explanations(head, data, tmp_path, seed=0)
    assert 1 <= len(drawn) <= 8
    for one in drawn:
        logits = keras.ops.convert_to_numpy(model(normalize(one.image[None])))[0]
        first, second = np.argsort(-logits)[:2]
        assert one.classes == (data.class_names[first], data.class_names[second])
        odds = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
        assert one.probabilities == pytest.approx((odds[first], odds[second]), rel=1e-3)
        assert np.all(np.diff(one.similarities, axis=1) <= 0)
        reduced = getattr(one.similarities[0], args.reduction)()
        assert logits[first] == pytest.approx(args.scale * reduced, rel=1e-4)
        starts = task.pixels(data.start[first])
        assert {each.tobytes() for each in one.prototypes[0]} == {e.tobytes() for e in starts}


def test_examples_run(task):
    tried = doctest.testmod(task)
    assert tried.attempted > 0
    assert tried.failed == 0
