"""What `layers=` means."""

import re

import keras
import pytest
from keras import layers

from mhe.attach.selection import select

pytestmark = pytest.mark.usefixtures("weights_from_numpy")


def small():
    names = ("hidden", "middle", "logits")
    return keras.Sequential([keras.Input((4,)), *(layers.Dense(3, name=name) for name in names)])


def test_layers_selects():
    inputs = keras.Input((4,))
    hidden = layers.Embedding(9, 6, name="embedding")(inputs)
    hidden = layers.MultiHeadAttention(2, 3, name="attention")(hidden, hidden)
    hidden = layers.GroupQueryAttention(3, 4, 2, name="grouped")(hidden, hidden)
    hidden = layers.EinsumDense("abc,cd->abd", (None, 5), name="einsum")(hidden)
    hidden = layers.Bidirectional(layers.GRU(2, return_sequences=True), name="both")(hidden)
    model = keras.Model(inputs, layers.TimeDistributed(layers.Dense(3), name="each")(hidden))

    def chosen(which):
        return [weight.location for weight in select(model, which)]

    projections = [f"attention/{name}" for name in ("query", "key", "value", "attention_output")]
    assert len(chosen(None)) == 15
    assert chosen("einsum") == ["einsum"]
    assert chosen("attention") == projections
    assert chosen("each/dense") == chosen("each") == ["each/dense"]
    assert chosen("embedding/embeddings") == ["embedding"]
    assert chosen("^(embed|ein)") == ["embedding", "einsum"]
    assert chosen(r"recurrent_kernel$") == [
        "both/forward_gru/gru_cell",
        "both/backward_gru/gru_cell",
    ]
    assert chosen(layers.MultiHeadAttention) == projections
    assert len(chosen(layers.GRU)) == 4
    assert chosen(model.get_layer("each")) == ["each/dense"]
    assert chosen(lambda layer: layer.name == "key") == ["attention/key", "grouped/key"]
    assert chosen([layers.Embedding, "einsum"]) == ["embedding", "einsum"]
    assert len(chosen(re.compile("attention"))) == 5


@pytest.mark.parametrize(
    ("which", "message"),
    [
        ("absent", r"matches.* are: hidden, middle, logits\. Received: layers='absent'"),
        (["hidden", "absent"], r"No layer with neurons.*Received: layers='absent'"),
        ([], r"No layer with neurons.*Received: layers=\[\]"),
        ("(", r"regular expression.*Received: layers='\('"),
        (3, r"`layers` must be a name.*Received: layers=3"),
    ],
)
def test_what_selects_nothing_is_refused(which, message):
    with pytest.raises(ValueError, match=message):
        select(small(), which)


def test_models_without_neurons_are_refused():
    inputs = keras.Input((4,))
    with pytest.raises(ValueError, match=r"are: none\. Received: layers=None"):
        select(keras.Model(inputs, layers.ReLU()(inputs)), None)


def test_quantized_layers_are_refused_where_they_are_meant():
    model = small()
    model.get_layer("hidden").quantize("int8")
    with pytest.raises(ValueError, match="Received: the quantized layers hidden"):
        select(model, None)
    assert [weight.location for weight in select(model, ["middle", "logits"])] == [
        "middle",
        "logits",
    ]
