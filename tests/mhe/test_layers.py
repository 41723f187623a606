"""Heads: values and gradients against float64 formulas, degenerate embeddings, and saving."""

import json

import keras
import numpy as np
import pytest
from keras import ops

import mhe
from mhe import layers


def unit(rows):
    rows = np.asarray(rows, "float64")
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def draw(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def some_prototypes(classes=5, dims=4):
    return unit(draw(classes, dims, seed=7)).astype("float32")


def prototypes_of(head):
    return ops.convert_to_numpy(head.prototypes)


def array(tensor):
    return ops.convert_to_numpy(tensor)


def small_model(*heads):
    inputs = keras.Input((3,))
    embedding = keras.layers.Dense(4, use_bias=False)(inputs)
    return keras.Model(inputs, [head(embedding) for head in heads])


# --- values and gradients -----------------------------------------------------------------------


def test_cosines_follow_the_float64_formula(value_and_gradient, reference_gradient):
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


def test_polar_values_follow_the_float64_formula(value_and_gradient, reference_gradient):
    embeddings, pull = draw(2, 3, 4), draw(2, 3, 1, seed=1)
    head = layers.PolarHead(-3.0, 7.0, dims=4)

    def reference(x):
        cosines = x[..., :1] / np.linalg.norm(x, axis=-1, keepdims=True)
        return np.sum(pull * (-3.0 + (cosines + 1) / 2 * 10))

    value, gradient = value_and_gradient(lambda x: ops.sum(ops.multiply(head(x), pull)), embeddings)
    assert value == pytest.approx(reference(embeddings.astype("float64")), rel=1e-5)
    np.testing.assert_allclose(gradient, reference_gradient(reference, embeddings), atol=1e-5)


@pytest.mark.parametrize("size", [1e-28, 1e-7, 1e30])
def test_cosines_do_not_depend_on_the_size_of_embeddings(size, value_and_gradient):
    embeddings, prototypes = unit(draw(3, 4)), some_prototypes()
    head = layers.PrototypeHead(prototypes)
    scaled = (embeddings * size).astype("float32")
    expected = embeddings @ prototypes.astype("float64").T
    np.testing.assert_allclose(array(head(scaled)), expected, atol=3e-7)
    _, gradient = value_and_gradient(lambda x: ops.sum(head(x)), scaled)
    along = prototypes.sum(axis=0).astype("float64")
    expected = along - (embeddings @ along)[:, None] * embeddings
    np.testing.assert_allclose(gradient * size, expected, atol=2e-6)


def test_zero_embeddings_are_finite_and_can_leave_zero(value_and_gradient):
    prototypes = some_prototypes()
    head = layers.PrototypeHead(prototypes)
    embeddings = np.zeros((3, 4), "float32")
    embeddings[1] = 1e-38  # too short to have a direction
    embeddings[2, 0] = 1.0
    np.testing.assert_allclose(array(head(embeddings))[:2], 0, atol=1e-30)
    _, gradient = value_and_gradient(lambda x: ops.sum(head(x)), embeddings)
    np.testing.assert_allclose(gradient[:2], [prototypes.sum(axis=0)] * 2, rtol=1e-5)
    head = layers.PolarHead(10.0, 20.0, dims=4)
    value, gradient = value_and_gradient(lambda x: ops.sum(head(x)[0]), embeddings)
    assert value == 15.0
    np.testing.assert_allclose(gradient[0], [5, 0, 0, 0])


def test_embeddings_on_a_prototype_and_opposite_to_it(value_and_gradient):
    prototypes = some_prototypes()
    head = layers.PrototypeHead(prototypes)
    embeddings = np.stack([3 * prototypes[2], -0.1 * prototypes[2]])
    np.testing.assert_allclose(array(head(embeddings))[:, 2], [1, -1], atol=2e-7)
    loss = mhe.losses.PrototypeLoss(reduction="sum")
    value, gradient = value_and_gradient(lambda x: loss([2, 2], head(x)), embeddings)
    assert value == pytest.approx(4, rel=1e-6)
    np.testing.assert_allclose(gradient, 0, atol=1e-5)


def test_poles_are_met_and_never_passed():
    head = layers.PolarHead(1600, 2000, dims=4)
    poles = np.array([[5, 0, 0, 0], [-0.1, 0, 0, 0], [0, 3, 4, 0]], "float32")
    np.testing.assert_array_equal(array(head(poles)), [[2000], [1600], [1800]])
    near = np.concatenate([draw(2000, 1), 1e-3 * draw(2000, 3, seed=1)], axis=1)
    values = array(head(near))
    assert values.min() >= 1600
    assert values.max() <= 2000


def test_float16_embeddings_whose_norm_overflows():
    embeddings = (unit(draw(3, 100)) * 60000 * 5).clip(-65000, 65000).astype("float16")
    prototypes = some_prototypes(5, 100)
    cosines = layers.PrototypeHead(prototypes, dtype="mixed_float16")(embeddings)
    assert keras.backend.standardize_dtype(cosines.dtype) == "float32"
    expected = unit(embeddings) @ prototypes.astype("float64").T
    np.testing.assert_allclose(array(cosines), expected, atol=3e-7)


def test_what_is_not_finite_shows():
    embeddings = np.array([[np.inf, 0, 1, 0], [np.nan, 0, 0, 0], [1, 0, 0, 0]], "float32")
    for head in (layers.PrototypeHead(some_prototypes()), layers.PolarHead(0, 1, dims=4)):
        shown = np.isnan(array(head(embeddings))).any(axis=1)
        assert shown.tolist() == [True, True, False]


@pytest.mark.parametrize(
    "policy", ["mixed_float16", "mixed_bfloat16", "float16", "bfloat16", "float32", "float64"]
)
def test_half_precision_costs_no_digits(policy):
    embeddings, prototypes = draw(6, 4), some_prototypes()
    cosines = layers.PrototypeHead(prototypes, dtype=policy)
    values = layers.PolarHead(1600, 2000, dims=4, dtype=policy)
    expected = unit(embeddings) @ prototypes.astype("float64").T
    np.testing.assert_allclose(array(cosines(embeddings)), expected, atol=3e-7)
    expected = 1600 + (unit(embeddings)[:, :1] + 1) * 200
    np.testing.assert_allclose(array(values(embeddings)), expected, rtol=2e-7)
    np.testing.assert_array_equal(prototypes_of(cosines), prototypes)
    for head in (cosines, values):
        symbolic = head(keras.KerasTensor((None, 4), dtype="float16"))
        eager = keras.backend.standardize_dtype(head(embeddings).dtype)
        assert symbolic.dtype == eager
        if policy != "float64":
            assert eager == "float32"


@pytest.mark.parametrize("shape", [(), (2,), (2, 3, 5)])
def test_shapes(shape):
    embeddings = draw(*shape, 4)
    for head, units in (
        (layers.PrototypeHead(some_prototypes()), 5),
        (layers.PolarHead(0, 1, dims=4), 1),
    ):
        assert tuple(head(embeddings).shape) == (*shape, units)
        assert head(keras.KerasTensor((None, *shape, 4))).shape == (None, *shape, units)
        assert keras.Sequential([head]).compute_output_shape((2, 4)) == (2, units)


def test_masks_pass_through():
    steps = draw(2, 3, 4)
    steps[0, 2] = 0
    model = keras.Sequential(
        [keras.Input((3, 4)), keras.layers.Masking(), layers.PrototypeHead(some_prototypes())]
    )
    labels = np.array([[1, 2, 3], [4, 0, 1]])
    kept = array(model(steps)).reshape(6, 5)[[0, 1, 3, 4, 5]]
    expected = np.mean((1 - kept[np.arange(5), [1, 2, 4, 0, 1]]) ** 2)
    assert float(mhe.losses.PrototypeLoss()(labels, model(steps))) == pytest.approx(expected)


# --- the weight ---------------------------------------------------------------------------------


def test_nothing_trains_the_prototypes():
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
    np.testing.assert_array_equal(prototypes_of(head), prototypes)


def test_rows_from_float32_keep_every_bit_and_rows_from_float16_become_unit():
    exact = unit(draw(50, 30)).astype("float32")
    np.testing.assert_array_equal(prototypes_of(layers.PrototypeHead(exact)), exact)
    halved = exact.astype("float16")
    lengths = np.linalg.norm(halved.astype("float64"), axis=1)
    assert np.abs(lengths - 1).max() > 1e-5
    rows = prototypes_of(layers.PrototypeHead(halved))
    np.testing.assert_allclose(np.linalg.norm(rows.astype("float64"), axis=1), 1, atol=1e-7)
    np.testing.assert_allclose(rows, exact, atol=1e-3)
    again = prototypes_of(layers.PrototypeHead(rows))
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


def test_embeddings_of_other_dimensions_are_refused():
    for head in (layers.PrototypeHead(some_prototypes()), layers.PolarHead(0, 1, dims=4)):
        with pytest.raises(ValueError, match=r"have value 4, but received input with shape \(2, 3"):
            head(draw(2, 3))


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"low": 1, "high": 1, "dims": 4}, "Received: low=1, high=1"),
        ({"low": 0, "high": float("inf"), "dims": 4}, "Received: high=inf"),
        ({"low": 0, "high": 1, "dims": 1}, "Received: dims=1"),
        ({"low": 0, "high": 1, "dims": 4.0}, "Received: dims=4.0"),
    ],
)
def test_other_poles_are_refused(options, named):
    with pytest.raises(ValueError, match=named):
        layers.PolarHead(**options)


