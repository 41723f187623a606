"""The backbones against what was published: what they compute, their sizes, their first weights."""

import keras
import numpy as np
import pytest

from sphereface_plus.backbones import iresnet, sfnet

pytestmark = pytest.mark.one_backend


class Reference:
    """The layers of a network in float64, by the names of their weights."""

    def __init__(self, model):
        self.weights = {
            layer.name: [np.asarray(weight, "float64") for weight in layer.get_weights()]
            for layer in model.layers
        }
        self.used = set()

    def take(self, name):
        self.used.add(name)
        return self.weights[name]

    def conv(self, x, name, strides=1):
        kernel, *bias = self.take(name)
        size, rows = kernel.shape[0], -(-x.shape[1] // strides)
        # Zeros, of which the greater half is below and to the right.
        total = max((rows - 1) * strides + size - x.shape[1], 0)
        sides = (total // 2, total - total // 2)
        x = np.pad(x, ((0, 0), sides, sides, (0, 0)))
        out = np.zeros((len(x), rows, rows, kernel.shape[3]))
        for row in range(rows):
            for column in range(rows):
                top, left = row * strides, column * strides
                seen = x[:, top : top + size, left : left + size]
                out[:, row, column] = np.einsum("bhwc,hwcf->bf", seen, kernel)
        return out + (bias[0] if bias else 0)

    def norm(self, x, name):
        *scale, offset, mean, variance = self.take(f"{name}_norm")
        return (x - mean) / np.sqrt(variance + 1e-5) * (scale[0] if scale else 1) + offset

    def prelu(self, x, name):
        (slope,) = self.take(f"{name}_prelu")
        return np.where(x > 0, x, slope * x)

    def embedding(self, x):
        kernel, bias = self.take("embedding")
        return x.reshape(len(x), -1) @ kernel + bias

    def sfnet10(self, x):
        for stage, units in enumerate((0, 1, 2, 0), 1):
            name = f"conv{stage}_1"
            x = self.prelu(self.conv(x, name, 2), name)
            for unit in range(units):
                first, last = (f"conv{stage}_{2 * unit + place}" for place in (2, 3))
                hidden = self.prelu(self.conv(x, first), first)
                x = x + self.prelu(self.conv(hidden, last), last)
        return self.embedding(x)

    def sfnet10_norm(self, x):
        for stage, units in enumerate((0, 1, 2, 0), 1):
            name = f"conv{stage}_1"
            x = self.prelu(self.norm(self.conv(x, name, 2), name), name)
            for unit in range(units):
                first, last = (f"conv{stage}_{2 * unit + place}" for place in (2, 3))
                hidden = self.prelu(self.norm(self.conv(x, first), first), first)
                x = self.prelu(x + self.norm(self.conv(hidden, last), last), last)
        return self.norm(self.embedding(x), "embedding")

    def iresnet18(self, x):
        x = self.prelu(self.norm(self.conv(x, "conv1"), "conv1"), "conv1")
        for stage in (1, 2, 3, 4):
            for unit in (1, 2):
                name, strides = f"stage{stage}_unit{unit}", 3 - unit
                hidden = self.conv(self.norm(x, name), f"{name}_conv1")
                hidden = self.prelu(self.norm(hidden, f"{name}_conv1"), name)
                hidden = self.conv(hidden, f"{name}_conv2", strides)
                if strides > 1:
                    x = self.norm(self.conv(x, f"{name}_shortcut", strides), f"{name}_shortcut")
                x = x + self.norm(hidden, f"{name}_conv2")
        return self.norm(self.embedding(self.norm(x, "stage4")), "embedding")


def named(value):
    """What to call a parameter: a function's own text holds an address, other in every process."""
    return getattr(value, "__name__", str(value))


@pytest.mark.parametrize(
    ("build", "options", "formula"),
    [
        (sfnet, {"depth": 10}, "sfnet10"),
        (sfnet, {"depth": 10, "batch_norm": True}, "sfnet10_norm"),
        (iresnet, {"depth": 18}, "iresnet18"),
    ],
    ids=named,
)
def test_embeddings(build, options, formula):
    rng = np.random.default_rng(0)
    model = build(dims=3, input_shape=(18, 18, 2), width=1 / 32, **options)
    model.set_weights([rng.uniform(0.1, 0.5, weight.shape) for weight in model.weights])
    for layer in model.layers:
        if layer.name.startswith(("conv", "stage", "embedding")) and hasattr(layer, "kernel"):
            layer.kernel.assign(rng.normal(scale=0.3, size=layer.kernel.shape))
    images = rng.normal(size=(2, 18, 18, 2))
    reference = Reference(model)
    expected = getattr(reference, formula)(images)
    # All that the network has is in the formula.
    assert reference.used == {name for name, weights in reference.weights.items() if weights}
    found = keras.ops.convert_to_numpy(model(images.astype("float32")))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


def test_parameters_are_as_many_as_published(monkeypatch):
    # What is counted need not be drawn.
    for kind in (keras.initializers.VarianceScaling, keras.initializers.RandomNormal):
        monkeypatch.setattr(kind, "__call__", lambda self, shape, dtype=None: np.zeros(shape))

    def trainable(model):
        return sum(int(np.prod(weight.shape)) for weight in model.trainable_weights)

    # SphereFace's published network of twenty layers, from its layers' sizes: kernels, biases where
    # a stage begins, a slope a channel, and the fully connected layer of 7·6·512 numbers.
    channels, units = (3, 64, 128, 256, 512), (1, 2, 4, 1)
    expected = (7 * 6 * 512 + 1) * 512
    for before, filters, count in zip(channels, channels[1:], units, strict=False):
        expected += 9 * before * filters + 2 * filters + 2 * count * (9 * filters + 1) * filters
    assert trainable(sfnet(20)) == expected
    # ArcFace's are published as of 24.02, 34.14, 43.59 and 65.15 million.
    assert trainable(iresnet(18)) / 1e6 == pytest.approx(24.02, abs=0.01)


@pytest.mark.usefixtures("weights_from_numpy")
def test_depths_and_first_weights():
    for depth in (4, 20, 36):
        model = sfnet(depth, 3, (16, 16, 1), width=1 / 64)
        kernels = [each for each in model.layers if isinstance(each, keras.layers.Conv2D)]
        assert len(kernels) == depth
    # That of 36 layers.
    conv, residual = (model.get_layer(name).kernel_initializer for name in ("conv1_1", "conv1_2"))
    assert (conv.scale, conv.mode, conv.distribution) == (1, "fan_in", "uniform")
    assert (type(residual).__name__, residual.stddev) == ("RandomNormal", 0.01)
    slopes = model.get_layer("conv1_1_prelu").get_weights()[0]
    assert slopes.shape == (1, 1, 1)
    assert slopes == 0.25


@pytest.mark.usefixtures("weights_from_numpy")
def test_weight_decay_is_half_the_sum_of_squares_of_all_but_biases():
    model = sfnet(4, 2, (16, 16, 1), batch_norm=True, width=1 / 32, weight_decay=0.5)
    decayed = [weight for weight in model.trainable_weights if weight.name != "bias"]
    expected = 0.25 * sum(np.sum(keras.ops.convert_to_numpy(each) ** 2) for each in decayed)
    found = keras.ops.convert_to_numpy(sum(model.losses))
    assert found == pytest.approx(expected, rel=1e-5)
    assert not sfnet(4, 2, (16, 16, 1), width=1 / 32, weight_decay=0).losses


@pytest.mark.parametrize(
    ("build", "options", "message"),
    [
        (sfnet, {"depth": 5}, "one of 4, 10, 20, 36, 64. Received: 5"),
        (iresnet, {"depth": 101}, "one of 18, 34, 50, 100. Received: 101"),
        (sfnet, {"dims": 0}, "at least one number. Received: 0"),
        (sfnet, {"input_shape": (112, 15, 3)}, r"at least 16 by 16 pixels.*: \(112, 15, 3\)"),
        (iresnet, {"input_shape": (112, 112)}, r"\(H, W, C\). Received: \(112, 112\)"),
        (sfnet, {"width": 0.0}, "width must be a positive number. Received: 0.0"),
        (iresnet, {"weight_decay": -1.0}, "must not be negative. Received: -1.0"),
        (iresnet, {"dropout": 1.0}, "less than 1. Received: 1.0"),
    ],
    ids=named,
)
def test_what_no_network_is_built_of(build, options, message):
    with pytest.raises(ValueError, match=message):
        build(**{"depth": 4 if build is sfnet else 18, **options})
