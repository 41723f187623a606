"""Suggested strengths: norms in float64, a model left as it was, what attach makes of them."""

import math

import keras
import numpy as np
import pytest
from keras import layers, ops

import mhe
from mhe import MHE, attach, suggest_strength
from mhe.regularizers import Orthogonality

pytestmark = pytest.mark.usefixtures("weights_from_numpy")


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    return rng.normal(size=(24, 6)).astype("float32"), rng.normal(size=(24, 3)).astype("float32")


def linear(**options):
    model = keras.Sequential(
        [keras.Input((6,)), layers.Dense(4, use_bias=False, name="in", **options)], name="linear"
    )
    model.add(layers.Dense(3, use_bias=False, name="out"))
    model.compile("sgd", "mse", jit_compile=False)
    return model


def stateful():
    """A model whose training step changes more than its weights."""
    inputs = keras.Input((6,))
    hidden = layers.BatchNormalization()(layers.Dense(5, kernel_regularizer="l2")(inputs))
    hidden = layers.Dropout(0.5, seed=3)(layers.ActivityRegularization(l2=0.1)(hidden))
    model = keras.Model(inputs, layers.Dense(3)(hidden))
    model.compile(keras.optimizers.Adam(0.01), "mse", metrics=["mae"], jit_compile=False)
    return model


def numbers(tensor):
    return np.array(ops.convert_to_numpy(tensor))


def state(model):
    variables = [*model.variables, *model.optimizer.variables, *model.metrics_variables]
    return [numbers(each) for each in variables]


def test_gradients_are_those_of_float64(data, reference_energy, reference_gradient):
    x, y = data
    model = linear()
    first, last = (numbers(each).astype("float64") for each in model.trainable_variables)
    # Of the mean squared error, in every entry of the outputs.
    residual = 2 * (x @ first @ last - y) / y.size
    expected = [x.T @ residual @ last.T, (x @ first).T @ residual]
    regularizer = MHE(7.0, s=1, space="full")
    strengths = suggest_strength(model, regularizer, x, y, share=0.2, batch_size=24)
    pulls = []
    for row, gradient, kernel in zip(strengths.rows, expected, (first, last), strict=True):
        pull = reference_gradient(
            lambda w: reference_energy(w, 1, "euclidean", "full", axis=-1), kernel
        )
        assert row.loss_gradient == pytest.approx(np.linalg.norm(gradient), rel=1e-4)
        assert row.gradient == pytest.approx(np.linalg.norm(pull), rel=1e-4)
        ratio = 0.2 * np.linalg.norm(gradient) / np.linalg.norm(pull)
        assert row.strength == strengths[row.path] == pytest.approx(ratio, rel=1e-4)
        pulls.append(np.linalg.norm(pull))
    together = math.hypot(*map(np.linalg.norm, expected)) / math.hypot(*pulls)
    assert strengths.strength == pytest.approx(0.2 * together, rel=1e-4)
    assert strengths.regularizer.strength == strengths.strength
    lines = str(strengths).splitlines()
    assert lines[0] == "MHE(1, s=1, euclidean, full), share 0.2"
    assert lines[2].split()[0] == "linear/in/kernel"
    assert lines[-1].split()[-1] == f"{strengths.strength:.3g}"


def test_batches_are_averaged(data):
    x, y = data
    model = linear()
    one = suggest_strength(model, MHE(), x, y, batch_size=8, batches=3)
    order = np.random.default_rng(0).permutation(24).reshape(3, 8)
    each = [suggest_strength(model, MHE(), iter([(x[rows], y[rows])])) for rows in order]
    for path in one:
        mean = np.mean([strengths[path] for strengths in each])
        assert one[path] == pytest.approx(mean, rel=1e-4)


def test_attach_gives_each_weight_its_own(data):
    model = linear(kernel_regularizer="l2")
    before = suggest_strength(model, MHE(space="full"), *data)
    table = attach(model, before)
    assert [row.regularizer.strength for row in table] == list(before.values())
    assert [type(row.kept).__name__ for row in table] == ["L2", "NoneType"]
    # What is attached, or on a weight, does not count as the loss.
    again = suggest_strength(model, MHE(3.0, space="full"), *data)
    assert list(again.values()) == pytest.approx(list(before.values()), rel=1e-5)
    table = attach(model, before.regularizer)
    assert {row.regularizer.strength for row in table} == {before.strength}
    # By name, so a clone takes it, too; a head or a selection goes before it.
    clone = keras.models.clone_model(model)
    mhe.detach(clone)
    table = attach(clone, before, head=MHE(9.0))
    assert [row.regularizer.strength for row in table] == [before["linear/in/kernel"], 9.0]
    mhe.detach(clone)
    assert len(attach(clone, before, layers="out")) == 1


