"""Losses of the heads: values, gradients, weights, what is ignored and what is refused."""

import json

import keras
import numpy as np
import pytest
from keras import ops

import mhe
from mhe import losses

BACKEND = keras.backend.backend()


def draw(*shape, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, size=shape).astype("float32")


def chosen(cosines, labels):
    """The cosine of each sample with its class, in float64."""
    return np.take_along_axis(cosines.astype("float64"), labels[..., None], axis=-1)[..., 0]


def array(tensor):
    return ops.convert_to_numpy(tensor)


# --- prototypes ---------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["int32", "int64", "uint8", "float32"])
@pytest.mark.parametrize("shape", [(6,), (6, 1), (2, 3, 4)])
def test_prototype_loss_is_one_minus_the_cosine_squared(shape, dtype):
    labels = np.random.default_rng(1).integers(0, 5, shape)
    cosines = draw(*(shape[:1] if shape[-1] == 1 else shape), 5)
    flat = labels[:, 0] if shape[-1] == 1 else labels
    expected = (1 - chosen(cosines, flat)) ** 2
    given = ops.convert_to_tensor(labels.astype(dtype))
    np.testing.assert_allclose(array(losses.prototype_loss(given, cosines)), expected, rtol=1e-6)
    mean = losses.PrototypeLoss()(labels.astype(dtype), cosines)
    assert float(mean) == pytest.approx(expected.mean(), rel=1e-6)


def test_gradient_reaches_the_cosine_of_the_class_alone(value_and_gradient):
    labels, cosines = np.array([[0, 4, 2], [1, 1, 255]]), draw(2, 3, 5)
    weights, factors = draw(2, 3, seed=1) + 2, [1.0, 2.0, 0.5, 0.0, 3.0]
    loss = losses.PrototypeLoss(ignore_class=255, class_weight=factors)
    value, gradient = value_and_gradient(
        lambda c: loss(labels, c, weights), cosines, jit_compile=True
    )
    known = np.where(labels == 255, 0, labels)
    each = np.where(labels == 255, 0, weights * np.take(factors, known)) / 5
    assert value == pytest.approx(np.sum(each * (1 - chosen(cosines, known)) ** 2), rel=1e-6)
    expected = np.zeros_like(cosines)
    slopes = -2 * each * (1 - chosen(cosines, known))
    np.put_along_axis(expected, known[..., None], slopes[..., None], axis=-1)
    np.testing.assert_allclose(gradient, expected, rtol=1e-5)


@pytest.mark.parametrize(
    "make",
    [
        losses.PrototypeLoss,
        lambda **options: keras.losses.SparseCategoricalCrossentropy(from_logits=True, **options),
    ],
    ids=["prototype_loss", "keras_crossentropy"],
)
@pytest.mark.parametrize(
    "reduction", ["sum_over_batch_size", "mean", "sum", "mean_with_sample_weight", None]
)
@pytest.mark.parametrize("ignored", [255, -1])
def test_ignoring_is_what_keras_does(make, reduction, ignored):
    labels, cosines, weights = (
        np.array([[0, ignored, 2], [ignored, 1, 1]]),
        draw(2, 3, 4),
        draw(2, 3),
    )
    weights += 1.5
    kept = labels != ignored
    each = array(make(reduction=None)(labels[kept], cosines[kept]))
    loss = make(ignore_class=ignored, reduction=reduction)
    for given in (None, weights):
        weighted = each if given is None else each * given[kept]
        if reduction is None:
            expected = np.zeros(labels.shape)
            expected[kept] = weighted
        elif reduction == "sum":
            expected = weighted.sum()
        elif reduction == "mean_with_sample_weight" and given is not None:
            expected = weighted.sum() / given[kept].sum()
        else:
            expected = weighted.sum() / kept.sum()
        np.testing.assert_allclose(array(loss(labels, cosines, given)), expected, rtol=1e-5)


def test_nothing_is_left_where_all_is_ignored(value_and_gradient):
    cosines = draw(3, 4)
    cosines[0, 0] = np.nan  # of no one's concern
    loss = losses.PrototypeLoss(ignore_class=0)
    value, gradient = value_and_gradient(lambda c: loss([0, 0, 0], c), cosines)
    assert value == 0
    np.testing.assert_array_equal(gradient, 0)


