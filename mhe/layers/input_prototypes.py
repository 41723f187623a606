"""Prototypes that are inputs themselves, and pass through the same encoder as images."""

import math
from typing import Any

import keras
import numpy as np
from keras import ops

from mhe import checks
from mhe.directions import unit_vectors
from mhe.layers.distance import distances
from mhe.layers.head import Float32Layer, initial_value
from mhe.precision import at_least_float32
from mhe.types import Tensor

SIMILARITIES = ("cosine", "dot", "l2", "lk")
REDUCTIONS = ("max", "mean")


def similarities(
    embeddings: Tensor, prototypes: Tensor, similarity: str = "cosine", k: float = 2.0
) -> Tensor:
    """Returns how similar every embedding is to every prototype; larger is more similar.

        cosine   a·p / (‖a‖ ‖p‖)
        dot      a·p
        l2       -‖a - p‖
        lk       -(Σ |a_d - p_d|^k)^(1/k)

    `cosine` and `dot` are one matrix product, and `l2` is computed by `distances`. `lk` stores the
    differences of all pairs, B·P·D numbers. At equal vectors distances have no gradient; a zero
    vector has cosines of 0, see `unit_vectors`.

    Args:
        embeddings: Tensor `(B, D)`.
        prototypes: Tensor `(P, D)`.
        similarity: `"cosine"`, `"dot"`, `"l2"` or `"lk"`.
        k: Finite exponent ≥ 1 of `"lk"`; the others ignore it.

    Returns:
        A tensor `(B, P)`: float64 for float64 embeddings, else float32.

    Raises:
        ValueError: If the similarity is unknown, or `k` is below 1 or not finite.

    Example:

    >>> import numpy as np
    >>> image, prototypes = np.array([[3.0, 4.0]], "float32"), np.eye(2, dtype="float32")
    >>> np.asarray(similarities(image, prototypes)).round(6)
    array([[0.6, 0.8]], dtype=float32)
    >>> np.asarray(similarities(image, prototypes, "lk", k=1))
    array([[-6., -6.]], dtype=float32)
    """
    _check_similarity(similarity, k)
    embeddings, prototypes = at_least_float32(embeddings), at_least_float32(prototypes)
    if similarity == "cosine":
        embeddings, prototypes = unit_vectors(embeddings), unit_vectors(prototypes)
    if similarity in ("cosine", "dot"):
        return ops.matmul(embeddings, ops.transpose(prototypes))
    if similarity == "l2":
        return -distances(embeddings, prototypes)
    return -_lengths(embeddings[:, None] - prototypes[None], k)


