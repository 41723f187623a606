"""An optimizer that leaves alone what has no gradient, against float64 updates of what has one."""

import keras
import numpy as np
import pytest
from keras import ops

import mhe
from mhe.lazy import Lazy
from sphereface_plus import heads

array = ops.convert_to_numpy


def gradients():
    """Steps in which some columns have no gradient."""
    rng = np.random.default_rng(0)
    steps = rng.normal(size=(5, 3, 4)).astype("float32")
    for step, column in enumerate((1, 1, 0, 3, 1)):
        steps[step, :, column] = 0
    return steps


def test_momentum_waits_for_the_next_gradient_of_a_column():
    start = np.random.default_rng(1).normal(size=(3, 4)).astype("float32")
    weight, bias = keras.Variable(start), keras.Variable(np.ones(2, "float32"))
    optimizer = Lazy(keras.optimizers.SGD(0.1, momentum=0.9))
    optimizer.build([weight, bias])
    expected, velocity = start.astype("float64"), np.zeros((3, 4))
    for step in gradients():
        optimizer.apply([ops.convert_to_tensor(step), ops.ones(2)], [weight, bias])
        moved = step.any(axis=0)
        velocity[:, moved] = 0.9 * velocity[:, moved] - 0.1 * step[:, moved]
        expected[:, moved] += velocity[:, moved]
    np.testing.assert_allclose(array(weight), expected, rtol=1e-5, atol=1e-6)
    (momentum,) = (each for each in optimizer.variables if tuple(each.shape) == (3, 4))
    np.testing.assert_allclose(array(momentum), velocity, rtol=1e-5, atol=1e-6)
    assert int(array(optimizer.iterations)) == 5


def test_moments_of_adam_and_weight_decay():
    start = np.random.default_rng(1).normal(size=(3, 4)).astype("float32")
    weight = keras.Variable(start)
    optimizer = Lazy(keras.optimizers.AdamW(0.01, weight_decay=0.1))
    expected, first, second = start.astype("float64"), np.zeros((3, 4)), np.zeros((3, 4))
    for number, step in enumerate(gradients(), 1):
        optimizer.apply([ops.convert_to_tensor(step)], [weight])
        moved = step.any(axis=0)
        each = step[:, moved].astype("float64")
        expected[:, moved] *= 1 - 0.1 * 0.01
        first[:, moved] = 0.9 * first[:, moved] + 0.1 * each
        second[:, moved] = 0.999 * second[:, moved] + 0.001 * each**2
        rate = 0.01 * np.sqrt(1 - 0.999**number) / (1 - 0.9**number)
        expected[:, moved] -= rate * first[:, moved] / (np.sqrt(second[:, moved]) + 1e-7)
    np.testing.assert_allclose(array(weight), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("weights_from_numpy")
def test_classes_not_drawn_stay_in_fit(tmp_path):
    head = heads.CosFace(8, 5.0, 0.2, sample=0.25, seed=0)
    model = mhe.HeadModel(keras.Sequential([keras.Input((3,)), keras.layers.Dense(3)]), head)
    model.compile(Lazy(keras.optimizers.SGD(0.1, momentum=0.9)))
    x = np.random.default_rng(2).normal(size=(2, 3)).astype("float32")
    model.fit(x, np.array([0, 1]), epochs=2, verbose=0)
    before = array(head.kernel)
    model.fit(x, np.array([6, 7]), verbose=0)
    moved = np.abs(array(head.kernel) - before).max(axis=0) > 0
    assert moved.tolist() == [False] * 6 + [True] * 2
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert isinstance(loaded.optimizer.inner_optimizer, keras.optimizers.SGD)
    assert float(array(loaded.optimizer.learning_rate)) == pytest.approx(0.1)
    loaded.fit(x, np.array([6, 7]), verbose=0)
    model.fit(x, np.array([6, 7]), verbose=0)
    np.testing.assert_allclose(array(loaded.head.kernel), array(head.kernel), atol=1e-6)


@pytest.mark.one_backend
def test_what_is_refused():
    with pytest.raises(ValueError, match=r"must be a Keras optimizer. Received: 'sgd'"):
        Lazy("sgd")
    with pytest.raises(ValueError, match="Received: gradient_accumulation_steps=2"):
        Lazy(keras.optimizers.SGD(gradient_accumulation_steps=2))
