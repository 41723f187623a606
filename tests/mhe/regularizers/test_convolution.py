"""Orthogonal convolutions against the matrix of the convolution, in float64."""

import numpy as np
import pytest
from keras import ops

from mhe.regularizers import ConvOrthogonality, conv_orthogonality


def reference(kernel, strides):
    """Inner products of all filters at all shifts by the stride, an entry at a time."""
    height, width, _, filters = kernel.shape
    total = 0.0
    for i in range(filters):
        for j in range(filters):
            for down in range(-(height - 1), height):
                for right in range(-(width - 1), width):
                    if down % strides or right % strides:
                        continue
                    product = 0.0
                    for y in range(max(0, down), min(height, height + down)):
                        for x in range(max(0, right), min(width, width + right)):
                            product += kernel[y, x, :, i] @ kernel[y - down, x - right, :, j]
                    wanted = float(i == j and down == right == 0)
                    total += (product - wanted) ** 2
    return total


@pytest.mark.parametrize("strides", [1, 2])
def test_value_and_gradient(strides, value_and_gradient, reference_gradient):
    kernel = np.random.default_rng(0).normal(size=(3, 2, 2, 3)).astype("float32") / 3
    value, gradient = value_and_gradient(lambda x: conv_orthogonality(x, strides), kernel)
    assert value == pytest.approx(reference(kernel.astype("float64"), strides), rel=1e-4)
    expected = reference_gradient(lambda x: reference(x, strides), kernel)
    np.testing.assert_allclose(gradient, expected, atol=1e-3 * np.abs(expected).max())


def test_an_orthogonal_convolution_keeps_lengths():
    # A convolution of stride 2 with an orthonormal basis of 2×2 patches.
    basis = np.linalg.qr(np.random.default_rng(0).normal(size=(4, 4)))[0]
    kernel = basis.reshape(2, 2, 1, 4).astype("float32")
    assert float(ConvOrthogonality(strides=2)(kernel)) == pytest.approx(0, abs=1e-5)
    image = np.random.default_rng(1).normal(size=(1, 6, 6, 1)).astype("float32")
    turned = ops.conv(image, kernel, strides=2, padding="valid", data_format="channels_last")
    assert float(ops.sum(turned**2)) == pytest.approx(float(np.sum(image**2)), rel=1e-5)


def test_other_ranks():
    generator = np.random.default_rng(0)
    for shape in ((3, 2, 4), (2, 2, 2, 2, 3)):
        kernel = generator.normal(size=shape).astype("float32")
        assert float(conv_orthogonality(kernel)) > 0
