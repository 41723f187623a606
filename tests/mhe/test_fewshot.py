"""Episodes, prototypical networks and their evaluation, against loops in float64."""

import itertools

import keras
import numpy as np
import pytest
from keras import ops

from mhe.fewshot import (
    EpisodeBatches,
    Episodes,
    PrototypicalNetwork,
    episode_logits,
    evaluate,
)

WAYS, SHOTS, QUERIES, DIMS = 3, 2, 2, 4
NAMES = np.array(["b", "a", "c", "a", "b", "c", "a", "b", "c", "a", "b", "c", "d"])


@pytest.mark.numpy_only
def test_support_and_query_share_no_image_and_stand_in_rows_of_one_class():
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(40), 7))
    seen = set()
    for support, query in itertools.islice(Episodes(labels, ways=6, shots=3, queries=4), 30):
        rows = np.concatenate([support, query], axis=1)
        assert support.shape == (6, 3)
        assert np.unique(rows).size == rows.size
        assert (labels[rows] == labels[rows[:, :1]]).all()
        assert np.unique(labels[rows[:, 0]]).size == 6
        seen.update(support.ravel().tolist())
    # 540 draws of 280 images leave out one in seven.
    assert len(seen) > 200


@pytest.mark.numpy_only
def test_an_episode_is_a_function_of_the_seed_and_its_number():
    episodes = Episodes(np.arange(60) % 6, ways=2, shots=1, queries=2, seed=5)
    support, query = episodes[1]
    # The same in every process, on every machine.
    assert (support.tolist(), query.tolist()) == ([[2], [19]], [[50, 38], [49, 25]])
    for drawn, number in zip(episodes, range(3), strict=False):
        for one, other in zip(drawn, episodes[number], strict=True):
            np.testing.assert_array_equal(one, other)
    others = [episodes[2], Episodes(np.arange(60) % 6, 2, 1, 2, seed=6)[1]]
    assert all(not np.array_equal(query, other) for _, other in others)


@pytest.mark.numpy_only
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shots": 3, "queries": 2}, r"3 \+ 2 images.*: class a with 4, class b with 4, class c"),
        ({}, r"1 \+ 2 images.*Received: class d with 1$"),
        ({"ways": 4, "skip_small": True}, r"ways=4, 3 classes \(a, b, c\), .* of class d with 1$"),
        ({"ways": 1}, r"`ways` must be an integer >= 2. Received: ways=1"),
        ({"shots": 0}, r"`shots` must be an integer >= 1. Received: shots=0"),
        ({"seed": -1}, r"`seed` must be an integer >= 0. Received: seed=-1"),
        (
            {"labels": np.zeros((4, 1))},
            r"integers or names \(N,\). Received: shape \(4, 1\), dtype",
        ),
    ],
)
def test_episodes_that_cannot_be_drawn(changes, message):
    given = {"labels": NAMES, "ways": 3, "shots": 1, "queries": 2, **changes}
    with pytest.raises(ValueError, match=message):
        Episodes(**given)


@pytest.mark.numpy_only
def test_small_classes_are_skipped_by_choice():
    episodes = Episodes(NAMES, ways=3, shots=1, queries=3, skip_small=True)
    assert episodes.classes.tolist() == ["a", "b", "c"]
    assert 12 not in np.concatenate(episodes[0], axis=1)


@pytest.mark.numpy_only
def test_batches_hold_the_images_of_their_episode():
    episodes = Episodes(NAMES, ways=2, shots=1, queries=3, skip_small=True)
    images = np.arange(26, dtype="uint8").reshape(13, 2)
    batches = EpisodeBatches(images, episodes, per_epoch=3, epoch=2)
    assert len(batches) == 3
    for index in (0, 1, 2, 1):  # of which the thread has assembled some
        batch, classes = batches[index]
        support, query = episodes[6 + index]
        np.testing.assert_array_equal(batch["support"], images[support][None])
        np.testing.assert_array_equal(batch["query"], images[query][None])
        assert classes.tolist() == [[[0, 0, 0], [1, 1, 1]]]

    def noisy(images, rng):
        return images + rng.normal(size=images.shape)

    one, other = (EpisodeBatches(images, episodes, 3, epoch=2, augment=noisy) for _ in range(2))
    drawn = [one[index][0]["query"] for index in (0, 1)]
    np.testing.assert_array_equal(other[1][0]["query"], drawn[1])
    noise = [each - images[episodes[6 + k][1]][None] for k, each in enumerate(drawn)]
    assert np.abs(noise[0] - noise[1]).min() > 1e-6
    with pytest.raises(IndexError, match=r"3 batches. Received: index=3"):
        batches[3]
    with pytest.raises(ValueError, match=r"`per_epoch` must be an integer >= 1"):
        EpisodeBatches(images, episodes, per_epoch=0)


