"""Smooth weights that are images."""

import math

import keras
from keras import ops

from mhe.precision import at_least_float32
from mhe.regularizers.base import Weighted
from mhe.types import Tensor


def total_variation(images: Tensor) -> Tensor:
    """The total variation of images: how much neighboring pixels differ.

    The sum of `|x[i+1, j] - x[i, j]|` and `|x[i, j+1] - x[i, j]|` over an image and its channels
    (the anisotropic form), averaged over the images. Equal neighbours have no gradient.

    Args:
        images: Tensor `(..., H, W, C)`.

    Returns:
        A scalar tensor: float64 for float64 images, else float32.

    Raises:
        ValueError: If there are fewer than three axes.

    Example:

    >>> import numpy as np
    >>> float(total_variation(np.array([[[[0.0], [1.0]], [[0.0], [3.0]]]], "float32")))
    6.0

    Reference:
        Rudin, Osher and Fatemi, Nonlinear total variation based noise removal algorithms,
        Physica D 60 (1992).
    """
    images = at_least_float32(images)
    if len(images.shape) < 3:
        raise ValueError(f"Images must be (..., H, W, C). Received: shape {tuple(images.shape)}")
    down = images[..., 1:, :, :] - images[..., :-1, :, :]
    right = images[..., 1:, :] - images[..., :-1, :]
    # The sign instead of `ops.absolute`, whose gradient at 0 is 1 on JAX.
    total = sum(ops.sum(each * ops.stop_gradient(ops.sign(each))) for each in (down, right))
    return total / math.prod(images.shape[:-3])


@keras.saving.register_keras_serializable(package="mhe")
class TotalVariation(Weighted):
    """Smooths weights that are images, `(..., H, W, C)`.

    Adds `strength` times `total_variation` to the loss: noise goes first, edges stay.

    Args:
        strength: Finite factor ≥ 0.

    Raises:
        ValueError: If the strength is not such a number; when called, if the weight has fewer than
            three axes.

    Example:

    >>> import keras, mhe
    >>> encoder = keras.layers.Flatten()
    >>> smooth = mhe.TotalVariation(1e-3)
    >>> head = mhe.layers.InputPrototypes(10, 3, encoder=encoder, prototypes_regularizer=smooth)
    >>> model = keras.Sequential([keras.Input((8, 8, 1)), head])
    >>> len(model.losses)
    1

    Reference:
        Rudin, Osher and Fatemi, Nonlinear total variation based noise removal algorithms,
        Physica D 60 (1992).
    """

    def value(self, x: Tensor) -> Tensor:
        """The total variation of the images `x`."""
        return total_variation(x)

    def __repr__(self) -> str:
        return f"TotalVariation({self.strength:g})"
