import random
import threading

import keras
import numpy as np
import pytest

from mhe.harness.batches import Batches, normalize, pad_crop_flip
from mhe.harness.errors import BadInput


def numbered(count, size=4):
    """Images that are all different, and labels that number them."""
    pixels = np.random.default_rng(5).integers(256, size=(count, size, size, 1), dtype=np.uint8)
    return pixels, np.arange(count)


def drawn(batches, epochs):
    """The batches of some epochs as the definition has them, without `fit`."""
    seen = []
    for epoch in epochs:
        batches.epoch = epoch
        seen += [images for images, _ in batches]
    return np.array(seen)


@keras.saving.register_keras_serializable("test_batches")
class Recorder(keras.layers.Layer):
    """Keeps every batch it is trained on, in order, in a variable."""

    def __init__(self, steps, shape):
        super().__init__()
        self.seen = self.add_weight(shape=(steps, *shape), initializer="zeros", trainable=False)
        self.step = self.add_weight(shape=(), initializer="zeros", dtype="int32", trainable=False)

    def call(self, images, training=False):
        if training:
            here = keras.ops.one_hot(self.step, self.seen.shape[0])[:, None, None, None, None]
            self.seen.assign(self.seen + here * images)
            self.step.assign_add(1)
        return images


def trained_on(batches, epochs):
    """The batches that a real `fit` trains on."""
    first, _ = batches[0]
    recorder = Recorder(epochs * len(batches), first.shape)
    model = keras.Sequential([recorder, keras.layers.Flatten(), keras.layers.Dense(1)])
    model.compile("sgd", "mse", metrics=["mae"])
    model.fit(batches, epochs=epochs, verbose=0)
    assert int(recorder.step) == epochs * len(batches)
    return keras.ops.convert_to_numpy(recorder.seen)


