"""What keeps weights that are images looking like images: smooth, near given ones, within range."""

import base64
import math
import zlib
from typing import Any

import keras
import numpy as np
from keras import ops

from mhe import energy
from mhe.precision import at_least_float32

# As many similarities of weights and given images are held at once (64 MiB).
_BLOCK = 2**24


def total_variation(images: Any) -> Any:
    """The total variation of images: how much neighbouring pixels differ.

    The sum over an image of |x[i+1, j] - x[i, j]| and |x[i, j+1] - x[i, j]|, over its channels too
    (the anisotropic form); the mean of that over the images. Equal neighbours have no gradient.

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
    # By the sign and not `ops.absolute`, whose gradient at 0 is 1 on JAX.
    total = sum(ops.sum(each * ops.stop_gradient(ops.sign(each))) for each in (down, right))
    return total / math.prod(images.shape[:-3])


def nearest_images(
    pictures: Any, images: np.ndarray, labels: np.ndarray | None = None
) -> tuple[Any, Any]:
    """Which of given images is nearest to every picture, pixel by pixel, and how near it is.

    The nearest is found by a matrix product, in blocks of given images; the squared distance to it
    comes from the differences, and keeps its digits near 0. Its gradient is that of the distance to
    the image that was found.

    Args:
        pictures: Tensor `(P, *shape)`; with labels `(classes, ..., *shape)`.
        images: Array `(N, *shape)`.
        labels: The class of each image, `(N,)`: a picture then is compared with the images of its
            own class. None compares with all.

    Returns:
        Index int32 and squared distance of the nearest image, `(P,)` or `(classes, ...)`.

    Raises:
        ValueError: If the shapes do not fit, or a class has no image.

    Example:

    >>> import numpy as np
    >>> images = np.array([[0.0, 0.0], [3.0, 4.0]], "float32")
    >>> index, squares = nearest_images(np.array([[3.0, 3.0]], "float32"), images)
    >>> np.asarray(index), np.asarray(squares)
    (array([1], dtype=int32), array([1.], dtype=float32))
    """
    pictures = at_least_float32(pictures)
    shape, leading = (
        images.shape[1:],
        tuple(pictures.shape[: len(pictures.shape) - images.ndim + 1]),
    )
    if len(images) == 0 or not leading or tuple(pictures.shape) != (*leading, *shape):
        raise ValueError(
            "Pictures must have the shape of the images they are compared with, of which there "
            f"must be one. Received: {tuple(pictures.shape)} and images {images.shape}"
        )
    count = math.prod(leading)
    rows = ops.reshape(pictures, (count, math.prod(shape)))
    flat = images.reshape(len(images), -1)
    # What all images have in common would only cost the products digits.
    middle = flat.mean(axis=0)
    centred = flat - middle
    # Half the squared distance to each, but for a term that is the picture's own.
    offsets = np.broadcast_to(0.5 * np.sum(np.square(centred), axis=1), (count, len(flat)))
    if labels is not None:
        own = np.repeat(np.arange(leading[0]), count // leading[0])
        lacking = np.setdiff1d(own, labels)
        if lacking.size:
            raise ValueError(f"Every class needs an image. Received: none of class {lacking[0]}")
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
class TotalVariation(keras.regularizers.Regularizer):
    """Smooths weights that are images, `(..., H, W, C)`.

    Adds `strength` times `total_variation` to the loss: noise goes first, edges stay.

    Args:
        strength: Finite factor ≥ 0.

    Raises:
        ValueError: If the strength is no such number; when called, if the weight is no images.

    Example:

    >>> import keras, mhe
    >>> encoder = keras.layers.Flatten()
    >>> smooth = mhe.TotalVariation(1e-3)
    >>> head = mhe.layers.InputPrototypes(10, 3, encoder=encoder, prototypes_regularizer=smooth)

    Reference:
        Rudin, Osher and Fatemi, Nonlinear total variation based noise removal algorithms,
        Physica D 60 (1992).
    """

    def __init__(self, strength: float = 1.0) -> None:
        energy.check_strength(strength)
        self.strength = float(strength)

    def __call__(self, x: Any) -> Any:
        """Strength times the total variation of images `x`, a scalar of Keras's `floatx`."""
        return ops.cast(self.strength * total_variation(x), keras.config.floatx())

    def get_config(self) -> dict[str, Any]:
        return {"strength": self.strength}

    def __repr__(self) -> str:
        return f"TotalVariation({self.strength:g})"


@keras.saving.register_keras_serializable(package="mhe")
class NearestImagePull(keras.regularizers.Regularizer):
    """Pulls weights that are images toward the nearest of given images.

    Adds `strength` times the mean over the weight's images of the squared distance to the nearest
    given one, as `nearest_images` finds it. The images travel with the config, as the very bits of
    their float32 numbers: of many, give some.

    Args:
        images: `(N, *shape)`, in the scale that the weight's images have.
        strength: Finite factor ≥ 0.
        labels: The class of each image, `(N,)`, for a weight `(classes, ..., *shape)`: each is
            pulled toward the images of its own class. None pulls toward all.

    Raises:
        ValueError: If an argument is not one of the above, or an image is not finite; when called,
            if the weight's images have another shape, or a class has no image.

    Example:

    >>> import numpy as np
    >>> import keras, mhe
    >>> pull = mhe.NearestImagePull(np.zeros((5, 8, 8, 1)), strength=0.1)
    >>> encoder = keras.layers.Flatten()
    >>> head = mhe.layers.InputPrototypes(10, 3, encoder=encoder, prototypes_regularizer=pull)
    """

    def __init__(self, images: Any, strength: float = 1.0, labels: Any = None) -> None:
        energy.check_strength(strength)
        self.images = np.asarray(ops.convert_to_numpy(images)).astype(np.float32)
        if self.images.ndim < 2 or len(self.images) == 0:
            raise ValueError(
                f"`images` must be (N, *shape), at least one. Received: shape {self.images.shape}"
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
                f"`labels` must be integers ({len(self.images)},), one an image. "
                f"Received: {self.labels.dtype} of shape {self.labels.shape}"
            )
        self.strength = float(strength)

    def __call__(self, x: Any) -> Any:
        """Strength times the mean squared distance, a scalar of Keras's `floatx`."""
        _, squares = nearest_images(x, self.images, self.labels)
        return ops.cast(self.strength * ops.mean(squares), keras.config.floatx())

    def get_config(self) -> dict[str, Any]:
        bits = zlib.compress(self.images.astype("<f4").tobytes())
        return {
            "images": {
                "shape": list(self.images.shape),
                "zlib_base64_float32": base64.b64encode(bits).decode("ascii"),
            },
            "strength": self.strength,
            "labels": None if self.labels is None else self.labels.tolist(),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "NearestImagePull":
        stored = config["images"]
        bits = zlib.decompress(base64.b64decode(stored["zlib_base64_float32"]))
        return cls(**{**config, "images": np.frombuffer(bits, "<f4").reshape(stored["shape"])})

    def __repr__(self) -> str:
        return f"NearestImagePull({len(self.images)} images, {self.strength:g})"
