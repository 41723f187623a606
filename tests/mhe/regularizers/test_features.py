"""Regularizers of a batch of features: of activities, as a loss, and of batches of any size."""

import keras
import numpy as np
import pytest
from keras import ops

import mhe
from mhe import regularizers

pytestmark = pytest.mark.usefixtures("weights_from_numpy")

SEARCHING = {
    "comhe": lambda **given: regularizers.CoMHE(dims=3, **given),
    "comhe by angle": lambda **given: regularizers.CoMHE(
        projection="angle", dims=3, steps=2, **given
    ),
    "comhe by adversary": lambda **given: regularizers.CoMHE(
        projection="adversarial", dims=3, steps=2, **given
    ),
    "covering": lambda **given: regularizers.Covering(steps=3, **given),
    "polarization": lambda **given: regularizers.Polarization(steps=3, **given),
}
KINDS = {
    **SEARCHING,
    "mhe": lambda **given: mhe.MHE(**given),
    "mhe by angle": lambda **given: mhe.MHE(s=1, distance="angle", **given),
}


def draw(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def embedder(**options):
    return keras.Sequential([keras.Input((6,)), keras.layers.Dense(4, name="features", **options)])


def fit(activity_regularizer, loss, jit_compile=False):
    """Weights before and after, and the losses."""
    model = embedder(activity_regularizer=activity_regularizer)
    model.compile(keras.optimizers.SGD(0.01), loss, jit_compile=jit_compile)
    before = model.get_weights()[0]
    # The last batch is smaller: TensorFlow does not know the number of rows when it traces.
    history = model.fit(draw(12, 6), draw(12, 4), batch_size=8, epochs=2, verbose=0).history
    assert np.all(np.isfinite(history["loss"]))
    after = model.get_weights()[0]
    assert np.all(np.isfinite(after))
    assert not np.allclose(after, before)


def test_activities_and_a_loss_in_fit():
    # Compiling more steps of the searches would take minutes.
    kinds = (
        regularizers.CoMHE(projection="adversarial", dims=3, steps=1, axis=0),
        regularizers.Covering(steps=1, axis=0),
        regularizers.Polarization(steps=1, axis=0),
        regularizers.Polarization(relaxed=True, axis=0),
    )
    spread = regularizers.CoMHE(dims=3, axis=0)
    compiled = keras.backend.backend() == "jax"
    fit(mhe.Sum(*kinds), lambda _, features: spread(features), jit_compile=compiled)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="compiled by XLA above")
def test_activities_in_fit_by_xla():
    fit(regularizers.Covering(steps=1, axis=0), None, jit_compile=True)


@pytest.mark.parametrize("kind", ["comhe", "covering", "polarization"])
@pytest.mark.one_backend
def test_a_loss_of_features_spreads_them(kind, reference_energy):
    regularizer = SEARCHING[kind](axis=0)
    model = embedder(use_bias=False)
    x = draw(20, 6) + np.float32(1.5)
    model.compile(keras.optimizers.Adam(0.03), lambda _, features: regularizer(features))

    def crowding(features):
        if kind == "comhe":
            return reference_energy(features, 2, "euclidean", "full")
        return emptiest(features)

    before = crowding(model.predict(x, verbose=0))
    model.fit(x, np.zeros((20, 4)), batch_size=20, epochs=40, verbose=0)
    assert crowding(model.predict(x, verbose=0)) < 0.9 * before


def emptiest(features):
    """How far from all features a place on the sphere can be: the best of many."""
    features, places = (
        each / np.linalg.norm(each, axis=1, keepdims=True) for each in (features, draw(20000, 4))
    )
    return np.sqrt(2 - 2 * (places @ features.T).max(axis=1)).max()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("space", ["full", "half"])
@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="shapes are always known")
def test_batches_of_unknown_size_as_of_known_size(kind, space):
    import tensorflow as tf

    @tf.function(input_signature=[tf.TensorSpec((None, 5))], autograph=False)
    def step(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            value = KINDS[kind](axis=0, space=space)(x)
        return value, tape.gradient(value, x)

    for rows in (draw(1, 5), draw(2, 5), draw(12, 5)):
        value, gradient = step(rows)
        assert gradient.shape == rows.shape
        x = tf.convert_to_tensor(rows)
        with tf.GradientTape() as tape:
            tape.watch(x)
            expected = KINDS[kind](axis=0, space=space)(x)
        assert float(value) == pytest.approx(float(expected), rel=1e-5)
        slope = tape.gradient(expected, x).numpy()
        np.testing.assert_allclose(
            gradient, slope, rtol=1e-3, atol=1e-4 * max(np.abs(slope).max(), 1)
        )


@pytest.mark.parametrize("space", ["full", "half"])
@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="shapes are always known")
def test_energies_of_batches_of_unknown_size(space, reference_energy):
    import tensorflow as tf

    near = draw(12, 10)
    near[1] = near[0] + 0.01 * near[2]
    near[3] = -near[4] + 0.003 * near[5]
    for s, distance in ((0, "euclidean"), (2, "euclidean"), (1, "angle")):
        for reduction in ("mean", "sum"):

            @tf.function(input_signature=[tf.TensorSpec((None, 10))], autograph=False)
            def energy(x, s=s, distance=distance, reduction=reduction):
                return mhe.hyperspherical_energy(x, s, distance, space, axis=0, reduction=reduction)

            for rows in (near, draw(1, 10)) if space == "half" else (near,):
                expected = reference_energy(rows, s, distance, space, reduction)
                assert float(energy(rows)) == pytest.approx(expected, rel=1e-5)
            if space == "full":
                assert float(energy(draw(1, 10))) == 0


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="shapes are always known")
def test_what_an_unknown_size_does_not_allow():
    import tensorflow as tf

    def trace(regularizer):
        tf.function(regularizer, autograph=False).get_concrete_function(tf.TensorSpec((None, 5)))

    with pytest.raises(ValueError, match=r"`sample` needs weights.*Received: sample=4"):
        trace(mhe.MHE(sample=4, axis=0))
    with pytest.raises(ValueError, match=r"numbers in a neuron must be known.*Received: axis=-1"):
        trace(mhe.MHE())


@pytest.mark.one_backend
def test_draws_of_features_differ_from_batch_to_batch():
    regularizer = regularizers.Polarization(axis=0, space="half", steps=1)
    features = ops.convert_to_tensor(draw(12, 5))
    values = {float(regularizer(features * scale)) for scale in (1.0, 1.001, 1.002)}
    assert len(values) > 1
