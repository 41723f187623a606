"""Spectral norms against NumPy's SVD, gradients, one power iteration a step, what stays of W."""

import keras
import numpy as np
import pytest
from keras import ops

import mhe
from mhe import layers

array = ops.convert_to_numpy
# What is the same on every backend is tested on one.
tensorflow = keras.backend.backend() == "tensorflow"
IMAGE = (2, 5, 5, 3)
# A layer, the shape of its inputs, and where the axes of its outputs are.
KINDS = {
    "dense": (lambda: keras.layers.Dense(4), (3, 6), (-1,)),
    "conv": (lambda: keras.layers.Conv2D(4, 3, padding="same"), IMAGE, (-1,)),
    "transposed": (lambda: keras.layers.Conv2DTranspose(4, 3), IMAGE, (-2,)),
    "depthwise": (lambda: keras.layers.DepthwiseConv2D(3, depth_multiplier=2), IMAGE, (-2, -1)),
    "embedding": (lambda: keras.layers.Embedding(6, 4), (2, 7), (-1,)),
}


def matrix(kernel, axes=(-1,)):
    """Outputs × the rest, by another way than that of the library."""
    kernel = np.asarray(array(kernel), "float64")
    order, outputs = order_of(kernel.shape, axes)
    return kernel.transpose(order).reshape(outputs, -1)


def order_of(shape, axes):
    rest = [axis for axis in range(len(shape)) if axis - len(shape) not in axes]
    outputs = [axis for axis in range(len(shape)) if axis not in rest]
    return outputs + rest, np.prod([shape[axis] for axis in outputs])


