"""Prototypical networks: logits from the distances to class means of the support."""

from typing import Any

import keras
import numpy as np
from keras import ops

from mhe import keras_internals
from mhe.checks import check_choice, check_number
from mhe.layers import distances
from mhe.layers.distance import distances_by_pairs
from mhe.precision import at_least_float32
from mhe.tracing import keeps_one_branch
from mhe.types import Tensor

DISTANCES = ("squared", "cosine")

# Cosines differ by at most 2: without a factor, no class could become likely.
_SCALES = {"squared": 1.0, "cosine": 10.0}


def episode_logits(
    support: Tensor, query: Tensor, distance: str = "squared", scale: float | None = None
) -> Tensor:
    """Returns logits of each query for each class of the episode, `-scale * distance`.

    The prototype of a class is the mean of its support embeddings.

    Args:
        support: Embeddings `(ways, shots, dims)`.
        query: Embeddings `(..., dims)`.
        distance: `"squared"` Euclidean, or `"cosine"`, 1 - cos.
        scale: Factor of the distance. None is 1 for squared and 10 for cosine distances.

    Returns:
        A tensor `(..., ways)`: float64 for float64 embeddings, else float32.

    Raises:
        ValueError: If the distance is unknown or the scale is not a finite number > 0.

    Example:

    >>> import numpy as np
    >>> support = np.array([[[0.0, 0.0], [0.0, 2.0]], [[4.0, 1.0], [4.0, 1.0]]], "float32")
    >>> print(ops.convert_to_numpy(episode_logits(support, np.array([[1.0, 1.0]], "float32"))))
    [[-1. -9.]]

    Reference:
        Snell et al., Prototypical Networks for Few-shot Learning, NeurIPS 2017
        ([arXiv:1703.05175](https://arxiv.org/abs/1703.05175)), equations 1 and 2.
    """
    check_distance(distance, scale)
    if scale is None:
        scale = _SCALES[distance]
    prototypes = ops.mean(at_least_float32(support), axis=1)
    # An exported program takes episodes of any number of classes.
    is_known = prototypes.shape[0] is not None and not keeps_one_branch()
    measure = distances if is_known else distances_by_pairs
    return -scale * measure(at_least_float32(query), prototypes, distance)


