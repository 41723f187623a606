"""New classes from a few images: what is held back, and how each way reads the features."""

import argparse

import keras
import numpy as np
import pytest

from mhe.harness import datasets
from mhe.prototypes import place


@pytest.fixture
def task(load_task):
    return load_task("sessions")


def flags(**given):
    options = {"new_classes": 4, "ways": 2, "shots": 3, "seed": 0, **given}
    return argparse.Namespace(**options, session_lr=0.05, session_steps=60)


@pytest.mark.one_backend
def test_the_last_classes_are_held_back(task):
    data = datasets.load("digits")
    first, later = task.split(data, flags())
    assert first.class_names == data.class_names[:6]
    assert set(first.train[1]) == set(first.test[1]) == set(range(6))
    assert later.train[1].tolist() == [6] * 3 + [7] * 3 + [8] * 3 + [9] * 3
    assert len(first.train[1]) == np.sum(data.train[1] < 6)
    assert len(first.test[1]) + len(later.test[1]) == len(data.test[1])
    known = {image.tobytes() for image in data.train[0][data.train[1] >= 6]}
    assert {image.tobytes() for image in later.train[0]} <= known
    again = task.split(data, flags())[1]
    np.testing.assert_array_equal(again.train[0], later.train[0])


def blobs(classes, each, seed):
    """Images of one pixel per class, 4 more than there are: the own one is bright."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(classes), each)
    images = rng.integers(0, 40, size=(len(labels), classes, 1, 1))
    images[np.arange(len(labels)), labels] += 200
    return images.astype("uint8"), labels


@pytest.mark.parametrize(
    ("ends", "norm", "ways"),
    [
        pytest.param("softmax", False, 2, marks=pytest.mark.one_backend),
        pytest.param("prototypes", False, 2, marks=pytest.mark.one_backend),
        ("prototypes", True, 4),
    ],
)
def test_new_classes_are_learnt_and_old_ones_kept(task, ends, norm, ways):
    """Features that tell all ten classes apart, and a last layer that knows six of them."""
    images, labels = blobs(10, 8, seed=0)
    test_images, test_labels = blobs(10, 5, seed=1)
    old, tested = labels < 6, test_labels < 6
    shown = np.concatenate([np.flatnonzero(labels == k)[:3] for k in range(6, 10)])
    later = task.Later((images[shown], labels[shown]), (test_images[~tested], test_labels[~tested]))
    split = (images[old], labels[old]), (test_images[tested], test_labels[tested])
    rows = place(6, 12, reserve=4) if ends == "prototypes" else None
    units = 6 if rows is None else 12
    inputs = keras.Input((10, 1, 1))
    end = keras.layers.Dense(units, name="logits")(keras.layers.Flatten()(inputs))
    if norm:
        end = keras.layers.BatchNormalization(name="embedding_norm")(end)
    model = keras.Model(inputs, end)
    kernel = np.zeros((10, units), "float32")
    kernel[:6] = 3 * np.eye(6) if rows is None else rows[:6]
    if norm:
        rng = np.random.default_rng(2)
        gamma, mean, variance = rng.uniform(0.5, 2, size=(3, units)).astype("float32")
        scale = gamma / np.sqrt(variance + 1e-3)
        model.get_layer("embedding_norm").set_weights([gamma, scale * mean, mean, variance])
        kernel = kernel / scale
    model.get_layer("logits").set_weights([kernel, np.zeros(units, "float32")])
    lines = task.add(model, rows, split, later, flags(ways=ways))
    name = "growing" if rows is None else "reserved"
    assert [(line["method"], line["session"], line["classes"]) for line in lines] == [
        (each, session, 6 + ways * session)
        for session in range(4 // ways + 1)
        for each in (name, "nearest_mean")
    ]
    assert lines[0]["old"] == 1
    for line in lines[2:]:
        assert line["old"] >= 0.9
        assert line["new"] >= 0.9
        images_old, images_new = 30, 5 * ways * line["session"]
        expected = (line["old"] * images_old + line["new"] * images_new) / (images_old + images_new)
        assert line["all"] == pytest.approx(expected)
