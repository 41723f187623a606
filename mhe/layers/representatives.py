"""Several representatives per class: distances to them, and the resulting probabilities."""

from typing import Any

import keras
from keras import ops

from mhe import checks
from mhe.layers.distance import distances
from mhe.layers.head import Head, initial_value
from mhe.neuron_axes import NeuronKernel
from mhe.precision import at_least_float32
from mhe.serialization import array_from_config, array_to_config
from mhe.types import Tensor

# For an embedding that equals a representative, the background has probability 0 and an infinite
# logarithm. Squared distances count as at least this fraction of 2σ².
_NEAREST = 1e-6


def mixture_posterior(squared_distances: Tensor, sigma: float = 0.5) -> Tensor:
    """Returns the probability of each class in a mixture of Gaussians around representatives.

    p(i) = Σ_j exp(-d²_ij/(2σ²)) / Σ_i Σ_j exp(-d²_ij/(2σ²)).

    Args:
        squared_distances: Tensor `(..., classes, per_class)`, as `Representatives` returns it.
        sigma: σ > 0, the standard deviation of the Gaussian around each representative.

    Returns:
        A tensor `(..., classes)` that sums to 1: float64 for float64 distances, else float32.

    Raises:
        ValueError: If σ is not a finite number > 0.

    Example:

    >>> import numpy as np
    >>> squares = np.array([[[0.0, 9.0], [1.0, 1.0]]], "float32")
    >>> np.asarray(mixture_posterior(squares, sigma=1.0)).round(3)
    array([[0.455, 0.545]], dtype=float32)

    Reference:
        Karlinsky et al., RepMet: Representative-based metric learning for classification and
        few-shot object detection, CVPR 2019 ([arXiv:1806.04728](https://arxiv.org/abs/1806.04728)),
        on classification.
    """
    exponents = _exponents(squared_distances, sigma)
    # Only their differences count, which are exact; far from all representatives, logarithms of
    # sums would not be.
    exponents = exponents - ops.stop_gradient(ops.max(exponents, axis=(-2, -1), keepdims=True))
    return ops.softmax(ops.logsumexp(exponents, axis=-1), axis=-1)


def background_probability(squared_distances: Tensor, sigma: float = 0.5) -> Tensor:
    """Returns the probability that a region shows no class: 1 - max_ij exp(-d²_ij/(2σ²)).

    Args:
        squared_distances: Tensor `(..., classes, per_class)`, as `Representatives` returns it.
        sigma: σ > 0, the standard deviation of the Gaussian around each representative.

    Returns:
        A tensor `(...)`: float64 for float64 distances, else float32.

    Raises:
        ValueError: If σ is not a finite number > 0.

    Example:

    >>> import numpy as np
    >>> squares = np.array([[[0.0, 9.0], [1.0, 1.0]], [[8.0, 9.0], [2.0, 4.0]]], "float32")
    >>> np.asarray(background_probability(squares, sigma=1.0)).round(3)
    array([0.   , 0.632], dtype=float32)

    Reference:
        Karlinsky et al., RepMet: Representative-based metric learning for classification and
        few-shot object detection, CVPR 2019 ([arXiv:1806.04728](https://arxiv.org/abs/1806.04728)),
        equation 3.
    """
    return -ops.expm1(ops.max(_exponents(squared_distances, sigma), axis=(-2, -1)))


def region_logits(squared_distances: Tensor, sigma: float = 0.5) -> Tensor:
    """Returns logits of each class, and last of background, for the regions of a detector.

    Their exponentials are max_j exp(-d²_ij/(2σ²)) for class i, and `background_probability`; their
    softmax, as in cross-entropy, is what a detector trains on and scores with. The logarithm of the
    background stays finite if an embedding equals a representative.

    Args:
        squared_distances: Tensor `(..., classes, per_class)`, as `Representatives` returns it.
        sigma: σ > 0, the standard deviation of the Gaussian around each representative.

    Returns:
        A tensor `(..., classes + 1)`: float64 for float64 distances, else float32.

    Raises:
        ValueError: If σ is not a finite number > 0.

    Example:

    >>> import numpy as np
    >>> squares = np.array([[[8.0, 9.0], [2.0, 4.0]]], "float32")
    >>> np.exp(np.asarray(region_logits(squares, sigma=1.0))).round(3)
    array([[0.018, 0.368, 0.632]], dtype=float32)

    Reference:
        Karlinsky et al., RepMet: Representative-based metric learning for classification and
        few-shot object detection, CVPR 2019 ([arXiv:1806.04728](https://arxiv.org/abs/1806.04728)),
        equations 2 and 3.
    """
    of_classes = ops.max(_exponents(squared_distances, sigma), axis=-1)
    nearest = ops.minimum(ops.max(of_classes, axis=-1, keepdims=True), -_NEAREST)
    return ops.concatenate([of_classes, ops.log(-ops.expm1(nearest))], axis=-1)