def reference_distance(one, other, distance):
    if distance == "squared":
        return np.sum((one - other) ** 2)
    return 1 - one @ other / (np.linalg.norm(one) * np.linalg.norm(other))


def reference_logits(support, query, distance, scale):
    """Snell et al., equations 1 and 2, query by query."""
    prototypes = [sum(each) / len(each) for each in support]
    return np.array(
        [[-scale * reference_distance(x, p, distance) for p in prototypes] for x in query]
    )


def reference_loss(embeddings):
    support, query = embeddings[:, :SHOTS], embeddings[:, SHOTS:]
    losses = []
    for own, rows in enumerate(query):
        for logits in reference_logits(support, rows, "squared", 1):
            losses.append(np.log(np.sum(np.exp(logits - logits[own]))))
    return np.mean(losses)


def drawn_embeddings(seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(WAYS, SHOTS + QUERIES, DIMS)) + rng.normal(size=(WAYS, 1, DIMS))


CLASSES = np.repeat(np.arange(WAYS), QUERIES).reshape(WAYS, QUERIES)


def test_the_loss_of_an_episode_and_its_gradient(value_and_gradient, reference_gradient):
    def loss(embeddings):
        logits = episode_logits(embeddings[:, :SHOTS], embeddings[:, SHOTS:])
        losses = keras.losses.sparse_categorical_crossentropy(CLASSES, logits, from_logits=True)
        return ops.mean(losses)

    embeddings = drawn_embeddings()
    value, gradient = value_and_gradient(loss, embeddings.astype("float32"))
    np.testing.assert_allclose(value, reference_loss(embeddings), rtol=1e-5)
    expected = reference_gradient(reference_loss, embeddings)
    np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("distance", "scale"), [("squared", 1), ("cosine", 10)])
def test_half_precision_embeddings_have_float32_logits(distance, scale):
    embeddings = drawn_embeddings().astype("float16")
    support, query = embeddings[:, :SHOTS], embeddings[:, SHOTS]
    tensors = map(ops.convert_to_tensor, (support, query))
    logits = episode_logits(*tensors, distance)
    assert keras.backend.standardize_dtype(logits.dtype) == "float32"
    expected = reference_logits(support.astype("f8"), query.astype("f8"), distance, scale)
    np.testing.assert_allclose(ops.convert_to_numpy(logits), expected, rtol=1e-4, atol=1e-5)


def network(**options):
    generator = np.random.default_rng(4)
    backbone = keras.Sequential([keras.Input((5,)), keras.layers.Dense(DIMS)])
    backbone.set_weights([generator.normal(size=w.shape) / 2 for w in backbone.get_weights()])
    return PrototypicalNetwork(backbone, **options)


def made_images():
    labels = np.arange(24) % 4
    rng = np.random.default_rng(2)
    images = rng.normal(size=(4, 5))[labels] + rng.normal(size=(24, 5))
    return images.astype("float32"), Episodes(labels, WAYS, SHOTS, QUERIES)


