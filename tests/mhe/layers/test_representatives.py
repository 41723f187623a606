"""Representatives: squared distances, probabilities, gradients, saving, new classes, bad input."""

import keras
import numpy as np
import pytest
from keras import ops

import mhe
from mhe import layers

SIGMA = 0.6


def squared(embeddings, representatives):
    x = np.asarray(embeddings, "float64")[..., None, None, :]
    return np.sum((x - np.asarray(representatives, "float64")) ** 2, axis=-1)


def draw(*shape, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, size=shape).astype("float32")


def array(tensor):
    return ops.convert_to_numpy(tensor)


def test_distances_are_squared_and_survive_saving(tmp_path):
    head = layers.Representatives(3, 2, 4, name="representatives")
    model = keras.Sequential([keras.Input((None, 4)), head])
    assert model.output_shape == (None, None, 3, 2)
    embeddings = draw(5, 2, 4)
    found = array(model(embeddings))
    np.testing.assert_allclose(found, squared(embeddings, array(head.representatives)), rtol=1e-5)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras", safe_mode=True)
    np.testing.assert_array_equal(array(again(embeddings)), found)
    # Before weights are loaded too: drawn ones are drawn anew, given ones stay.
    given = layers.Representatives(3, 2, 4, representatives=draw(3, 2, 4), trainable=False)
    copy = layers.Representatives.from_config(given.get_config())
    np.testing.assert_array_equal(array(copy.representatives), draw(3, 2, 4))
    assert not copy.trainable_weights


def test_probabilities(value_and_gradient, reference_gradient):
    distances = 2 * draw(4, 3, 2) ** 2

    def g(distances):
        return np.exp(-np.asarray(distances, "float64") / (2 * SIGMA**2))

    posterior = g(distances).sum(-1) / g(distances).sum((-2, -1))[:, None]
    np.testing.assert_allclose(array(layers.mixture_posterior(distances, SIGMA)), posterior, 1e-5)
    background = 1 - g(distances).max((-2, -1))
    found = layers.background_probability(distances, SIGMA)
    np.testing.assert_allclose(array(found), background, rtol=1e-5)
    weights = draw(4, 4, seed=1)

    def expected(distances):
        best = g(distances).max(-1)
        with_background = np.concatenate([best, 1 - best.max(-1, keepdims=True)], -1)
        return np.sum(weights * np.log(with_background))

    value, gradient = value_and_gradient(
        lambda d: ops.sum(layers.region_logits(d, SIGMA) * ops.convert_to_tensor(weights)),
        distances,
    )
    assert value == pytest.approx(expected(distances), rel=1e-5)
    np.testing.assert_allclose(gradient, reference_gradient(expected, distances), atol=2e-4)


def test_on_a_representative_and_far_from_all(value_and_gradient):
    # The last row is beyond the digits that its distances' exponentials have.
    distances = np.array([[[0, 1], [2, 2]], [[6e4, 6e4], [6e4, 6.1e4]]], "float16")
    posterior = array(layers.mixture_posterior(distances))
    assert posterior.dtype == "float32"
    np.testing.assert_allclose(posterior[1], [2 / 3, 1 / 3], rtol=1e-5)
    np.testing.assert_allclose(array(layers.background_probability(distances)), [0, 1])
    logits = array(layers.region_logits(distances))
    np.testing.assert_allclose(logits[1], [-1.2e5, -1.2e5, 0], rtol=1e-3)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    _, gradient = value_and_gradient(
        lambda d: loss(np.array([2, 2]), layers.region_logits(d)), distances.astype("float32")
    )
    assert np.isfinite(gradient).all()


def test_new_classes_are_told_by_a_few_embeddings_of_them():
    embed = keras.layers.Dense(3, use_bias=False)
    images = np.concatenate([draw(6, 5) + 4, draw(6, 5, seed=1) - 4, 4 * draw(1, 5)])
    embeddings = array(embed(images))[:12].reshape(2, 6, 3)
    few = layers.Representatives(2, 2, 3, representatives=embeddings[:, :2], trainable=False)
    model = keras.Sequential([keras.Input((5,)), embed, few])
    classes = array(layers.mixture_posterior(model(images[:12]), sigma=2.0)).argmax(1)
    assert classes.tolist() == [0] * 6 + [1] * 6


def test_training_moves_the_representatives_under_mixed_precision():
    head = layers.Representatives(2, 2, 3, dtype="mixed_float16")
    model = keras.Sequential([keras.Input((3,)), head])
    model.compile(keras.optimizers.SGD(0.1), mhe.losses.RepMetLoss(version=2))
    before = array(head.representatives)
    history = model.fit(draw(8, 3), np.arange(8) % 2, epochs=2, batch_size=8, verbose=0)
    distances = head(draw(1, 3).astype("float16"))
    assert (head.compute_dtype, distances.shape) == ("float16", (1, 2, 2))
    assert keras.backend.standardize_dtype(distances.dtype) == "float32"
    first, second = history.history["loss"]
    assert second < first
    assert not np.allclose(before, array(head.representatives))


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"classes": 1}, "`classes` must be an integer >= 2. Received: classes=1"),
        ({"per_class": 0}, "`per_class` must be an integer >= 1"),
        ({"representatives": np.zeros((3, 2))}, r"here \(3, 2, 4\). Received: shape \(3, 2\)"),
        (
            {"representatives": np.full((3, 2, 4), [[[0]], [[np.nan]], [[0]]])},
            r"finite. Received: nan at \(1, 0, 0\) of \(classes, per_class, dims\)",
        ),
    ],
)
def test_what_is_refused(options, named):
    with pytest.raises(ValueError, match=named):
        layers.Representatives(**{"classes": 3, "per_class": 2, "dims": 4, **options})


def test_sigma_is_checked():
    with pytest.raises(ValueError, match=r"`sigma` must be a finite number > 0. Received: sigma=0"):
        layers.mixture_posterior(np.ones((1, 2, 1)), sigma=0)
