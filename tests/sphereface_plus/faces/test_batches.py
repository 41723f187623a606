import dataclasses

import keras
import numpy as np
import pytest
from PIL import Image

from mhe.harness.errors import BadInput
from sphereface_plus.faces import FaceBatches, People, align, crop, find_people, load, reference

SIZE = (14, 12)
IMAGES = {"ann": 3, "ben": 5, "cid": 4, "dora": 2}


@pytest.fixture
def people(tmp_path):
    rng = np.random.default_rng(4)
    for person, count in IMAGES.items():
        (tmp_path / person).mkdir()
        for number in range(count):
            # Grey and coloured, and no two of one size.
            shape = (20 + number, 18 + count, 3)[: 2 + number % 2]
            pixels = rng.integers(256, size=shape, dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / person / f"{number}.png")
    return find_people(tmp_path)


def drawn(batches, epochs):
    """Copies of the batches of some epochs."""
    seen = []
    for batches.epoch in epochs:
        seen += [(images.copy(), labels.tolist()) for images, labels in batches]
    return seen


def assert_same(some, others):
    assert len(some) == len(others)
    for (images, labels), (other_images, other_labels) in zip(some, others, strict=True):
        assert labels == other_labels
        np.testing.assert_array_equal(images, other_images)


@pytest.mark.one_backend
@pytest.mark.parametrize("channels", [1, 3])
def test_load_crops_or_aligns_and_counts_channels(people, channels):
    points = reference(SIZE) * 1.2 + 2
    landmarks = dict.fromkeys(people.images, points)
    grey, coloured = people.images.index("ben/0.png"), people.images.index("ben/1.png")
    for given, bring in (
        (None, lambda image: crop(image, SIZE)),
        (landmarks, lambda image: align(image, points, SIZE)),
    ):
        faces = load(people, [grey, coloured], SIZE, channels, given)
        assert faces.shape == (2, *SIZE, channels)
        assert faces.dtype == np.uint8
        np.testing.assert_array_equal(
            faces[0], np.broadcast_to(bring(people.read(grey)), faces[0].shape)
        )
        face = bring(people.read(coloured)).astype(float)
        if channels == 1:
            face = face @ np.array([[0.299], [0.587], [0.114]])  # ITU-R 601
        np.testing.assert_allclose(faces[1], face, atol=1)
    np.testing.assert_array_equal(load(people, None, SIZE)[grey], load(people, [grey], SIZE)[0])


@pytest.mark.one_backend
def test_an_epoch_holds_every_face_once_normalised_and_mirrored_half_the_time(people):
    faces = load(people, None, SIZE)
    plain = FaceBatches(people, 4, size=SIZE, flip=False, shuffle=False)
    wanted = (faces.astype(np.float64) - 127.5) / 128
    np.testing.assert_allclose(np.concatenate([x for x, _ in plain]), wanted, atol=1e-6)
    assert np.concatenate([y for _, y in plain]).tolist() == people.labels.tolist()
    assert len(FaceBatches(people, 4, size=SIZE, drop_remainder=True)) == 14 // 4

    mirrored = 0
    batches = FaceBatches(people, 4, size=SIZE, seed=1)
    for images, labels in drawn(batches, range(6)):
        assert images.dtype == np.float32
        for image, label in zip(images, labels, strict=True):
            own = wanted[people.labels == label]
            straight = any(np.allclose(image, each, atol=1e-6) for each in own)
            mirrored += not straight
            assert straight or any(np.allclose(image[:, ::-1], each, atol=1e-6) for each in own)
    assert 0.3 < mirrored / (6 * 14) < 0.7
    first = np.concatenate([labels for _, labels in drawn(batches, [0])])
    assert sorted(first) == people.labels.tolist()
    assert first.tolist() != people.labels.tolist()


@pytest.mark.one_backend
@pytest.mark.parametrize("per_person", [None, 2])
def test_batches_depend_on_seed_epoch_and_place_alone(people, per_person):
    def batches(**changes):
        options = {"size": SIZE, "seed": 3, "per_person": per_person} | changes
        return FaceBatches(people, 4, **options)

    wanted = drawn(batches(), [0, 1])
    half = len(wanted) // 2
    for changes in ({"workers": 0}, {"workers": 5}, {"cache": True}):
        assert_same(drawn(batches(**changes), [0, 1]), wanted)
    resumed = batches(epoch=1)
    assert_same([(images, labels.tolist()) for images, labels in resumed], wanted[half:])
    alone = batches()
    alone.epoch = 1
    assert_same([(alone[1][0], alone[1][1].tolist())], wanted[half + 1 : half + 2])
    assert [labels for _, labels in drawn(batches(seed=4), [0, 1])] != [y for _, y in wanted]