def test_fit_evaluate_and_save_whole_episodes(tmp_path):
    """What is reported of an episode is that of a loop over its embeddings, before and after."""
    images, episodes = made_images()

    def expected(model):
        kernel, bias = (w.astype("float64") for w in model.backbone.get_weights())
        losses, right = [], []
        for number in range(2):
            rows = np.concatenate(episodes[number], axis=1)
            embeddings = images[rows] @ kernel + bias
            losses.append(reference_loss(embeddings))
            for own, query in enumerate(embeddings[:, SHOTS:]):
                logits = reference_logits(embeddings[:, :SHOTS], query, "squared", 1)
                right += (logits.argmax(axis=1) == own).tolist()
        return {"loss": np.mean(losses), "accuracy": np.mean(right)}

    model = network()
    model.compile(keras.optimizers.SGD(0.01))
    before = expected(model)
    batches = EpisodeBatches(images, episodes, per_epoch=2)
    assert model.evaluate(batches, verbose=0, return_dict=True) == pytest.approx(before, rel=1e-4)
    batches = EpisodeBatches(images, episodes, per_epoch=2)
    model.fit(batches, epochs=2, shuffle=False, verbose=0)
    assert expected(model)["loss"] < before["loss"]
    assert batches.epoch == 2

    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras", safe_mode=True)
    assert (loaded.distance, loaded.scale) == ("squared", None)
    episode, _ = batches[1]
    np.testing.assert_allclose(
        *(ops.convert_to_numpy(each(episode)) for each in (model, loaded)), rtol=1e-6
    )
    np.testing.assert_allclose(loaded.embed(images), model.embed(images), rtol=1e-6)
    assert loaded.loss.get_config()["from_logits"]


def test_networks_and_episodes_that_do_not_fit():
    for options, message in (
        ({"distance": "manhattan"}, "one of squared, cosine. Received: distance='manhattan'"),
        ({"scale": 0}, "`scale` must be a finite number > 0. Received: scale=0"),
    ):
        with pytest.raises(ValueError, match=message):
            network(**options)
    images = {"support": np.ones((2, 3, 1, 5)), "query": np.ones((2, 3, 2, 5))}
    with pytest.raises(ValueError, match=r"must be one episode.*\(2, 3, 1, 5\)"):
        network()(images)
    images = {"support": np.ones((1, 2, 1, 4, 5)), "query": np.ones((1, 2, 2, 4, 5))}
    model = PrototypicalNetwork(keras.Sequential([keras.Input((4, 5)), keras.layers.ReLU()]))
    with pytest.raises(ValueError, match=r"embeddings \(B, dims\). Received: shape \(6, 4, 5\)"):
        model(images)


@pytest.mark.numpy_only
@pytest.mark.parametrize("distance", ["squared", "cosine"])
def test_evaluation_is_that_of_a_loop(distance):
    rng = np.random.default_rng(0)
    labels = np.arange(48) % 4
    # Far from zero, where the squares of float32 would have no digits left for the differences.
    images = 1000 + rng.normal(size=(4, 3))[labels] + rng.normal(size=(48, 3))
    found = evaluate(np.asarray, images, labels, 3, 2, episodes=20, queries=4, seed=7,
                     distance=distance)  # fmt: skip
    accuracies = []
    for support, query in itertools.islice(Episodes(labels, 3, 2, 4, seed=7), 20):
        right = 0
        for own, rows in enumerate(query):
            logits = reference_logits(images[support], images[rows], distance, 1)
            right += sum(logits.argmax(axis=1) == own)
        accuracies.append(right / 12)
    np.testing.assert_allclose(found.accuracies, accuracies)
    assert found.accuracy == pytest.approx(np.mean(accuracies))
    variance = sum((each - np.mean(accuracies)) ** 2 for each in accuracies) / 19
    assert found.interval == pytest.approx(1.96 * np.sqrt(variance / 20))
    assert 0.3 < found.accuracy < 1


@pytest.mark.numpy_only
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda e: np.where(np.arange(13)[:, None] == 3, np.nan, e), r"NaN.* for class a with 1"),
        (lambda e: e * np.inf, r"for class a with 4, class b with 4, class c with 4 and 1 more"),
        (lambda e: e[:5], r"each of the 13 images. Received: shape \(5, 2\)"),
        (lambda e: e[:, 0], r"each of the 13 images. Received: shape \(13,\)"),
    ],
)
def test_embeddings_that_cannot_be_scored(change, message):
    with pytest.raises(ValueError, match=message):
        evaluate(change, np.ones((13, 2)), NAMES, 3, 1, queries=2, skip_small=True)


@pytest.mark.numpy_only
def test_images_and_labels_of_two_lengths_are_refused():
    with pytest.raises(ValueError, match=r"Received: 4 images, 13 labels"):
        evaluate(np.asarray, np.ones((4, 2)), NAMES, 3, 1, queries=2, skip_small=True)
