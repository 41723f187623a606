"""A backbone and a head as one model: what is trained on, what is measured, and what is saved."""

import keras
import numpy as np
import pytest
from keras import ops

import mhe

array = ops.convert_to_numpy


@keras.saving.register_keras_serializable(package="test_head_model")
class Margin(keras.layers.Layer):
    """Takes 1 from the logit of the true class, and has a loss of its own."""

    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], 3), regularizer=keras.regularizers.L2(0.1))

    def call(self, features, labels=None, training=None):
        logits = ops.matmul(features, self.kernel)
        if labels is None:
            return logits
        return logits - ops.one_hot(ops.cast(labels, "int32"), 3, dtype=logits.dtype)

    def loss(self, labels, logits):
        return ops.sparse_categorical_crossentropy(
            ops.cast(labels, "int32"), logits, from_logits=True
        )


def data():
    rng = np.random.default_rng(0)
    return rng.normal(size=(6, 4)).astype("float32"), np.array([0, 1, 2, 0, 1, 1])


def backbone(dims=5):
    return keras.Sequential([keras.Input((4,)), keras.layers.Dense(dims)])


def cross_entropy(logits, labels, weights):
    logits = logits.astype("float64")
    logs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return -np.mean(weights * logs[np.arange(len(labels)), labels])


@pytest.mark.usefixtures("weights_from_numpy")
def test_labels_are_seen_by_the_loss_of_training_alone(tmp_path):
    x, y = data()
    weights = np.array([1, 2, 0, 1, 1, 3], "float32")
    model = mhe.HeadModel(backbone(), Margin())
    model.compile(keras.optimizers.SGD(0.1), weighted_metrics=["accuracy"])
    before = array(model(x))
    penalty = 0.1 * np.sum(array(model.head.kernel).astype("float64") ** 2)
    found = model.evaluate(x, y, sample_weight=weights, verbose=0, return_dict=True)
    assert found["loss"] == pytest.approx(cross_entropy(before, y, weights) + penalty, rel=1e-5)
    right = weights[before.argmax(axis=1) == y].sum() / weights.sum()
    assert found["accuracy"] == pytest.approx(right)

    history = model.fit(x, y, sample_weight=weights, batch_size=6, verbose=0).history
    expected = cross_entropy(before - np.eye(3)[y], y, weights) + penalty
    assert history["loss"][0] == pytest.approx(expected, rel=1e-5)
    assert history["accuracy"][0] == pytest.approx(right)
    assert np.abs(array(model(x)) - before).max() > 1e-3
    np.testing.assert_allclose(model.predict(x, verbose=0), array(model(x)), atol=1e-6)

    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras", safe_mode=True)
    np.testing.assert_allclose(array(loaded(x)), array(model(x)), atol=1e-6)
    again = loaded.evaluate(x, y, verbose=0)
    assert again == pytest.approx(model.evaluate(x, y, verbose=0), rel=1e-5)


@pytest.mark.usefixtures("weights_from_numpy")
def test_class_means_are_counted_in_fit():
    x, y = data()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model = mhe.HeadModel(
        keras.Sequential([keras.Input((4,)), keras.layers.Dense(5, dtype="mixed_float16")]),
        mhe.layers.NearestClassMean(3, 5),
    )
    model.compile(keras.optimizers.SGD(0.0), loss, metrics=["accuracy"])
    model.fit(x, y, batch_size=2, shuffle=False, epochs=2, verbose=0)
    features = array(model.backbone(x)).astype("float64")
    expected = [features[y == label].mean(axis=0) for label in range(3)]
    np.testing.assert_allclose(array(model.head.prototypes), expected, atol=2e-3)
    np.testing.assert_array_equal(array(model.head.counts), [4, 6, 2])
    model.evaluate(x, y, verbose=0)
    np.testing.assert_array_equal(array(model.head.counts), [4, 6, 2])


def test_heads_without_labels_are_called_once():
    x, y = data()
    calls = []

    class Counted(keras.layers.Dense):
        def call(self, inputs, training=None):
            calls.append(training)
            return super().call(inputs)

    model = mhe.HeadModel(backbone(), Counted(3))
    model.compile(
        "sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True), run_eagerly=True
    )
    model(x)
    calls.clear()
    model.train_on_batch(x, y)
    assert calls.count(True) == 1
    features, logits = model(x, training=True)
    assert (tuple(features.shape), tuple(logits.shape)) == ((6, 5), (6, 3))


