"""Regularizers on models that exist: values, training, taking off, saving."""

import gc

import keras
import numpy as np
import pytest
from keras import layers, ops

from mhe import MHE, Sum
from mhe.attach import Attached, Attachments, attach, attached, detach
from mhe.attach.neurons import neuron_weights
from mhe.callbacks import EnergyLogger
from mhe.layers import LearntPrototypes, Representatives

pytestmark = pytest.mark.usefixtures("weights_from_numpy")


@pytest.fixture
def energy(reference_energy):
    """The mean Euclidean energy, s = 2, in float64."""
    return lambda weights, axis, space="half": reference_energy(
        weights, 2, "euclidean", space, axis=axis
    )


def number(tensor):
    return float(ops.convert_to_numpy(tensor))


def loss(model):
    return sum(number(each) for each in model.losses)


def value(row):
    return number(row.regularizer(row.weight.variable))


def mlp(**options):
    # Neurons of more than eight numbers, whose energies are compiled in half the time.
    inputs = keras.Input((9,))
    hidden = layers.Dense(10, name="hidden", **options)(inputs)
    hidden = layers.Dense(9, name="middle")(layers.ReLU()(hidden))
    return keras.Model(inputs, layers.Softmax()(layers.Dense(3, name="logits")(hidden)))


def tokens():
    inputs = keras.Input((4,))
    hidden = layers.Embedding(9, 8, name="embedding")(inputs)
    hidden = layers.MultiHeadAttention(
        2, 3, value_dim=5, kernel_regularizer=keras.regularizers.L2(0.01), name="attention"
    )(hidden, hidden)
    hidden = layers.GroupQueryAttention(3, 4, 2, name="grouped")(hidden, hidden)
    hidden = layers.EinsumDense("abc,dce->abde", (None, 2, 5), name="einsum")(hidden)
    hidden = layers.Reshape((4, 10))(hidden)
    hidden = layers.Bidirectional(layers.GRU(2, return_sequences=True), name="both")(hidden)
    return keras.Model(inputs, layers.TimeDistributed(layers.Dense(3), name="each")(hidden))


def images():
    inner = keras.Sequential(
        [keras.Input((6, 6, 3)), layers.SeparableConv2D(4, 3, depth_multiplier=2)], name="inner"
    )
    inputs = keras.Input((6, 6, 3))
    hidden = layers.BatchNormalization()(inner(inputs))
    hidden = layers.DepthwiseConv2D(2, depth_multiplier=2, depthwise_regularizer="l2")(hidden)
    hidden = layers.Conv2DTranspose(5, 3)(hidden)
    hidden = layers.SpectralNormalization(layers.Conv2D(4, 1))(hidden)
    return keras.Model(inputs, layers.Dense(3)(layers.GlobalAveragePooling2D()(hidden)))


AXES = {
    tokens: [0, *2 * [*3 * [(-2, -1)], -1], (0, 2), *4 * [-1], -1],
    images: [(-2, -1), -1, (-2, -1), -2, -1, -1],
}


@pytest.mark.parametrize("make", [tokens, images])
def test_losses_are_the_energies(make, tmp_path, energy):
    """The energy of every weight along its own axes, also after a round trip."""
    model = make()
    before, config = loss(model), model.get_config()
    table = attach(model, MHE(2.0))
    assert [row.weight.variable for row in table] == [w.variable for w in neuron_weights(model)]
    expected = [
        2 * energy(row.weight.variable, axis) for row, axis in zip(table, AXES[make], strict=True)
    ]
    np.testing.assert_allclose([value(row) for row in table], expected, rtol=1e-5)
    now = loss(model)
    np.testing.assert_allclose(now, before + sum(expected), rtol=1e-5)
    assert all(row.saved for row in table)

    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(loss(loaded), now, rtol=1e-6)
    np.testing.assert_allclose([value(row) for row in attached(loaded)], expected, rtol=1e-5)
    clone = keras.models.clone_model(model)
    clone.set_weights(model.get_weights())
    np.testing.assert_allclose(loss(clone), now, rtol=1e-6)

    for each in (model, loaded, clone):
        assert len(detach(each)) == len(expected)
        np.testing.assert_allclose(loss(each), before, rtol=1e-6)
        assert "mhe" not in each.to_json()
    assert model.get_config() == config


