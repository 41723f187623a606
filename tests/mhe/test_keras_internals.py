"""What the library relies on in Keras is there, and does what its name says."""

import keras
import numpy as np
import pytest
from keras import layers

from mhe import keras_internals

pytestmark = pytest.mark.usefixtures("weights_from_numpy")


def test_layers_and_variables():
    inner = keras.Sequential([keras.Input((4,)), layers.Dense(3, name="a")], name="inner")
    model = keras.Sequential([keras.Input((4,)), inner, layers.Dense(2, name="b")], name="outer")
    names = [layer.name for layer in keras_internals.flat_layers(model)]
    assert names[0] == "outer"
    assert {"inner", "a", "b"} < set(names)
    assert [each.name for each in keras_internals.sublayers(model)][-2:] == ["inner", "b"]
    dense = inner.layers[0]
    assert keras_internals.own_trainable_variables(dense) == [dense.kernel, dense.bias]
    assert keras_internals.own_trainable_variables(model) == []
    assert keras_internals.own_variables(model) == []
    dense.trainable = False
    assert keras_internals.own_variables(dense) == [dense.kernel, dense.bias]
    dense.trainable = True
    kernel = dense.kernel
    dense.enable_lora(2)
    assert dense.kernel is not kernel
    assert keras_internals.stored_variable(dense, "kernel") is kernel
    assert keras_internals.stored_variable(dense, "absent") is None
    assert keras_internals.build_shapes(dense) == {"input_shape": (None, 4)}
    assert keras_internals.build_shapes(layers.Dense(3)) is None


def test_one_device_has_all():
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3)])
    assert keras_internals.replica() == (0, 1)
    assert keras_internals.batch_parts(model) == 1
    share = keras_internals.share_of_replica(model, keras.ops.convert_to_tensor(3.0))
    assert float(share) == 3.0


def test_what_stands_for_a_variable():
    one, two = (keras.Variable(np.ones(2, "float32")) for _ in range(2))
    assert keras_internals.stands_for(one, one)
    assert not keras_internals.stands_for(one, two)
    # Outside of a scope without state, a value is nobody's.
    assert not keras_internals.stands_for(one.value, one)
    with keras.StatelessScope([(one, np.zeros(2, "float32"))]) as scope:
        value = scope.get_current_value(one)
        assert keras_internals.stands_for(value, one)
        assert not keras_internals.stands_for(value, two)


def test_graphs():
    inputs = keras.Input((4,))
    dense = layers.Dense(3)
    outputs = dense(inputs)
    model = keras.Model(inputs, outputs)
    assert keras_internals.graph(dense) is None
    assert keras_internals.graph(model) == ([inputs], [outputs])
    assert keras_internals.is_saved_as_graph(model)
    layer, node, index = keras_internals.origin(outputs)
    assert (layer, index) == (dense, 0)
    assert node.input_tensors == [inputs]
    assert keras_internals.nodes(dense)[0] == [node]
    assert keras_internals.origin(np.zeros(2)) == (None, None, 0)

    class Own(keras.Model):
        def __init__(self, size=3):
            super().__init__()
            self.dense = layers.Dense(size)

        def call(self, x):
            return self.dense(x)

    subclassed = Own()
    subclassed(np.zeros((1, 4)))
    assert keras_internals.graph(subclassed) is None
    assert not keras_internals.is_saved_as_graph(subclassed)


@pytest.mark.parametrize(
    "layer", [layers.MultiHeadAttention(2, 3), layers.GroupQueryAttention(2, 3, 1)], ids=str
)
def test_attention(layer):
    layer.build((None, 5, 4), (None, 5, 4))
    assert keras_internals.attention_output(layer).name == "attention_output"
    assert keras_internals.attention_regularizer_slot(layer) in vars(layer)


def test_added_losses_and_traces():
    layer = layers.ActivityRegularization(l2=0.5)
    model = keras.Sequential([keras.Input((2,)), layer])
    model(np.ones((1, 2)))
    model.add_loss(keras.ops.ones(()))
    assert len(keras_internals.added_losses(model)) == 1
    model = keras.Sequential([keras.Input((2,)), layers.Dense(1)])
    model.compile(keras.optimizers.SGD(0.0), "mse")
    keras_internals.drop_traces(model)
    assert model.train_function is None
    model.fit(np.ones((2, 2)), np.ones((2, 1)), verbose=0)
    before = model.train_function
    keras_internals.drop_traces(model)
    assert model.train_function is not before
    assert model.test_function is None


def test_replaced_attribute_is_restored():
    dense = layers.Dense(3)
    dense.build((None, 4))
    variables = list(dense.variables)

    def fail_inside():
        with (
            keras_internals.replaced_attribute(dense, "units", 7),
            keras_internals.replaced_attribute(dense, "extra", keras.Variable(1.0)),
        ):
            assert (dense.units, len(dense.variables)) == (7, len(variables))
            raise KeyError

    with pytest.raises(KeyError):
        fail_inside()
    assert dense.units == 3
    assert not hasattr(dense, "extra")


def test_weights_in_memory_are_those_of_a_file(tmp_path):
    def compiled():
        model = keras.Sequential([keras.Input((4,)), layers.Dense(3), layers.BatchNormalization()])
        model.compile("adam", "mse")
        model.optimizer.build(model.trainable_variables)
        return model

    model, other = compiled(), compiled()
    for place, variable in enumerate(model.optimizer.variables):
        variable.assign(np.full(variable.shape, place + 1))
    path = tmp_path / "model.weights.h5"
    path.write_bytes(keras_internals.weights_file(model))
    other.load_weights(path)
    for one, two in zip(model.variables, other.variables, strict=True):
        np.testing.assert_array_equal(one, two)


def test_call_on_zeros():
    class Total(keras.Model):
        calls = 0

        def build(self, input_shape):
            pass

        def call(self, pair):
            Total.calls += 1
            return pair["a"] + keras.ops.sum(pair["b"])

    model = Total()
    keras_internals.call_on_zeros(model)  # not built: nothing is known to call it on
    assert Total.calls == 0
    model.build({"a": (None, 2), "b": (1, None)})
    keras_internals.call_on_zeros(model)
    before = Total.calls
    assert before > 0
    keras_internals.call_on_zeros(model)
    assert Total.calls == before