def test_axes_are_those_of_each_layer():
    model = keras.Sequential([keras.Input((6, 6, 2)), layers.Conv2DTranspose(3, 3)])
    model.add(layers.GlobalAveragePooling2D())
    model.add(layers.Dense(2))
    model.compile("sgd", "mse")
    x = np.random.default_rng(1).normal(size=(4, 6, 6, 2)).astype("float32")
    strengths = suggest_strength(model, Orthogonality(), x, np.ones((4, 2), "float32"))
    assert [row.regularizer.axis for row in attach(model, strengths)] == [-2, -1]


def test_the_model_stays_as_it_was(data):
    x, y = data
    model = stateful()
    model.fit(x, y, verbose=0)
    before = state(model)
    first = suggest_strength(model, MHE(), x, y)
    for old, new in zip(before, state(model), strict=True):
        np.testing.assert_array_equal(old, new)
    assert type(model.layers[1].kernel.regularizer).__name__ == "L2"
    assert dict(suggest_strength(model, MHE(), x, y)) == dict(first)


def test_training_goes_on_as_without_it(data):
    x, y = data
    histories = []
    for asked in (False, True):
        keras.utils.set_random_seed(0)
        model = stateful()
        for weight, value in zip(model.trainable_variables, range(20), strict=False):
            weight.assign(np.random.default_rng(value).normal(size=weight.shape))
        if asked:
            suggest_strength(model, MHE(), x, y)
        histories.append(model.fit(x, y, shuffle=False, batch_size=12, verbose=0).history)
    for name, values in histories[0].items():
        assert histories[1][name] == pytest.approx(values, rel=1e-6)


def test_half_precision(data):
    x, y = data
    plain = linear()
    reference = suggest_strength(plain, MHE(), x, 1e-3 * y)
    for policy in ("mixed_float16", "mixed_bfloat16"):
        model = linear(dtype=policy)
        model.set_weights(plain.get_weights())
        optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1))
        model.compile(optimizer, "mse", jit_compile=False)
        strengths = suggest_strength(model, MHE(), x, 1e-3 * y)
        assert list(strengths.values()) == pytest.approx(list(reference.values()), rel=0.05)


def test_where_the_regularizer_does_not_pull(data):
    x, y = data
    model = keras.Sequential([keras.Input((6,)), layers.Dense(4), layers.Dense(1)])
    model.compile("sgd", "mse")
    strengths = suggest_strength(model, MHE(space="full"), x, y[:, :1])
    assert len(strengths) == 1 < len(strengths.rows)
    assert str(strengths).splitlines()[3].split()[-1] == "-"
    assert len(attach(model, strengths)) == 1
    with pytest.raises(ValueError, match=r"gradient is zero on all .*Received: regularizer=MHE"):
        suggest_strength(model, MHE(space="full"), x, y[:, :1], layers=model.layers[-1])
    with pytest.raises(ValueError, match=r"weights that are selected\. Received: strengths of"):
        attach(model, strengths, layers=model.layers[-1])


@pytest.mark.parametrize("share", [0, -0.1, math.inf, math.nan, True, "0.1"])
def test_share_is_checked(share, data):
    with pytest.raises(ValueError, match=r"`share` must be a finite number > 0\. Received: share="):
        suggest_strength(linear(), MHE(), *data, share=share)


def test_bad_input_is_named(data):
    x, y = data
    model = linear()
    plain = keras.Sequential([keras.Input((6,)), layers.Dense(3)], name="plain")
    with pytest.raises(ValueError, match=r"must be compiled.*Received: model='plain'"):
        suggest_strength(plain, MHE(), x, y)
    with pytest.raises(ValueError, match=r"with a strength.*Received: regularizer=L2"):
        suggest_strength(model, keras.regularizers.L2(0.1), x, y)
    with pytest.raises(ValueError, match=r"No layer with neurons matches.*Received: layers='no'"):
        suggest_strength(model, MHE(), x, y, layers="no")
    with pytest.raises(ValueError, match=r"same number of samples\. Received: 23, 24"):
        suggest_strength(model, MHE(), x[1:], y)
    with pytest.raises(ValueError, match=r"at least one sample\. Received: none"):
        suggest_strength(model, MHE(), x[:0], y[:0])
    with pytest.raises(ValueError, match=r"gradient must be finite"):
        suggest_strength(model, MHE(), x * np.nan, y)
    with pytest.raises(ValueError, match=r"`batches` must be an integer"):
        suggest_strength(model, MHE(), x, y, batches=0)
    with pytest.raises(ValueError, match=r"its gradient is zero\. Received: model='linear'"):
        suggest_strength(model, MHE(), 0 * x, y)
    model.trainable = False
    with pytest.raises(ValueError, match=r"must be trained\. Received: model='linear'"):
        suggest_strength(model, MHE(), x, y)
