"""Prototypical networks, against loops in float64."""

import keras
import numpy as np
import pytest
from keras import ops

from mhe.fewshot import EpisodeBatches, Episodes, PrototypicalNetwork, episode_logits

WAYS, SHOTS, QUERIES, DIMS = 3, 2, 2, 4


@pytest.fixture
def reference_loss(reference_logits):
    def loss(embeddings):
        support, query = embeddings[:, :SHOTS], embeddings[:, SHOTS:]
        losses = []
        for own, rows in enumerate(query):
            for logits in reference_logits(support, rows, "squared", 1):
                losses.append(np.log(np.sum(np.exp(logits - logits[own]))))
        return np.mean(losses)

    return loss


def drawn_embeddings(seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(WAYS, SHOTS + QUERIES, DIMS)) + rng.normal(size=(WAYS, 1, DIMS))


CLASSES = np.repeat(np.arange(WAYS), QUERIES).reshape(WAYS, QUERIES)


def test_the_loss_of_an_episode_and_its_gradient(
    value_and_gradient, reference_gradient, reference_loss
):
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
def test_half_precision_embeddings_have_float32_logits(distance, scale, reference_logits):
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


def test_fit_evaluate_and_save_whole_episodes(tmp_path, reference_logits, reference_loss):
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
        ({"distance": "manhattan"}, '"squared" or "cosine". Received: distance=\'manhattan\''),
        ({"scale": 0}, "`scale` must be None or a finite number > 0. Received: scale=0"),
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