@pytest.mark.parametrize(
    ("head", "axis", "is_saved"),
    [
        (lambda: LearntPrototypes(4, 5, prototypes_regularizer="l2"), 0, True),
        (lambda: Representatives(4, 2, 5), (0, 1), False),
    ],
)
def test_prototypes_are_neurons(head, axis, is_saved, tmp_path, energy):
    model = keras.Sequential([keras.Input((6,)), layers.Dense(5), head()])
    before = loss(model)
    (row,) = attach(model, MHE(2.0), layers=type(model.layers[-1]))
    expected = 2 * energy(row.weight.variable, axis)
    assert value(row) == pytest.approx(expected, rel=1e-5)
    assert loss(model) == pytest.approx(before + expected, rel=1e-5)
    assert row.saved is is_saved
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loss(loaded) == pytest.approx(before + expected * is_saved, rel=1e-5)
    detach(model)
    assert loss(model) == pytest.approx(before, rel=1e-6)
    hidden, found = attach(model, MHE(1.0), head=MHE(3.0))
    assert value(found) == pytest.approx(3 * energy(row.weight.variable, axis), rel=1e-5)
    assert hidden.weight.layer is model.layers[0]


def test_json_keeps_it():
    model = mlp(kernel_regularizer="l2")
    attach(model, MHE(2.0, s=0), head=MHE(20.0, s=0, space="full"))
    again = keras.models.model_from_json(model.to_json())
    again.set_weights(model.get_weights())
    np.testing.assert_allclose(loss(again), loss(model), rtol=1e-6)
    assert (
        str(attached(again)).split("\n")[1].split()[1:]
        == str(attached(model)).split("\n")[1].split()[1:]
    )


def test_head_gets_its_own(energy):
    model = mlp()
    table = attach(model, MHE(1.0), head=MHE(10.0, space="full"))
    hidden, middle, logits = (weight.variable for weight in neuron_weights(model))
    expected = [energy(hidden, -1), energy(middle, -1), 10 * energy(logits, -1, "full")]
    np.testing.assert_allclose([value(row) for row in table], expected, rtol=1e-5)
    np.testing.assert_allclose(loss(model), sum(expected), rtol=1e-5)
    # Without a regularizer for the others, they keep what they have.
    only = attach(model, None, head=MHE(3.0))
    assert [row.layer.name for row in only] == ["logits"]
    expected[-1] = 3 * energy(logits, -1)
    np.testing.assert_allclose(loss(model), sum(expected), rtol=1e-5)


def test_each_layer_has_its_own_copy(energy):
    regularizer = Sum(MHE(1.0, axis=0), "l2")
    table = attach(mlp(), regularizer)
    copies = [row.regularizer.regularizers[0] for row in table]
    assert len({id(each) for each in [*copies, regularizer.regularizers[0]]}) == 4
    assert [each.axis for each in copies] == [-1, -1, -1]
    both = energy(table[0].weight.variable, -1) + 0.01 * np.sum(np.square(table[0].weight.variable))
    np.testing.assert_allclose(value(table[0]), both, rtol=1e-5)
    # Anything else is used as it is.
    other = keras.regularizers.L1(0.1)
    assert all(row.regularizer is other for row in attach(mlp(), other))
    assert isinstance(attach(mlp(), "l1")[0].regularizer, keras.regularizers.L1)


def test_what_was_there_is_kept_and_given_back():
    l2 = keras.regularizers.L2(0.01)
    model = mlp(kernel_regularizer=l2)
    hidden, middle, _ = model.layers[1], *model.layers[3:5]
    before = loss(model)
    table = attach(model, MHE(1.0))
    assert [row.kept for row in table] == [l2, None, None]
    np.testing.assert_allclose(loss(model), before + sum(map(value, table)), rtol=1e-6)

    # Attaching again replaces, and leaves alone what it does not reach.
    again = attach(model, MHE(5.0), layers="hidden")
    assert [row.regularizer.strength for row in again] == [5.0]
    assert [row.regularizer.strength for row in attached(model)] == [5.0, 1.0, 1.0]
    assert [row.kept for row in attached(model)] == [l2, None, None]
    np.testing.assert_allclose(loss(model), before + sum(map(value, attached(model))), rtol=1e-6)
    assert isinstance(hidden.kernel_regularizer, Attached)

    assert len(detach(model)) == 3
    assert hidden.kernel.regularizer is l2
    assert hidden.kernel_regularizer is l2
    assert middle.kernel.regularizer is None
    assert middle.kernel_regularizer is None
    assert loss(model) == before
    assert list(detach(model)) == list(attached(model)) == []


