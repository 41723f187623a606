"""Cosines with fixed prototypes: values, gradients, the weight, and saving."""

import json

import keras
import numpy as np
import pytest
from keras import ops

import mhe
from mhe import layers

array = ops.convert_to_numpy


def test_cosines_follow_the_float64_formula(
    value_and_gradient, reference_gradient, draw, some_prototypes
):
    embeddings, prototypes, pull = draw(2, 3, 4), some_prototypes(), draw(2, 3, 5, seed=1)
    head = layers.PrototypeHead(prototypes)

    def reference(x):
        cosines = np.einsum("...d,cd->...c", x, prototypes.astype("float64"))
        return np.sum(pull * cosines / np.linalg.norm(x, axis=-1, keepdims=True))

    value, gradient = value_and_gradient(
        lambda x: ops.sum(ops.multiply(head(x), pull)), embeddings, jit_compile=True
    )
    assert value == pytest.approx(reference(embeddings.astype("float64")), rel=1e-5)
    np.testing.assert_allclose(gradient, reference_gradient(reference, embeddings), atol=2e-6)


@pytest.mark.parametrize("size", [1e-28, 1e-7, 1e30])
def test_cosines_do_not_depend_on_the_size_of_embeddings(
    size, value_and_gradient, unit, draw, some_prototypes
):
    embeddings, prototypes = unit(draw(3, 4)), some_prototypes()
    head = layers.PrototypeHead(prototypes)
    scaled = (embeddings * size).astype("float32")
    expected = embeddings @ prototypes.astype("float64").T
    np.testing.assert_allclose(array(head(scaled)), expected, atol=3e-7)
    _, gradient = value_and_gradient(lambda x: ops.sum(head(x)), scaled)
    along = prototypes.sum(axis=0).astype("float64")
    expected = along - (embeddings @ along)[:, None] * embeddings
    np.testing.assert_allclose(gradient * size, expected, atol=2e-6)


def test_embeddings_on_a_prototype_and_opposite_to_it(value_and_gradient, some_prototypes):
    prototypes = some_prototypes()
    head = layers.PrototypeHead(prototypes)
    embeddings = np.stack([3 * prototypes[2], -0.1 * prototypes[2]])
    np.testing.assert_allclose(array(head(embeddings))[:, 2], [1, -1], atol=2e-7)
    loss = mhe.losses.PrototypeLoss(reduction="sum")
    value, gradient = value_and_gradient(lambda x: loss([2, 2], head(x)), embeddings)
    assert value == pytest.approx(4, rel=1e-6)
    np.testing.assert_allclose(gradient, 0, atol=1e-5)


def test_float16_embeddings_whose_norm_overflows(unit, draw, some_prototypes):
    embeddings = (unit(draw(3, 100)) * 60000 * 5).clip(-65000, 65000).astype("float16")
    prototypes = some_prototypes(5, 100)
    cosines = layers.PrototypeHead(prototypes, dtype="mixed_float16")(embeddings)
    assert keras.backend.standardize_dtype(cosines.dtype) == "float32"
    expected = unit(embeddings) @ prototypes.astype("float64").T
    np.testing.assert_allclose(array(cosines), expected, atol=3e-7)


def test_masks_pass_through(draw, some_prototypes):
    steps = draw(2, 3, 4)
    steps[0, 2] = 0
    model = keras.Sequential(
        [keras.Input((3, 4)), keras.layers.Masking(), layers.PrototypeHead(some_prototypes())]
    )
    labels = np.array([[1, 2, 3], [4, 0, 1]])
    kept = array(model(steps)).reshape(6, 5)[[0, 1, 3, 4, 5]]
    expected = np.mean((1 - kept[np.arange(5), [1, 2, 4, 0, 1]]) ** 2)
    assert float(mhe.losses.PrototypeLoss()(labels, model(steps))) == pytest.approx(expected)


def test_nothing_trains_the_prototypes(draw, some_prototypes, small_model):
    prototypes = some_prototypes()
    head = layers.PrototypeHead(prototypes)
    model = small_model(head)
    head.trainable = False
    head.trainable = True
    assert head.trainable_weights == []
    assert [weight.name for weight in head.weights] == ["prototypes"]
    model.compile(keras.optimizers.AdamW(0.1, weight_decay=0.5), mhe.losses.PrototypeLoss())
    kernel = model.get_weights()[0]
    model.fit(draw(8, 3), np.arange(8) % 5, verbose=0)
    assert np.abs(model.get_weights()[0] - kernel).max() > 0.01
    np.testing.assert_array_equal(array(head.prototypes), prototypes)


