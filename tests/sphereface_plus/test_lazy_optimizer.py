"""An optimizer of the classes drawn, against float64 updates of what has a gradient alone."""

import keras
import numpy as np
import pytest
from keras import ops

from sphereface_plus import FaceModel, LazyOptimizer, heads

array = ops.convert_to_numpy

# JAX would compile every operation by itself, PyTorch needs a compiler of C++.
COMPILED = {"tensorflow": [False, True], "jax": [True], "torch": [False]}

START = np.random.default_rng(1).normal(size=(3, 4)).astype("float32")


def gradients():
    """Steps in which some columns have no gradient."""
    steps = np.random.default_rng(0).normal(size=(5, 3, 4)).astype("float32")
    for step, column in enumerate((1, 1, 0, 3, 1)):
        steps[step, :, column] = 0
    return steps


def follow_sgd(step, number, weight, velocity):
    """One update by SGD with momentum, Nesterov's, of what moves."""
    velocity[:] = 0.9 * velocity - 0.1 * step
    weight += 0.9 * velocity - 0.1 * step


def follow_adamw(step, number, weight, first, second):
    """One update by AdamW."""
    weight *= 1 - 0.1 * 0.01
    first[:] = 0.9 * first + 0.1 * step
    second[:] = 0.999 * second + 0.001 * step**2
    rate = 0.01 * np.sqrt(1 - 0.999**number) / (1 - 0.9**number)
    weight -= rate * first / (np.sqrt(second) + 1e-7)


def make(kind):
    if kind == "sgd":
        return keras.optimizers.SGD(0.1, momentum=0.9, nesterov=True), follow_sgd, 1
    return keras.optimizers.AdamW(0.01, weight_decay=0.1), follow_adamw, 2


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_vectors_and_momentum_wait_for_the_next_gradient(kind):
    """Those marked by a head; another weight is updated as ever, zeros and all."""
    inner, follow, count = make(kind)
    marked, other = keras.Variable(START, name="marked"), keras.Variable(START, name="other")
    marked.drawn_by_column = True
    l2 = 0.05
    optimizer = LazyOptimizer(inner, l2)
    optimizer.build([marked, other])
    lazy = [START.astype("float64"), *np.zeros((count, 3, 4))]
    eager = [START.astype("float64"), *np.zeros((count, 3, 4))]
    for number, step in enumerate(gradients(), 1):
        optimizer.apply([ops.convert_to_tensor(step)] * 2, [marked, other])
        moved = step.any(axis=0)
        columns = [each[:, moved] for each in lazy]
        follow(step[:, moved] + 2 * l2 * columns[0], number, *columns)
        for each, column in zip(lazy, columns, strict=True):
            each[:, moved] = column
        follow(step.astype("float64"), number, *eager)
    np.testing.assert_allclose(array(marked), lazy[0], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(array(other), eager[0], rtol=1e-5, atol=1e-6)
    states = [each for each in optimizer.variables if tuple(each.shape) == (3, 4)]
    assert len(states) == 2 * count
    for name, expected in (("marked", lazy), ("other", eager)):
        found = [array(each) for each in states if each.name.startswith(name)]
        np.testing.assert_allclose(found, expected[1:], rtol=1e-5, atol=1e-7)
    assert int(array(optimizer.iterations)) == 5
    # Keras saves what is of the inner optimizer by itself: twice would be a waste.
    store = {}
    optimizer.save_own_variables(store)
    assert [each.shape for each in store.values()] == [(), ()]


def model_of(optimizer, head, **options):
    backbone = keras.Sequential([keras.Input((3,)), keras.layers.Dense(3)])
    model = FaceModel(backbone, head)
    model.compile(optimizer, **options)
    return model


@pytest.mark.usefixtures("weights_from_numpy")
@pytest.mark.parametrize("jit_compile", COMPILED[keras.backend.backend()])
def test_classes_not_drawn_stay_in_fit_and_after_loading(tmp_path, jit_compile):
    """Two classes are drawn in a step: those of the batch."""
    head = heads.CosFace(8, 5.0, 0.2, sample=0.25, seed=0)
    optimizer = LazyOptimizer(keras.optimizers.SGD(0.1, momentum=0.9), l2=1e-3)
    model = model_of(optimizer, head, jit_compile=jit_compile)
    x = np.random.default_rng(2).normal(size=(2, 3)).astype("float32")
    model.fit(x, np.array([0, 1]), epochs=2, verbose=0)

    def kept(model):
        (momentum,) = (each for each in model.optimizer.variables if tuple(each.shape) == (3, 8))
        return np.array([array(model.head.kernel), array(momentum)])

    before, dense = kept(model), array(model.backbone.layers[0].kernel)
    assert before[1][:, :2].any()
    model.fit(x, np.array([6, 7]), verbose=0)
    moved = np.abs(kept(model) - before).max(axis=1) > 0
    assert moved.tolist() == [[False] * 6 + [True] * 2] * 2
    assert np.abs(array(model.backbone.layers[0].kernel) - dense).all()
    if jit_compile and keras.backend.backend() == "tensorflow":
        return  # as without
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert isinstance(loaded.optimizer, LazyOptimizer)
    assert loaded.optimizer.l2 == 1e-3
    np.testing.assert_array_equal(kept(loaded), kept(model))
    assert float(array(loaded.optimizer.learning_rate)) == pytest.approx(0.1)
    for each in (model, loaded):
        each.optimizer.learning_rate = 0.05
        each.fit(x, np.array([0, 6]), verbose=0)
    np.testing.assert_allclose(kept(loaded), kept(model), atol=1e-6)
    assert int(array(loaded.optimizer.iterations)) == 4


@pytest.mark.one_backend
def test_under_loss_scaling(tmp_path):
    """As Keras wraps every optimizer under mixed_float16."""
    head = heads.CosFace(8, 5.0, 0.2, sample=0.25, seed=0)
    inner = LazyOptimizer(keras.optimizers.SGD(0.1, momentum=0.9))
    model = model_of(keras.optimizers.LossScaleOptimizer(inner), head)
    x = np.random.default_rng(2).normal(size=(2, 3)).astype("float32")
    model.fit(x, np.array([0, 1]), epochs=2, verbose=0)
    before = array(head.kernel)
    model.fit(x, np.array([6, 7]), verbose=0)
    moved = np.abs(array(head.kernel) - before).max(axis=0) > 0
    assert moved.tolist() == [False] * 6 + [True] * 2


@pytest.mark.one_backend
def test_what_is_refused():
    with pytest.raises(ValueError, match=r"a Keras optimizer, or its name. Received: 3"):
        LazyOptimizer(3)
    with pytest.raises(ValueError, match=r"`l2`.*>= 0. Received: l2=-1"):
        LazyOptimizer("sgd", l2=-1)
    for options in ({"gradient_accumulation_steps": 2}, {"use_ema": True}):
        with pytest.raises(ValueError, match=f"Received: {next(iter(options))}="):
            LazyOptimizer(keras.optimizers.SGD(**options))
    weight = keras.Variable(START)
    with pytest.raises(ValueError, match=r"for each number.*Received: Adafactor, with a state of"):
        LazyOptimizer("adafactor").build([weight])
    used = keras.optimizers.Adam()
    used.build([weight])
    with pytest.raises(ValueError, match=r"must be new\. Received: one that has its variables"):
        LazyOptimizer(used)
