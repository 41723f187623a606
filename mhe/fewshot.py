"""Few shots: episodes, prototypical networks, and how well an embedding does without training.

An episode is a small task of classes that were drawn for it: `ways` classes, `shots` images each
to make a prototype from (the support) and `queries` images each to classify. A network that is
trained on many such tasks embeds images of classes it never saw so that the mean of a few of them
stands for the class.

Reference: Snell et al., Prototypical Networks for Few-shot Learning, NeurIPS 2017
(arXiv 1703.05175).
"""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import ops

from mhe.checks import check_count, check_number
from mhe.layers import distances
from mhe.precision import at_least_float32

DISTANCES = ("squared", "cosine")

# Cosines lie within 2 of each other: as logits they need a factor, or no class could be likely.
_SCALES = {"squared": 1.0, "cosine": 10.0}
_NAMED = 3  # classes an error names before it only counts


class Episodes:
    """Episodes of image indices, each a function of the seed and its number alone.

    Iterating never ends: `zip` it with a `range`, or take `itertools.islice`. `episodes[i]` is
    episode i, so what is trained on can be drawn again from any place, on every backend and in
    every process. Within an episode, classes are drawn without replacement and so are the images
    of a class: support and query never share one.

    Args:
        labels: The class of every image `(N,)`, integers or names.
        ways: Classes in an episode, at least 2.
        shots: Support images of a class.
        queries: Query images of a class.
        seed: Non-negative integer; with the number of the episode it decides everything.
        skip_small: Whether classes of fewer than `shots + queries` images are left out; otherwise
            they are an error.

    Attributes:
        classes: The labels of the classes that episodes are drawn from, in order.

    Raises:
        ValueError: If a number is out of range, a class has too few images, or there are fewer
            classes than ways.

    Example:

    >>> import numpy as np
    >>> episodes = Episodes(np.repeat(["a", "b", "c"], 4), ways=2, shots=1, queries=3)
    >>> support, query = episodes[0]
    >>> support.shape, query.shape
    ((2, 1), (2, 3))
    >>> all((one == other).all() for one, other in zip(next(iter(episodes)), episodes[0]))
    True

    Reference:
        Vinyals et al., Matching Networks for One Shot Learning, NeurIPS 2016
        ([arXiv:1606.04080](https://arxiv.org/abs/1606.04080)); Snell et al., algorithm 1.
    """

    def __init__(
        self,
        labels: Any,
        ways: int = 20,
        shots: int = 5,
        queries: int = 15,
        seed: int = 0,
        skip_small: bool = False,
    ) -> None:
        for name, value, least in (
            ("ways", ways, 2),
            ("shots", shots, 1),
            ("queries", queries, 1),
            ("seed", seed, 0),
        ):
            check_count(name, value, least)
        labels = np.asarray(labels)
        if labels.ndim != 1 or labels.dtype.kind not in "iuU":
            raise ValueError(
                "`labels` must be integers or names (N,). "
                f"Received: shape {labels.shape}, dtype {labels.dtype}"
            )
        classes, place, counts = np.unique(labels, return_inverse=True, return_counts=True)
        small = counts < shots + queries
        if small.any() and not skip_small:
            raise ValueError(
                f"Every class must have {shots} + {queries} images, as an episode takes "
                f"shots={shots} and queries={queries} of it. "
                f"Received: {_few(classes, counts, small)}"
            )
        if ways > len(classes) - small.sum():
            skipped = (
                f", and too few images of {_few(classes, counts, small)}" if small.any() else ""
            )
            kept = ", ".join(map(str, classes[~small][:_NAMED])) or "none"
            more = ", ..." if len(classes) - small.sum() > _NAMED else ""
            raise ValueError(
                "`ways` must be at most the number of classes to draw from. Received: "
                f"ways={ways}, {len(classes) - small.sum()} classes ({kept}{more}){skipped}"
            )
        self.classes = classes[~small]
        self.ways, self.shots, self.queries, self.seed = ways, shots, queries, seed
        members = np.split(np.argsort(place, kind="stable"), np.cumsum(counts)[:-1])
        self._members = [each for each, few in zip(members, small, strict=True) if not few]

    def __getitem__(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Episode `number`: the indices of its support `(ways, shots)`, query `(ways, queries)`."""
        rng = np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=(int(number),)))
        chosen = rng.choice(len(self._members), self.ways, replace=False)
        taken = self.shots + self.queries
        images = np.stack(
            [rng.choice(self._members[each], taken, replace=False) for each in chosen]
        )
        return images[:, : self.shots], images[:, self.shots :]

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """All episodes from the first, without end."""
        number = 0
        while True:
            yield self[number]
            number += 1


def _few(classes: np.ndarray, counts: np.ndarray, small: np.ndarray) -> str:
    """Names the classes that have too few images."""
    found = [f"class {classes[i]} with {counts[i]}" for i in np.flatnonzero(small)]
    more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
    return ", ".join(found[:_NAMED]) + more


class EpisodeBatches(keras.utils.PyDataset):
    """Episodes as batches for `fit`, an episode a batch.

    A batch is `({"support": images (1, ways, shots, ...), "query": images (1, ways, queries, ...)},
    classes (1, ways, queries))`, the class of a query being its row in the episode. Batch k of
    epoch e is episode `e * per_epoch + k`, whenever it is asked for: give `fit` `shuffle=False`,
    and `epoch=` where a training goes on, and it sees the very episodes of an unbroken one. A
    thread of its own assembles the next episode while one is trained on. Use one object for one
    `fit`.

    Args:
        images: Array `(N, ...)` of any dtype that the network takes.
        episodes: What to draw.
        per_epoch: Episodes in an epoch.
        epoch: The epoch to begin with.
        augment: `None` or a callable `(images, rng) -> images` on the images `(B, ...)` of an
            episode, such as `mhe.harness.affine.random_affine`. What it draws is a function of the
            episodes' seed and the episode's number.

    Raises:
        ValueError: If a number is out of range.

    Example:

    >>> import numpy as np
    >>> episodes = Episodes(np.arange(12) % 3, ways=2, shots=1, queries=3)
    >>> batch, classes = EpisodeBatches(np.zeros((12, 8, 8, 1), "uint8"), episodes)[0]
    >>> batch["support"].shape, batch["query"].shape, classes.tolist()
    ((1, 2, 1, 8, 8, 1), (1, 2, 3, 8, 8, 1), [[[0, 0, 0], [1, 1, 1]]])
    """

    def __init__(
        self,
        images: np.ndarray,
        episodes: Episodes,
        per_epoch: int = 100,
        epoch: int = 0,
        augment: Callable[[np.ndarray, np.random.Generator], np.ndarray] | None = None,
    ) -> None:
        # One worker: Keras's own would hand episodes left over from one epoch to the next.
        super().__init__(workers=1, use_multiprocessing=False)
        check_count("per_epoch", per_epoch, least=1)
        check_count("epoch", epoch, least=0)
        self.images, self.episodes, self.augment = images, episodes, augment
        self.per_epoch, self.epoch = per_epoch, epoch
        self._targets = np.repeat(np.arange(episodes.ways, dtype="int32"), episodes.queries)
        self._targets = self._targets.reshape(1, episodes.ways, episodes.queries)
        self._fitting = self._drawing = False
        self._next: tuple[int, Future] | None = None
        self._lock = threading.Lock()
        self._thread = ThreadPoolExecutor(1, "episodes")

    def __len__(self) -> int:
        """The number of episodes in an epoch."""
        return self.per_epoch

    def __getitem__(self, index: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """The episode at `index` of the current epoch."""
        if not 0 <= index < self.per_epoch:
            raise IndexError(f"There are {self.per_epoch} batches. Received: index={index}")
        number = self.epoch * self.per_epoch + index
        with self._lock:
            ahead = self._next
            self._next = number + 1, self._thread.submit(self._batch, number + 1)
        return ahead[1].result() if ahead and ahead[0] == number else self._batch(number)

    def on_epoch_begin(self) -> None:
        """Called by Keras before it draws the batches of an epoch, or one to build a model."""
        self._drawing = True

    def on_epoch_end(self) -> None:
        """Called by Keras after an epoch, and once before the first epoch of every `fit`."""
        if self._fitting and self._drawing:
            self.epoch += 1
        self._fitting, self._drawing = True, False

    def _batch(self, number: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
        support, query = self.episodes[number]
        images = {"support": self.images[support[None]], "query": self.images[query[None]]}
        if self.augment is not None:
            # Another stream than the one that draws the episode.
            key = np.random.SeedSequence(self.episodes.seed, spawn_key=(number, 0))
            rng = np.random.default_rng(key)
            for name, each in images.items():
                flat = each.reshape(-1, *each.shape[3:])
                images[name] = self.augment(flat, rng).reshape(each.shape)
        return images, self._targets


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


@dataclass(frozen=True)
class Evaluation:
    """How well an embedding does over many episodes.

    Attributes:
        accuracies: The accuracy over the queries of each episode, `(episodes,)`.

    Example:

    >>> found = Evaluation(np.array([0.8, 1.0, 0.9, 0.9]))
    >>> f"{found.accuracy:.3f} ± {found.interval:.3f}"
    '0.900 ± 0.080'
    """

    accuracies: np.ndarray

    @property
    def accuracy(self) -> float:
        """The mean over the episodes."""
        return float(self.accuracies.mean())

    @property
    def interval(self) -> float:
        """Half the width of the mean's 95 % confidence interval, 1.96 s/√n over n episodes."""
        return float(1.96 * self.accuracies.std(ddof=1) / np.sqrt(self.accuracies.size))


def evaluate(
    embed: Callable[[np.ndarray], Any],
    images: np.ndarray,
    labels: Any,
    ways: int = 5,
    shots: int = 1,
    episodes: int = 1000,
    queries: int = 15,
    seed: int = 0,
    distance: str = "squared",
    skip_small: bool = False,
) -> Evaluation:
    """Scores an embedding on episodes of classes, which it need not have been trained on.

    Every image is embedded once; each query of an episode then goes to the class whose mean of
    support embeddings is nearest.

    Args:
        embed: From images `(N, ...)` to embeddings `(N, dims)`, such as
            `PrototypicalNetwork.embed`.
        images: Array `(N, ...)`.
        labels: The class of every image `(N,)`, integers or names.
        ways: Classes in an episode.
        shots: Support images of a class.
        episodes: How many episodes, at least 2.
        queries: Query images of a class.
        seed: What decides the episodes.
        distance: `"squared"` Euclidean or `"cosine"`.
        skip_small: Whether classes of fewer than `shots + queries` images are left out; otherwise
            they are an error.

    Returns:
        The accuracies of the episodes, their mean and its 95 % confidence interval.

    Raises:
        ValueError: If episodes cannot be drawn (see `Episodes`), or an embedding is not a row of
            finite numbers.

    Example:

    >>> import numpy as np
    >>> labels = np.arange(60) % 3
    >>> found = evaluate(lambda images: images, np.eye(3)[labels], labels, ways=3, episodes=10)
    >>> found.accuracy, found.interval
    (1.0, 0.0)

    Reference:
        Snell et al., Prototypical Networks for Few-shot Learning, NeurIPS 2017
        ([arXiv:1703.05175](https://arxiv.org/abs/1703.05175)), section 3.1.
    """
    _check_distance(distance)
    check_count("episodes", episodes, least=2)
    drawn = Episodes(labels, ways, shots, queries, seed, skip_small)
    labels = np.asarray(labels)
    if len(images) != len(labels):
        raise ValueError(
            "`images` and `labels` must be of one length. "
            f"Received: {len(images)} images, {len(labels)} labels"
        )
    embeddings = np.asarray(ops.convert_to_numpy(embed(images)), np.float64)
    if embeddings.ndim != 2 or len(embeddings) != len(labels):
        raise ValueError(
            f"`embed` must give a row of numbers for each of the {len(labels)} images. "
            f"Received: shape {embeddings.shape}"
        )
    finite = np.isfinite(embeddings).all(axis=1)
    if not finite.all():
        raise ValueError(
            "Embeddings must be finite. Received: NaN or infinity for "
            f"{_few(*_counted(labels, ~finite))} such images"
        )
    if distance == "squared":
        # Distances stay what they are, and their digits are not spent on what all have in common.
        embeddings -= embeddings.mean(axis=0)
    right = np.repeat(np.arange(ways), queries)
    accuracies = np.empty(episodes)
    for number in range(episodes):
        support, query = drawn[number]
        prototypes = embeddings[support].mean(axis=1)
        # The length of a query changes nothing in which prototype is nearest.
        scores = embeddings[query.reshape(-1)] @ prototypes.T
        squares = np.square(prototypes).sum(axis=1)
        if distance == "squared":
            scores -= squares / 2
        else:
            scores /= np.sqrt(np.where(squares > 0, squares, 1))
        accuracies[number] = np.mean(scores.argmax(axis=1) == right)
    return Evaluation(accuracies)


def _counted(labels: np.ndarray, found: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Classes with images that something was found of, how many, and that it was."""
    classes, counts = np.unique(labels[found], return_counts=True)
    return classes, counts, counts > 0


def _check_distance(distance: str, scale: float | None = None) -> None:
    if distance not in DISTANCES:
        raise ValueError(
            f"`distance` must be one of {', '.join(DISTANCES)}. Received: distance={distance!r}"
        )
    if scale is not None:
        check_number("scale", scale, above=0)
