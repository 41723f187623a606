"""Models whose kernels were divided by their spectral norms compute what they did before."""

import keras
import numpy as np
import pytest
from keras import ops

import mhe
from mhe.layers import SpectralNorm, fold_spectral_norms

array = ops.convert_to_numpy
pytestmark = pytest.mark.usefixtures("weights_from_numpy")


def kinds(model):
    return [type(layer).__name__ for layer in model._flatten_layers()]


def test_the_same_numbers_on_every_backend(draw):
    model = keras.Sequential([keras.Input((6,)), SpectralNorm(keras.layers.Dense(4))])
    plain = fold_spectral_norms(model)
    assert "SpectralNorm" not in kinds(plain)
    np.testing.assert_allclose(array(plain(draw(3, 6))), array(model(draw(3, 6))), rtol=1e-5)


@pytest.mark.one_backend
def test_every_kind_of_layer_in_a_graph(draw):
    inner = keras.Sequential(
        [keras.Input((6, 6, 4)), SpectralNorm(keras.layers.DepthwiseConv2D(2, depth_multiplier=2))],
        name="inner",
    )
    shared = SpectralNorm(keras.layers.Dense(3, activation="tanh"), name="shared")
    images, words = keras.Input((6, 6, 2), name="a"), keras.Input((4,), dtype="int32", name="b")
    x = SpectralNorm(keras.layers.Conv2D(4, 3, padding="same"), name="convolved")(images)
    x = SpectralNorm(keras.layers.Conv2DTranspose(4, 3, padding="same", use_bias=False))(x)
    x = keras.layers.BatchNormalization()(inner(x))
    x = shared(shared(keras.layers.Dense(3)(keras.layers.GlobalAveragePooling2D()(x))))
    y = SpectralNorm(keras.layers.Embedding(5, 3), warm_up=0)(words)
    model = keras.Model({"a": images, "b": words}, [x, keras.layers.Dropout(0.5)(y)], name="both")
    model.compile("sgd", "mse")
    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.moving_mean.assign(draw(8))
    model({"a": draw(2, 6, 6, 2), "b": np.zeros((2, 4), "int32")}, training=True)

    plain = fold_spectral_norms(model)
    assert "SpectralNorm" in kinds(model)
    assert "SpectralNorm" not in kinds(plain)
    assert (plain.name, plain.compiled) == ("both", False)
    inputs = {"a": draw(3, 6, 6, 2, seed=1), "b": np.arange(12).reshape(3, 4) % 5}
    for ours, theirs in zip(model(inputs), plain(inputs), strict=True):
        np.testing.assert_allclose(array(theirs), array(ours), rtol=1e-5, atol=1e-6)
    # By NumPy's singular value decomposition, which has nothing of the power iteration.
    wrapped, folded = model.get_layer("shared"), plain.get_layer("shared")
    mhe.layers.update_spectral_norms(model)
    for _ in range(200):
        wrapped.update()
    kernel = array(wrapped.kernel).astype("float64")
    again = fold_spectral_norms(model).get_layer("shared")
    expected = kernel / np.linalg.svd(kernel, compute_uv=False)[0]
    np.testing.assert_allclose(array(again.kernel), expected, rtol=1e-5)
    # A copy, with weights of its own.
    np.testing.assert_array_equal(array(wrapped.kernel), kernel.astype("float32"))
    assert folded.activation is keras.activations.tanh


@pytest.mark.one_backend
@pytest.mark.parametrize("policy", ["mixed_float16", "float64"])
def test_policies_and_kernels_of_zeros(policy, draw):
    zero = keras.layers.Dense(4, kernel_initializer="zeros", bias_initializer="ones", dtype=policy)
    layers = [SpectralNorm(keras.layers.Dense(5, dtype=policy)), SpectralNorm(zero)]
    for layer in layers:
        model = keras.Sequential([keras.Input((6,)), layer])
        plain = fold_spectral_norms(model)
        assert plain.layers[0].dtype_policy.name == policy
        embeddings = draw(3, 6)
        np.testing.assert_array_equal(array(plain(embeddings)), array(model(embeddings)))


@pytest.mark.one_backend
def test_models_and_layers_that_are_copied_by_their_config(draw, tmp_path):
    backbone = keras.Sequential(
        [
            keras.Input((4, 6)),
            keras.layers.TimeDistributed(SpectralNorm(keras.layers.Dense(3), name="each")),
            keras.layers.Flatten(),
        ]
    )
    head = mhe.layers.InputPrototypes(
        2, 1, encoder=keras.Sequential([SpectralNorm(keras.layers.Dense(3))])
    )
    model = mhe.HeadModel(backbone, head)
    model.compile("sgd", "mse")
    plain = fold_spectral_norms(model)
    assert type(plain) is mhe.HeadModel
    assert "SpectralNorm" not in kinds(plain)
    embeddings = draw(5, 4, 6)
    np.testing.assert_allclose(array(plain(embeddings)), array(model(embeddings)), rtol=1e-5)
    plain.save(tmp_path / "plain.keras")
    loaded = keras.saving.load_model(tmp_path / "plain.keras")
    np.testing.assert_allclose(array(loaded(embeddings)), array(model(embeddings)), rtol=1e-5)
    # Without any norm, a copy.
    again = fold_spectral_norms(plain)
    assert again is not plain
    np.testing.assert_array_equal(array(again(embeddings)), array(plain(embeddings)))


@keras.saving.register_keras_serializable(package="test_folding")
class Grows(keras.Model):
    """Has a layer that its config does not know."""

    def __init__(self, more=False, **kwargs):
        super().__init__(**kwargs)
        self.one = SpectralNorm(keras.layers.Dense(2))
        self.two = keras.layers.Dense(2) if more else None

    def build(self, shape):
        for layer in (self.one, self.two):
            if layer is not None:
                layer.build(shape)

    def call(self, x):
        return self.one(x)


@pytest.mark.one_backend
def test_what_cannot_be_folded():
    with pytest.raises(ValueError, match=r"must be a built Keras model. Received: <Sequential"):
        fold_spectral_norms(keras.Sequential([SpectralNorm(keras.layers.Dense(2))]))
    with pytest.raises(ValueError, match=r"must be a built Keras model. Received: <SpectralNorm"):
        fold_spectral_norms(SpectralNorm(keras.layers.Dense(2)))
    model = Grows(more=True)
    model.build((None, 3))
    with pytest.raises(ValueError, match=r"must have its weights.*Received: <Grows"):
        fold_spectral_norms(model)