def kernel_with_a_gap(shape, axes, draw):
    """Its singular values halve, so that power iterations go fast."""
    order, outputs = order_of(shape, axes)
    a, s, b = np.linalg.svd(draw(outputs, np.prod(shape) // outputs), full_matrices=False)
    w = (a * (3.0 * 0.5 ** np.arange(len(s)))) @ b
    return w.reshape([shape[axis] for axis in order]).transpose(np.argsort(order))


def iterate(w, u):
    """Algorithm 1 of arXiv:1802.05957, in float64."""
    v = w.T @ u / np.linalg.norm(w.T @ u)
    return w @ v / np.linalg.norm(w @ v), v


def vectors(norm):
    return array(norm.u).copy(), array(norm.v).copy()


def discriminator(**options):
    dense = keras.layers.Dense(4, use_bias=False, **options)
    return keras.Sequential([keras.Input((6,)), layers.SpectralNorm(dense, name="norm")], name="d")


@pytest.mark.parametrize("kind", KINDS)
def test_the_layer_uses_the_kernel_over_its_norm(kind, draw):
    make, shape, axes = KINDS[kind]
    inputs = draw(*shape) if kind != "embedding" else np.arange(14).reshape(shape) % 6
    inner = make()
    norm = layers.SpectralNorm(inner, power_iterations=12)
    norm.build(shape)
    kernel = kernel_with_a_gap(norm.kernel.shape, axes, draw).astype("float32")
    norm.kernel.assign(kernel)
    found = array(norm(inputs, training=True))

    sigma = np.linalg.svd(matrix(kernel, axes), compute_uv=False)[0]
    np.testing.assert_allclose(array(norm.sigma), sigma, rtol=1e-4)
    np.testing.assert_array_equal(array(norm.kernel), kernel)
    assert norm.kernel in inner.trainable_variables
    assert found.shape == tuple(norm.compute_output_shape(shape))
    np.testing.assert_allclose(array(norm(inputs)), found, rtol=1e-5, atol=1e-6)
    norm.kernel.assign(kernel / sigma)
    np.testing.assert_allclose(found, array(inner(inputs)), rtol=1e-4, atol=1e-5)


def test_each_step_is_that_of_the_paper(draw):
    """Each that it is told to make; calls make none while the kernel stays, or is not trained."""
    norm = layers.SpectralNorm(keras.layers.Dense(4, use_bias=False))
    x = draw(3, 6)
    norm.build(x.shape)
    w, (u, v) = matrix(norm.kernel), vectors(norm)
    np.testing.assert_allclose(np.linalg.norm(u), 1, rtol=1e-6)
    # Before there is any v, it is the one that fits u.
    np.testing.assert_allclose(array(norm.sigma), np.linalg.norm(w.T @ u), rtol=1e-5)
    for _ in range(3):
        u, v = iterate(w, u)
        norm.update()
        # A layer in no model is called twice in a step too, on real and on fake images.
        for training in (True, True, False):
            found = array(norm(x, training=training))
            np.testing.assert_allclose(found, x @ w.T / (u @ w @ v), rtol=1e-4, atol=1e-6)
        for mine, expected in zip(vectors(norm), (u, v), strict=True):
            np.testing.assert_allclose(mine, expected, atol=1e-5)
    norm.kernel.assign(draw(6, 4, seed=2))
    for layer in (norm, norm.layer):
        layer.trainable = False
        norm(x, training=True)
        norm.update()
        np.testing.assert_allclose(array(norm.u), u, atol=1e-5)
        layer.trainable = True


@pytest.mark.parametrize("converged", [False, True])
def test_the_gradient_goes_through_the_norm(
    converged, draw, value_and_gradient, reference_gradient
):
    """Central differences, with u and v held; with the spectral norm of the SVD, once they fit."""
    norm = layers.SpectralNorm(keras.layers.Dense(4, use_bias=False), 12 if converged else 1)
    x, weights = draw(3, 6), draw(3, 4, seed=1)
    norm.build(x.shape)
    w = kernel_with_a_gap((6, 4), (-1,), draw)
    u, v = iterate(w.T, array(norm.u).astype("float64"))

    def loss(kernel):
        # In the order of a training step: the vectors are those of a call on this kernel.
        with keras.StatelessScope([(norm.kernel, kernel)]):
            return ops.sum(ops.multiply(ops.square(norm(x, training=True)), weights))

    def formula(kernel):
        sigma = np.linalg.svd(kernel, compute_uv=False)[0] if converged else u @ kernel.T @ v
        return np.sum(weights * (x @ (kernel / sigma)) ** 2)

    value, gradient = value_and_gradient(loss, w.astype("float32"), jit_compile=converged)
    np.testing.assert_allclose(value, formula(w), rtol=1e-4)
    expected = reference_gradient(formula, w)
    np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


def test_a_layer_that_is_built_or_wrapped_divides_by_about_its_norm(draw):
    x = draw(3, 40)
    dense = keras.layers.Dense(30, use_bias=False)
    dense.build(x.shape)
    kernel = draw(40, 30)
    dense.kernel.assign(kernel)  # trained before
    for layer in (keras.layers.Dense(30, use_bias=False), dense):
        norm = layers.SpectralNorm(layer)
        norm.build(x.shape)
        largest = np.linalg.svd(array(norm.kernel), compute_uv=False)[0]
        assert 0.93 * largest <= array(norm.sigma) <= largest * (1 + 1e-6)
        expected = x @ array(norm.kernel) / array(norm.sigma)
        np.testing.assert_allclose(array(norm(x)), expected, rtol=1e-4, atol=1e-5)
    cold = layers.SpectralNorm(keras.layers.Dense(30), warm_up=0)
    cold.build(x.shape)
    assert array(cold.sigma) < 0.93 * np.linalg.svd(array(cold.kernel), compute_uv=False)[0]
    zeros = layers.SpectralNorm(keras.layers.Dense(30, kernel_initializer="zeros"))
    zeros.build(x.shape)
    assert np.linalg.norm(array(zeros.u)) == pytest.approx(1, rel=1e-5)


@pytest.mark.one_backend
def test_keras_overwrites_the_kernel_and_this_does_not(draw):
    x, kernel = draw(3, 6), kernel_with_a_gap((6, 4), (-1,), draw).astype("float32")
    mine = layers.SpectralNorm(keras.layers.Dense(4), power_iterations=12)
    theirs = keras.layers.SpectralNormalization(keras.layers.Dense(4), power_iterations=12)
    outputs = []
    for norm in (mine, theirs):
        norm.build(x.shape)
        norm.layer.kernel.assign(kernel)
        outputs.append(array(norm(x, training=True)))
    np.testing.assert_allclose(outputs[0], outputs[1], rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(array(mine.layer.kernel), kernel)
    sigma = np.linalg.svd(kernel, compute_uv=False)[0]
    np.testing.assert_allclose(array(theirs.layer.kernel), kernel / sigma, rtol=1e-4)


class TwoBatches(keras.Model):
    """A train step that calls a discriminator twice, as with real and with fake images."""

    def __init__(self):
        super().__init__()
        self.discriminator = discriminator()

    def call(self, x, training=None):
        return self.discriminator(x, training=training)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        twice = self.discriminator(ops.multiply(x, 2), training=training)
        apart = ops.max(ops.absolute(twice - 2 * y_pred))
        return ops.mean(ops.square(ops.subtract(y_pred, y))) + 1e6 * apart


def test_all_calls_of_a_train_step_see_the_same(draw):
    """One iteration a step of any backend: in a graph, without state, or eagerly."""
    model, x, y = TwoBatches(), draw(3, 6), draw(3, 4, seed=1)
    model.compile(keras.optimizers.SGD(0.1))
    norm = model.discriminator.layers[0]
    u = array(norm.u).astype("float64")
    for _ in range(3):
        w = matrix(norm.kernel)
        u, v = iterate(w, u)
        loss = model.train_on_batch(x, y)
        outputs = x @ w.T / (u @ w @ v)
        np.testing.assert_allclose(loss, np.mean((outputs - y) ** 2), rtol=1e-4)
        for mine, expected in zip(vectors(norm), (u, v), strict=True):
            np.testing.assert_allclose(mine, expected, atol=1e-5)
        assert np.abs(matrix(norm.kernel) - w).max() > 1e-3
    # Whatever is done at inference leaves them.
    model.test_on_batch(x, y)
    model.predict_on_batch(x)
    np.testing.assert_allclose(array(norm.u), u, atol=1e-5)


def test_a_discriminator_that_has_moved_can_be_held(draw):
    model, (real, fake) = discriminator(), (draw(3, 6), draw(3, 6, seed=1))
    norm = model.layers[0]
    layers.update_spectral_norms(model)
    before = vectors(norm)
    with layers.hold_spectral_norms(model):
        model(real, training=True)
        norm.kernel.assign(array(norm.kernel) + 0.02 * draw(6, 4, seed=2))
        # The generator's step: σ is that of W as it is now, along the vectors as they were.
        found = array(model(fake, training=True))
        with layers.hold_spectral_norms(model):
            pass
        model(fake, training=True)
    w, (u, v) = matrix(norm.kernel), before
    np.testing.assert_allclose(found, fake @ w.T / (u @ w @ v), rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(vectors(norm)[0], u)
    layers.update_spectral_norms(model)
    updated = vectors(norm)
    np.testing.assert_allclose(updated[0], iterate(w, u)[0], atol=1e-5)
    model(real, training=True)
    np.testing.assert_array_equal(vectors(norm)[0], updated[0])
    # What was not held iterates by itself.
    norm.kernel.assign(draw(6, 4, seed=3))
    model(fake, training=True)
    expected = iterate(matrix(norm.kernel), updated[0])[0]
    np.testing.assert_allclose(vectors(norm)[0], expected, atol=1e-5)


def test_half_precision_and_degenerate_kernels(draw, gradient_step):
    norm = layers.SpectralNorm(keras.layers.Dense(4, use_bias=False, dtype="mixed_float16"))
    x = draw(3, 6)
    norm.build(x.shape)
    assert {each.dtype for each in norm.weights} == {"float32"}

    def loss(kernel):
        with keras.StatelessScope([(norm.kernel, kernel)]):
            return ops.sum(ops.cast(norm(x, training=True), "float32"))

    step, w = gradient_step(loss), draw(6, 4, seed=1)
    u, v = iterate(w.T.astype("float64"), array(norm.u))
    for kernel in (w, 1e-6 * w, 1e6 * w):
        # Neither would be in float16's range.
        found, gradient = step(kernel)
        np.testing.assert_allclose(found, np.sum(x @ w) / (u @ w.T @ v), rtol=1e-2, atol=1e-2)
        assert np.isfinite(gradient).all()
    found, gradient = step(np.zeros((6, 4), "float32"))
    assert found == 0
    assert np.isfinite(gradient).all()
    assert np.abs(gradient).max() > 0

    norm.kernel.assign(np.zeros((6, 4)))
    before = vectors(norm)[0]
    found = norm(x, training=True)
    assert keras.backend.standardize_dtype(found.dtype) == "float16"
    np.testing.assert_array_equal(array(found), 0)
    norm.kernel.assign(np.full((6, 4), np.nan))
    norm(x, training=True)
    np.testing.assert_array_equal(vectors(norm)[0], before)


@pytest.mark.one_backend
def test_energies_are_those_of_the_kernel():
    model = discriminator(kernel_regularizer="l2")
    kernel = model.layers[0].kernel
    table = mhe.attach(model, mhe.MHE(2.0))
    assert [(row.weight.variable, row.saved) for row in table] == [(kernel, True)]
    assert table[0].weight.location == "norm/dense"
    energy = 2 * array(mhe.hyperspherical_energy(kernel, space="half"))
    expected = energy + 0.01 * np.sum(array(kernel) ** 2)
    for each in (model, keras.models.clone_model(model)):
        each.set_weights(model.get_weights())
        assert len(mhe.attached(each)) == 1
        np.testing.assert_allclose(sum(map(array, each.losses)), expected, rtol=1e-5)
    logger, logs = mhe.EnergyLogger(space="half"), {}
    logger.set_model(model)
    logger.on_train_begin()
    logger.on_epoch_end(0, logs)
    assert list(logs) == [f"energy/{kernel.path}", "energy"]
    np.testing.assert_allclose(logs["energy"], energy / 2, rtol=1e-5)


def test_what_is_saved_goes_on_where_it_was(tmp_path, draw):
    model, x = discriminator(), draw(3, 6)
    norm = model.layers[0]
    model(x, training=True)
    expected = array(model(x))
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(array(loaded(x)), expected, rtol=1e-6)
    # The kernel has not changed since the iteration.
    loaded(x, training=True)
    for mine, before in zip(vectors(loaded.layers[0]), vectors(norm), strict=True):
        np.testing.assert_array_equal(mine, before)


def test_a_call_that_fails_leaves_the_kernel(draw):
    norm = layers.SpectralNorm(keras.layers.Dense(4, activation=lambda outputs: 1 / 0))
    norm.build((3, 6))
    kernel = norm.kernel
    with pytest.raises(ZeroDivisionError):
        norm(draw(3, 6))
    assert norm.layer.kernel is kernel


@pytest.mark.one_backend
def test_masks_pass():
    norm = layers.SpectralNorm(keras.layers.Embedding(5, 3, mask_zero=True))
    tokens = np.array([[1, 0, 2]])
    np.testing.assert_array_equal(array(norm.compute_mask(tokens)), [[True, False, True]])


@pytest.mark.one_backend
@pytest.mark.parametrize(
    "make",
    [
        lambda: keras.layers.ReLU(),
        lambda: keras.layers.LSTM(2),
        lambda: keras.layers.MultiHeadAttention(2, 2),
        lambda: keras.layers.SeparableConv2D(2, 2),
        lambda: layers.SpectralNorm(keras.layers.Dense(2)),
        lambda: keras.Sequential([keras.layers.Dense(2)]),
        lambda: "dense",
    ],
)
def test_what_has_no_kernel_of_its_own_is_refused(make):
    with pytest.raises(ValueError, match=r"needs a layer with one kernel: Dense, .*Received: "):
        layers.SpectralNorm(make())


@pytest.mark.one_backend
def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match="`power_iterations` must be an integer >= 1"):
        layers.SpectralNorm(keras.layers.Dense(2), power_iterations=0)
    with pytest.raises(ValueError, match="`warm_up` must be an integer >= 0"):
        layers.SpectralNorm(keras.layers.Dense(2), warm_up=-1)
    with pytest.raises(ValueError, match=r"without LoRA.*Received: layer='low' with LoRA"):
        layers.SpectralNorm(keras.layers.Dense(2, lora_rank=1, name="low"))
    norm = layers.SpectralNorm(keras.layers.Dense(2, name="whole"))
    with pytest.raises(ValueError, match=r"must be built.*Received: layer 'whole'"):
        _ = norm.kernel
    norm.build((None, 3))
    norm.layer.quantize("int8")
    with pytest.raises(ValueError, match=r"quantized. Received: layer='whole'"):
        norm(np.ones((1, 3)))
