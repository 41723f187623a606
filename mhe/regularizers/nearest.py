"""Weights that are images, pulled toward given images."""

import math
from typing import Any

import keras
import numpy as np
from keras import ops

from mhe.precision import at_least_float32
from mhe.regularizers.base import Weighted
from mhe.serialization import array_from_config, array_to_config
from mhe.types import Tensor

# The number of similarities between weights and given images computed at once (64 MiB).
_BLOCK = 2**24


def nearest_images(
    pictures: Tensor, images: np.ndarray, labels: np.ndarray | None = None
) -> tuple[Tensor, Tensor]:
    """Finds the given image nearest to each picture, pixel by pixel, and its squared distance.

    A matrix product finds the nearest, in blocks of given images; the squared distance to it comes
    from the differences, so it keeps its digits near 0. The gradient is that of the distance to the
    image found.

    Args:
        pictures: Tensor `(P, *shape)`; with labels `(classes, ..., *shape)`.
        images: Array `(N, *shape)`.
        labels: The class of each image, `(N,)`, to compare pictures with the images of their own
            class only. None compares with all.

    Returns:
        Index int32 and squared distance of the nearest image, `(P,)` or `(classes, ...)`.

    Raises:
        ValueError: If the shapes do not match, or a class has no image.

    Example:

    >>> import numpy as np
    >>> images = np.array([[0.0, 0.0], [3.0, 4.0]], "float32")
    >>> index, squares = nearest_images(np.array([[3.0, 3.0]], "float32"), images)
    >>> np.asarray(index), np.asarray(squares)
    (array([1], dtype=int32), array([1.], dtype=float32))
    """
    pictures = at_least_float32(pictures)
    shape = images.shape[1:]
    leading = tuple(pictures.shape[: len(pictures.shape) - len(shape)])
    if len(images) == 0 or not leading or tuple(pictures.shape) != (*leading, *shape):
        raise ValueError(
            "Pictures must have the shape of the images they are compared with, and there must be "
            f"at least one image. Received: {tuple(pictures.shape)} and images {images.shape}"
        )
    count = math.prod(leading)
    rows = ops.reshape(pictures, (count, math.prod(shape)))
    flat = images.reshape(len(images), -1)
    # What all images have in common would only cost digits in the products.
    middle = flat.mean(axis=0)
    centred = flat - middle
    # Half the squared distance to each image, up to a term of the picture alone.
    offsets = np.broadcast_to(0.5 * np.sum(np.square(centred), axis=1), (count, len(flat)))
    if labels is not None:
        own = np.repeat(np.arange(leading[0]), count // leading[0])
        missing = np.setdiff1d(own, labels)
        if missing.size:
            raise ValueError(f"Every class needs an image. Received: none of class {missing[0]}")
        offsets = np.where(own[:, None] == np.asarray(labels), offsets, np.inf)
    fixed = ops.stop_gradient(rows) - ops.convert_to_tensor(middle, rows.dtype)
    least, places = [], []
    height = max(1, _BLOCK // count)
    for top in range(0, len(flat), height):
        block = slice(top, top + height)
        given = ops.convert_to_tensor(centred[block].T, rows.dtype)
        scores = ops.convert_to_tensor(offsets[:, block], rows.dtype) - ops.matmul(fixed, given)
        least.append(ops.min(scores, axis=1))
        places.append(ops.cast(ops.argmin(scores, axis=1), "int32") + top)
    winner = ops.argmin(ops.stack(least, axis=1), axis=1)
    index = ops.take_along_axis(ops.stack(places, axis=1), winner[:, None], axis=1)[:, 0]
    chosen = ops.take(ops.convert_to_tensor(flat, rows.dtype), index, axis=0)
    squares = ops.sum(ops.square(rows - chosen), axis=1)
    return ops.reshape(index, leading), ops.reshape(squares, leading)


@keras.saving.register_keras_serializable(package="mhe")
class NearestImagePull(Weighted):
    """Pulls weights that are images toward the nearest of given images.

    Adds `strength` times the mean, over the weight's images, of the squared distance to the nearest
    given one, see `nearest_images`. The config holds the images, exact in float32, so give a
    selection rather than a whole data set.

    Args:
        images: `(N, *shape)`, on the scale of the weight's images.
        strength: Finite factor ≥ 0.
        labels: The class of each image, `(N,)`, to pull a weight `(classes, ..., *shape)` toward
            images of its own classes only. None pulls toward all.

    Raises:
        ValueError: If an argument is not one of the above, or an image is not finite; when called,
            if the weight's images have another shape, or a class has no image.

    Example:

    >>> import numpy as np
    >>> import keras, mhe
    >>> pull = mhe.NearestImagePull(np.zeros((5, 8, 8, 1)), strength=0.1)
    >>> encoder = keras.layers.Flatten()
    >>> head = mhe.layers.InputPrototypes(10, 3, encoder=encoder, prototypes_regularizer=pull)
    >>> model = keras.Sequential([keras.Input((8, 8, 1)), head])
    >>> len(model.losses)
    1
    """

    def __init__(self, images: Tensor, strength: float = 1.0, labels: Tensor = None) -> None:
        super().__init__(strength)
        self.images = np.asarray(ops.convert_to_numpy(images)).astype(np.float32)
        if self.images.ndim < 2 or len(self.images) == 0:
            raise ValueError(
                "`images` must be (N, *shape) with at least one image. "
                f"Received: shape {self.images.shape}"
            )
        wrong = ~np.isfinite(self.images).reshape(len(self.images), -1).all(axis=1)
        if wrong.any():
            raise ValueError(
                f"`images` must be finite. Received: image {int(np.argmax(wrong))} is not"
            )
        self.labels = None if labels is None else np.asarray(labels)
        if self.labels is not None and (
            self.labels.shape != self.images.shape[:1]
            or not np.issubdtype(self.labels.dtype, np.integer)
        ):
            raise ValueError(
                f"`labels` must be integers ({len(self.images)},), one per image. "
                f"Received: {self.labels.dtype} of shape {self.labels.shape}"
            )

    def value(self, x: Tensor) -> Tensor:
        """The mean squared distance of the images `x` to the nearest given ones."""
        _, squares = nearest_images(x, self.images, self.labels)
        return ops.mean(squares)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "images": array_to_config(self.images),
            "labels": None if self.labels is None else self.labels.tolist(),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "NearestImagePull":
        return cls(**{**config, "images": array_from_config(config["images"])})

    def __repr__(self) -> str:
        return f"NearestImagePull({len(self.images)} images, {self.strength:g})"
