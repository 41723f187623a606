"""Layers with one config entry for several weights, after saving and cloning."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from mhe import MHE
from mhe.attach import Projections, attach, attached, detach

pytestmark = pytest.mark.usefixtures("weights_from_numpy")

needs_reversible = pytest.mark.skipif(
    not hasattr(layers, "ReversibleEmbedding"), reason="newer than this version of Keras"
)


@pytest.fixture
def energy(reference_energy):
    """The mean Euclidean energy, s = 2, in float64."""
    return lambda weights, axis, space="half": reference_energy(
        weights, 2, "euclidean", space, axis=axis
    )


def losses(model):
    return [float(ops.convert_to_numpy(each)) for each in model.losses]


def attention(layer):
    """Self-attention over three tokens of four features."""
    inputs = keras.Input((3, 4))
    return keras.Model(inputs, layer(inputs, inputs))


def reversible(**options):
    inputs = keras.Input((3,), dtype="int32")
    layer = layers.ReversibleEmbedding(7, 4, tie_weights=False, name="both", **options)
    return keras.Model(inputs, layer(layer(inputs), reverse=True))


def copies(model, folder):
    """A loaded model and a clone, of which this library has seen nothing yet."""
    model.save(folder / "model.keras")
    clone = keras.models.clone_model(model)
    clone.set_weights(model.get_weights())
    return keras.models.load_model(folder / "model.keras"), clone


def fitted(model, inputs):
    """The loss of a step at rate 0 towards what the model returns: that of its regularizers."""
    targets = model.predict(inputs, verbose=0)
    model.compile(keras.optimizers.SGD(0.0), "mse")
    return model.fit(inputs, targets, verbose=0).history["loss"][0]


def test_projections_of_one_shape(tmp_path, energy):
    """Four heads of four numbers over four features: shapes cannot tell query from output."""
    layer = layers.MultiHeadAttention(4, 4, kernel_regularizer="l2", name="cube")
    model = attention(layer)
    before = sum(losses(model))
    table = attach(model, MHE(1.0), head=MHE(10.0))
    kernels = [row.weight.variable for row in table]
    expected = [energy(kernel, (1, 2)) for kernel in kernels[:3]] + [10 * energy(kernels[3], 2)]
    l2 = [0.01 * np.sum(np.square(ops.convert_to_numpy(kernel))) for kernel in kernels]
    np.testing.assert_allclose(losses(model), np.add(expected, l2), rtol=1e-5)
    for copy in copies(model, tmp_path):
        np.testing.assert_allclose(losses(copy), np.add(expected, l2), rtol=1e-5)
        assert [row.regularizer.strength for row in attached(copy)] == [1.0, 1.0, 1.0, 10.0]
        detach(copy)
        np.testing.assert_allclose(sum(losses(copy)), before, rtol=1e-6)


@pytest.mark.parametrize(
    "make",
    [
        lambda: layers.MultiHeadAttention(2, 3, name="some"),
        lambda: layers.GroupQueryAttention(3, 2, 2, name="some"),
    ],
)
def test_one_projection_alone(make, tmp_path, energy):
    """Query, key and value share a shape, and only one of them has anything attached."""
    model = attention(make())
    (row,) = attach(model, MHE(2.0), layers="query")
    assert row.saved
    expected = 2 * energy(row.weight.variable, (1, 2))
    inputs = np.random.default_rng(0).normal(size=(2, 3, 4)).astype("float32")
    loaded, clone = copies(model, tmp_path)
    assert fitted(loaded, inputs) == pytest.approx(expected, rel=1e-5)
    assert sum(losses(clone)) == pytest.approx(expected, rel=1e-5)
    assert [row.weight.location for row in attached(loaded)] == ["some/query"]
    # On a copy a second projection joins the first.
    attach(clone, MHE(3.0), layers="value")
    twice, _ = copies(clone, tmp_path)
    np.testing.assert_allclose(fitted(twice, inputs), sum(losses(clone)), rtol=1e-5)
    assert [(row.layer.name, row.regularizer.strength) for row in attached(twice)] == [
        ("query", 2.0),
        ("value", 3.0),
    ]


@needs_reversible
def test_embedding_and_its_reverse(tmp_path, energy):
    l2 = keras.regularizers.L2(0.01)
    model = reversible(embeddings_regularizer=l2)
    layer = model.get_layer("both")
    rows = attach(model, MHE(2.0))
    assert [(row.weight.name, row.kept, row.saved) for row in rows] == [
        ("embeddings", l2, True),
        ("reverse_embeddings", None, True),
    ]
    squares = 0.01 * np.sum(np.square(ops.convert_to_numpy(layer.embeddings)))
    expected = [
        squares + 2 * energy(layer.embeddings, 0),
        2 * energy(layer.reverse_embeddings, 1),
    ]
    np.testing.assert_allclose(losses(model), expected, rtol=1e-5)
    inputs = np.array([[0, 3, 6], [1, 1, 2]])
    for copy in copies(model, tmp_path):
        assert fitted(copy, inputs) == pytest.approx(sum(expected), rel=1e-5)
        assert [row.weight.axis for row in attached(copy)] == [0, -1]
        detach(copy)
        np.testing.assert_allclose(losses(copy), [squares], rtol=1e-5)
    detach(model)
    assert layer.embeddings_regularizer is layer.embeddings.regularizer is l2
    assert layer.reverse_embeddings.regularizer is None


@needs_reversible
@pytest.mark.parametrize("name", ["embeddings", "reverse_embeddings"])
def test_one_of_an_embedding_and_its_reverse(name, tmp_path):
    """A version of Keras may give the config's regularizer to the reverse matrix, too."""
    model = reversible()
    (row,) = attach(model, MHE(2.0), layers=f"/{name}$")
    expected = losses(model)
    assert len(expected) == 1
    for copy in copies(model, tmp_path):
        layer = copy.get_layer("both")
        layer.reverse_embeddings.regularizer = layer.embeddings_regularizer
        np.testing.assert_allclose(sum(losses(copy)), expected[0], rtol=1e-5)
        assert [each.weight.name for each in attached(copy)] == [row.weight.name]


@pytest.mark.one_backend
def test_lora_stays_out_of_the_config(tmp_path):
    model = attention(layers.MultiHeadAttention(2, 3, name="some"))
    model.get_layer("some").query_dense.enable_lora(1)
    table = attach(model, MHE(1.0))
    assert [(row.trainable, row.saved) for row in table] == [(False, False), *3 * [(True, True)]]
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert [row.layer.name for row in attached(loaded)] == ["key", "value", "attention_output"]


@pytest.mark.one_backend
@needs_reversible
def test_lora_of_an_embedding_takes_nothing_over():
    model = reversible()
    attach(model, MHE(1.0))
    layer = model.get_layer("both")
    layer.enable_lora(2)
    (_, reverse) = attached(model)
    added = float(ops.convert_to_numpy(reverse.regularizer(reverse.weight.variable)))
    np.testing.assert_allclose(sum(losses(model)), added, rtol=1e-6)
    assert layer.lora_embeddings_a.regularizer is None


@pytest.mark.one_backend
def test_only_weights_of_the_layer_can_be_told_apart():
    model = attention(layers.MultiHeadAttention(2, 3))
    attach(model, MHE(1.0))
    entry = keras.saving.deserialize_keras_object(
        keras.saving.serialize_keras_object(Projections({"query": MHE(), "key": None}))
    )
    with pytest.raises(
        ValueError, match=r"several weights.*Received: shape=\(4, 2, 3\), .* none of query, key$"
    ):
        entry(np.ones((4, 2, 3), "float32"))