def test_logits_without_labels_are_computed_for_metrics_only():
    x, y = data()
    calls = []

    class Recorded(Margin):
        def call(self, features, labels=None, training=None):
            calls.append(labels is not None)
            return super().call(features, labels, training)

    for metrics, expected in ((None, [True]), (["accuracy"], [False, True])):
        model = mhe.HeadModel(backbone(), Recorded())
        model.compile("sgd", metrics=metrics, run_eagerly=True)
        model(x, training=True)
        if keras.backend.backend() != "tensorflow":
            model.train_on_batch(x, y)  # builds
        calls.clear()
        model.train_on_batch(x, y)
        assert sorted(calls) == expected
        features, logits = model(x, training=True)
        assert (tuple(features.shape), tuple(logits.shape)) == ((6, 5), (6, 3))


def test_parts_that_do_not_fit():
    head = mhe.layers.NearestClassMean(3, 5)
    with pytest.raises(ValueError, match=r"5 numbers along axis -1. Received:.*\(None, 7\)"):
        mhe.HeadModel(backbone(7), head)
    inputs = keras.Input((4,))
    with pytest.raises(ValueError, match=r"must have one output. Received"):
        mhe.HeadModel(keras.Model(inputs, [inputs, keras.layers.Dense(5)(inputs)]), head)
    with pytest.raises(ValueError, match=r"`backbone` must be a Keras layer or model. Received"):
        mhe.HeadModel(lambda x: x, head)
    with pytest.raises(ValueError, match=r"`head` must be a Keras layer or model. Received"):
        mhe.HeadModel(backbone(), None)
    unbuilt = keras.Sequential([keras.layers.Dense(7)])
    with pytest.raises(ValueError, match="have value 5, but received"):
        mhe.HeadModel(unbuilt, head)(data()[0])


def test_a_built_backbone_builds_the_head(tmp_path):
    model = mhe.HeadModel(backbone(), mhe.layers.LearntPrototypes(3, 5))
    assert model.built
    assert model.head.prototypes.shape == (3, 5)
    assert model.count_params() == 5 * 5 + 3 * 5
    (backbone_kernel,) = model.backbone.trainable_variables[:1]
    table = mhe.attach(model, mhe.MHE(1.0))
    assert [row.weight.variable for row in table] == [backbone_kernel, model.head.prototypes]
    assert table.skipped == ()
    path = tmp_path / "model.weights.h5"
    model.save_weights(path)
    other = mhe.HeadModel(backbone(), mhe.layers.LearntPrototypes(3, 5))
    other.load_weights(path)
    for mine, theirs in zip(model.weights, other.weights, strict=True):
        np.testing.assert_array_equal(array(mine), array(theirs))


def test_build_builds_backbone_and_head(tmp_path):
    def deferred():
        return mhe.HeadModel(keras.Sequential([keras.layers.Dense(5)]), Margin())

    model = deferred()
    assert not model.built
    model.build((None, 4))
    assert [tuple(weight.shape) for weight in model.weights] == [(4, 5), (5,), (5, 3)]
    path = tmp_path / "model.weights.h5"
    model.save_weights(path)
    other = deferred()
    other.build((None, 4))
    other.load_weights(path)
    np.testing.assert_array_equal(array(model.head.kernel), array(other.head.kernel))
    x, _ = data()
    np.testing.assert_array_equal(array(model(x)), array(other(x)))


def test_a_subclass_may_add_layers():
    class Extended(mhe.HeadModel):
        def __init__(self, backbone, head):
            super().__init__(backbone, head)
            self.more = keras.layers.Dense(2)

    model = Extended(backbone(), Margin())
    model.more.build((None, 3))
    assert len(model.weights) == 5


@keras.saving.register_keras_serializable(package="test_head_model")
class NormedMargin(Margin):
    """A margin head with a batch norm of its own."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.norm = keras.layers.BatchNormalization(momentum=0.5)

    def call(self, features, labels=None, training=None):
        return super().call(self.norm(features, training=training), labels)


def test_a_batch_norm_in_the_head_moves_once_per_step():
    x, y = data()
    head = NormedMargin()
    model = mhe.HeadModel(backbone(), head)
    model.compile("sgd")
    features = array(model.backbone(x))
    model.fit(x, y, verbose=0, batch_size=len(x))
    np.testing.assert_allclose(
        array(head.norm.moving_mean), 0.5 * features.mean(axis=0), rtol=1e-5, atol=1e-6
    )