@pytest.mark.parametrize(("count", "workers"), [(20, 2), (20, 0), (4, 2)])
def test_a_resumed_fit_sees_the_batches_of_an_unbroken_one(count, workers):
    def batches(**kwargs):
        images, labels = numbered(count)
        return Batches(images, labels, 4, seed=3, augment=pad_crop_flip, workers=workers, **kwargs)

    unbroken = trained_on(batches(), epochs=3)
    np.testing.assert_array_equal(unbroken, drawn(batches(), range(3)))
    random.seed(99)  # `fit` shuffles the indices it asks for by this state
    resumed = trained_on(batches(epoch=1), epochs=2)
    np.testing.assert_array_equal(resumed, unbroken[count // 4 :])


def test_evaluation_sees_every_image_once_in_order():
    images, labels = numbered(10)
    batches = Batches(images, labels, 4, shuffle=False)
    model = keras.Sequential([keras.layers.Flatten()])
    predicted = model.predict(batches, verbose=0)
    np.testing.assert_array_equal(predicted, normalize(images).reshape(10, -1))
    np.testing.assert_array_equal(np.concatenate([y for _, y in batches]), labels)


def test_every_epoch_is_a_permutation_of_the_whole_train_set():
    images, labels = numbered(1000, size=1)
    batches = Batches(images, labels, 64)
    orders = []
    for batches.epoch in range(2):
        orders.append(np.concatenate([y for _, y in batches]))
        np.testing.assert_array_equal(np.sort(orders[-1]), labels)
        # Mixed over the whole set: each quarter of the epoch draws from each quarter of the images.
        assert np.histogram2d(np.arange(1000) // 250, orders[-1] // 250, 4)[0].min() > 30
    # A fresh order: about one label in a thousand stays in place by chance.
    assert np.mean(orders[0] == orders[1]) < 0.01


def test_images_and_labels_stay_together():
    images, labels = numbered(50)
    batches = Batches(images, labels, 8)
    for drawn_images, drawn_labels in batches:
        np.testing.assert_array_equal(drawn_images, normalize(images[drawn_labels]))


def test_seed_decides_order_and_augmentation():
    images, labels = numbered(40)

    def epoch(seed, augment):
        return np.array([x for x, _ in Batches(images, labels, 8, seed=seed, augment=augment)])

    for augment in (None, pad_crop_flip):
        np.testing.assert_array_equal(epoch(1, augment), epoch(1, augment))
        assert not np.array_equal(epoch(1, augment), epoch(2, augment))


def test_each_batch_of_an_epoch_is_augmented_differently():
    same = np.tile(numbered(1, size=8)[0], (64, 1, 1, 1))
    batches = Batches(same, np.zeros(64, int), 32, augment=pad_crop_flip)
    (first, _), (second, _) = batches
    assert not np.array_equal(first, second)


def test_remainder_is_kept_or_dropped():
    images, labels = numbered(10)
    assert [len(y) for _, y in Batches(images, labels, 4)] == [4, 4, 2]
    assert [len(y) for _, y in Batches(images, labels, 4, drop_remainder=True)] == [4, 4]


def test_batches_are_prepared_off_the_asking_thread_and_memory_stays_bounded():
    asked_by = set()

    def augment(images, rng):
        asked_by.add(threading.current_thread().name.split("_")[0])
        return images

    batches = Batches(*numbered(400), 4, augment=augment, workers=2)
    for _ in batches:
        assert len(batches._ahead) <= 8
    assert "batches" in asked_by
    with pytest.raises(IndexError, match="Received: index=100"):
        batches[100]


def test_an_error_in_a_thread_reaches_the_asker():
    def augment(images, rng):
        raise RuntimeError("out of ideas")

    with pytest.raises(RuntimeError, match="out of ideas"):
        list(Batches(*numbered(8), 4, augment=augment))


@pytest.mark.parametrize("channels", [1, 3])
def test_pad_crop_flip_against_padding_with_numpy(channels):
    rng = np.random.default_rng(0)
    images = rng.integers(256, size=(300, 6, 9, channels), dtype=np.uint8)
    before = images.copy()
    augmented = pad_crop_flip(images, rng, padding=2)
    assert augmented.dtype == np.uint8
    np.testing.assert_array_equal(images, before)
    padded = np.pad(images, ((0, 0), (2, 2), (2, 2), (0, 0)), mode="symmetric")
    counts = np.zeros((5, 5, 2), int)
    for index, image in enumerate(augmented):
        places = [
            (top, left, flip)
            for top, left, flip in np.ndindex(counts.shape)
            if np.array_equal(
                image, padded[index, top : top + 6, left : left + 9][:, :: -1 if flip else 1]
            )
        ]
        assert len(places) == 1
        counts[places[0]] += 1
    # 300 draws over 5 rows, 5 columns and 2 flips: 60 and 150 expected, 5 sigma is 35 and 43.
    assert np.all(np.abs(counts.sum((1, 2)) - 60) < 35)
    assert np.all(np.abs(counts.sum((0, 2)) - 60) < 35)
    assert np.all(np.abs(counts.sum((0, 1)) - 150) < 43)


def test_pad_crop_flip_refuses_what_is_normalised_already():
    with pytest.raises(ValueError, match=r"uint8 .* Received: .*float32"):
        pad_crop_flip(np.zeros((2, 4, 4, 3), "float32"), np.random.default_rng(0))


def test_normalize_is_the_published_formula():
    values = np.arange(256, dtype=np.uint8)
    normalized = normalize(values)
    assert normalized.dtype == np.float32
    np.testing.assert_array_equal(normalized, (values.astype("float64") - 127.5) / 128)


@pytest.mark.parametrize(
    "kwargs", [{"batch_size": 0}, {"seed": -1}, {"epoch": -1}, {"workers": -1}]
)
def test_numbers_out_of_range(kwargs):
    with pytest.raises(ValueError, match=r"Received: .*=(0|-1)"):
        Batches(*numbered(4), **{"batch_size": 2, **kwargs})


def test_images_that_cannot_be_batched():
    images, labels = numbered(4)
    with pytest.raises(BadInput, match=r"at least 8 images\. Received: 4 images"):
        Batches(images, labels, 8, drop_remainder=True)
    with pytest.raises(BadInput, match="Received: 0 images"):
        Batches(images[:0], labels[:0], 8)
    with pytest.raises(ValueError, match=r"labels of shape \(3,\)"):
        Batches(images, labels[:3], 2)
    with pytest.raises(ValueError, match=r"must be numbers\. Received: dtype <U21"):
        Batches(images, labels.astype(str), 2)
    with pytest.raises(ValueError, match=r"labels of shape \(3,\)"):
        Batches(images, {"label": labels, "value": labels[:3] / 2}, 2)


def test_labels_by_the_name_of_an_output_stay_with_their_images():
    images, labels = numbered(10)
    batches = Batches(images, {"label": labels, "value": labels / 2}, 4, seed=1)
    seen = []
    for pixels, targets in batches:
        np.testing.assert_array_equal(pixels, normalize(images[targets["label"]]))
        np.testing.assert_array_equal(targets["value"], targets["label"] / 2)
        seen += targets["label"].tolist()
    assert sorted(seen) == list(range(10))


def test_letters_are_cropped_and_not_mirrored():
    images = np.zeros((200, 6, 6, 1), np.uint8)
    images[:, :, 0] = 255  # light on the left
    rng = np.random.default_rng(0)
    plain = pad_crop_flip(images, rng, padding=1, flip=False)
    assert plain[:, :, 4:].max() == 0
    assert len(np.unique(plain, axis=0)) > 1
    assert pad_crop_flip(images, rng, padding=1)[:, :, 4:].max() == 255