def test_class_weights_are_factors_as_in_fit():
    labels, cosines = np.array([0, 2, 2, 1]), draw(4, 3)
    each = (1 - chosen(cosines, labels)) ** 2
    by_class = {"class_weight": [0.5, 1.0, 3.0]}, {"class_weight": {0: 0.5, 2: 3.0}}
    expected = np.mean(each * [0.5, 3, 3, 1])
    for options in by_class:
        loss = losses.PrototypeLoss(**options)
        assert float(loss(labels, cosines)) == pytest.approx(expected, rel=1e-6)


def test_weights_of_images_hold_for_their_pixels():
    # As many images as columns: broadcast, a weight would meet a column.
    labels, cosines, weights = (
        np.array([[[0, 1], [2, 1]], [[1, 1], [0, 2]]]),
        draw(2, 2, 2, 3),
        [1, 5],
    )
    each = (1 - chosen(cosines, labels)) ** 2
    expected = np.mean(each * np.reshape(weights, (2, 1, 1)))
    for given in (np.array(weights), np.array(weights)[:, None]):
        value = losses.PrototypeLoss()(labels, cosines, given)
        assert float(value) == pytest.approx(expected, rel=1e-6)
    weights = draw(2, 2, 2)
    for given in (weights, weights[..., None]):
        value = losses.PrototypeLoss()(labels, cosines, given)
        assert float(value) == pytest.approx(np.mean(each * weights), rel=1e-5)


@pytest.mark.parametrize("wrong", [5, -1, 1.5, 2**24, float("nan")])
def test_labels_that_are_no_class_never_train(wrong, value_and_gradient):
    cosines = draw(3, 5)
    labels = np.array([1, wrong, 3])
    loss = losses.PrototypeLoss()
    with pytest.raises(ValueError, match=r"integers from 0 to 4, as there are 5 classes. Received"):
        loss(labels, cosines)
    with pytest.raises(ValueError, match="Received: label"):
        losses.prototype_loss(labels.tolist(), cosines)
    tensor = ops.convert_to_tensor(labels.astype("float32"))
    each = array(losses.prototype_loss(tensor, cosines))
    assert np.isnan(each).tolist() == [False, True, False]
    value, gradient = value_and_gradient(lambda c: loss(tensor, c), cosines)
    assert np.isnan(value)
    assert np.all(gradient[1] == 0)
    assert np.count_nonzero(gradient) == 2


def test_fit_shows_fewer_prototypes_than_labels():
    model = keras.Sequential([keras.Input((3,)), mhe.layers.PrototypeHead(np.eye(3))])
    model.compile("sgd", losses.PrototypeLoss())
    assert np.isnan(model.evaluate(draw(4, 3), np.array([0, 1, 2, 3]), verbose=0))


@pytest.mark.parametrize(
    ("labels", "cosines"),
    [((3, 4), (3, 4)), ((4,), (3, 4)), ((1,), (3, 4)), ((3,), (3, 2, 4)), ((2, 3), (3, 4))],
)
def test_labels_do_not_broadcast(labels, cosines):
    labels, cosines = np.ones(labels, int), draw(*cosines)
    for options in ({}, {"ignore_class": 7}):
        with pytest.raises(ValueError, match=r"one number a sample.* Received: targets"):
            losses.PrototypeLoss(**options)(labels, cosines)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"ignore_class": 1.0}, "Received: ignore_class=1.0"),
        ({"ignore_class": True}, "Received: ignore_class=True"),
        ({"class_weight": [1, -1, 1]}, r"Received: class_weight=\[1, -1, 1\]"),
        ({"class_weight": {0: float("nan")}}, "Received: class_weight={0: nan}"),
        ({"class_weight": {"a": 1.0}}, "Received: class_weight={'a': 1.0}"),
        ({"class_weight": 2.0}, "Received: class_weight=2.0"),
        ({"class_weight": [[1.0, 2.0, 3.0]]}, "Received: class_weight="),
        ({"class_weight": [1, 2]}, "each of the 3 classes. Received: 2 numbers"),
        ({"class_weight": {3: 1.0}}, "beyond the 3 there are. Received: class 3"),
    ],
)
def test_other_options_are_refused(options, named):
    with pytest.raises(ValueError, match=named):
        losses.PrototypeLoss(**options)([0, 1], draw(2, 3))


@pytest.mark.parametrize("dtype", ["float16", "mixed_bfloat16", "float32", None])
def test_labels_and_values_are_never_rounded_to_half_precision(dtype):
    # 2049 is 2048 in float16.
    cosines = np.zeros((1, 2100), "float16")
    cosines[0, 2049] = 0.5
    loss = losses.PrototypeLoss(dtype=dtype)(np.array([2049]), cosines)
    assert float(loss) == 0.25
    assert keras.backend.standardize_dtype(loss.dtype) == "float32"
    loss = losses.PolarLoss(0, 4000, dtype=dtype)(np.array([2049]), np.array([[2050]]))
    assert float(loss) == pytest.approx(1 / 2000**2, rel=1e-6)


