"""Prototypes as inputs: logits, gradients into them, batch norm, saving, bad input."""

import keras
import numpy as np
import pytest
from keras import ops

import mhe
from mhe import layers

RNG = np.random.default_rng(2)
IMAGES = RNG.normal(size=(4, 2, 2, 1)).astype("float32")
START = RNG.normal(size=(3, 2, 2, 2, 1)).astype("float32")
KERNEL = RNG.normal(size=(4, 5)).astype("float32")
WEIGHTS = RNG.normal(size=(4, 3)).astype("float32")


def array(tensor):
    return ops.convert_to_numpy(tensor)


class Linear(keras.layers.Layer):
    """x W of flattened images: what an encoder does, in a form that is easily written down."""

    def build(self, input_shape):
        self.kernel = self.add_weight(
            shape=(4, 5), initializer=lambda shape, dtype: ops.convert_to_tensor(KERNEL, dtype)
        )

    def call(self, inputs):
        return ops.matmul(ops.reshape(inputs, (-1, 4)), self.kernel)

    def compute_output_shape(self, input_shape):
        return (input_shape[0], 5)


def head(*args, **options):
    return layers.InputPrototypes(3, 2, *args, encoder=Linear(), prototypes=START, **options)


def reference(images, start, similarity, k, reduction):
    a, p = (each.reshape(-1, 4) @ KERNEL.astype("float64") for each in (images, start))
    apart = np.abs(a[:, None] - p[None])
    found = {
        "cosine": lambda: a @ p.T / np.linalg.norm(a, axis=1)[:, None] / np.linalg.norm(p, axis=1),
        "dot": lambda: a @ p.T,
        "l2": lambda: -np.sqrt(np.sum(apart**2, axis=2)),
        "lk": lambda: -(np.sum(apart**k, axis=2) ** (1 / k)),
    }[similarity]()
    found = found.reshape(len(a), 3, 2)
    return found.max(axis=2) if reduction == "max" else found.mean(axis=2)


@pytest.mark.parametrize(
    ("similarity", "reduction"),
    [("cosine", "max"), ("dot", "mean"), ("l2", "max"), ("lk", "mean")],
)
def test_logits_and_gradients_into_prototypes_follow_the_float64_formula(
    similarity, reduction, value_and_gradient, reference_gradient
):
    layer = head(similarity, k=3.5, scale=2.5, reduction=reduction)
    logits = array(layer(IMAGES))
    expected = 2.5 * reference(*(IMAGES, START.astype("float64")), similarity, 3.5, reduction)
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)

    def value_of(prototypes):
        logits, _ = layer.stateless_call([prototypes, KERNEL], [], IMAGES)
        return ops.sum(ops.multiply(logits, WEIGHTS))

    value, gradient = value_and_gradient(value_of, START, jit_compile=similarity == "dot")

    def weighted(prototypes):
        found = reference(IMAGES, prototypes, similarity, 3.5, reduction)
        return 2.5 * np.sum(WEIGHTS * found)

    assert value == pytest.approx(weighted(START.astype("float64")), rel=1e-4)
    np.testing.assert_allclose(gradient, reference_gradient(weighted, START), rtol=1e-3, atol=1e-4)


def test_batches_whose_size_a_graph_does_not_know():
    layer = head("l2")
    model = keras.Sequential([keras.Input((2, 2, 1)), layer])
    found = model.predict(IMAGES[:3], batch_size=2, verbose=0)
    np.testing.assert_allclose(found, array(layer(IMAGES))[:3], rtol=1e-5)


@pytest.mark.parametrize("similarity", ["cosine", "l2", "lk"])
def test_degenerate_pairs_have_finite_values_and_gradients(similarity, value_and_gradient):
    """A zero image under cosine; an image that is a prototype under distances."""
    layer = head(similarity, k=1.5)
    images = np.stack([np.zeros((2, 2, 1)), START[1, 0], START[1, 0] * 1e-20]).astype("float32")
    layer.build(images.shape)
    found = array(layer.similarities(images))
    assert np.all(np.isfinite(found))
    if similarity == "cosine":
        np.testing.assert_array_equal(found[0], 0)
        np.testing.assert_allclose(found[1:, 1, 0], 1, rtol=1e-6)
    else:
        assert found[1, 1, 0] == pytest.approx(0, abs=1e-5)

    def value_of(prototypes):
        return ops.sum(layer.stateless_call([prototypes, KERNEL], [], images)[0])

    _, gradient = value_and_gradient(value_of, START)
    assert np.all(np.isfinite(gradient))
    _, gradient = value_and_gradient(value_of, np.zeros_like(START))
    assert np.all(np.isfinite(gradient))


def test_an_image_at_a_prototype_neither_pulls_nor_pushes(value_and_gradient):
    for similarity in ("l2", "lk"):
        at = RNG.normal(size=(1, 6)).astype("float32")
        value, gradient = value_and_gradient(
            lambda x, at=at, kind=similarity: ops.sum(layers.similarities(at, x, kind, 3)), at
        )
        assert value == 0
        np.testing.assert_array_equal(gradient, 0)


