"""Which weights hold neurons, along which axes, and which layers are heads."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from mhe.neurons import head_layers, neuron_weights, walk

# Keras's own conversions to NumPy.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.fixture(autouse=True)
def plain_weights(monkeypatch):
    """Starts weights at zero: on JAX, compiling random numbers for each shape takes minutes."""
    for kind in (keras.initializers.VarianceScaling, keras.initializers.Orthogonal):
        monkeypatch.setattr(kind, "__call__", lambda self, shape, dtype=None: np.zeros(shape))


def built(layer, shape):
    layer.build(shape)
    return layer


def described(layer):
    return [(w.name, w.shape, w.axis, w.count, w.dims) for w in neuron_weights(layer)]


def names(found):
    return [layer.name for layer in found]


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
    for find in (neuron_weights, head_layers):
        with pytest.raises(ValueError, match=r"must be built.*Received: model 'empty'"):
            find(keras.Sequential([layers.Dense(3)], name="empty"))

    class Hollow(keras.Model):
        """A model that says that it is built though its layer is not."""

        def __init__(self):
            super().__init__()
            self.dense = layers.Dense(3, name="inside")
            self.built = True

    with pytest.raises(ValueError, match="layer 'inside' is not built"):
        neuron_weights(Hollow())


def test_head_is_the_last_layer_with_neurons():
    inputs = keras.Input((8, 8, 3))
    hidden = layers.Conv2D(4, 3, name="hidden")(inputs)
    pooled = layers.GlobalAveragePooling2D()(hidden)
    logits = layers.Dense(3, name="logits")(pooled)
    outputs = layers.Activation("softmax")(
        layers.Reshape((3,))(layers.BatchNormalization()(logits))
    )
    assert names(head_layers(keras.Model(inputs, outputs))) == ["logits"]
    assert names(head_layers(keras.Model(inputs, [outputs, pooled]))) == ["logits", "hidden"]
    assert names(head_layers(keras.Model(inputs, {"u": pooled, "v": pooled}))) == ["hidden"]
    assert head_layers(keras.Model(inputs, layers.Flatten()(inputs))) == []


def test_heads_that_meet_and_heads_that_follow():
    inputs = keras.Input((4,))
    first = layers.Dense(4, name="first")(inputs)
    left, right = layers.Dense(4, name="left")(first), layers.Dense(4, name="right")(first)
    assert names(head_layers(keras.Model(inputs, left + right))) == ["left", "right"]
    # The residual stream reaches back to the first layer, which `left` depends on.
    assert names(head_layers(keras.Model(inputs, first + left))) == ["left"]
    shared = layers.Dense(4, name="shared")
    once = shared(inputs)
    assert names(head_layers(keras.Model(inputs, once + shared(once)))) == ["shared"]


def test_heads_inside_nested_models():
    inner = keras.Sequential(
        [keras.Input((4,)), layers.Dense(4, name="n1"), layers.Dense(4, name="n2"), layers.ReLU()]
    )
    passing = keras.Sequential([keras.Input((4,)), layers.Rescaling(2.0), layers.ReLU()])
    inputs = keras.Input((4,))
    assert names(head_layers(keras.Model(inputs, passing(inner(passing(inputs)))))) == ["n2"]
    # Called twice, the same model is one head, and its two calls are told apart.
    twice = keras.Model(inputs, inner(inner(inputs)))
    assert names(head_layers(twice)) == ["n2"]
    after = layers.Dense(2, name="after")(inner(inputs))
    assert names(head_layers(keras.Model(inputs, [after, inner(inputs)]))) == ["after", "n2"]
    named = {name: keras.Input((4,), name=name) for name in "ba"}
    second = keras.Model(named, layers.ReLU()(named["b"]))
    given = {name: layers.Dense(4, name=name)(inputs) for name in ("b", "a", "0")}
    assert names(head_layers(keras.Model(inputs, second(given)))) == ["b"]
    two_in, two_out = keras.Input((4,)), keras.Input((4,))
    cross = keras.Model([two_in, two_out], [layers.Dense(4, name="c")(two_out), two_in])
    dense = layers.Dense(4, name="source")(inputs)
    assert names(head_layers(keras.Model(inputs, cross([dense, inputs])))) == ["c", "source"]


def test_heads_of_attention_recurrence_and_wrappers():
    inputs = keras.Input((6, 8))
    attention = layers.MultiHeadAttention(2, 4)
    assert head_layers(keras.Model(inputs, attention(inputs, inputs))) == [attention.output_dense]
    recurrent = layers.Bidirectional(layers.LSTM(3))
    assert head_layers(keras.Model(inputs, recurrent(inputs))) == [
        recurrent.forward_layer.cell,
        recurrent.backward_layer.cell,
    ]
    each = layers.TimeDistributed(
        keras.Sequential([keras.Input((8,)), layers.Dense(3), layers.Dense(2, name="end")])
    )
    assert names(head_layers(keras.Model(inputs, each(inputs)))) == ["end"]
    stack = layers.RNN([layers.GRUCell(2), layers.GRUCell(3, name="top")])
    assert names(head_layers(keras.Model(inputs, stack(inputs)))) == ["top"]
    dense = layers.Dense(3)
    dense.build((None, 2))
    assert head_layers(dense) == [dense]


class Block(layers.Layer):
    def __init__(self):
        super().__init__()
        self.last = layers.Dense(4, name="last")
        self.first = layers.Dense(4, name="first")

    def build(self, shape):
        self.first.build(shape)
        self.last.build((*shape[:-1], 4))

    def call(self, x, training=False):
        return self.last(ops.relu(self.first(x)))


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.heads = [layers.Dense(3, name="u"), layers.Dense(2, name="v")]
        self.block = Block()

    def call(self, inputs, training=False):
        hidden = self.block(inputs["a"] + inputs["b"])
        return {"u": ops.softmax(self.heads[0](hidden)), "v": self.heads[1](hidden) + 1.0}


def test_heads_of_subclassed_models():
    model = Subclassed()
    model({"a": np.zeros((2, 5)), "b": np.zeros((2, 5))})
    assert names(head_layers(model)) == ["u", "v"]
    # The symbolic call leaves nothing behind.
    assert all(layer._inbound_nodes == [] for layer in [*model.heads, model.block])
    outer_inputs = {"a": keras.Input((5,), name="a"), "b": keras.Input((5,), name="b")}
    outer = keras.Model(outer_inputs, layers.ReLU()(model(outer_inputs)["v"]))
    assert names(head_layers(outer)) == ["v"]

    class Chain(keras.Model):
        def __init__(self):
            super().__init__()
            self.tokens = layers.Embedding(9, 4)
            self.block = Block()

        def build(self, tokens_shape, scale_shape):
            self.tokens.build(tokens_shape)
            self.block.build((*tokens_shape, 4))

        def call(self, tokens, scale):
            return self.block(self.tokens(tokens)) * scale

    chain = Chain()
    chain(np.zeros((2, 5), "int32"), np.ones((2, 5, 1), "float32"))
    assert names(head_layers(chain)) == ["last"]


def test_a_call_that_cannot_be_followed_is_refused():
    class Opaque(Subclassed):
        def call(self, inputs, training=False):
            outputs = super().call(inputs)
            return ops.convert_to_tensor(np.asarray(ops.convert_to_numpy(outputs["v"])))

    model = Opaque()
    model.built = True
    for layer, _ in walk(model):
        if isinstance(layer, layers.Dense):
            layer.build((None, 4))
    with pytest.raises(ValueError, match=r"cannot be found.*`layers=`.*Received: Opaque"):
        head_layers(model)
    model._build_shapes_dict = {"input_shape": {"a": (2, 4), "b": (2, 4)}}
    with pytest.raises(ValueError, match=r"cannot be found.*`layers=`.*Received: Opaque"):
        head_layers(model)
    assert all(layer._inbound_nodes == [] for layer in model.heads)
