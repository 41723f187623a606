"""Which layers are the heads of a model."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from mhe.attach.neurons import walk
from mhe.attach.outputs import head_layers

pytestmark = pytest.mark.usefixtures("weights_from_numpy")


def names(found):
    return [layer.name for layer in found]


def test_models_without_weights_are_refused():
    with pytest.raises(ValueError, match=r"must be built.*Received: model 'empty'"):
        head_layers(keras.Sequential([layers.Dense(3)], name="empty"))


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


class Matrix(layers.Layer):
    """A dense layer, or one that only scales, whose weight has a name of its own."""

    def __init__(self, rows=4, inner=None):
        super().__init__(name="custom")
        self.rows, self.inner = rows, inner

    def build(self, shape):
        self.w = self.add_weight(shape=(self.rows, 4), name="w")

    def call(self, x):
        x = x if self.inner is None else self.inner(x)
        return x * self.w if self.rows == 1 else ops.matmul(x, self.w)


class Sums(keras.Model):
    def __init__(self):
        super().__init__()
        self.first, self.end = layers.Dense(4, name="first"), layers.Dense(4, name="end")
        self.positions = self.add_weight(shape=(3, 4), name="positions")

    def call(self, x):
        return self.end(self.first(x) + self.positions)


class Ties(Sums):
    def call(self, x):
        return ops.matmul(super().call(x), self.positions)


def test_a_head_is_not_found_behind_a_weight_of_unknown_meaning():
    inputs = keras.Input((4,))
    hidden = layers.Dense(4, name="hidden")(inputs)
    inner = layers.Dense(4)
    inner.build((None, 4))
    for layer in (Matrix(), Matrix(inner=inner), layers.RNN(Cell())):
        given = layers.Reshape((2, 2))(hidden) if isinstance(layer, layers.RNN) else hidden
        outputs = layers.Softmax()(layer(given))
        with pytest.raises(ValueError, match=r"cannot be found.*`kernel`.*second call.*`layers=`"):
            head_layers(keras.Model(inputs, outputs))
        after = layers.Dense(2, name="after")(outputs)
        assert names(head_layers(keras.Model(inputs, after))) == ["after"]
    # What only scales is no head.
    square = layers.Reshape((2, 2))(layers.PReLU()(Matrix(rows=1)(hidden)))
    scaled = layers.PReLU()(layers.LayerNormalization(axis=[1, 2])(square))
    assert names(head_layers(keras.Model(inputs, scaled))) == ["hidden"]
    # Nor is what a later layer depends on.
    before = Matrix()(inputs)
    assert names(head_layers(keras.Model(inputs, before + layers.Dense(4, name="d")(before)))) == [
        "d"
    ]


def test_weights_of_the_model_itself():
    summed, tied = Sums(), Ties()
    summed(np.zeros((2, 3, 4)))
    assert names(head_layers(summed)) == ["end"]
    tied.positions = tied.add_weight(shape=(4, 4), name="square")
    tied(np.zeros((2, 4, 4)))
    with pytest.raises(ValueError, match=r"cannot be found.*`layers=`.*an operation"):
        head_layers(tied)


class Penalized(layers.Layer):
    def __init__(self):
        super().__init__()
        self.inner = [layers.Dense(4), layers.Dense(4, name="decoder")]

    def build(self, shape):
        for layer in self.inner:
            layer.build((None, 4))

    def call(self, x):
        hidden = self.inner[0](x)
        self.add_loss(ops.mean(ops.square(hidden)))
        return self.inner[1](hidden)


class PenalizedModel(keras.Model):
    def __init__(self):
        super().__init__()
        self.block = Penalized()

    def call(self, x):
        self.add_loss(ops.mean(ops.square(x)))
        return self.block(x)


def test_losses_added_in_a_call():
    model = PenalizedModel()
    model(np.ones((2, 4)))
    before = [float(ops.convert_to_numpy(each)) for each in model.losses]
    assert names(head_layers(model)) == ["decoder"]
    assert [float(ops.convert_to_numpy(each)) for each in model.losses] == before
    model(2 * np.ones((2, 4)))
    after = [float(ops.convert_to_numpy(each)) for each in model.losses]
    np.testing.assert_allclose(after, [4 * each for each in before], rtol=1e-5)


class Cell(layers.Layer):
    def __init__(self):
        super().__init__()
        self.state_size = 2

    def build(self, shape):
        self.w = self.add_weight(shape=(2, 2), name="w")

    def call(self, x, states):
        return ops.matmul(x, self.w) + states[0], [x]