def data():
    generator = np.random.default_rng(0)
    return generator.normal(size=(8, 9)).astype("float32"), np.arange(8) % 3


def compiled(model, rate):
    model.compile(keras.optimizers.SGD(rate), "sparse_categorical_crossentropy")
    return model


def test_the_next_fit_feels_it():
    x, y = data()
    model = compiled(mlp(kernel_regularizer="l2"), 0.0)

    def fit():
        return model.fit(x, y, batch_size=4, verbose=0).history["loss"][0]

    before, weights = fit(), model.get_weights()
    tested = model.evaluate(x, y, verbose=0)
    added = sum(map(value, attach(model, MHE(1.0), head=MHE(10.0, space="full"))))
    assert added > 1
    np.testing.assert_allclose(fit(), before + added, rtol=1e-5)
    np.testing.assert_allclose(model.evaluate(x, y, verbose=0), tested + added, rtol=1e-5)
    assert model.train_on_batch(x[:4], y[:4]) > added
    for now, then in zip(model.get_weights(), weights, strict=True):
        np.testing.assert_array_equal(now, then)
    model.optimizer.learning_rate = 0.1
    fit()
    assert sum(map(value, attached(model))) < 0.99 * added
    model.optimizer.learning_rate = 0.0
    detach(model)
    np.testing.assert_allclose(fit(), model.evaluate(x, y, verbose=0), rtol=1e-4)


def test_steps_that_were_traced_before_and_live_on_are_not_used_again():
    x, y = data()
    model = compiled(mlp(), 0.0)
    before = model.fit(x, y, verbose=0).history["loss"][0], model.evaluate(x, y, verbose=0)
    steps = model.train_function, model.test_function
    added = sum(map(value, attach(model, MHE(1.0))))
    after = model.fit(x, y, verbose=0).history["loss"][0], model.evaluate(x, y, verbose=0)
    np.testing.assert_allclose(after, np.add(before, added), rtol=1e-5)
    del steps


def test_a_compiled_model_around_feels_it():
    x, y = data()
    inner = mlp()
    inputs = keras.Input((9,))
    outer = compiled(keras.Model(inputs, inner(inputs)), 0.0)
    bystander = compiled(mlp(), 0.0)
    before = outer.fit(x, y, verbose=0).history["loss"][0]
    bystander.fit(x, y, verbose=0)
    step = bystander.train_function
    added = sum(map(value, attach(inner, MHE(1.0))))
    np.testing.assert_allclose(
        outer.fit(x, y, verbose=0).history["loss"][0], before + added, rtol=1e-5
    )
    assert bystander.train_function is step


def test_models_hidden_from_the_garbage_collector_feel_it():
    x, y = data()
    inner = compiled(mlp(), 0.0)
    inputs = keras.Input((9,))
    outer = compiled(keras.Model(inputs, inner(inputs)), 0.0)
    before = [model.fit(x, y, verbose=0).history["loss"][0] for model in (inner, outer)]
    gc.freeze()
    try:
        added = sum(map(value, attach(outer, MHE(1.0))))
    finally:
        gc.unfreeze()
    after = [model.fit(x, y, verbose=0).history["loss"][0] for model in (inner, outer)]
    np.testing.assert_allclose(after, np.add(before, added), rtol=1e-5)


@pytest.mark.parametrize("way", ["mixed_float16", "jit_compile"])
def test_half_precision_and_compiled_steps_feel_it(way):
    if way == "jit_compile" and keras.backend.backend() == "torch":
        pytest.skip("PyTorch's compiler needs a C++ toolchain, and is not what jit_compile means")
    x, y = data()
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16" if way == "mixed_float16" else "float32")
    try:
        model = mlp()
    finally:
        keras.config.set_dtype_policy(policy)
    jit = way == "jit_compile"
    model.compile(
        keras.optimizers.SGD(0.0),
        "sparse_categorical_crossentropy",
        jit_compile=True if jit else "auto",
    )
    before = model.fit(x, y, verbose=0).history["loss"][0]
    added = sum(map(value, attach(model, MHE(1.0))))
    # In float16 the energies of three layers are rounded to three digits.
    after = model.fit(x, y, verbose=0).history["loss"][0]
    np.testing.assert_allclose(after, before + added, rtol=1e-5 if jit else 2e-3)
    model.optimizer.learning_rate = 0.1
    model.fit(x, y, epochs=16, verbose=0)
    assert sum(map(value, attached(model))) < 0.99 * added


