"""Running class means: updates against float64 averages, accumulation, devices, bad labels."""

import keras
import numpy as np
import pytest
from keras import ops

from mhe import layers

array = ops.convert_to_numpy
# The last class is never there.
LABELS = [np.array([0, 1, 0, 2]), np.array([1, 1, 1, 0]), np.array([2, 2, 0, 0])]


@pytest.fixture
def batches(draw):
    return [5 + draw(4, 3, seed=seed) for seed in range(3)]


def train(head, batches, labels=LABELS):
    return [array(head(x, labels=y, training=True)) for x, y in zip(batches, labels, strict=True)]


def reference(batches, decay):
    """Means (4, 3) after all batches, in float64."""
    means, counts = np.zeros((4, 3)), np.zeros(4)
    sums = np.zeros((4, 3))
    for x, y in zip(batches, LABELS, strict=True):
        for label in set(y.tolist()):
            mine = x[y == label].astype("float64")
            sums[label] += mine.sum(axis=0)
            share = 1.0 if not counts[label] else 1.0 - (decay or 0)
            counts[label] += len(mine)
            means[label] = (
                sums[label] / counts[label]
                if decay is None
                else (1 - share) * means[label] + share * mine.mean(axis=0)
            )
    return means, counts


@pytest.mark.parametrize("decay", [None, 0.9])
def test_means_follow_the_embeddings(decay, batches):
    head = layers.NearestClassMean(4, 3, decay)
    logits = train(head, batches)
    means, counts = reference(batches, decay)
    np.testing.assert_allclose(array(head.prototypes), means, rtol=1e-6)
    np.testing.assert_array_equal(array(head.counts), counts)
    # Logits are of the means before the batch.
    before = reference_before(batches, decay)
    expected = -np.sum((batches[2][:, None] - before) ** 2, axis=-1)
    np.testing.assert_allclose(logits[2], expected, rtol=1e-5)
    # Outside training, or without labels, nothing is counted.
    head(batches[0], labels=LABELS[0])
    found = array(head(batches[0], training=True))
    np.testing.assert_allclose(array(head.prototypes), means, rtol=1e-6)
    expected = -np.sum((batches[0][:, None] - means) ** 2, axis=-1)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def reference_before(batches, decay):
    one_less = [(x, y) for x, y in zip(batches, LABELS, strict=True)][:2]
    head = layers.NearestClassMean(4, 3, decay)
    for x, y in one_less:
        head(x, labels=y, training=True)
    return array(head.prototypes).astype("float64")


@pytest.mark.parametrize("decay", [None, 0.9])
def test_accumulated_batches_are_one_batch(decay, batches):
    one, parts = layers.NearestClassMean(4, 3, decay), layers.NearestClassMean(4, 3, decay, 3)
    for _ in range(2):
        (whole,) = train(one, [np.concatenate(batches)], [np.concatenate(LABELS)])
        logits = train(parts, batches)
        np.testing.assert_allclose(np.concatenate(logits), whole, rtol=1e-5, atol=1e-5)
        for name in ("prototypes", "counts"):
            expected = array(getattr(one, name))
            np.testing.assert_allclose(array(getattr(parts, name)), expected, rtol=1e-6)
    # Cumulative means come out the same without holding anything back.
    plain = layers.NearestClassMean(4, 3)
    train(plain, batches)
    if decay is None:
        train(plain, batches)
        np.testing.assert_allclose(array(plain.prototypes), array(one.prototypes), rtol=1e-6)


def test_no_gradient_goes_into_the_means(batches, value_and_gradient):
    head = layers.NearestClassMean(4, 3, distance="euclidean")
    train(head, batches)
    means = array(head.prototypes).astype("float64")

    def function(x):
        return ops.sum(head(x, labels=ops.convert_to_tensor(LABELS[0]), training=True))

    assert head.trainable_weights == []
    if keras.backend.backend() == "jax":
        # Keras hands weights that change inside a traced function over by a scope of its own.
        def function(x):
            labels = ops.convert_to_tensor(LABELS[0])
            weights = [variable.value for variable in head.non_trainable_variables]
            return ops.sum(head.stateless_call([], weights, x, labels=labels, training=True)[0])

    _, gradient = value_and_gradient(function, batches[0], eager=True)
    apart = batches[0][:, None] - means
    expected = -np.sum(apart / np.linalg.norm(apart, axis=-1, keepdims=True), axis=1)
    np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-5)


def test_labels_that_are_no_class(batches):
    for wrong in ([0, 1, 4, 0], np.array([0, -1, 1, 0]), [0, 1.5, 0, 0]):
        with pytest.raises(ValueError, match=r"from 0 to 3.*Received: label"):
            layers.NearestClassMean(4, 3)(batches[0], labels=wrong, training=True)
    head = layers.NearestClassMean(4, 3)
    x = batches[0].copy()
    x[3] = np.inf
    labels = ops.convert_to_tensor(np.array([0.0, 4.0, -1.0, 2.0], "float32"))
    head(x, labels=labels, training=True)
    np.testing.assert_array_equal(array(head.counts), [1, 0, 0, 0])
    np.testing.assert_array_equal(array(head.prototypes), [x[0], [0] * 3, [0] * 3, [0] * 3])
    with pytest.raises(ValueError, match=r"one target per sample.*\(3,\), .*\(4, 3\)"):
        head(batches[0], labels=[0, 1, 2], training=True)


def test_dense_embeddings_in_half_precision(draw):
    x, labels = draw(2, 3, 4, 5).astype("float16"), np.arange(24).reshape(2, 3, 4) % 3
    head = layers.NearestClassMean(3, 5, dtype="mixed_float16")
    logits = head(x, labels=labels[..., None], training=True)
    assert keras.backend.standardize_dtype(logits.dtype) == "float32"
    assert keras.backend.standardize_dtype(head.prototypes.dtype) == "float32"
    assert tuple(logits.shape) == (2, 3, 4, 3)
    expected = [x[labels == label].astype("float64").mean(axis=0) for label in range(3)]
    np.testing.assert_allclose(array(head.prototypes), expected, atol=1e-6)
    symbolic = head(keras.KerasTensor((None, 3, 4, 5)), labels=keras.KerasTensor((None, 3, 4)))
    assert symbolic.shape == (None, 3, 4, 3)


def test_the_means_are_saved(tmp_path, batches):
    head = layers.NearestClassMean(4, 3, 0.5, accumulate=2, distance="huber", delta=2.0)
    model = keras.Sequential([keras.Input((3,)), head])
    train(head, batches)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras", safe_mode=True)
    assert loaded.layers[-1].get_config() == head.get_config()
    for one, other in zip(head.weights, loaded.layers[-1].weights, strict=True):
        np.testing.assert_array_equal(array(one), array(other))


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"decay": 1.0}, "decay=1.0"),
        ({"decay": True}, "decay=True"),
        ({"accumulate": 0}, "accumulate=0"),
        ({"distance": "l1"}, "distance='l1'"),
        ({"classes": 1}, "classes=1"),
    ],
)
def test_bad_input(options, named):
    with pytest.raises(ValueError, match=f"Received: {named}"):
        layers.NearestClassMean(**{"classes": 4, "dims": 3, **options})
