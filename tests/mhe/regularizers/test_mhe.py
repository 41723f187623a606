"""MHE, and sums with it, as Keras regularizers: values, saving, and every way to train."""

import json

import keras
import numpy as np
import pytest
from keras import ops

import mhe

BACKEND = keras.backend.backend()


def kernel(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def dense_model(regularizer, dtype=None):
    return keras.Sequential(
        [
            keras.Input((6,)),
            keras.layers.Dense(8, activation="relu", kernel_regularizer=regularizer, dtype=dtype),
            keras.layers.Dense(3, dtype="float32"),
        ]
    )


def some_data(rows=32):
    rng = np.random.default_rng(3)
    return rng.normal(size=(rows, 6)).astype("float32"), rng.integers(0, 3, rows)


def total(model):
    return sum(float(ops.convert_to_numpy(loss)) for loss in model.losses)


@pytest.mark.parametrize("space", ["full", "half"])
@pytest.mark.parametrize("distance", ["euclidean", "angle"])
@pytest.mark.parametrize("s", [0, 1, 2, 0.5])
def test_value_is_strength_times_the_mean(s, distance, space, reference_energy):
    weights = kernel(5, 9)
    value = mhe.MHE(3.0, s, distance, space)(weights)
    expected = 3 * reference_energy(weights.T, s, distance, space)
    assert float(value) == pytest.approx(expected, rel=1e-5)


def test_defaults_are_the_published_half_space_energy(reference_energy):
    weights = kernel(3, 3, 4, 6)
    expected = reference_energy(weights.reshape(-1, 6).T, 2, "euclidean", "half")
    assert float(mhe.MHE()(weights)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    "regularizer",
    [
        mhe.MHE(),
        mhe.MHE(0.5, s=0.5, distance="angle", space="full", axis=(0, -2), sample=7, block=64),
        mhe.Sum(keras.regularizers.L2(0.3), mhe.MHE(2.0, s=1)),
        mhe.Sum(mhe.Sum("l2"), mhe.MHE()),
    ],
    ids=str,
)
def test_json_gives_the_same_regularizer_back(regularizer):
    config = json.loads(json.dumps(keras.saving.serialize_keras_object(regularizer)))
    for copy in (
        keras.saving.deserialize_keras_object(config),
        keras.regularizers.get(config),
        keras.regularizers.deserialize(keras.regularizers.serialize(regularizer)),
        type(regularizer).from_config(regularizer.get_config()),
    ):
        assert type(copy) is type(regularizer)
        assert repr(copy) == repr(regularizer)
        assert copy.get_config() == regularizer.get_config()


def test_keras_finds_it_by_its_registered_name():
    assert keras.saving.get_registered_object("mhe>MHE") is mhe.MHE
    assert keras.saving.get_registered_object("mhe>Sum") is mhe.Sum
    regularizer = mhe.MHE()
    assert keras.regularizers.get(regularizer) is regularizer


def test_model_keeps_it_through_saving_and_cloning(tmp_path):
    model = dense_model(mhe.Sum("l2", mhe.MHE(2.0, s=0, space="full")))
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras", safe_mode=True)
    assert total(loaded) == pytest.approx(total(model))
    clone = keras.models.clone_model(model)
    clone.set_weights(model.get_weights())
    assert total(clone) == pytest.approx(total(model))
    from_json = keras.models.model_from_json(model.to_json())
    assert repr(from_json.layers[0].kernel_regularizer) == repr(model.layers[0].kernel_regularizer)


@pytest.mark.parametrize(
    "how",
    [{"run_eagerly": True}, {"jit_compile": False}, {"jit_compile": True}],
    ids=str,
)
def test_fit_lowers_the_energy(how):
    if BACKEND == "torch" and how == {"jit_compile": True}:
        how = {}  # Keras compiles nothing there without a C++ toolchain
    model = dense_model(mhe.MHE(5.0))
    model.compile(keras.optimizers.SGD(0.05), "sparse_categorical_crossentropy", **how)
    x, y = some_data()
    model.layers[-1].activation = keras.activations.softmax
    before = total(model)
    plain = model.evaluate(x, y, verbose=0) - before
    history = model.fit(x, y, epochs=4, batch_size=32, verbose=0).history["loss"]
    assert history[0] == pytest.approx(plain + before, rel=0.05)
    assert total(model) < before


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16", "float16", "bfloat16"])
def test_mixed_precision(policy, reference_energy):
    model = dense_model(mhe.MHE(1.0), dtype=policy)
    (loss,) = model.losses
    assert keras.backend.standardize_dtype(loss.dtype) == "float32"
    weights = ops.convert_to_numpy(ops.cast(model.layers[0].kernel, "float32"))
    expected = reference_energy(weights.T, 2, "euclidean", "half")
    assert total(model) == pytest.approx(expected, rel=1e-5)
    if policy.startswith("mixed"):
        model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        history = model.fit(*some_data(), epochs=2, verbose=0).history["loss"]
        assert np.all(np.isfinite(history))


def test_loss_is_a_scalar_of_floatx():
    assert keras.backend.standardize_dtype(mhe.MHE()(kernel(3, 4)).dtype) == "float32"
    keras.config.set_floatx("bfloat16")
    try:
        for regularizer in (mhe.MHE(), mhe.Sum("l2", mhe.MHE())):
            value = regularizer(ops.cast(kernel(3, 4), "bfloat16"))
            assert keras.backend.standardize_dtype(value.dtype) == "bfloat16"
            assert value.shape == ()
    finally:
        keras.config.set_floatx("float32")


def test_gradient_is_strength_times_the_energy_gradient(value_and_gradient):
    weights = kernel(6, 5)
    _, expected = value_and_gradient(lambda w: mhe.hyperspherical_energy(w, 1, "angle"), weights)
    _, gradient = value_and_gradient(mhe.MHE(4.0, 1, "angle", "full"), weights)
    np.testing.assert_allclose(gradient, 4 * expected, rtol=1e-5, atol=1e-6)


def test_custom_train_step():
    class Custom(keras.Model):
        """Trains on its energies alone."""

        def __init__(self):
            super().__init__()
            self.dense = keras.layers.Dense(3, use_bias=False, kernel_regularizer=mhe.MHE(2.0))

        def call(self, x):
            return self.dense(x)

        def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
            return ops.sum(ops.stack([ops.cast(each, "float32") for each in self.losses]))

    model = Custom()
    model.compile(keras.optimizers.SGD(0.1))
    x, y = some_data()
    model(x)
    before = total(model)
    history = model.fit(x, y, epochs=3, verbose=0).history["loss"]
    assert history[0] == pytest.approx(before, rel=1e-5)
    assert total(model) < before


def test_sample_draws_afresh_at_every_step_of_fit():
    seen = []

    class Watch(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            seen.append(logs["loss"])

    layer = keras.layers.Embedding(
        300, 6, embeddings_regularizer=mhe.MHE(1.0, axis=0, sample=10, space="full")
    )
    model = keras.Sequential([keras.Input((2,), dtype="int32"), layer, keras.layers.Flatten()])
    # The data loss is 0, so all that moves is what the energy asks for, and that is little.
    model.compile(keras.optimizers.SGD(1e-3), lambda y, p: 0.0 * ops.sum(p, axis=-1))
    exact = float(mhe.hyperspherical_energy(ops.stop_gradient(layer.embeddings), axis=0))
    x = np.zeros((24, 2), "int32")
    model.fit(x, np.zeros(24), batch_size=4, epochs=2, verbose=0, callbacks=[Watch()])
    # A running mean: differences of step × mean are the single steps.
    steps = np.concatenate([np.diff(np.arange(7) * [0, *seen[i : i + 6]]) for i in (0, 6)])
    assert len(np.unique(steps.round(5))) == 12
    assert abs(steps.mean() / exact - 1) < 0.2
    after = float(mhe.hyperspherical_energy(ops.stop_gradient(layer.embeddings), axis=0))
    assert after == pytest.approx(exact, rel=1e-2)


def test_sample_draws_afresh_at_every_call():
    regularizer = mhe.MHE(sample=5)
    weights = kernel(6, 50)
    assert len({float(regularizer(weights)) for _ in range(6)}) == 6
    # Equal histories, equal draws: a run can be repeated.
    again = mhe.MHE(sample=5)
    first = [float(again(weights)) for _ in range(3)]
    twin = mhe.MHE(sample=5)
    assert first == [float(twin(weights)) for _ in range(3)]


def test_with_axis():
    regularizer = mhe.MHE(2.0, 0, "angle", "full", sample=3)
    other = regularizer.with_axis((0, 1))
    assert other.axis == (0, 1)
    assert regularizer.axis == -1
    assert {**other.get_config(), "axis": -1} == regularizer.get_config()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"strength": -1}, "`strength` must be .* >= 0. Received: strength=-1"),
        ({"strength": "l2"}, "Received: strength='l2'"),
        ({"strength": float("nan")}, "Received: strength=nan"),
        ({"s": -0.5}, "Received: s=-0.5"),
        ({"distance": "chord"}, "Received: distance='chord'"),
        ({"space": None}, "Received: space=None"),
        ({"axis": "last"}, "Received: axis='last'"),
        ({"sample": 1}, "`sample` must be None or an integer >= 2. Received: sample=1"),
        ({"sample": 2.5}, "Received: sample=2.5"),
        ({"block": 0}, "`block` must be None or an integer >= 1"),
    ],
    ids=str,
)
def test_bad_arguments(options, words):
    with pytest.raises(ValueError, match=words):
        mhe.MHE(**options)


def test_activations_need_the_axis_of_the_batch():
    with pytest.raises(ValueError, match=r"such as axis=0.*\(None, 4\)"):
        mhe.MHE()(keras.KerasTensor((None, 4)))


def test_bad_axis_for_the_weight():
    with pytest.raises(ValueError, match="out of range for a weight of 2 axes"):
        mhe.MHE(axis=3)(kernel(3, 4))