@keras.saving.register_keras_serializable(package="mhe")
class InputPrototypes(Float32Layer):
    """Logits from the similarity of an image to prototypes that are images too.

    The prototypes are weights with the shape of the input. Images and prototypes pass through one
    encoder, as in a siamese network, and are compared by their embeddings. The prototypes show what
    a class looks like to the network, and explain every prediction: it resembles them.

    The logit of a class is `scale` times the similarity to its prototypes: the largest, or their
    mean. With `"max"` the explanation is exact, as the logit is the similarity to one prototype,
    and only that one learns from the image. With `"mean"` every prototype learns from every image,
    and those of a class stay more alike. Train with a cross-entropy `from_logits`.

    Images and prototypes are encoded as one batch, in one call, so that batch norm in the encoder
    uses the same statistics for both, in training and later. Separately, each would be normalized
    by its own statistics, prototypes of any contrast would do, and moving averages would fit
    neither. In return, the batch statistics depend on the prototypes: keep `classes * per_class`
    below the batch size, or use an encoder without batch norm. A call costs the encoding of
    B + classes·per_class images.

    Outputs are computed in at least float32; the encoder follows its own dtype policy.

    Args:
        classes: Number of classes, at least 2.
        per_class: Prototypes per class, at least 1.
        similarity: `"cosine"`, `"dot"`, `"l2"` or `"lk"`, as `similarities` takes them.
        encoder: A layer or model from images `(B, *shape)` to embeddings of any fixed shape, which
            are flattened.
        k: Exponent of `"lk"`.
        scale: Positive factor from similarities to logits. Cosines are at most 1: without a factor,
            a softmax over them stays far from certain.
        reduction: `"max"` or `"mean"` over the prototypes of a class.
        prototypes: Initial prototypes `(classes, per_class, *shape)`, such as training images of
            each class, or None to draw them. They are not part of the config: a clone draws its
            own, a saved model has its weights.
        prototypes_initializer: Keras initializer, noise by default.
        prototypes_regularizer: Keras regularizer of the weight `(classes, per_class, *shape)`, such
            as `mhe.TotalVariation` and `mhe.NearestImagePull`, both as `mhe.Sum`.
        prototypes_constraint: Keras constraint of that weight, such as `mhe.PixelRange`.
        **kwargs: `name`, `dtype` and `trainable`, as for every Keras layer.

    Raises:
        ValueError: If an argument is not as described, or prototypes are not finite or differ in
            shape from the images.

    Example:

    >>> import keras, mhe
    >>> encoder = keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(16)])
    >>> head = mhe.layers.InputPrototypes(10, 3, "dot", encoder=encoder)
    >>> model = keras.Sequential([keras.Input((8, 8, 1)), head])
    >>> model.output_shape, tuple(head.prototypes.shape)
    ((None, 10), (10, 3, 8, 8, 1))
    """

    def __init__(
        self,
        classes: int,
        per_class: int,
        similarity: str = "cosine",
        *,
        encoder: keras.layers.Layer,
        k: float = 2.0,
        scale: float = 1.0,
        reduction: str = "max",
        prototypes: Any = None,
        prototypes_initializer: Any = "random_normal",
        prototypes_regularizer: Any = None,
        prototypes_constraint: Any = None,
        **kwargs: Any,
    ) -> None:
        checks.check_count("classes", classes, 2)
        checks.check_count("per_class", per_class, 1)
        _check_similarity(similarity, k)
        checks.check_number("scale", scale, above=0)
        checks.check_choice("reduction", reduction, REDUCTIONS)
        if not isinstance(encoder, keras.layers.Layer):
            raise ValueError(
                f"`encoder` must be a Keras layer or model. Received: encoder={encoder!r}"
            )
        super().__init__(**kwargs)
        self.classes = int(classes)
        self.per_class = int(per_class)
        self.similarity = similarity
        self.encoder = encoder
        self.k = float(k)
        self.scale = float(scale)
        self.reduction = reduction
        self.prototypes_initializer = keras.initializers.get(prototypes_initializer)
        self.prototypes_regularizer = keras.regularizers.get(prototypes_regularizer)
        self.prototypes_constraint = keras.constraints.get(prototypes_constraint)
        self._start = None if prototypes is None else self._checked_start(prototypes)

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        shape = tuple(input_shape[1:])
        if not shape or None in shape:
            raise ValueError(
                "The shape of an image must be known, as prototypes have it too. "
                f"Received: inputs of shape {tuple(input_shape)}"
            )
        initializer = self.prototypes_initializer
        whole = (self.classes, self.per_class, *shape)
        if self._start is not None:
            if self._start.shape != whole:
                raise ValueError(
                    f"`prototypes` must be (classes, per_class, *image), {whole} for these inputs. "
                    f"Received: shape {self._start.shape}"
                )
            initializer = initial_value(self._start)
            self._start = None
        self.prototypes = self.add_weight(
            name="prototypes",
            shape=whole,
            dtype=self.output_dtype,
            initializer=initializer,
            regularizer=self.prototypes_regularizer,
            constraint=self.prototypes_constraint,
            autocast=False,
        )
        if not self.encoder.built:
            self.encoder.build((None, *shape))
        embedding = tuple(self.encoder.compute_output_shape((None, *shape))[1:])
        if None in embedding:
            raise ValueError(
                "The encoder's embeddings must have a fixed shape to be compared. "
                f"Received: shape {(None, *embedding)} for images of shape {shape}"
            )
        self._dims = math.prod(embedding)
        self.input_spec = keras.layers.InputSpec(shape=(None, *shape))

    def embed(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Encodes images and prototypes as one batch.

        Args:
            images: `(B, *shape)`.

        Returns:
            Embeddings of the images `(B, D)` and of the prototypes `(classes * per_class, D)`,
            sorted by class.
        """
        count = self.classes * self.per_class
        images = ops.cast(images, self.output_dtype)
        own = ops.reshape(ops.convert_to_tensor(self.prototypes), (count, *images.shape[1:]))
        rows = self.encoder(ops.concatenate([own, images], axis=0))
        rows = ops.reshape(at_least_float32(rows), (-1, self._dims))
        # The number of images, and so of rows, may be unknown, but not that of prototypes.
        return rows[count:], ops.reshape(rows[:count], (count, self._dims))

    def similarities(self, images: Tensor) -> Tensor:
        """Images `(B, *shape)` → their similarity to each prototype `(B, classes, per_class)`."""
        pairs = similarities(*self.embed(images), self.similarity, self.k)
        return ops.reshape(pairs, (-1, self.classes, self.per_class))

    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        """Images `(B, *shape)` → logits `(B, classes)`."""
        reduce = ops.max if self.reduction == "max" else ops.mean
        return self.scale * reduce(self.similarities(inputs), axis=-1)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return (input_shape[0], self.classes)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "classes": self.classes,
            "per_class": self.per_class,
            "similarity": self.similarity,
            "encoder": keras.saving.serialize_keras_object(self.encoder),
            "k": self.k,
            "scale": self.scale,
            "reduction": self.reduction,
            "prototypes_initializer": keras.initializers.serialize(self.prototypes_initializer),
            "prototypes_regularizer": keras.regularizers.serialize(self.prototypes_regularizer),
            "prototypes_constraint": keras.constraints.serialize(self.prototypes_constraint),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "InputPrototypes":
        encoder = keras.saving.deserialize_keras_object(config["encoder"])
        return cls(**{**config, "encoder": encoder})

    def _checked_start(self, prototypes: Tensor) -> np.ndarray:
        start = np.asarray(ops.convert_to_numpy(prototypes)).astype(np.float32)
        if start.shape[:2] != (self.classes, self.per_class):
            raise ValueError(
                f"`prototypes` must be (classes, per_class, *image) for {self.classes} classes "
                f"with {self.per_class} each. Received: shape {start.shape}"
            )
        axes = "(classes, per_class, *image)"
        return checks.check_finite_array("prototypes", start, start.shape, axes)


def _check_similarity(similarity: str, k: float) -> None:
    checks.check_choice("similarity", similarity, SIMILARITIES)
    checks.check_number("k", k, least=1)


def _lengths(vectors: Tensor, k: float) -> Tensor:
    """The k-norm along the last axis; no gradient where it is 0."""
    # Divide by the largest entry first, so that powers neither overflow nor vanish.
    largest = ops.stop_gradient(ops.max(ops.absolute(vectors), axis=-1, keepdims=True))
    differs = largest > 0
    scaled = vectors / ops.where(differs, largest, 1.0)
    # By the sign: `ops.absolute` has a gradient of 1 at 0 on JAX.
    powers = ops.sum(ops.power(scaled * ops.stop_gradient(ops.sign(scaled)), k), axis=-1)
    differs, largest = ops.squeeze(differs, -1), ops.squeeze(largest, -1)
    roots = ops.power(ops.where(differs, powers, 1.0), 1.0 / k)
    return ops.where(differs, roots * largest, 0.0)
