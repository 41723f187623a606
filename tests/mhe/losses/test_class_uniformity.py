"""ClassUniformity: the energy of class means, in float64, and in training."""

import json

import keras
import numpy as np
import pytest

from mhe.losses import ClassUniformity, class_uniformity

LABELS = np.array([5, 2, 5, 9, 2, 5])


@pytest.mark.parametrize("space", ["full", "half"])
@pytest.mark.parametrize(("s", "distance"), [(2, "euclidean"), (1, "euclidean"), (0, "angle")])
def test_value_and_gradient(
    s, distance, space, value_and_gradient, reference_gradient, reference_energy
):
    def reference(features):
        units = features / np.linalg.norm(features, axis=1, keepdims=True)
        means = np.array([units[label == LABELS].mean(axis=0) for label in np.unique(LABELS)])
        return reference_energy(means, s, distance, space)

    features = np.random.default_rng(0).normal(size=(6, 4))
    value, gradient = value_and_gradient(
        lambda x: class_uniformity(LABELS, x, s, distance, space), features.astype("float32")
    )
    assert value == pytest.approx(reference(features), rel=1e-5, abs=1e-6)
    expected = reference_gradient(reference, features)
    np.testing.assert_allclose(gradient, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("distance", ["euclidean", "angle"])
def test_degenerate_batches_are_finite(distance, value_and_gradient):
    for rows in (
        np.zeros((3, 4)),
        np.ones((3, 4)),
        np.array([[1.0, 2.0], [-1.0, -2.0], [1.0, 2.0]]),
        np.ones((1, 3)),
    ):
        for labels in (np.arange(len(rows)), np.zeros(len(rows), int)):
            for space in ("full", "half"):
                value, gradient = value_and_gradient(
                    lambda x, labels=labels, space=space: class_uniformity(
                        labels, x, 2, distance, space
                    ),
                    rows.astype("float32"),
                    eager=True,
                )
                assert np.isfinite(value)
                assert np.all(np.isfinite(gradient))
    one = class_uniformity([1, 1], np.eye(2, dtype="float32"), distance=distance)
    assert float(one) == 0.0


def test_loss_is_the_energy_of_the_batch():
    features = np.random.default_rng(1).normal(size=(6, 4)).astype("float32")
    energy = float(class_uniformity(LABELS, features))
    assert float(ClassUniformity()(LABELS.tolist(), features)) == pytest.approx(energy)
    assert float(ClassUniformity()(LABELS[:, None], features)) == pytest.approx(energy)
    each = ClassUniformity(reduction=None)(LABELS, features)
    np.testing.assert_allclose(keras.ops.convert_to_numpy(each), np.full(6, energy), rtol=1e-6)


def test_fit_spreads_classes():
    rng = np.random.default_rng(2)
    x, y = rng.normal(1.0, 1.0, size=(44, 6)).astype("float32"), rng.integers(0, 3, 44)
    x[:, :3] += 3 * np.eye(3)[y]
    layer = keras.layers.Dense(3, kernel_initializer=keras.initializers.RandomUniform(0, 1, seed=1))
    model = keras.Sequential([keras.Input((6,)), layer])
    model.compile(keras.optimizers.Adam(0.05), ClassUniformity(s=1))
    losses = model.fit(x, y, batch_size=12, epochs=6, verbose=0).history["loss"]
    assert losses[-1] < 0.7 * losses[0]


@pytest.mark.one_backend
def test_config_and_bad_input():
    loss = ClassUniformity(1, "angle", "half")
    config = json.loads(json.dumps(keras.saving.serialize_keras_object(loss)))
    copy = keras.saving.deserialize_keras_object(config)
    assert copy.get_config() == loss.get_config()
    with pytest.raises(ValueError, match=r"`space` .*Received: space='third'"):
        ClassUniformity(space="third")
    with pytest.raises(ValueError, match=r"Labels must be .*Received: labels \(2, 3\)"):
        class_uniformity(np.zeros((2, 3)), np.zeros((2, 3)))
