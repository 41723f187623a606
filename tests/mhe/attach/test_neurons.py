"""Which weights hold neurons, and along which axes."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from mhe.attach.neurons import neuron_weights

pytestmark = pytest.mark.usefixtures("weights_from_numpy")


def built(layer, shape):
    layer.build(shape)
    return layer


def described(layer):
    return [(w.name, w.shape, w.axis, w.count, w.dims) for w in neuron_weights(layer)]


def test_each_kernel_has_its_axes():
    image = (None, 8, 8, 3)
    sequence = (None, 8, 3)
    volume = (None, 8, 8, 8, 3)
    cases = [
        (layers.Dense(5), (None, 3), [("kernel", (3, 5), -1, 5, 3)]),
        (layers.Conv1D(5, 4), sequence, [("kernel", (4, 3, 5), -1, 5, 12)]),
        (layers.Conv2D(5, 4), image, [("kernel", (4, 4, 3, 5), -1, 5, 48)]),
        (layers.Conv2D(6, 4, groups=3), image, [("kernel", (4, 4, 1, 6), -1, 6, 16)]),
        (layers.Conv3D(5, 2), volume, [("kernel", (2, 2, 2, 3, 5), -1, 5, 24)]),
        (layers.Conv1DTranspose(5, 4), sequence, [("kernel", (4, 5, 3), -2, 5, 12)]),
        (layers.Conv2DTranspose(5, 4), image, [("kernel", (4, 4, 5, 3), -2, 5, 48)]),
        (layers.Conv3DTranspose(5, 2), volume, [("kernel", (2, 2, 2, 5, 3), -2, 5, 24)]),
        (
            layers.DepthwiseConv1D(4, depth_multiplier=2),
            sequence,
            [("kernel", (4, 3, 2), (-2, -1), 6, 4)],
        ),
        (
            layers.DepthwiseConv2D(4, depth_multiplier=2),
            image,
            [("kernel", (4, 4, 3, 2), (-2, -1), 6, 16)],
        ),
        (
            layers.SeparableConv1D(5, 4),
            sequence,
            [
                ("depthwise_kernel", (4, 3, 1), (-2, -1), 3, 4),
                ("pointwise_kernel", (1, 3, 5), -1, 5, 3),
            ],
        ),
        (
            layers.SeparableConv2D(5, 4, depth_multiplier=2),
            image,
            [
                ("depthwise_kernel", (4, 4, 3, 2), (-2, -1), 6, 16),
                ("pointwise_kernel", (1, 1, 6, 5), -1, 5, 6),
            ],
        ),
        (layers.Embedding(7, 4), (None, 2), [("embeddings", (7, 4), 0, 7, 4)]),
        (layers.BatchNormalization(), image, []),
        (layers.PReLU(), image, []),
    ]
    for layer, shape, expected in cases:
        assert described(built(layer, shape)) == expected, layer


def test_einsum_dense_neurons_are_its_outputs():
    for equation, input_shape, output_shape, axis, count, dims in [
        ("ab,bc->ac", (None, 3), (5,), -1, 5, 3),
        ("ab,cb->ac", (None, 3), (5,), -2, 5, 3),
        ("...x,xy->...y", (None, 7, 3), (5,), -1, 5, 3),
        ("ab...,bc->ac...", (None, 3, 7), (5,), -1, 5, 3),
        ("abc,cde->abde", (None, 7, 3), (None, 4, 5), (-2, -1), 20, 3),
        ("abcd,cde->abe", (None, 7, 3, 4), (None, 5), -1, 5, 12),
        ("abc,bcd->abd", (None, 7, 3), (7, 5), (-3, -1), 35, 3),
        ("abc,dce->abde", (None, 7, 3), (None, 4, 5), (-3, -1), 20, 3),
    ]:
        (weight,) = neuron_weights(built(layers.EinsumDense(equation, output_shape), input_shape))
        assert (weight.axis, weight.count, weight.dims) == (axis, count, dims), equation


def test_einsum_dense_that_scales_or_only_sums_has_no_neurons():
    assert neuron_weights(built(layers.EinsumDense("abc,bc->abc", (2, 3)), (None, 2, 3))) == []
    assert neuron_weights(built(layers.EinsumDense("abc,bc->a", ()), (None, 2, 3))) == []


def test_a_neuron_is_what_makes_one_output():
    """Without its neuron, one output is zero and the others are what they were."""
    generator = np.random.default_rng(0)
    for layer, shape in [
        (layers.Dense(5), (1, 3)),
        (layers.Conv2D(6, 3, groups=3), (1, 5, 5, 3)),
        (layers.Conv2DTranspose(5, 3), (1, 3, 3, 2)),
        (layers.DepthwiseConv2D(3, depth_multiplier=2), (1, 5, 5, 3)),
        (layers.EinsumDense("abc,cde->abde", (None, 4, 5)), (1, 2, 3)),
        (layers.EinsumDense("abc,dce->abde", (None, 4, 5)), (1, 2, 3)),
    ]:
        (weight,) = neuron_weights(built(layer, shape))
        axes = weight.axis if isinstance(weight.axis, tuple) else (weight.axis,)
        front = tuple(range(len(axes)))
        inputs = generator.uniform(0.5, 1.5, shape).astype("float32")
        kernel = generator.uniform(0.5, 1.5, weight.shape).astype("float32")
        weight.variable.assign(kernel)
        whole = ops.convert_to_numpy(layer(inputs)).reshape(-1, weight.count)
        for neuron in range(weight.count):
            cut = np.moveaxis(kernel, axes, front).copy()
            cut[np.unravel_index(neuron, cut.shape[: len(axes)])] = 0
            weight.variable.assign(np.moveaxis(cut, front, axes))
            expected = whole.copy()
            expected[:, neuron] = 0
            outputs = ops.convert_to_numpy(layer(inputs)).reshape(-1, weight.count)
            np.testing.assert_allclose(outputs, expected, rtol=1e-5)


def test_recurrent_layers_hold_neurons_in_their_cells():
    both = [("kernel", (3, 8), -1, 8, 3), ("recurrent_kernel", (2, 8), -1, 8, 2)]
    lstm = built(layers.LSTM(2), (None, 4, 3))
    assert described(lstm) == both
    assert {w.layer for w in neuron_weights(lstm)} == {lstm.cell}
    assert described(built(layers.Bidirectional(layers.LSTM(2)), (None, 4, 3))) == both + both
    assert [w[2:] for w in described(built(layers.GRU(2), (None, 4, 3)))] == [
        (-1, 6, 3),
        (-1, 6, 2),
    ]
    stack = layers.RNN([layers.SimpleRNNCell(2), layers.SimpleRNNCell(5)])
    assert [w[3:] for w in described(built(stack, (None, 4, 3)))] == [
        (2, 3),
        (2, 2),
        (5, 2),
        (5, 5),
    ]
    conv = built(layers.ConvLSTM2D(2, 3, padding="same"), (None, 2, 4, 4, 3))
    assert [w[2:] for w in described(conv)] == [(-1, 8, 27), (-1, 8, 18)]


def test_attention_holds_neurons_in_its_projections():
    attention = layers.MultiHeadAttention(2, 4, value_dim=3, output_shape=(5, 7))
    attention.build((None, 6, 8), (None, 6, 9))
    assert described(attention) == [
        ("kernel", (8, 2, 4), (-2, -1), 8, 8),
        ("kernel", (9, 2, 4), (-2, -1), 8, 9),
        ("kernel", (9, 2, 3), (-2, -1), 6, 9),
        ("kernel", (2, 3, 5, 7), (-2, -1), 35, 6),
    ]
    grouped = layers.GroupQueryAttention(4, 6, 2)
    grouped.build((None, 6, 8), (None, 6, 9))
    assert [w[2:] for w in described(grouped)] == [
        ((-2, -1), 24, 8),
        ((-2, -1), 8, 9),
        ((-2, -1), 8, 9),
        (-1, 8, 24),
    ]


def test_wrappers_and_nested_models_are_looked_into():
    inner = keras.Sequential([keras.Input((4,)), layers.Dense(3, name="a")], name="inner")
    inputs = keras.Input((5, 4))
    hidden = layers.TimeDistributed(inner, name="each")(inputs)
    hidden = layers.SpectralNormalization(layers.Dense(2, name="b"), name="sn")(hidden)
    model = keras.Model(inputs, hidden)
    weights = neuron_weights(model)
    assert [w.location for w in weights] == ["each/inner/a", "sn/b"]
    assert weights[0].parents == (model, model.layers[1], inner)
    assert [w.slot for w in weights] == ["kernel_regularizer", "kernel_regularizer"]


def test_shared_layers_count_once():
    shared = layers.Dense(4)
    inputs = keras.Input((4,))
    model = keras.Model(inputs, shared(shared(inputs)))
    assert [w.variable for w in neuron_weights(model)] == [shared.kernel]
    twice = keras.Model(inputs, [model(inputs), shared(inputs)])
    assert [w.variable for w in neuron_weights(twice)] == [shared.kernel]


def test_paths_are_unique():
    parts = [keras.Sequential([layers.Dense(3, name="same")], name="part") for _ in range(3)]
    for part in parts:
        part.build((None, 3))

    class Parts(keras.Model):
        def __init__(self):
            super().__init__()
            self.parts = parts

        def call(self, x):
            return [part(x) for part in self.parts]

    model = Parts()
    model(np.zeros((1, 3)))
    assert [w.path for w in neuron_weights(model)] == [
        "part/same/kernel",
        "part/same/kernel_1",
        "part/same/kernel_2",
    ]


def test_other_layers_with_a_kernel():
    class Own(layers.Layer):
        def build(self, shape):
            self.kernel = self.add_weight(shape=(shape[-1], 3), name="kernel")
            self.position = self.add_weight(shape=(7, 3), name="position")

    (weight,) = neuron_weights(built(Own(), (None, 4)))
    assert (weight.axis, weight.count, weight.dims, weight.slot) == (-1, 3, 4, None)


def test_lora_and_quantized_kernels():
    dense = built(layers.Dense(4), (None, 6))
    kernel = dense.kernel
    dense.enable_lora(2)
    assert [w.variable for w in neuron_weights(dense)] == [kernel]
    quantized = built(layers.Dense(4), (None, 6))
    quantized.quantize("int8")
    assert neuron_weights(quantized) == []
    assert [w.count for w in neuron_weights(quantized, quantized=True)] == [4]


def test_models_without_weights_are_refused():
    with pytest.raises(ValueError, match=r"Expected a Keras model.*Received: 'resnet'"):
        neuron_weights("resnet")
    with pytest.raises(ValueError, match=r"must be built.*Received: model 'empty'"):
        neuron_weights(keras.Sequential([layers.Dense(3)], name="empty"))

    class Hollow(keras.Model):
        """A model that says that it is built though its layer is not."""

        def __init__(self):
            super().__init__()
            self.dense = layers.Dense(3, name="inside")
            self.built = True

    with pytest.raises(ValueError, match="layer 'inside' is not built"):
        neuron_weights(Hollow())