# --- poles --------------------------------------------------------------------------------------


def reference_polar_loss(values, cosines, low, high):
    targets = 2 * (np.asarray(values, "float64") - low) / (high - low) - 1
    return (targets - cosines) ** 2


@pytest.mark.parametrize(("low", "high"), [(1600, 1950), (-0.2, 0.1), (1e-20, 3e-20)])
def test_polar_loss_is_the_difference_of_cosines_squared(
    low, high, value_and_gradient, reference_gradient
):
    embeddings = draw(4, 3)
    values = low + np.array([0, 0.3, 0.9, 1]) * (high - low)
    head, loss = mhe.layers.PolarHead(low, high, dims=3), losses.PolarLoss(low, high)

    def reference(x):
        cosines = x[:, 0] / np.linalg.norm(x, axis=1)
        return np.mean(reference_polar_loss(values, cosines, low, high))

    value, gradient = value_and_gradient(lambda x: loss(values, head(x)), embeddings)
    assert value == pytest.approx(reference(embeddings.astype("float64")), rel=1e-5)
    np.testing.assert_allclose(gradient, reference_gradient(reference, embeddings), atol=1e-5)


def test_near_its_target_a_value_loses_no_digits():
    # The two cosines in float32 would differ by rounding alone.
    values, predictions = np.array([1999.5]), np.array([[1999.5 + 2**-10]], "float32")
    loss = losses.polar_loss(values, predictions, low=1500, high=2000)
    assert float(loss[0]) == pytest.approx((2**-10 / 250) ** 2, rel=1e-6)


@pytest.mark.parametrize("shape", [(4,), (4, 1)])
def test_targets_meet_their_own_predictions(shape):
    values = np.array([0.0, 1.0, 2.0, 4.0])
    predictions = values[:, None].astype("float32")
    loss = losses.PolarLoss(0, 4)
    assert float(loss(values.reshape(shape), predictions)) == 0
    each = losses.PolarLoss(0, 4, reduction=None)(values.reshape(shape), predictions[::-1])
    np.testing.assert_allclose(each, ((values - values[::-1]) / 2) ** 2)
    weights = np.array([1.0, 0.0, 0.0, 2.0])
    value = loss(values.reshape(shape), predictions[::-1], weights)
    assert float(value) == pytest.approx((4 + 2 * 4) / 4)


def test_dense_values():
    values, predictions = draw(2, 2, 2), draw(2, 2, 2, 1, seed=1)
    each = (values - predictions[..., 0]) ** 2
    for given in (values, values[..., None]):
        np.testing.assert_allclose(
            array(losses.polar_loss(given, predictions, -1, 1)), each, rtol=1e-5
        )
    value = losses.PolarLoss(-1, 1)(values, predictions, np.array([1.0, 3.0]))
    assert float(value) == pytest.approx(np.mean(each * [[[1]], [[3]]]), rel=1e-5)


@pytest.mark.parametrize("wrong", [-0.1, 1.1, float("nan"), float("inf")])
def test_values_outside_never_train(wrong, value_and_gradient):
    values, predictions = np.array([0.2, wrong, 1.0]), draw(3, 1) ** 2
    loss = losses.PolarLoss(0, 1)
    with pytest.raises(ValueError, match=r"in \[0.0, 1.0\]. Received: value"):
        loss(values, predictions)
    with pytest.raises(ValueError, match=r"in \[0, 1\]. Received: value"):
        losses.polar_loss(values.tolist(), predictions, 0, 1)
    tensor = ops.convert_to_tensor(values.astype("float32"))
    value, gradient = value_and_gradient(lambda p: loss(tensor, p), predictions)
    assert np.isnan(value)
    assert gradient[1] == 0
    assert np.count_nonzero(gradient) == 2


def test_bounds_themselves_are_inside_in_float32():
    values = ops.convert_to_tensor(np.array([0.1, 0.3], "float32"))
    assert np.isfinite(float(losses.PolarLoss(0.1, 0.3)(values, draw(2, 1))))


