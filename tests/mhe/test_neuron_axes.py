"""Which axes count neurons, for each type of layer."""

import keras
import pytest
from keras import layers

from mhe.neuron_axes import neuron_kernels

pytestmark = pytest.mark.one_backend


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        (layers.Dense(3), {"kernel": -1, "recurrent_kernel": -1}),
        (layers.Conv2D(3, 2), {"kernel": -1, "recurrent_kernel": -1}),
        (layers.LSTMCell(3), {"kernel": -1, "recurrent_kernel": -1}),
        (layers.Conv3DTranspose(3, 2), {"kernel": -2}),
        (layers.DepthwiseConv1D(2), {"kernel": (-2, -1)}),
        (
            layers.SeparableConv1D(3, 2),
            {"depthwise_kernel": (-2, -1), "pointwise_kernel": -1},
        ),
        (layers.Embedding(3, 2), {"embeddings": 0, "reverse_embeddings": -1}),
        (layers.EinsumDense("abc,cd->abd", 3), {"kernel": -1}),
        (layers.EinsumDense("abc,cde->abde", (3, 4)), {"kernel": (-2, -1)}),
        (layers.EinsumDense("abcd,cde->abe", 3), {"kernel": -1}),
        (layers.EinsumDense("abc,c->abc", 3), {"kernel": None}),
        (layers.EinsumDense("abc,c->ab", 3), {"kernel": None}),
    ],
    ids=lambda each: each.name if isinstance(each, keras.layers.Layer) else "",
)
def test_axes(layer, expected):
    kernels = neuron_kernels(layer)
    assert {each.name: each.axis for each in kernels} == expected
    for each in kernels:
        assert each.axes == {None: (), -1: (-1,), -2: (-2,), 0: (0,)}.get(each.axis, each.axis)


def test_subclasses_and_regularizers():
    class Wide(layers.DepthwiseConv2D):
        pass

    (kernel,) = neuron_kernels(Wide(3))
    assert (kernel.axis, kernel.regularizer) == ((-2, -1), "depthwise_regularizer")
    for layer in (layers.Dense(2), layers.SeparableConv2D(2, 2), layers.Conv2DTranspose(2, 2)):
        for each in neuron_kernels(layer):
            assert hasattr(layer, each.regularizer) or each.name == "recurrent_kernel"