@keras.saving.register_keras_serializable(package="mhe")
class PrototypicalNetwork(keras.Model):
    """An embedding trained so that the mean of a few images of a class represents it.

    The input is an episode, `{"support": (1, ways, shots, ...), "query": (1, ways, queries, ...)}`,
    and the output logits `(1, ways, queries, ways)`: see `episode_logits`. Support and query go
    through the backbone as one batch, and a training step is one compiled step over the whole
    episode. `compile` defaults to cross-entropy and to the accuracy over the queries; `fit` takes
    `EpisodeBatches`. `embed` needs no episode; with it, `evaluate` scores classes that were not
    trained on. A batch is one episode, which cannot be split among devices by
    `keras.distribution.DataParallel` or TensorFlow's `MirroredStrategy`.

    Args:
        backbone: A model from images `(B, ...)` to embeddings `(B, dims)`.
        distance: `"squared"` Euclidean, as published, or `"cosine"`.
        scale: Factor of the distance in the logits. None is 1 for squared and 10 for cosine
            distances.
        **kwargs: `name`, `dtype` and `trainable`, as for every Keras model.

    Raises:
        ValueError: If the distance is unknown, the scale is not a finite number > 0, or the
            backbone does not return embeddings `(B, dims)`.

    Example:

    >>> import keras, mhe
    >>> import numpy as np
    >>> images, labels = np.random.rand(30, 6).astype("float32"), np.arange(30) % 3
    >>> backbone = keras.Sequential([keras.Input((6,)), keras.layers.Dense(4)])
    >>> model = mhe.fewshot.PrototypicalNetwork(backbone)
    >>> model.compile("adam")
    >>> episodes = mhe.fewshot.Episodes(labels, ways=3, shots=2, queries=4)
    >>> history = model.fit(mhe.fewshot.EpisodeBatches(images, episodes, per_epoch=2), verbose=0)
    >>> sorted(history.history), model.embed(images).shape
    (['accuracy', 'loss'], (30, 4))

    Reference:
        Snell et al., Prototypical Networks for Few-shot Learning, NeurIPS 2017
        ([arXiv:1703.05175](https://arxiv.org/abs/1703.05175)).
    """

    def __init__(
        self,
        backbone: keras.Model,
        distance: str = "squared",
        scale: float | None = None,
        **kwargs: Any,
    ) -> None:
        check_distance(distance, scale)
        super().__init__(**kwargs)
        self.backbone = backbone
        self.distance = distance
        self.scale = scale
        shape = getattr(backbone, "input_shape", None)
        if backbone.built and shape is not None:
            # So that weights can be loaded and counted before the first fit, and episodes of any
            # size exported.
            images = (1, None, None, *shape[1:])
            self.build({"support": images, "query": images})
            keras_internals.unlock(self)  # a subclass may add layers

    def build(self, input_shape: dict[str, tuple[int | None, ...]]) -> None:
        """Builds the backbone, for episodes whose numbers may be unknown."""
        if not self.backbone.built:
            self.backbone.build((None, *input_shape["support"][3:]))

    def compile(
        self, optimizer: Any = "adam", loss: Any = None, metrics: Any = None, **kwargs: Any
    ) -> None:
        """Like `keras.Model.compile`, with cross-entropy and accuracy as defaults."""
        if loss is None:
            loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        if metrics is None:
            metrics = [keras.metrics.SparseCategoricalAccuracy(name="accuracy")]
        super().compile(optimizer=optimizer, loss=loss, metrics=metrics, **kwargs)

    def compile_from_config(self, config: dict[str, Any]) -> None:
        """Compiles a loaded model; Keras leaves that to classes with a `compile` of their own."""
        self.compile(**keras.saving.deserialize_keras_object(config))
        if self.built:
            self.optimizer.build(self.trainable_variables)

    def fit(self, *args: Any, **kwargs: Any) -> keras.callbacks.History:
        """Trains like `keras.Model.fit`.

        Raises:
            ValueError: If batches would be split among devices, or there is a `class_weight`.
        """
        if kwargs.get("class_weight") is not None:
            raise ValueError(
                "The classes of an episode have no weights, as they are its rows: pass "
                f"`sample_weight`, (1, ways, queries). Received: {kwargs['class_weight']}"
            )
        self._check_whole()
        return super().fit(*args, **kwargs)

    def evaluate(self, *args: Any, **kwargs: Any) -> Any:
        """Evaluates like `keras.Model.evaluate`.

        Raises:
            ValueError: If batches would be split among devices.
        """
        self._check_whole()
        return super().evaluate(*args, **kwargs)

    def predict(self, *args: Any, **kwargs: Any) -> Any:
        """Predicts like `keras.Model.predict`.

        Raises:
            ValueError: If batches would be split among devices.
        """
        self._check_whole()
        return super().predict(*args, **kwargs)

    def _check_whole(self) -> None:
        """Raises a `ValueError` if batches would be split among devices."""
        parts = keras_internals.batch_parts(self)
        if parts > 1:
            raise ValueError(
                "A batch is one episode, which cannot be split among devices: make and fit the "
                f"network outside of the distribution. Received: one over {parts} devices"
            )

    def call(self, episode: dict[str, Tensor], training: bool | None = None) -> Tensor:
        """An episode → logits `(1, ways, queries, ways)`."""
        support, query = episode["support"], episode["query"]
        if support.shape[0] not in (1, None):
            raise ValueError(
                "A batch must be one episode, (1, ways, shots, ...). "
                f"Received: support of shape {tuple(support.shape)}"
            )
        ways, shots = ops.shape(support)[1:3]
        images = ops.concatenate([support, query], axis=2)
        count = ops.shape(images)[2]
        images = ops.reshape(images, (-1, *images.shape[3:]))
        embeddings = self.backbone(images, training=training)
        if len(embeddings.shape) != 2:
            raise ValueError(
                "`backbone` must return embeddings (B, dims). "
                f"Received: shape {tuple(embeddings.shape)}"
            )
        embeddings = ops.reshape(embeddings, (ways, count, embeddings.shape[-1]))
        support, query = embeddings[:, :shots], embeddings[:, shots:]
        return ops.expand_dims(episode_logits(support, query, self.distance, self.scale), 0)

    def export(self, *args: Any, **kwargs: Any) -> None:
        """Exports the program from episodes to logits, as `keras.Model.export` does.

        Without an `input_signature` it takes episodes of any number of classes and images. On JAX,
        where support and query of unknown numbers cannot be told to have as many classes, it needs
        one. To serve embeddings, export the backbone.

        Raises:
            ValueError: On JAX without an `input_signature`.
        """
        # The fourth argument of Keras's method.
        signature = args[3] if len(args) > 3 else kwargs.get("input_signature")
        if keras.backend.backend() == "jax" and signature is None:
            raise ValueError(
                "On JAX an episode's numbers of classes and images are fixed when it is exported: "
                "pass `input_signature`, such as [{'support': keras.InputSpec(shape=(1, 5, 1, …)), "
                "'query': keras.InputSpec(shape=(1, 5, 15, …))}]. Received: none"
            )
        keras_internals.call_on_zeros(self)
        super().export(*args, **kwargs)

    def embed(self, images: np.ndarray, batch_size: int = 500) -> np.ndarray:
        """Returns the embeddings `(N, dims)` of images `(N, ...)`, `batch_size` at a time."""
        return self.backbone.predict(images, batch_size=batch_size, verbose=0)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "backbone": keras.saving.serialize_keras_object(self.backbone),
            "distance": self.distance,
            "scale": self.scale,
        }

    @classmethod
    def from_config(
        cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None
    ) -> "PrototypicalNetwork":
        backbone = keras.saving.deserialize_keras_object(
            config["backbone"], custom_objects=custom_objects
        )
        return cls(**{**config, "backbone": backbone})


def check_distance(distance: str, scale: float | None = None) -> None:
    """Raises a `ValueError` unless there is such a distance, and `scale` is None or > 0."""
    check_choice("distance", distance, DISTANCES)
    check_number("scale", scale, above=0, optional=True)