def test_a_compiled_model_that_was_saved_feels_it(tmp_path):
    x, y = data()
    model = compiled(mlp(), 0.0)
    before = model.fit(x, y, verbose=0).history["loss"][0]
    added = sum(map(value, attach(model, MHE(1.0), head=MHE(10.0))))
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    after = again.fit(x, y, verbose=0).history["loss"][0]
    np.testing.assert_allclose(after, before + added, rtol=1e-5)


def test_attaching_during_a_fit():
    class Attach(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 0:
                attach(self.model, MHE(1.0))
            if epoch == 1:
                detach(self.model)

    x, y = data()
    model = compiled(mlp(), 0.0)
    history = model.fit(x, y, epochs=3, verbose=0, callbacks=[Attach()]).history["loss"]
    added = sum(map(value, attach(model, MHE(1.0))))
    np.testing.assert_allclose(history, [history[0], history[0] + added, history[0]], rtol=1e-5)


def test_frozen_layers():
    model = mlp()
    model.get_layer("hidden").trainable = False
    table = attach(model, MHE(1.0))
    assert [row.trainable for row in table] == [False, True, True]
    assert "frozen" in str(table).split("\n")[1]
    np.testing.assert_allclose(loss(model), sum(map(value, table[1:])), rtol=1e-6)
    model.get_layer("hidden").trainable = True
    np.testing.assert_allclose(loss(model), sum(map(value, table)), rtol=1e-6)
    assert all(row.trainable for row in attached(model))


class Subclassed(keras.Model):
    def __init__(self, **options):
        super().__init__(**options)
        self.hidden = layers.Dense(5, name="hidden")
        self.head = layers.Dense(3, name="head")

    def call(self, x):
        return ops.softmax(self.head(self.hidden(x)))


def test_subclassed_models(energy):
    x, y = data()
    model = compiled(Subclassed(), 0.0)
    before = model.fit(x, y, verbose=0).history["loss"][0]
    table = attach(model, MHE(1.0), head=MHE(10.0))
    assert [row.regularizer.strength for row in table] == [1.0, 10.0]
    added = energy(model.hidden.kernel, -1) + 10 * energy(model.head.kernel, -1)
    np.testing.assert_allclose(
        model.fit(x, y, verbose=0).history["loss"][0], before + added, rtol=1e-5
    )
    # Its class makes the layers anew, without the regularizers, and the table says so.
    assert not any(row.saved for row in table)
    again = Subclassed.from_config(model.get_config())
    again(x)
    assert list(attached(again)) == []
    assert loss(again) == 0


@pytest.mark.filterwarnings("ignore:.build... was called on layer")
def test_unused_layers_are_skipped_and_named(energy):
    class Spare(Subclassed):
        def __init__(self):
            super().__init__()
            self.spare = layers.Dense(3, name="spare")
            self.unused = layers.LSTM(2, name="unused")

    x, y = data()
    model = compiled(Spare(), 0.0)
    model(x)
    table = attach(model, MHE(1.0), head=MHE(10.0))
    assert [row.layer for row in table] == [model.hidden, model.head]
    assert str(table).splitlines()[-1] == "not built, skipped: spare, unused"
    history = model.fit(x, y, verbose=0, callbacks=[EnergyLogger()]).history
    expected = [energy(layer.kernel, -1, "full") for layer in (model.hidden, model.head)]
    np.testing.assert_allclose(history["energy"], np.mean(expected), rtol=1e-4)
    assert len(attached(model)) == len(detach(model)) == 2
    assert loss(model) == 0


def test_shared_layers_are_regularized_once(energy):
    inputs = keras.Input((4,))
    shared = layers.Dense(4)
    model = keras.Model(inputs, shared(shared(inputs)))
    assert len(attach(model, MHE(1.0))) == 1
    np.testing.assert_allclose(loss(model), energy(shared.kernel, -1), rtol=1e-5)


@pytest.mark.one_backend
def test_applications(monkeypatch):
    # Many large kernels, of which only the places matter here.
    zeros = lambda self, shape, dtype=None: np.zeros(shape, "float32")  # noqa: E731
    monkeypatch.setattr(keras.initializers.VarianceScaling, "__call__", zeros)
    for make, options in [
        (keras.applications.MobileNetV2, {"alpha": 0.35}),
        (keras.applications.EfficientNetB0, {}),
        (keras.applications.ResNet50, {}),
    ]:
        model = make(weights=None, input_shape=(32, 32, 3), classes=10, **options)
        depthwise = [x for x in model.layers if isinstance(x, layers.DepthwiseConv2D)]
        kinds = (layers.Conv2D, layers.DepthwiseConv2D, layers.Dense)
        with_kernel = [x for x in model.layers if isinstance(x, kinds)]
        table = attach(model, MHE(1.0), head=MHE(10.0, space="full"))
        assert [row.layer for row in table] == with_kernel
        assert [row.layer for row in table if row.weight.axis == (-2, -1)] == depthwise
        assert [row.layer.name for row in table if row.regularizer.strength == 10] == [
            "predictions"
        ]
        assert all(row.saved for row in table)
        assert all(isinstance(row.weight.variable.regularizer, Attached) for row in table)


def test_the_table_can_be_read():
    model = mlp(kernel_regularizer=keras.regularizers.L2(0.5))
    table = attach(model, MHE(2.0), head=MHE(10.0, space="full"))
    assert str(table) == (
        "weight         shape  neurons    regularizer                    kept        "
        "trained  saved\n"
        "hidden/kernel  9x10   10 in 9-d  MHE(2, s=2, euclidean, half)   L2(l2=0.5)  yes      yes\n"
        "middle/kernel  10x9   9 in 10-d  MHE(2, s=2, euclidean, half)   -           yes      yes\n"
        "logits/kernel  9x3    3 in 9-d   MHE(10, s=2, euclidean, full)  -           yes      yes"
    )
    assert isinstance(table[1:], Attachments)
    assert str(table[3:]) == "nothing attached"


def test_lora_stays_out_of_the_config():
    model = mlp()
    hidden = model.get_layer("hidden")
    hidden.enable_lora(2)
    table = attach(model, MHE(1.0))
    assert [(row.trainable, row.saved) for row in table] == [(False, False), *2 * [(True, True)]]
    assert hidden.kernel_regularizer is None
    np.testing.assert_allclose(loss(model), sum(map(value, table[1:])), rtol=1e-6)
    # Enabled afterwards, the factors take over the regularizer, and give it back.
    middle = model.get_layer("middle")
    middle.enable_lora(2)
    detach(model)
    assert loss(model) == 0
    assert middle.lora_kernel_a.regularizer is None


def test_bad_requests():
    model = mlp()
    with pytest.raises(ValueError, match="must be built"):
        attach(keras.Sequential([layers.Dense(3)]), MHE())
    with pytest.raises(ValueError, match=r"hidden, middle, logits\. Received: layers='absent'"):
        attach(model, MHE(), layers="absent")
    with pytest.raises(ValueError, match=r"`head` needs.*Received: .*layers='hidden'"):
        attach(model, MHE(), head=MHE(), layers="hidden")
    with pytest.raises(ValueError, match=r"something to attach\. Received"):
        attach(model, None)
    with pytest.raises(ValueError, match="Could not interpret regularizer"):
        attach(model, "mhee")
    # A refused request has changed nothing.
    assert list(attached(model)) == []
    model.get_layer("hidden").quantize("int8")
    with pytest.raises(ValueError, match="Received: the quantized layers hidden"):
        attach(model, MHE())
    assert [row.layer.name for row in attach(model, MHE(), layers="middle")] == ["middle"]


def test_detached_prototypes_stay_so_in_a_file(tmp_path):
    model = keras.Sequential([keras.Input((5,)), LearntPrototypes(4, 5)])
    attach(model, MHE(1.0), head=MHE(1.0))
    assert len(model.losses) == 1
    detach(model)
    model.save(tmp_path / "model.keras")
    assert keras.models.load_model(tmp_path / "model.keras").losses == []