def test_rows_from_float32_keep_every_bit_and_rows_from_float16_become_unit(unit, draw):
    exact = unit(draw(50, 30)).astype("float32")
    np.testing.assert_array_equal(array(layers.PrototypeHead(exact).prototypes), exact)
    halved = exact.astype("float16")
    lengths = np.linalg.norm(halved.astype("float64"), axis=1)
    assert np.abs(lengths - 1).max() > 1e-5
    rows = array(layers.PrototypeHead(halved).prototypes)
    np.testing.assert_allclose(np.linalg.norm(rows.astype("float64"), axis=1), 1, atol=1e-7)
    np.testing.assert_allclose(rows, exact, atol=1e-3)
    again = array(layers.PrototypeHead(rows).prototypes)
    np.testing.assert_array_equal(again, rows)


@pytest.mark.parametrize(
    ("prototypes", "named"),
    [
        (np.eye(4)[:1], r"at least 2 classes and 2 dimensions. Received: shape \(1, 4\)"),
        (np.ones((3, 1)), r"at least 2 classes and 2 dimensions. Received: shape \(3, 1\)"),
        (np.eye(4)[0], r"Received: shape \(4,\)"),
        (1.01 * np.eye(4), r"rows of length 1. Received: row 0 of length 1.01"),
        (np.diag([1.0, 0.99]), r"Received: row 1 of length 0.99"),
        (np.diag([1.0, 0.0]), r"Received: row 1 of length 0$"),
        (np.diag([1.0, np.nan]), r"Received: row 1 of length nan"),
    ],
)
def test_other_prototypes_are_refused(prototypes, named):
    with pytest.raises(ValueError, match=named):
        layers.PrototypeHead(prototypes)


def test_reserved_prototypes_become_classes(draw, some_prototypes, tmp_path):
    rows, embeddings = some_prototypes(7, 4), draw(3, 4)
    head = layers.PrototypeHead(rows, reserve=3, name="label", dtype="mixed_float16")
    assert (head.classes, head.dims) == (4, 4)
    assert head.compute_output_shape((None, 4)) == (None, 4)
    np.testing.assert_array_equal(head.reserved, rows[4:])
    one, both = head.extend(1), head.extend(1).extend(2)
    assert (one.classes, one.name, one.dtype_policy.name) == (5, "label", "mixed_float16")
    np.testing.assert_array_equal(array(head(embeddings)), array(both(embeddings))[:, :4])
    plain = layers.PrototypeHead(rows, dtype="mixed_float16")
    np.testing.assert_array_equal(array(both(embeddings)), array(plain(embeddings)))
    # What is reserved is saved.
    model = keras.Sequential([keras.Input((4,)), head])
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras").layers[-1]
    assert loaded.get_config() == head.get_config()
    np.testing.assert_array_equal(array(loaded.extend(3).prototypes), rows)
    with pytest.raises(ValueError, match=r"The head has 2 prototypes reserved.* classes=3"):
        one.extend(3)
    with pytest.raises(ValueError, match=r"The head has 0 prototypes reserved.* classes=1"):
        both.extend(1)


def test_configs_of_earlier_versions_reserve_nothing(some_prototypes):
    config = layers.PrototypeHead(some_prototypes()).get_config()
    assert config.pop("reserve") == 0
    assert len(layers.PrototypeHead.from_config(config).reserved) == 0


@pytest.mark.parametrize(
    ("reserve", "named"),
    [
        (-1, "`reserve` must be an integer from 0 to 3. Received: reserve=-1"),
        (4, "`reserve` must be an integer from 0 to 3. Received: reserve=4"),
        (1.0, "Received: reserve=1.0"),
    ],
)
def test_what_cannot_be_reserved(reserve, named, some_prototypes):
    with pytest.raises(ValueError, match=named):
        layers.PrototypeHead(some_prototypes(), reserve)
    with pytest.raises(ValueError, match=r"`classes` must be an integer >= 1. Received: .*0"):
        layers.PrototypeHead(some_prototypes(), 2).extend(0)


@pytest.mark.parametrize("shape", [(5, 4), (1000, 512)])
def test_prototypes_keep_every_bit_through_json(shape, unit, draw):
    prototypes = unit(draw(*shape)).astype("float32")
    head = layers.PrototypeHead(prototypes, name="cosines", dtype="mixed_float16")
    text = json.dumps(keras.saving.serialize_keras_object(head))
    for copy in (
        keras.saving.deserialize_keras_object(json.loads(text)),
        layers.PrototypeHead.from_config(head.get_config()),
    ):
        np.testing.assert_array_equal(array(copy.prototypes), prototypes)
        assert copy.name == "cosines"
        assert copy.dtype_policy.name == "mixed_float16"
        assert copy.get_config() == head.get_config()
    assert len(text) < 6 * prototypes.size + 500


def test_weights_bring_their_prototypes_and_the_config_follows(
    tmp_path, some_prototypes, small_model
):
    trained = small_model(layers.PrototypeHead(some_prototypes()))
    trained.save_weights(tmp_path / "model.weights.h5")
    model = small_model(layers.PrototypeHead(np.eye(5, 4) + np.eye(5, 4, -4)))
    model.load_weights(tmp_path / "model.weights.h5")
    copy = keras.models.clone_model(model)
    np.testing.assert_array_equal(array(copy.layers[-1].prototypes), some_prototypes())