@pytest.mark.one_backend
def test_per_person_draws_different_images_of_different_people(people):
    faces = (load(people, None, SIZE).astype(np.float32) - 127.5) / 128
    batches = FaceBatches(people, 4, size=SIZE, per_person=2, flip=False, seed=2)
    assert len(batches) == 14 // 4
    counts = np.zeros(len(people.names), int)
    images_seen = set()
    for images, labels in drawn(batches, range(20)):
        assert len(set(labels)) == 2
        places = [
            next(n for n, face in enumerate(faces) if np.allclose(face, image, atol=1e-6))
            for image in images
        ]
        assert len(set(places)) == 4
        assert people.labels[places].tolist() == labels
        images_seen |= set(places)
        counts += np.bincount(labels, minlength=len(counts))
    # Two batches deal out all four people; the third of an epoch begins a turn that it cuts off.
    assert counts.sum() == 20 * 12
    assert counts.min() >= 20 * 2
    assert counts.max() <= 20 * 4
    assert images_seen == set(range(14))


@pytest.mark.one_backend
def test_what_no_batch_can_be_made_of_is_named(people, tmp_path):
    with pytest.raises(BadInput, match=r"per_person=3, a person .* Received: dora \(2\)$"):
        FaceBatches(people, 6, per_person=3)
    with pytest.raises(BadInput, match=r"needs 5 people\. Received: 4$"):
        FaceBatches(people, 10, per_person=2)
    with pytest.raises(BadInput, match=r"batch_size=5, per_person=2"):
        FaceBatches(people, 5, per_person=2)
    with pytest.raises(ValueError, match="`shuffle` must be True"):
        FaceBatches(people, 4, per_person=2, shuffle=False)
    for options in ({"channels": 2}, {"size": (0, 5)}):
        with pytest.raises(ValueError, match=r"`channels` 1 or 3\. Received"):
            FaceBatches(people, 4, **options)
    landmarks = dict.fromkeys(people.images, reference())
    landmarks["cid/2.png"] = np.ones((5, 2))
    with pytest.raises(BadInput, match=r"cid/2\.png: five different landmarks are expected"):
        load(people, None, SIZE, landmarks=landmarks)
    del landmarks["cid/2.png"]
    with pytest.raises(BadInput, match=r"every image needs landmarks\. .* none of cid/2\.png$"):
        FaceBatches(people, 4, landmarks=landmarks)
    (tmp_path / "dora" / "1.png").write_bytes(b"words")
    with pytest.raises(BadInput, match=r"dora/1\.png \(not an image\)"):
        list(FaceBatches(people, 4))


@pytest.mark.one_backend
def test_landmarks_outside_their_image_are_refused_at_once(people):
    landmarks = dict.fromkeys(people.images, reference(SIZE))
    landmarks["ben/2.png"] = np.add(reference(SIZE), [0, 14])  # of an image of 22x23 pixels
    message = (
        r"ben/2\.png: landmarks are expected inside the image of 23x22 pixels\. "
        r"Received: \(4\.\d+, 25\.5\d+\)$"
    )
    with pytest.raises(BadInput, match=message):
        FaceBatches(people, 4, size=SIZE, landmarks=landmarks)
    # Those of a .rec are not decoded before they are needed.
    unknown = dataclasses.replace(people, sizes=None)
    with pytest.raises(BadInput, match=message):
        load(unknown, None, SIZE, landmarks=landmarks)
    landmarks["ben/2.png"] = np.add(
        reference(SIZE), [0, 11]
    )  # a tenth of the height outside at most
    assert len(load(people, None, SIZE, landmarks=landmarks)) == 14


@pytest.mark.one_backend
@pytest.mark.parametrize("workers", [0, 3])
def test_faces_are_decoded_when_they_are_needed_and_kept_up_to_a_bound(
    people, monkeypatch, workers
):
    decoded = []
    read = People.read
    monkeypatch.setattr(
        People, "read", lambda self, index: decoded.append(index) or read(self, index)
    )
    options = {"size": SIZE, "seed": 3, "workers": workers}
    wanted = drawn(FaceBatches(people, 4, **options), [0, 1, 2])
    for cache in (True, 14, 99, 5):
        decoded.clear()
        batches = FaceBatches(people, 4, cache=cache, **options)
        assert decoded == []
        assert_same(drawn(batches, [0, 1, 2]), wanted)
        # Threads read ahead, some faces twice, before either has kept it.
        if workers == 0:
            times = np.bincount(decoded, minlength=14)
            assert sorted(times) == [1] * min(cache if cache > 1 else 14, 14) + [3] * (
                9 if cache == 5 else 0
            )


def test_fit_trains_on_the_batches_of_its_epochs(people, weights_from_numpy):
    options = {"size": SIZE, "channels": 1, "seed": 5, "drop_remainder": True}
    model = keras.Sequential([keras.Input((*SIZE, 1)), keras.layers.Flatten()])
    model.add(keras.layers.Dense(4, use_bias=False))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.1), loss)
    kernel = model.get_weights()[0].astype(np.float64)
    model.fit(FaceBatches(people, 7, **options), epochs=2, verbose=0)

    # Softmax regression, by hand.
    for images, labels in drawn(FaceBatches(people, 7, **options), [0, 1]):
        flat = images.reshape(7, -1).astype(np.float64)
        chances = np.exp(flat @ kernel)
        chances /= chances.sum(1, keepdims=True)
        kernel -= 0.1 * flat.T @ (chances - np.eye(4)[labels]) / 7
    np.testing.assert_allclose(model.get_weights()[0], kernel, atol=1e-5)
