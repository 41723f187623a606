"""Convolutions whose own operator is orthogonal, rather than the matrix of their kernel."""

from typing import Any

import keras
from keras import ops

from mhe.checks import check_count
from mhe.precision import at_least_float32
from mhe.regularizers.base import Weighted
from mhe.types import Tensor


def conv_orthogonality(kernel: Tensor, strides: int = 1) -> Tensor:
    """How far the rows of a convolution's matrix are from orthonormal, ‖conv(K, K) - I‖².

    The convolution of the kernel with itself holds the inner products of each filter with every
    other at every shift by multiples of the stride at which they overlap. It should be 1 for a
    filter with itself, unshifted, and 0 elsewhere.

    Args:
        kernel: A kernel `(*window, channels, filters)` of one to three spatial dimensions.
        strides: The stride in every spatial dimension, at least 1.

    Returns:
        A scalar tensor.

    Raises:
        ValueError: If the kernel has another rank, or `strides` is not such a number.

    Example:

    >>> import numpy as np
    >>> kernel = np.zeros((3, 3, 1, 2), "float32")
    >>> kernel[1, 1, 0, 0] = kernel[1, 2, 0, 1] = 1.0  # the same filter, shifted by one
    >>> float(conv_orthogonality(kernel)), float(conv_orthogonality(kernel, strides=2))
    (2.0, 0.0)
    """
    check_count("strides", strides, 1)
    kernel = at_least_float32(kernel)
    spatial = len(kernel.shape) - 2
    if spatial not in (1, 2, 3):
        raise ValueError(
            "ConvOrthogonality is for kernels (*window, channels, filters) of one to three spatial "
            f"dimensions. Received: shape={tuple(kernel.shape)}"
        )
    # Shifts by multiples of the stride, as far as two filters overlap.
    margins = [(size - 1) // strides * strides for size in kernel.shape[:spatial]]
    images = ops.transpose(kernel, (spatial + 1, *range(spatial), spatial))
    images = ops.pad(images, ((0, 0), *((margin, margin) for margin in margins), (0, 0)))
    products = ops.conv(
        images, kernel, strides=strides, padding="valid", data_format="channels_last"
    )
    # The filters' own, unshifted products lie in the middle; their squares are replaced.
    norms = ops.sum(ops.square(kernel), axis=tuple(range(spatial + 1)))
    total = ops.sum(ops.square(products)) - ops.sum(ops.square(norms))
    return total + ops.sum(ops.square(norms - 1.0))


@keras.saving.register_keras_serializable(package="mhe")
class ConvOrthogonality(Weighted):
    """Orthogonal convolutional neural networks: pulls a convolution toward an orthogonal operator.

    See `conv_orthogonality`. For layers of the kinds Conv1D, Conv2D and Conv3D, without dilation;
    give it the stride of the layer.

    Args:
        strength: Finite factor ≥ 0; the published one is 0.1.
        strides: The stride of the layer in every dimension, at least 1.

    Raises:
        ValueError: If an argument is not one of the above; when called on anything but a kernel of
            a convolution.

    Example:

    >>> import keras, mhe
    >>> regularizer = mhe.regularizers.ConvOrthogonality(0.1, strides=2)
    >>> layer = keras.layers.Conv2D(8, 3, strides=2, kernel_regularizer=regularizer)
    >>> layer.build((None, 5, 5, 4))
    >>> len(layer.losses)
    1

    Reference:
        Wang et al., Orthogonal convolutional neural networks, CVPR 2020
        ([arXiv:1911.12207](https://arxiv.org/abs/1911.12207)), section 3.3.
    """

    def __init__(self, strength: float = 1.0, strides: int = 1) -> None:
        super().__init__(strength)
        check_count("strides", strides, 1)
        self.strides = strides

    def value(self, x: Tensor) -> Tensor:
        """The distance of the convolution with kernel `x` from an orthogonal one."""
        return conv_orthogonality(x, self.strides)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "strides": self.strides}

    def __repr__(self) -> str:
        return f"ConvOrthogonality({self.strength:g}, strides={self.strides})"
