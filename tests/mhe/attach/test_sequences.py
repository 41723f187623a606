"""Whatever is attached and detached, in whatever order, is the same after saving and cloning."""

import hypothesis
import keras
import numpy as np
import pytest
from hypothesis import strategies
from keras import layers, ops

from mhe import MHE, Sum
from mhe.attach import attach, attached, detach
from mhe.attach.neurons import neuron_weights

pytestmark = pytest.mark.usefixtures("weights_from_numpy")

TIME, FEATURES = 3, 4
# From a name and the regularizer of every weight, a layer from (B, T, 4) to (B, T, 4). With two
# heads of two numbers attention has projections of two shapes, with four of four all have the same.
BLOCKS = {
    "dense": lambda name, l2: layers.Dense(4, kernel_regularizer=l2, name=name),
    "attention": lambda name, l2: Self(layers.MultiHeadAttention(2, 2, **both(name, l2))),
    "cube": lambda name, l2: Self(layers.MultiHeadAttention(4, 4, **both(name, l2))),
    "grouped": lambda name, l2: Self(layers.GroupQueryAttention(2, 4, 2, **both(name, l2))),
    "einsum": lambda name, l2: layers.EinsumDense("abc,dc->abd", (None, 4), **both(name, l2)),
    "recurrent": lambda name, l2: layers.Bidirectional(
        layers.GRU(2, return_sequences=True, recurrent_regularizer=l2), name=name
    ),
    "separable": lambda name, l2: layers.SeparableConv1D(
        4, 2, padding="same", depthwise_regularizer=l2, name=name
    ),
    "each": lambda name, l2: layers.TimeDistributed(BLOCKS["dense"]("inside", l2), name=name),
    "nested": lambda name, l2: Self(layers.MultiHeadAttention(2, 2, **both("inside", l2)), name),
}
if hasattr(layers, "ReversibleEmbedding"):
    BLOCKS["reversible"] = lambda name, l2: Reversed(
        layers.ReversibleEmbedding(4, 4, tie_weights=False, embeddings_regularizer=l2, name=name)
    )


def both(name, l2):
    return {"name": name, "kernel_regularizer": l2}


class Self:
    """Self-attention, in a model of its own if that has a name."""

    def __init__(self, layer, model=None):
        self.layer, self.model = layer, model

    def __call__(self, x):
        if self.model is None:
            return self.layer(x, x)
        inputs = keras.Input((TIME, FEATURES))
        return keras.Model(inputs, self.layer(inputs, inputs), name=self.model)(x)


class Reversed:
    """An embedding, called the other way round too."""

    def __init__(self, layer):
        self.layer = layer

    def __call__(self, x):
        return self.layer(self.layer(ops.argmax(x, axis=-1)), reverse=True)


REGULARIZERS = [
    lambda: MHE(2.0, s=0),
    lambda: MHE(3.0, space="full"),
    lambda: Sum(keras.regularizers.L1(0.1), MHE(1.0, distance="angle")),
    lambda: keras.regularizers.L1(0.2),
]


def built(blocks):
    outputs = inputs = keras.Input((TIME, FEATURES))
    for index, (block, l2) in enumerate(blocks):
        regularizer = keras.regularizers.L2(0.01) if l2 else None
        outputs = BLOCKS[block](f"{block}_{index}", regularizer)(outputs)
    return keras.Model(inputs, outputs)


def saved(model, folder):
    model.save(folder / "model.keras")
    return keras.models.load_model(folder / "model.keras")


def cloned(model, folder):
    return with_weights(keras.models.clone_model(model), model)


def from_json(model, folder):
    return with_weights(keras.models.model_from_json(model.to_json()), model)


def with_weights(copy, model):
    copy.set_weights(model.get_weights())
    return copy


COPIES = {"save": saved, "clone": cloned, "json": from_json}


def losses(model):
    return [float(ops.convert_to_numpy(each)) for each in model.losses]


def described(model):
    """The rows of the table, with all that a regularizer's config says."""
    assert all(row.saved for row in attached(model))
    return [
        (
            row.weight.location,
            row.weight.name,
            row.weight.axis,
            row.trainable,
            *map(keras.saving.serialize_keras_object, (row.regularizer, row.kept)),
        )
        for row in attached(model)
    ]


def selectors(model):
    """Everything, then each name of a layer with neurons, and of a layer around one."""
    locations = [weight.location for weight in neuron_weights(model)]
    return [None, *dict.fromkeys(part for each in locations for part in each.split("/"))]


def check(blocks, steps, folder):
    model = built(blocks)
    bare = losses(model)
    for step, pick in steps:
        if step in COPIES:
            expected, table = losses(model), described(model)
            model = COPIES[step](model, folder)
            # Before anything else of this library sees the model.
            np.testing.assert_allclose(sum(losses(model)), sum(expected), rtol=1e-5)
            assert described(model) == table
            np.testing.assert_allclose(losses(model), expected, rtol=1e-5)
        elif step == "detach":
            detach(model)
            np.testing.assert_allclose(losses(model), bare, rtol=1e-5)
        else:
            names = selectors(model)
            regularizer = REGULARIZERS[pick % len(REGULARIZERS)]()
            attach(model, regularizer, layers=names[pick // len(REGULARIZERS) % len(names)])


@pytest.mark.one_backend
@hypothesis.settings(
    max_examples=30,
    deadline=None,
    derandomize=True,
    database=None,
    # The examples are short, and shrinking them further takes minutes.
    phases=[hypothesis.Phase.generate],
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
@hypothesis.given(
    strategies.lists(
        strategies.tuples(strategies.sampled_from(sorted(BLOCKS)), strategies.booleans()),
        min_size=1,
        max_size=3,
    ),
    strategies.lists(
        strategies.tuples(
            strategies.sampled_from(["attach", "detach", *COPIES]), strategies.integers(0, 63)
        ),
        min_size=4,
        max_size=8,
    ),
)
def test_what_is_attached_survives(tmp_path, blocks, steps):
    check(blocks, steps, tmp_path)


def test_a_sequence_on_every_backend(tmp_path):
    names = [name for name in ("cube", "reversible") if name in BLOCKS]
    steps = [("attach", 8), ("save", 0), ("attach", 1), ("clone", 0), ("detach", 0), ("json", 0)]
    check([(name, True) for name in names], steps, tmp_path)