@keras.saving.register_keras_serializable(package="mhe")
class Representatives(Head):
    """Squared distances of an embedding to several learnt representatives of each class.

    They come from one matrix product, in float32 also under `mixed_float16` and `mixed_bfloat16`;
    see `mhe.layers.distances`. Train with `mhe.losses.RepMetLoss`; `mixture_posterior`,
    `background_probability` and `region_logits` turn the distances into probabilities.

    For classes that were not trained on, replace the trained head with one made of a few embeddings
    per class: `Representatives(5, shots, dims, representatives=embeddings)`. The rest of the
    network does not change.

    Args:
        classes: Number of classes, at least 2.
        per_class: Representatives per class.
        dims: Size of an embedding.
        representatives: Initial representatives `(classes, per_class, dims)`, or None to draw
            them. With `trainable=False` they stay fixed.
        representatives_initializer: Draws representatives if none are given.
        **kwargs: `name`, `dtype` and `trainable`, as for every Keras layer.

    Attributes:
        representatives: The weight `(classes, per_class, dims)`, float32 unless the policy is
            float64.

    Raises:
        ValueError: If an argument is not as described, representatives have another shape or are
            not finite, or embeddings have another size.

    Example:

    >>> import keras, mhe
    >>> import numpy as np
    >>> few = np.array([[[0.0, 0.0], [0.0, 1.0]], [[3.0, 4.0], [3.0, 3.0]]])  # two of each class
    >>> head = mhe.layers.Representatives(2, 2, 2, representatives=few)
    >>> keras.ops.convert_to_numpy(head(np.array([[0.0, 0.0]], "float32"))).round(4)
    array([[[ 0.,  1.],
            [25., 18.]]], dtype=float32)
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2), head])
    >>> model.compile("sgd", mhe.losses.RepMetLoss())

    Reference:
        Karlinsky et al., RepMet: Representative-based metric learning for classification and
        few-shot object detection, CVPR 2019 ([arXiv:1806.04728](https://arxiv.org/abs/1806.04728)).
    """

    NEURONS = (NeuronKernel("representatives", (0, 1), None),)

    def __init__(
        self,
        classes: int,
        per_class: int,
        dims: int,
        representatives: Any = None,
        representatives_initializer: Any = "glorot_uniform",
        **kwargs: Any,
    ) -> None:
        checks.check_count("classes", classes, 2)
        checks.check_count("per_class", per_class, 1)
        checks.check_count("dims", dims, 1)
        super().__init__(int(dims), int(classes), **kwargs)
        self.classes = int(classes)
        self.per_class = int(per_class)
        self.dims = int(dims)
        self.representatives_initializer = keras.initializers.get(representatives_initializer)
        shape = (self.classes, self.per_class, self.dims)
        initializer, self._given = self._drawn, None
        if representatives is not None:
            self._given = checks.check_finite_array(
                "representatives",
                ops.convert_to_numpy(representatives),
                shape,
                "(classes, per_class, dims)",
            )
            initializer = initial_value(self._given)
        self.representatives = self.add_weight(
            name="representatives",
            shape=shape,
            dtype=self.output_dtype,
            initializer=initializer,
            autocast=False,
        )

    def call(self, inputs: Tensor) -> Tensor:
        """Embeddings `(..., dims)` → squared distances `(..., classes, per_class)`."""
        inputs = ops.cast(inputs, self.output_dtype)
        rows = ops.reshape(self.representatives, (-1, self.dims))
        squares = distances(inputs, rows, "squared")
        return ops.reshape(squares, (*ops.shape(inputs)[:-1], self.classes, self.per_class))

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return (*input_shape[:-1], self.classes, self.per_class)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "classes": self.classes,
            "per_class": self.per_class,
            "dims": self.dims,
            "representatives": None if self._given is None else array_to_config(self._given),
            "representatives_initializer": keras.initializers.serialize(
                self.representatives_initializer
            ),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Representatives":
        stored = config["representatives"]
        return super().from_config(
            {**config, "representatives": None if stored is None else array_from_config(stored)}
        )

    def _drawn(self, shape: tuple[int, ...], dtype: Any = None) -> Tensor:
        # As the matrix in which they are multiplied, which determines the fans of an initializer.
        rows = (self.classes * self.per_class, self.dims)
        return ops.reshape(self.representatives_initializer(rows, dtype=dtype), shape)


def _exponents(squared_distances: Tensor, sigma: float) -> Tensor:
    checks.check_number("sigma", sigma, above=0)
    return at_least_float32(squared_distances) / (-2.0 * sigma**2)
