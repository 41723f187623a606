import functools

import keras
import numpy as np
import pytest

from mhe.harness.errors import BadInput
from mhe.harness.models import IdentityShortcut, build, cnn9, resnet

pytestmark = pytest.mark.usefixtures("weights_from_numpy")
both = pytest.mark.parametrize("build_model", [cnn9, functools.partial(resnet, 8)])


def images_of(shape, count=4):
    return np.random.default_rng(0).normal(size=(count, *shape)).astype("float32")


def numpy(tensor):
    return keras.ops.convert_to_numpy(tensor)


def total(losses):
    return sum(float(numpy(loss)) for loss in losses)


def trainable_count(model):
    return sum(int(np.prod(weight.shape)) for weight in model.trainable_weights)


def test_cnn9_is_the_published_network():
    model = cnn9((32, 32, 3), 100)
    convs = [layer for layer in model.layers if isinstance(layer, keras.layers.Conv2D)]
    assert [(layer.name, tuple(layer.kernel.shape)) for layer in convs] == [
        ("conv1_1", (3, 3, 3, 64)),
        ("conv1_2", (3, 3, 64, 64)),
        ("conv1_3", (3, 3, 64, 64)),
        ("conv2_1", (3, 3, 64, 128)),
        ("conv2_2", (3, 3, 128, 128)),
        ("conv2_3", (3, 3, 128, 128)),
        ("conv3_1", (3, 3, 128, 256)),
        ("conv3_2", (3, 3, 256, 256)),
        ("conv3_3", (3, 3, 256, 256)),
        ("embedding", (4, 4, 256, 256)),
        ("logits", (1, 1, 256, 100)),
    ]
    assert not any(layer.use_bias for layer in convs)
    norms = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    assert [layer.name for layer in norms] == [f"{layer.name}_norm" for layer in convs[:9]]
    assert {layer.epsilon for layer in norms} == {1e-3}
    names = [layer.name for layer in model.layers]
    assert names[1:5] == ["conv1_1", "conv1_1_norm", "conv1_1_relu", "conv1_2"]
    assert names[-4:] == ["pool3", "embedding", "logits", "flatten"]
    pools = [layer for layer in model.layers if isinstance(layer, keras.layers.MaxPooling2D)]
    assert [layer.output.shape[1:3] for layer in pools] == [(16, 16), (8, 8), (4, 4)]
    assert model.output_shape == (None, 100)


def test_he_normal_is_not_truncated(monkeypatch):
    initializer = cnn9((8, 8, 3), 4, width=0.25).get_layer("embedding").kernel_initializer
    monkeypatch.undo()  # Keras draws again
    kernel = numpy(initializer((4, 4, 256, 256)))
    stddev = (2 / (4 * 4 * 256)) ** 0.5
    assert kernel.std() == pytest.approx(stddev, rel=0.01)
    assert abs(kernel.mean()) < 0.01 * stddev
    # 4.55 % of a normal distribution lies beyond two standard deviations, none if truncated there.
    assert np.mean(np.abs(kernel) > 2 * stddev) == pytest.approx(0.0455, rel=0.05)


@pytest.mark.parametrize(
    ("model", "decay"),
    [
        (lambda: cnn9((8, 8, 3), 4, width=0.25), 5e-4),
        (lambda: cnn9((8, 8, 3), 4, width=0.25, weight_decay=0.1), 0.1),
        (lambda: resnet(8, (8, 8, 3), 4), 1e-4),
    ],
)
def test_weight_decay_is_half_the_squared_norm(model, decay):
    model = model()
    decayed = [w for w in model.trainable_weights if not w.path.endswith("bias")]
    expected = sum(decay / 2 * np.sum(numpy(w).astype("float64") ** 2) for w in decayed)
    assert total(model.losses) == pytest.approx(expected, rel=1e-5)


def test_weight_decay_is_the_published_one_unless_given():
    def decay(*args):
        return 2 * build(*args).layers[1].kernel_regularizer.l2

    assert decay("cnn9", (8, 8, 3), 4, 0.25) == pytest.approx(5e-4)
    assert decay("resnet20", (8, 8, 3), 4, 0.25) == pytest.approx(1e-4)
    assert decay("resnet20", (8, 8, 3), 4, 0.25, 0.3) == pytest.approx(0.3)


def test_no_weight_decay_is_no_loss():
    assert cnn9((8, 8, 3), 4, width=0.25, weight_decay=0).losses == []


@pytest.mark.parametrize(
    ("depth", "count", "published"),
    [(20, 269_722, 0.27e6), (32, 464_154, 0.46e6), (56, 853_018, 0.85e6)],
)
def test_resnet_has_the_published_number_of_parameters(depth, count, published):
    model = build(f"resnet{depth}", (32, 32, 3), 10)
    kernels = [w for w in model.trainable_weights if w.path.endswith("kernel")]
    assert len(kernels) == depth
    assert trainable_count(model) == count == pytest.approx(published, rel=0.02)


def test_resnet_block_against_its_definition():
    model = resnet(8, (8, 8, 3), 2)
    layer = model.get_layer
    before = layer("stage1_block1_relu").output
    after = layer("stage2_block1_relu").output
    probe = keras.Model(model.input, [before, layer("stage2_block1_conv2_norm").output, after])
    hidden, residual, result = (numpy(x) for x in probe(images_of((8, 8, 3))))
    shortcut = np.concatenate([hidden[:, ::2, ::2], np.zeros_like(hidden[:, ::2, ::2])], axis=-1)
    assert result.shape == (4, 4, 4, 32)
    np.testing.assert_allclose(result, np.maximum(shortcut + residual, 0), rtol=1e-6)


