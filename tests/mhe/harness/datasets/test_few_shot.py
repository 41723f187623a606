"""Classes to train on and to test on, and rotated or flipped images as classes of their own."""

import numpy as np
import pytest
from PIL import Image

from mhe.harness.datasets import (
    Dataset,
    split_classes,
    with_mirror_images,
    with_quarter_turns,
)
from mhe.harness.errors import BadInput

pytestmark = pytest.mark.one_backend


def made(names, name="data.zip", disjoint=False):
    """Two training images and a test image of every class, each filled with its class's number."""
    classes = np.arange(len(names))
    if disjoint:
        half = len(names) // 2
        train, test = np.repeat(classes[:half], 2), np.repeat(classes[half:], 2)
    else:
        train, test = np.repeat(classes, 2), classes
    splits = [
        (np.broadcast_to(y[:, None, None, None], (y.size, 4, 4, 3)).astype("uint8"), y)
        for y in (train, test)
    ]
    return Dataset(name, *splits, tuple(names))


def alphabets(**counts):
    return [
        f"{name}/character{n:02}" for name, count in counts.items() for n in range(1, count + 1)
    ]


def names_tested(split):
    return sorted(set(split.test[1].tolist()))


def test_the_last_alphabets_are_tested_on_and_drawings_inverted():
    names = alphabets(Angelic=6, Bengali=6, Latin=2, Greek=1)
    split = split_classes(made(names), seed=0)
    # The last by name, until they hold a fifth of the 15 characters.
    assert names_tested(split) == ["Greek/character01", "Latin/character01", "Latin/character02"]
    assert split.alphabets == ("Latin", "Greek")
    for images, classes in (split.train, split.test):
        assert images.shape == (classes.size, 4, 4, 1)
        numbers = [names.index(each) for each in classes]
        np.testing.assert_array_equal(images[:, 0, 0, 0], 255 - np.array(numbers))
    assert split.train[1].size + split.test[1].size == 3 * len(names)
    assert not set(split.train[1]) & set(split.test[1])


def test_what_is_asked_for_is_tested_on():
    names = alphabets(Latin=3, Greek=2, Korean=2)
    asked = split_classes(made(names), 0, test_alphabets=["Greek"])
    assert names_tested(asked) == ["Greek/character01", "Greek/character02"]
    asked = split_classes(made(names), 0, test_classes=["Latin/character02"])
    assert names_tested(asked) == ["Latin/character02"]


def test_sets_without_a_common_class_are_kept_apart():
    """TensorFlow Datasets' Omniglot: background alphabets to train on, others to test on."""
    names = ["Latin_0", "Latin_1", "Old_Church_Slavonic_(Cyrillic)_0", "Avesta_0"]
    split = split_classes(made(names, "omniglot", disjoint=True), 0)
    assert names_tested(split) == sorted(names[2:])
    assert split.alphabets == ("Old_Church_Slavonic_(Cyrillic)", "Avesta")


def test_classes_are_drawn_by_the_seed():
    names = [f"c{n}" for n in range(24)]
    drawn = [names_tested(split_classes(made(names), seed)) for seed in (0, 0, 1)]
    assert [len(each) for each in drawn] == [6, 6, 6]
    assert drawn[0] == drawn[1] != drawn[2]
    split = split_classes(made(names[:10]), 0)
    assert len(names_tested(split)) == 5
    assert split.alphabets == ()
    for images, classes in (split.train, split.test):
        np.testing.assert_array_equal(images[:, 0, 0, 0], [int(name[1:]) for name in classes])


@pytest.mark.parametrize(
    ("names", "asked", "message"),
    [
        (["a", "b"], {"test_alphabets": ["x"]}, "needs Omniglot.*Received: --dataset data.zip"),
        (["a", "b"], {"test_classes": ["x"]}, "--test_classes must be among: a, b. Received: 'x'"),
        (["a", "b"], {"test_classes": ["a", "b"]}, "Received: none to train on, of 2 classes"),
        (["a", "b"], {}, "Received: none to train on, of 2 classes"),
        (["a", "b"], {"test_classes": ["a"], "test_alphabets": ["b"]}, "cannot both be given"),
        (alphabets(Latin=2), {"test_alphabets": ["Elvish"]}, "among: Latin. Received: 'Elvish'"),
    ],
)
def test_classes_that_cannot_be_parted(names, asked, message):
    with pytest.raises(BadInput, match=message):
        split_classes(made(names), 0, **asked)


def test_turned_images_are_new_classes():
    images = np.random.default_rng(0).integers(256, size=(2, 3, 3, 1), dtype=np.uint8)
    turned, classes = with_quarter_turns(images, np.array(["a", "b"]))
    assert classes.tolist()[4:] == ["a/rot180", "b/rot180", "a/rot270", "b/rot270"]
    for turns in range(4):
        expected = np.asarray(Image.fromarray(images[1, ..., 0]).rotate(90 * turns))
        np.testing.assert_array_equal(turned[2 * turns + 1, ..., 0], expected)


def test_mirror_images_are_new_classes():
    images = np.random.default_rng(0).integers(256, size=(2, 3, 3, 1), dtype=np.uint8)
    mirrored, classes = with_mirror_images(images, np.array(["a", "b"]))
    assert classes.tolist() == ["a", "b", "a/mirror", "b/mirror"]
    np.testing.assert_array_equal(mirrored, [*images, *(np.fliplr(each) for each in images)])
