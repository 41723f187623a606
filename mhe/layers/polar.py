"""A value between two poles, read off the direction of an embedding."""

from typing import Any

import keras
from keras import ops

from mhe import checks
from mhe.directions import unit_vectors
from mhe.layers.head import Head
from mhe.types import Tensor


def polar_value(embeddings: Tensor, low: float, high: float) -> Tensor:
    """Returns the value that the cosine of an embedding with the first axis represents.

    The first axis e_1 is the pole of `high`, and -e_1 that of `low`:
    `low + (cos + 1) / 2 · (high - low)`.

    Args:
        embeddings: Tensor `(..., dims)` of any length. A zero embedding is halfway.
        low: The value at a cosine of -1.
        high: The value at a cosine of 1.

    Returns:
        A tensor `(..., 1)`: float64 for float64 embeddings, else float32.

    Example:

    >>> import numpy as np
    >>> embeddings = np.array([[2.0, 0.0], [0.0, 0.3], [-1.0, 0.0]], "float32")
    >>> np.asarray(polar_value(embeddings, low=1600, high=2000))
    array([[2000.], [1800.], [1600.]], dtype=float32)

    Reference:
        Mettes et al., Hyperspherical Prototype Networks, NeurIPS 2019
        ([arXiv:1901.10514](https://arxiv.org/abs/1901.10514)), on regression.
    """
    cosine = unit_vectors(embeddings)[..., :1]
    return low + (cosine + 1.0) / 2.0 * (high - low)


@keras.saving.register_keras_serializable(package="mhe")
class PolarHead(Head):
    """A value in [low, high], read off the cosine of an embedding with the first axis.

    The first axis is the pole of `high`, its opposite that of `low`; see `polar_value`. Values are
    computed and returned in float32 also under `mixed_float16` and `mixed_bfloat16`. A zero
    embedding is halfway, with a finite gradient. Train with `mhe.losses.PolarLoss`, and use
    `keras.metrics.MeanAbsoluteError` for errors in the units of the value. In a range that is
    narrow compared to its ends, such as [1e6, 1e6 + 1], float32 rounds values: shift them to 0.

    For joint training, put a `PrototypeHead` on the other axes of the same embedding: with the
    first among them, a value near a pole would keep the cosines of the classes low.

    Args:
        low: The value at the pole -e_1.
        high: The value at the pole e_1, more than `low`.
        dims: Size of an embedding, at least 2.
        **kwargs: `name`, `dtype` and `trainable`, as for every Keras layer.

    Raises:
        ValueError: If `low < high` does not hold, `dims` is not an integer >= 2, or embeddings have
            another size.

    Example:

    >>> import keras, mhe
    >>> import numpy as np
    >>> images = keras.Input((8,))
    >>> embedding = keras.layers.Dense(11)(images)
    >>> year = mhe.layers.PolarHead(low=1600, high=1950, dims=11, name="year")(embedding)
    >>> school = mhe.layers.PrototypeHead(np.eye(10), name="school")(embedding[:, 1:])
    >>> model = keras.Model(images, {"year": year, "school": school})

    Reference:
        Mettes et al., Hyperspherical Prototype Networks, NeurIPS 2019
        ([arXiv:1901.10514](https://arxiv.org/abs/1901.10514)), on regression and on both at once.
    """

    def __init__(self, low: float, high: float, dims: int, **kwargs: Any) -> None:
        checks.check_range(low, high)
        checks.check_count("dims", dims, 2)
        super().__init__(int(dims), 1, **kwargs)
        self.low = float(low)
        self.high = float(high)
        self.dims = int(dims)

    def call(self, inputs: Tensor) -> Tensor:
        """Embeddings `(..., dims)` → values `(..., 1)`."""
        return polar_value(ops.cast(inputs, self.output_dtype), self.low, self.high)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "low": self.low,
            "high": self.high,
            "dims": self.dims,
        }