# --- joint training, and saving -----------------------------------------------------------------


def test_a_value_and_classes_share_one_embedding():
    prototypes = np.pad(some_prototypes(5, 3), [(0, 0), (1, 0)])
    year = layers.PolarHead(1600, 2000, dims=4, name="year")
    school = layers.PrototypeHead(prototypes, name="school")
    embeddings = np.stack([prototypes[3], np.eye(4, dtype="float32")[0]])
    np.testing.assert_allclose(array(year(embeddings)), [[1800], [2000]])
    np.testing.assert_allclose(array(school(embeddings))[1], 0)
    assert array(school(embeddings))[0].argmax() == 3

    model = small_model(year, school)
    model.compile(
        keras.optimizers.SGD(0.5),
        [mhe.losses.PolarLoss(1600, 2000), mhe.losses.PrototypeLoss()],
        loss_weights=[0.25, 0.75],
    )
    x, years, schools = draw(8, 3), np.linspace(1600, 2000, 8), np.arange(8) % 5
    value, cosines = (array(each).astype("float64") for each in model(x))
    expected = 0.25 * np.mean(((years[:, None] - value) / 200) ** 2)
    expected += 0.75 * np.mean((1 - cosines[np.arange(8), schools]) ** 2)
    history = model.fit(x, [years, schools], epochs=3, verbose=0).history["loss"]
    assert history[0] == pytest.approx(expected, rel=1e-4)
    assert history[2] < history[0]