def test_images_and_prototypes_share_the_statistics_of_batch_norm():
    norm = keras.layers.BatchNormalization(momentum=0.0, epsilon=1e-6)
    encoder = keras.Sequential([keras.Input((2, 2, 1)), keras.layers.Flatten(), norm])
    layer = layers.InputPrototypes(3, 2, "dot", encoder=encoder, prototypes=START)
    together = np.concatenate([START.reshape(-1, 4), IMAGES.reshape(-1, 4)]).astype("float64")
    units = (together - together.mean(axis=0)) / np.sqrt(together.var(axis=0) + 1e-6)
    expected = (units[6:] @ units[:6].T).reshape(4, 3, 2).max(axis=2)
    trained = array(layer(IMAGES, training=True))
    np.testing.assert_allclose(trained, expected, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(array(norm.moving_mean), together.mean(axis=0), atol=1e-5)
    # What was averaged is what both are normalised by later, whatever else is in the batch.
    later = array(layer(IMAGES[:1], training=False))
    np.testing.assert_allclose(later, expected[:1], rtol=1e-3, atol=1e-3)


def test_it_trains_and_comes_back_from_a_file(tmp_path):
    encoder = keras.Sequential(
        [keras.layers.Flatten(), keras.layers.Dense(5), keras.layers.BatchNormalization()]
    )
    layer = layers.InputPrototypes(
        *(3, 2, "lk"),
        encoder=encoder,
        k=3,
        scale=2,
        reduction="mean",
        prototypes=np.clip(START, -1, 1),
        prototypes_regularizer=mhe.Sum(mhe.TotalVariation(0.1), mhe.NearestImagePull(IMAGES, 0.2)),
        prototypes_constraint=mhe.PixelRange(-1, 1),
    )
    model = keras.Sequential([keras.Input((2, 2, 1)), layer])
    model.compile(
        keras.optimizers.SGD(0.1), keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    )
    model.fit(IMAGES, np.array([0, 1, 2, 0]), batch_size=4, verbose=0)
    learnt = array(layer.prototypes)
    assert np.all(np.any(learnt != np.clip(START, -1, 1), axis=(2, 3, 4)))
    assert np.abs(learnt).max() <= 1
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    configs = [each.layers[-1].get_config() for each in (again, model)]
    assert all(config.pop("encoder")["class_name"] == "Sequential" for config in configs)
    assert configs[0] == configs[1]
    np.testing.assert_array_equal(array(again.layers[-1].prototypes), learnt)
    np.testing.assert_allclose(array(again(IMAGES)), array(model(IMAGES)), rtol=1e-6)
    penalties = [float(array(sum(each.losses))) for each in (again, model)]
    assert penalties[0] == pytest.approx(penalties[1], rel=1e-6) != 0


def test_half_precision_is_the_encoders_alone():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        encoder = keras.Sequential([keras.Input((2, 2, 1)), keras.layers.Flatten()])
        layer = layers.InputPrototypes(3, 2, encoder=encoder, prototypes=START)
        logits = layer(IMAGES)
    finally:
        keras.config.set_dtype_policy("float32")
    assert keras.backend.standardize_dtype(logits.dtype) == "float32"
    assert keras.backend.standardize_dtype(layer.prototypes.dtype) == "float32"
    a, p = IMAGES.reshape(-1, 4).astype("float64"), START.reshape(-1, 4).astype("float64")
    a, p = (each / np.linalg.norm(each, axis=1, keepdims=True) for each in (a, p))
    np.testing.assert_allclose(array(logits), (a @ p.T).reshape(4, 3, 2).max(axis=2), atol=2e-3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classes": 1}, "`classes` must be an integer >= 2. Received: classes=1"),
        ({"per_class": 0}, "`per_class` must be an integer >= 1. Received: per_class=0"),
        ({"similarity": "l3"}, "\"lk\". Received: similarity='l3'"),
        ({"k": 0.5}, "Received: k=0.5"),
        ({"scale": 0}, "Received: scale=0"),
        ({"reduction": "sum"}, "Received: reduction='sum'"),
        ({"encoder": "conv4"}, "Received: encoder='conv4'"),
        ({"prototypes": START[:2]}, r"3 classes with 2 each. Received: shape \(2, 2, 2, 2, 1\)"),
        (
            {"prototypes": np.where(np.arange(3)[:, None, None, None, None] == 1, np.nan, START)},
            r"Received: nan at \(1, 0, 0, 0, 0\) of \(classes, per_class, \*image\)",
        ),
    ],
)
def test_bad_arguments_are_named(options, message):
    arguments = {"classes": 3, "per_class": 2, "encoder": Linear(), **options}
    with pytest.raises(ValueError, match=message):
        layers.InputPrototypes(**arguments)


@pytest.mark.parametrize(
    ("shape", "message"),
    [((4, 3, 3, 1), r"\(3, 2, 3, 3, 1\).* Received: shape \(3, 2, 2, 2, 1\)"), ((4,), r"\(4,\)")],
)
def test_images_of_another_shape_are_named(shape, message):
    with pytest.raises(ValueError, match=message):
        head()(np.zeros(shape, "float32"))