@pytest.mark.parametrize("size", [8, 9])
def test_identity_shortcut(size):
    inputs = images_of((size, size, 4))
    layer = IdentityShortcut(6, strides=2)
    outputs = numpy(layer(inputs))
    np.testing.assert_array_equal(outputs[..., :4], inputs[:, ::2, ::2])
    np.testing.assert_array_equal(outputs[..., 4:], 0)
    assert outputs.shape == layer.compute_output_shape(inputs.shape)


@pytest.mark.parametrize(
    ("shape", "left"),
    [((8, 8, 3), (1, 1)), ((28, 28, 3), (4, 4)), ((16, 24, 3), (2, 3))],
)
def test_cnn9_on_images_of_other_sizes(shape, left):
    model = cnn9(shape, 4, width=0.25)
    assert tuple(model.get_layer("embedding").kernel.shape) == (*left, 64, 64)
    assert numpy(model(images_of(shape))).shape == (4, 4)


def test_width_scales_every_hidden_layer():
    model = cnn9((8, 8, 3), 4, width=0.25)
    assert [model.get_layer(name).filters for name in ("conv1_1", "conv3_3")] == [16, 64]
    assert model.get_layer("embedding").filters == 64
    assert model.get_layer("logits").filters == 4
    assert cnn9((8, 8, 3), 4, width=1e-6).get_layer("conv3_3").filters == 1
    assert resnet(8, (8, 8, 3), 4, width=2).get_layer("stage3_block1_conv1").filters == 128


@both
def test_a_saved_model_loads_safely_and_predicts_the_same(build_model, tmp_path):
    model = build_model((8, 8, 3), 4, width=0.25)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras", safe_mode=True)
    images = images_of((8, 8, 3))
    np.testing.assert_allclose(numpy(loaded(images)), numpy(model(images)), rtol=1e-6, atol=1e-6)
    assert total(loaded.losses) == pytest.approx(total(model.losses), rel=1e-6)
    assert [layer.name for layer in loaded.layers] == [layer.name for layer in model.layers]


@pytest.mark.parametrize(
    ("build_model", "policy"),
    [(cnn9, "mixed_float16"), (functools.partial(resnet, 8), "mixed_bfloat16")],
)
def test_mixed_precision_ends_in_float32(build_model, policy):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        model = build_model((8, 8, 3), 4, width=0.25)
    finally:
        keras.config.set_dtype_policy(before)
    logits = model(images_of((8, 8, 3)))
    assert keras.backend.standardize_dtype(logits.dtype) == "float32"
    assert np.isfinite(numpy(logits)).all()
    first = model.layers[1]
    assert first.compute_dtype == policy.removeprefix("mixed_")


@both
def test_images_are_channels_last_whatever_keras_is_set_to(build_model):
    before = keras.config.image_data_format()
    keras.config.set_image_data_format("channels_first")
    try:
        model = build_model((8, 16, 3), 4, width=0.25)
        assert numpy(model(images_of((8, 16, 3)))).shape == (4, 4)
    finally:
        keras.config.set_image_data_format(before)


@pytest.mark.parametrize(
    "build_model",
    [pytest.param(cnn9, marks=pytest.mark.one_backend), functools.partial(resnet, 8)],
)
def test_it_learns(build_model):
    images = images_of((8, 8, 3), 32)
    labels = (images.mean((1, 2, 3)) > 0).astype("int64")
    model = build_model((8, 8, 3), 4, width=0.25)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.02, momentum=0.9), loss, metrics=["accuracy"])
    history = model.fit(images, labels, batch_size=32, epochs=30, verbose=0).history
    assert history["accuracy"][-1] >= 0.95
    # The running averages have followed within those 30 steps.
    assert model.evaluate(images, labels, verbose=0)[1] >= 0.9


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: build("vgg", (32, 32, 3), 10), "one of cnn9, conv4, resnet20.*Received: vgg"),
        (lambda: cnn9((7, 32, 3), 10), r"at least 8 by 8 pixels.*Received: \(7, 32, 3\)"),
        (lambda: cnn9((32, 32), 10), r"Received: \(32, 32\)"),
        (lambda: cnn9((32, 32, 3), 0), "at least one class. Received: 0"),
        (lambda: cnn9((32, 32, 3), 10, width=0), "positive number. Received: 0"),
        (lambda: cnn9((32, 32, 3), 10, width=float("nan")), "Received: nan"),
        (lambda: resnet(20, (32, 32, 3), 10, weight_decay=-1), "negative. Received: -1"),
        (lambda: resnet(21, (32, 32, 3), 10), r"6n \+ 2, n >= 1. Received: 21"),
        (lambda: resnet(2, (32, 32, 3), 10), "Received: 2"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(BadInput, match=message):
        call()


def test_conv4_is_the_published_network():
    model = build("conv4", (28, 28, 1), 20)
    kernels = {
        layer.name: tuple(layer.kernel.shape) for layer in model.layers if hasattr(layer, "kernel")
    }
    assert kernels == {
        "conv1": (3, 3, 1, 64),
        "conv2": (3, 3, 64, 64),
        "conv3": (3, 3, 64, 64),
        "conv4": (3, 3, 64, 64),
        "logits": (64, 20),
    }
