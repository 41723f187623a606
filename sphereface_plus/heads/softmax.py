"""What heads with a softmax loss share: from features to products, and the scale."""

import math
from typing import Any

import keras
from keras import ops

from mhe import checks
from mhe.layers import unit_vectors
from mhe.types import Tensor
from sphereface_plus.heads.base import MarginHead, lengths, true_class


def check_scale(scale: float | str, classes: int) -> float:
    """Returns the scale of a softmax over cosines, which may be chosen by the number of classes.

    Args:
        scale: s > 0, or `"auto"` for √2·log(classes - 1): a feature at π/4 from its class and at
            right angles to all others then has a probability of 1/2.
        classes: Number of classes.

    Raises:
        ValueError: If the scale is neither, or `"auto"` with 2 classes, for which the formula is 0.

    Example:

    >>> round(check_scale("auto", 10_575), 2)
    13.1
    >>> check_scale("auto", 2)
    Traceback (most recent call last):
    ValueError: `scale="auto"` needs at least 3 classes, as √2·log(classes - 1) is 0 for 2. \
Received: classes=2

    Reference:
        Zhang et al., AdaCos: adaptively scaling cosine logits for effectively learning deep face
        representations, CVPR 2019 ([arXiv:1905.00292](https://arxiv.org/abs/1905.00292)), its fixed
        scale.
    """
    if not isinstance(scale, str):
        checks.check_number("scale", scale, above=0)
        return float(scale)
    if scale != "auto":
        raise ValueError(f'`scale` must be a number > 0 or "auto". Received: scale={scale!r}')
    if classes == 2:
        raise ValueError(
            '`scale="auto"` needs at least 3 classes, as √2·log(classes - 1) is 0 for 2. '
            "Received: classes=2"
        )
    return math.sqrt(2) * math.log(classes - 1)


def check_angle(m: float, name: str = "m") -> None:
    """Raises a `ValueError` unless a margin in radians is in [0, π/2].

    Example:

    >>> check_angle(2.0)
    Traceback (most recent call last):
    ValueError: `m` must be at most π/2, in radians. Received: m=2.0
    """
    checks.check_number(name, m, least=0)
    if m > math.pi / 2:
        raise ValueError(f"`{name}` must be at most π/2, in radians. Received: {name}={m!r}")


class SoftmaxHead(MarginHead):
    """Base class of heads whose loss is a softmax cross-entropy over the classes.

    Subclasses define `logits(products, features, labels, training)`, and override `directions` if
    they keep the length of features.

    With `interclass_filtering_threshold` other classes that are closer to a feature than that
    cosine count as at a right angle, without gradient: they may be the same person under another
    name, as in sets that were collected automatically. It acts where labels are given.

    Args:
        classes: Number of classes, at least 2.
        interclass_filtering_threshold: The cosine above which other classes are left out, in
            (0, 1), or None.
        **kwargs: `kernel_initializer`, `kernel_regularizer`, `energy`, `energy_over` and
            `subcenters`, see `MarginHead`, and Keras's own.

    Raises:
        ValueError: If an argument is out of range.

    Reference:
        An et al., Killing two birds with one stone: efficient and robust training of face
        recognition CNNs by Partial FC, CVPR 2022
        ([arXiv:2203.15565](https://arxiv.org/abs/2203.15565)), on conflicts between classes; the
        threshold is InsightFace's.
    """

    def __init__(
        self,
        classes: int,
        interclass_filtering_threshold: float | None = None,
        **kwargs: Any,
    ) -> None:
        checks.check_number(
            "interclass_filtering_threshold",
            interclass_filtering_threshold,
            above=0,
            below=1,
            optional=True,
        )
        super().__init__(classes, **kwargs)
        self.interclass_filtering_threshold = interclass_filtering_threshold

    def directions(self, features: Tensor) -> Tensor:
        """What class vectors are multiplied with, `(B, dims)`: unit features, for cosines."""
        return unit_vectors(features)

    def moving_average(self, name: str, start: float) -> keras.Variable:
        """Adds a scalar that `move` moves, and that is saved with the weights."""
        return self.add_weight(
            name=name,
            shape=(),
            dtype=self.output_dtype,
            initializer=keras.initializers.Constant(start),
            trainable=False,
            autocast=False,
            aggregation="mean",
        )

    def move(self, average: keras.Variable, value: Tensor, momentum: float) -> None:
        """Moves an average towards a value: momentum·average + (1 - momentum)·value."""
        value = ops.cast(ops.stop_gradient(value), average.dtype)
        average.assign(momentum * average + (1.0 - momentum) * value)

    def logits(
        self, products: Tensor, features: Tensor, labels: Tensor | None, training: bool | None
    ) -> Tensor:
        """Products of `directions` with unit class vectors → logits of the same shape.

        Args:
            products: Tensor `(B, n)`, where n may be less than the number of classes.
            features: Tensor `(B, dims)` of at least float32.
            labels: The column of the true class, integers `(B,)`, or None for no margin.
            training: Whether this is a training step.
        """
        raise NotImplementedError

    def call(
        self, features: Tensor, labels: Tensor | None = None, training: bool | None = None
    ) -> Tensor:
        """Features `(B, dims)`, and labels `(B,)` for the margin → logits `(B, classes)`."""
        features = ops.cast(features, self.output_dtype)
        vectors = self.directions(features)
        products = self.products(vectors, self.kernel)
        return self.logits(self._filtered(products, vectors, labels), features, labels, training)

    def _filtered(self, products: Tensor, vectors: Tensor, labels: Tensor | None) -> Tensor:
        """Products with 0 for other classes that are too close."""
        threshold = self.interclass_filtering_threshold
        if threshold is None or labels is None:
            return products
        _, is_true = true_class(labels, products)
        is_close = products > threshold * lengths(vectors)[:, None]
        return ops.where(ops.logical_and(is_close, ops.logical_not(is_true)), 0.0, products)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "interclass_filtering_threshold": self.interclass_filtering_threshold,
        }