@pytest.mark.parametrize(
    ("values", "predictions", "named"),
    [
        ((3,), (3,), r"\(..., 1\), one value a sample. Received: shape \(3,\)"),
        ((3,), (3, 2), r"Received: shape \(3, 2\)"),
        ((1,), (3, 1), r"Received: targets \(1,\), predictions \(3, 1\)"),
        ((3, 3), (3, 1), r"Received: targets \(3, 3\), predictions \(3, 1\)"),
    ],
)
def test_values_do_not_broadcast(values, predictions, named):
    with pytest.raises(ValueError, match=named):
        losses.PolarLoss(-1, 1)(draw(*values), draw(*predictions))


@pytest.mark.parametrize(("low", "high"), [(1, 1), (2, 1), (0, float("inf"))])
def test_ranges_are_checked(low, high):
    with pytest.raises(ValueError, match=r"Received: (low|high)="):
        losses.PolarLoss(low, high)
    with pytest.raises(ValueError, match=r"Received: (low|high)="):
        losses.polar_loss([1.0], [[1.0]], low, high)


# --- saving, and training -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "loss",
    [
        losses.PrototypeLoss(),
        losses.PrototypeLoss(255, [1, 2.5, 0], "sum", name="dense", dtype="float64"),
        losses.PrototypeLoss(-1, {0: 2, 7: 0.5}),
        losses.PrototypeLoss(np.int64(3), np.array([1.0, 2.0])),
        losses.PolarLoss(1600, 1950.5, reduction=None, name="year"),
    ],
    ids=lambda loss: loss.name,
)
def test_json_gives_the_same_loss_back(loss):
    text = json.dumps(keras.saving.serialize_keras_object(loss))
    for copy in (
        keras.saving.deserialize_keras_object(json.loads(text)),
        keras.losses.deserialize(keras.losses.serialize(loss)),
        type(loss).from_config(loss.get_config()),
    ):
        assert type(copy) is type(loss)
        assert copy.get_config() == loss.get_config()


def small_model(loss, dtype="float32", **how):
    model = keras.Sequential(
        [
            keras.Input((6,)),
            keras.layers.Dense(3, dtype=dtype),
            mhe.layers.PrototypeHead(mhe.prototypes.place(4, 3), dtype=dtype),
        ]
    )
    model.layers[0].kernel.assign(draw(6, 3))
    model.compile(keras.optimizers.SGD(1.0), loss, weighted_metrics=["accuracy"], **how)
    rng = np.random.default_rng(4)
    labels = np.arange(32) % 4
    x = (rng.normal(size=(4, 6))[labels] + 0.1 * rng.normal(size=(32, 6))).astype("float32")
    return model, x, labels


@pytest.mark.parametrize(
    ("how", "dtype"),
    [
        ({"run_eagerly": True}, "float32"),
        ({"jit_compile": True}, "float32"),
        ({"jit_compile": False}, "mixed_float16"),
    ],
    ids=str,
)
def test_fit_learns(how, dtype):
    if BACKEND == "torch" and how == {"jit_compile": True}:
        how = {}  # Keras compiles nothing there without a C++ toolchain
    if BACKEND == "jax" and how == {"run_eagerly": True}:
        how = {}  # each operation would be compiled by itself, for 10 seconds
    model, x, labels = small_model(losses.PrototypeLoss(class_weight={3: 2.0}), dtype, **how)
    weights = np.linspace(0.5, 2, 32)
    each = (1 - chosen(array(model(x)), labels)) ** 2 * np.array([1, 1, 1, 2])[labels]
    history = model.fit(x, labels, batch_size=32, epochs=20, sample_weight=weights, verbose=0)
    tolerance = 1e-5 if dtype == "float32" else 0.02
    assert history.history["loss"][0] == pytest.approx(np.mean(each * weights), rel=tolerance)
    assert history.history["accuracy"][-1] == 1


def test_class_weights_of_fit():
    model, x, labels = small_model(losses.PrototypeLoss())
    each = (1 - chosen(array(model(x)), labels)) ** 2
    factors = {0: 1.0, 1: 3.0, 2: 0.0}
    history = model.fit(x, labels[:, None], batch_size=32, class_weight=factors, verbose=0).history
    expected = np.mean(each * np.array([1, 3, 0, 1])[labels])
    assert history["loss"] == pytest.approx([expected], rel=1e-5)


def test_saved_models_keep_their_loss(tmp_path):
    model, x, _ = small_model(losses.PrototypeLoss(255, {0: 2.0}))
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras", safe_mode=True)
    assert loaded.loss.get_config() == model.loss.get_config()
    np.testing.assert_array_equal(array(loaded(x)), array(model(x)))
