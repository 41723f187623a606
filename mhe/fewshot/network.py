"""Prototypical networks: logits from the distances to class means of the support."""

from typing import Any

import keras
import numpy as np
from keras import ops

from mhe.checks import check_number
from mhe.layers import distances
from mhe.precision import at_least_float32

DISTANCES = ("squared", "cosine")

# Cosines lie within 2 of each other: as logits they need a factor, or no class could be likely.
_SCALES = {"squared": 1.0, "cosine": 10.0}


def episode_logits(
    support: Any, query: Any, distance: str = "squared", scale: float | None = None
) -> Any:
    """How likely each query belongs to each class of the episode, as logits `-scale * distance`.

    The prototype of a class is the mean of its support embeddings.

    Args:
        support: Embeddings `(ways, shots, dims)`.
        query: Embeddings `(..., dims)`.
        distance: `"squared"` Euclidean, or `"cosine"`, 1 - cos.
        scale: Factor of the distance; `None` is 1 for squared and 10 for cosine distances.

    Returns:
        A tensor `(..., ways)`: float64 for float64 embeddings, else float32.

    Raises:
        ValueError: If the distance is unknown or the scale is no finite number > 0.

    Example:

    >>> import numpy as np
    >>> support = np.array([[[0.0, 0.0], [0.0, 2.0]], [[4.0, 1.0], [4.0, 1.0]]], "float32")
    >>> print(ops.convert_to_numpy(episode_logits(support, np.array([[1.0, 1.0]], "float32"))))
    [[-1. -9.]]

    Reference:
        Snell et al., Prototypical Networks for Few-shot Learning, NeurIPS 2017
        ([arXiv:1703.05175](https://arxiv.org/abs/1703.05175)), equations 1 and 2.
    """
    _check_distance(distance, scale)
    if scale is None:
        scale = _SCALES[distance]
    prototypes = ops.mean(at_least_float32(support), axis=1)
    return -scale * distances(at_least_float32(query), prototypes, distance)


@keras.saving.register_keras_serializable(package="mhe")
class PrototypicalNetwork(keras.Model):
    """An embedding that is trained so that the mean of a few images of a class stands for it.

    The input is an episode, `{"support": (1, ways, shots, ...), "query": (1, ways, queries, ...)}`,
    and the output logits `(1, ways, queries, ways)`: see `episode_logits`. Support and query go
    through the backbone together, as one batch, and a training step is one compiled step over the
    whole episode. `compile` without a loss takes cross-entropy, without metrics the accuracy over
    the queries; `fit` takes `EpisodeBatches`. `embed` needs no episode, and with it `evaluate`
    scores classes that were never trained on.

    Args:
        backbone: A model from images `(B, ...)` to embeddings `(B, dims)`.
        distance: `"squared"` Euclidean, as published, or `"cosine"`.
        scale: Factor of the distance in the logits; `None` is 1 for squared and 10 for cosine
            distances.
        **kwargs: Keras's own: `name`, `dtype`, `trainable`.

    Raises:
        ValueError: If the distance is unknown, the scale is no finite number > 0, or the backbone
            gives no embeddings `(B, dims)`.

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
        _check_distance(distance, scale)
        super().__init__(**kwargs)
        self.backbone = backbone
        self.distance = distance
        self.scale = scale
        self.built = backbone.built

    def compile(
        self, optimizer: Any = "adam", loss: Any = None, metrics: Any = None, **kwargs: Any
    ) -> None:
        """As `keras.Model.compile`, with cross-entropy and accuracy where none are given."""
        if loss is None:
            loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        if metrics is None:
            metrics = [keras.metrics.SparseCategoricalAccuracy(name="accuracy")]
        super().compile(optimizer=optimizer, loss=loss, metrics=metrics, **kwargs)

    def compile_from_config(self, config: dict[str, Any]) -> None:
        """Compiles as what is loaded was; Keras leaves that to classes with their own `compile`."""
        self.compile(**keras.saving.deserialize_keras_object(config))
        if self.built:
            self.optimizer.build(self.trainable_variables)

    def call(self, episode: dict[str, Any], training: bool | None = None) -> Any:
        """An episode → logits `(1, ways, queries, ways)`."""
        support, query = episode["support"], episode["query"]
        if support.shape[0] not in (1, None):
            raise ValueError(
                "A batch must be one episode, (1, ways, shots, ...). "
                f"Received: support of shape {tuple(support.shape)}"
            )
        ways, shots = support.shape[1:3]
        images = ops.concatenate([support, query], axis=2)
        taken = images.shape[2]
        images = ops.reshape(images, (ways * taken, *images.shape[3:]))
        embeddings = self.backbone(images, training=training)
        if len(embeddings.shape) != 2:
            raise ValueError(
                "`backbone` must give embeddings (B, dims). "
                f"Received: shape {tuple(embeddings.shape)}"
            )
        embeddings = ops.reshape(embeddings, (ways, taken, embeddings.shape[-1]))
        support, query = embeddings[:, :shots], embeddings[:, shots:]
        return ops.expand_dims(episode_logits(support, query, self.distance, self.scale), 0)

    def embed(self, images: np.ndarray, batch_size: int = 500) -> np.ndarray:
        """Embeddings of images.

        Args:
            images: Array `(N, ...)`.
            batch_size: Images embedded at a time.

        Returns:
            An array `(N, dims)`.
        """
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


def _check_distance(distance: str, scale: float | None = None) -> None:
    if distance not in DISTANCES:
        raise ValueError(
            f"`distance` must be one of {', '.join(DISTANCES)}. Received: distance={distance!r}"
        )
    if scale is not None:
        check_number("scale", scale, above=0)
