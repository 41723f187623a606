"""What heads with a softmax loss share: from features to products, and the scale."""

import math
from typing import Any

import keras
from keras import ops

from mhe import checks
from mhe.energy.potential import Variant
from mhe.labels import check_readable, read_labels
from mhe.layers import unit_vectors
from mhe.losses.targets import of_class
from mhe.types import Tensor
from sphereface_plus.heads.base import MarginHead, lengths
from sphereface_plus.heads.batch_energies import products_and_energies
from sphereface_plus.heads.drawn import draw_classes, drawn_vectors
from sphereface_plus.heads.logits import apart, class_losses, known_classes, together

# The logit of what is not among the classes: a softmax gives it nothing.
_NEVER = -1e30


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

    With `sample=share` a training step looks at a share of the classes only (Partial FC): at those
    of the batch, and at others drawn afresh, round(share·classes) in all. Logits with labels and
    `training=True` are then `(B, 1 + round(share·classes))`: the true class, and the classes drawn,
    of which a sample's own has no weight. Only `head.loss` knows what they mean, so the model must
    be compiled without a loss. Loss and gradient are exactly those of a softmax over these classes;
    the others get none. Everything else, evaluation with labels too, sees all classes. A share that
    leaves out at most one class is the full softmax. If a batch has more classes than are drawn,
    some of them are, and each sample still has its own.

    Args:
        classes: Number of classes, at least 2.
        sample: The share of the classes that a training step looks at, in (0, 1], or None for all.
        seed: Seed of the draws, an int >= 0; None for a random one. As of any Keras layer that
            draws, the state of its generator is a variable, but is not saved.
        interclass_filtering_threshold: The cosine above which other classes count as at a right
            angle, in (0, 1), or None.
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
        sample: float | None = None,
        seed: int | None = None,
        interclass_filtering_threshold: float | None = None,
        **kwargs: Any,
    ) -> None:
        checks.check_number("sample", sample, above=0, optional=True)
        if sample is not None and sample > 1:
            raise ValueError(
                "`sample` must be None or a share of the classes, > 0 and <= 1. "
                f"Received: sample={sample!r}"
            )
        checks.check_count("seed", seed, 0, optional=True)
        checks.check_number(
            "interclass_filtering_threshold",
            interclass_filtering_threshold,
            above=0,
            below=1,
            optional=True,
        )
        super().__init__(classes, **kwargs)
        if sample is not None and self.energy is not None and self.energy_over == "batch":
            raise ValueError(
                '`energy_over="batch"` takes all classes, so the head must not sample. '
                f"Received: sample={sample!r}"
            )
        self.sample = None if sample is None else float(sample)
        self.seed = seed
        self.interclass_filtering_threshold = interclass_filtering_threshold
        count = classes if sample is None else max(1, round(sample * classes))
        self._drawn = None if count >= classes - 1 else count
        if self._drawn is not None:
            self.seed_generator = keras.random.SeedGenerator(seed)

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        super().build(input_shape)
        # `LazyOptimizer` looks for it.
        self.kernel.drawn_by_column = self.sample is not None

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
        if labels is not None and training and self._drawn is not None:
            return self._sampled(features, vectors, labels, self._drawn)
        products = self.products(vectors, self.kernel)
        return self.logits(self._filtered(products, vectors, labels), features, labels, training)

    def _sampled(self, features: Tensor, vectors: Tensor, labels: Tensor, count: int) -> Tensor:
        """Logits of the true class and of the classes drawn, `(B, 1 + drawn)`."""
        index, known, _ = read_labels(labels, features, self.classes)
        drawn = draw_classes(index, self.classes, count, self.seed_generator)
        columns = drawn_vectors(self.kernel, drawn, index, self.subcenters)
        products = self.products(vectors, columns)
        places = ops.arange(ops.shape(index)[0], dtype="int32")
        own = of_class(products, count + places)
        # Their number is known even where that of the samples is not.
        others = ops.reshape(products[:, :count], (-1, count))
        products = ops.concatenate([own[:, None], others], axis=1)
        first = ops.where(known, 0, -1)
        logits = self.logits(self._filtered(products, vectors, first), features, first, True)
        is_own = ops.equal(index[:, None], drawn[None, :])
        return ops.concatenate([logits[:, :1], ops.where(is_own, _NEVER, logits[:, 1:])], axis=1)

    def loss(self, labels: Tensor, logits: Tensor) -> Tensor:
        """Labels `(B,)` and logits, of all classes or of those drawn → per-sample losses `(B,)`."""
        logits = ops.convert_to_tensor(logits)
        if self._drawn is not None and logits.shape[-1] == self._drawn + 1:
            check_readable(labels, self.classes)
            labels = ops.where(read_labels(labels, logits, self.classes).known, 0, -1)
        return super().loss(labels, logits)

    def training_losses(self, features: Tensor, labels: Tensor) -> Tensor:
        """As `MarginHead`, with an energy over the batch in one pass with the products."""
        kind, energy = type(self), self.energy
        overridden = kind.call is not SoftmaxHead.call or kind.loss is not SoftmaxHead.loss
        if energy is None or self.energy_over == "all" or overridden:
            return super().training_losses(features, labels)
        features = ops.cast(features, self.output_dtype)
        vectors = self.directions(features)
        check_readable(labels, self.classes)
        index = read_labels(labels, features, self.classes).index
        variant = Variant.of(energy.s, energy.distance, energy.space)
        products, energies = products_and_energies(vectors, self.kernel, index, variant)
        logits = self.logits(self._filtered(products, vectors, labels), features, labels, True)
        return class_losses(
            labels,
            logits,
            lambda index, logits: self.loss_of(index, logits) + energy.strength * energies,
        )

    def _filtered(self, products: Tensor, vectors: Tensor, labels: Tensor | None) -> Tensor:
        """Products with 0 for other classes that are too close."""
        threshold = self.interclass_filtering_threshold
        if threshold is None or labels is None:
            return products
        index, known = known_classes(labels, products)
        own, others = apart(products, index)
        bound = threshold * lengths(vectors)
        own = ops.where(known, own, ops.where(own > bound, 0.0, own))
        return together(ops.where(others > bound[:, None], 0.0, others), own, index)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "sample": self.sample,
            "seed": self.seed,
            "interclass_filtering_threshold": self.interclass_filtering_threshold,
        }