@pytest.mark.parametrize("shape", [(5, 4), (1000, 512)])
def test_prototypes_keep_every_bit_through_json(shape):
    prototypes = unit(draw(*shape)).astype("float32")
    head = layers.PrototypeHead(prototypes, name="cosines", dtype="mixed_float16")
    text = json.dumps(keras.saving.serialize_keras_object(head))
    for copy in (
        keras.saving.deserialize_keras_object(json.loads(text)),
        layers.PrototypeHead.from_config(head.get_config()),
    ):
        np.testing.assert_array_equal(prototypes_of(copy), prototypes)
        assert copy.name == "cosines"
        assert copy.dtype_policy.name == "mixed_float16"
        assert copy.get_config() == head.get_config()
    assert len(text) < 6 * prototypes.size + 500


def test_models_keep_their_heads_through_saving_and_cloning(tmp_path):
    prototypes = some_prototypes()
    model = small_model(layers.PrototypeHead(prototypes), layers.PolarHead(-1.5, 2, dims=4))
    model.save(tmp_path / "model.keras")
    x = draw(6, 3)
    loaded = keras.saving.load_model(tmp_path / "model.keras", safe_mode=True)
    for copy, expected in zip(loaded(x), model(x), strict=True):
        np.testing.assert_array_equal(array(copy), array(expected))
    clone = keras.models.clone_model(model)
    from_json = keras.models.model_from_json(model.to_json())
    for copy in (loaded, clone, from_json):
        cosines, value = copy.layers[-2:]
        np.testing.assert_array_equal(prototypes_of(cosines), prototypes)
        assert (value.low, value.high, value.dims) == (-1.5, 2.0, 4)


def test_weights_bring_their_prototypes_and_the_config_follows(tmp_path):
    trained = small_model(layers.PrototypeHead(some_prototypes()))
    trained.save_weights(tmp_path / "model.weights.h5")
    model = small_model(layers.PrototypeHead(np.eye(5, 4) + np.eye(5, 4, -4)))
    model.load_weights(tmp_path / "model.weights.h5")
    copy = keras.models.clone_model(model)
    np.testing.assert_array_equal(prototypes_of(copy.layers[-1]), some_prototypes())
