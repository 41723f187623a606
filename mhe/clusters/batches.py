"""Batches of neighboring clusters, and the callback that updates the clusters."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from mhe import checks
from mhe.clusters.index import ClusterIndex, checked_labels, cluster
from mhe.types import Tensor

Transform = Callable[[np.ndarray, np.random.Generator], np.ndarray]


class MagnetBatches(keras.utils.PyDataset):
    """Neighbourhoods of clusters for Magnet loss: images, and pairs of their class and cluster.

    A batch is a seed cluster, drawn with a probability proportional to its loss; the m - 1 clusters
    of other classes with the nearest centers; and d images of each, drawn uniformly, with
    repetition only if the cluster has fewer. It depends on the seed, the epoch, its number in the
    epoch and the index alone: a training resumed with the same weights sees the same batches.

    `RefreshClusters` updates the index in `fit`. In a custom loop, call `refresh` before each
    epoch. Until then, clusters are random, equally large parts of the classes, and all of them
    count as equally near.

    Args:
        images: Array `(N, ...)`.
        labels: Class of each image `(N,)`, integers from 0.
        per_class: k, clusters per class.
        clusters: m, clusters per batch.
        members: d, images per cluster in a batch.
        steps: Batches per epoch, from one index to the next; None for as many as hold the number
            of images.
        alpha: The separation α of the loss, for the losses by which seed clusters are drawn.
        seed: Non-negative integer.
        transform: A callable `(images, rng) -> images` for the images of a batch, such as an
            augmentation, or None.
        class_names: Names of the classes for errors, or None for numbers.

    Attributes:
        index: The `ClusterIndex` of the current epoch, or None before the first `refresh`.
        epoch: The current epoch.

    Raises:
        ValueError: If a class has fewer images than clusters, other classes have too few clusters
            for a batch, or an argument is out of range.

    Example:

    >>> labels = np.arange(12) % 3
    >>> batches = MagnetBatches(np.zeros((12, 8, 8, 1)), labels, per_class=2, clusters=3, members=2)
    >>> images, pairs = batches[0]
    >>> images.shape, pairs.shape, len(batches)
    ((6, 8, 8, 1), (6, 2), 2)
    >>> len(set(pairs[:, 1].tolist()))  # three clusters, two images of each
    3

    Reference:
        Rippel et al., Metric learning with adaptive density discrimination, ICLR 2016
        ([arXiv:1511.05939](https://arxiv.org/abs/1511.05939)), section 3.2.
    """

    def __init__(
        self,
        images: np.ndarray,
        labels: Any,
        per_class: int,
        *,
        clusters: int = 12,
        members: int = 4,
        steps: int | None = None,
        alpha: float = 1.0,
        seed: int = 0,
        transform: Transform | None = None,
        class_names: Sequence[str] | None = None,
    ) -> None:
        # Without Keras's own workers, which would pass on batches drawn in the previous epoch.
        super().__init__(workers=1, use_multiprocessing=False)
        labels = checked_labels(labels, per_class, class_names)
        checks.check_count("clusters", clusters, 2)
        checks.check_count("members", members, 1)
        checks.check_count("seed", seed, 0)
        checks.check_count("steps", steps, 1, optional=True)
        checks.check_same_length(images=images, labels=labels)
        classes = np.unique(labels)
        others = per_class * (classes.size - 1)
        if others < clusters - 1:
            raise ValueError(
                f"A batch of {clusters} clusters needs {clusters - 1} of other classes beside each "
                f"one. Received: {others} in {classes.size} classes of {per_class} clusters"
            )
        self.images, self.labels = images, labels
        self.per_class, self.clusters, self.members = int(per_class), int(clusters), int(members)
        self.steps = int(steps or math.ceil(len(labels) / (clusters * members)))
        self.alpha, self.seed = float(alpha), int(seed)
        self.transform, self.class_names = transform, class_names
        self.index: ClusterIndex | None = None
        self.epoch = 0
        rng = np.random.default_rng(np.random.SeedSequence(self.seed))
        assignments = np.empty(labels.size, np.int64)
        for place, label in enumerate(classes):
            chosen = rng.permutation(np.flatnonzero(labels == label))
            assignments[chosen] = place * per_class + np.arange(chosen.size) % per_class
        self._set_clusters(
            assignments, np.repeat(classes, per_class), np.zeros(classes.size * per_class)
        )

    def __len__(self) -> int:
        """The number of batches in an epoch."""
        return self.steps

    def __getitem__(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """A batch of the current epoch by number: images `(B, ...)` and int32 pairs `(B, 2)`."""
        if not 0 <= number < len(self):
            raise IndexError(f"There are {len(self)} batches. Received: {number}")
        seed = np.random.SeedSequence(self.seed, spawn_key=(self.epoch, number))
        rng = np.random.default_rng(seed)
        drawn = self._neighborhood(rng)
        chosen = np.concatenate([self._draw_members(each, rng) for each in drawn])
        images = self.images[chosen]
        if self.transform is not None:
            images = self.transform(images, rng)
        pairs = np.stack([self.labels[chosen], np.repeat(drawn, self.members)], axis=1)
        return images, pairs.astype(np.int32)

    def refresh(self, embeddings: Tensor, epoch: int) -> None:
        """Builds the index of an epoch.

        Args:
            embeddings: Embeddings of all images, in their order, `(N, dims)`.
            epoch: The number of the epoch that begins.

        Raises:
            ClusterError: If the embeddings cannot be clustered; see `cluster`.
        """
        self.index = cluster(
            embeddings,
            self.labels,
            self.per_class,
            self.alpha,
            (self.seed, epoch),
            self.class_names,
        )
        self.epoch = int(epoch)
        self._set_clusters(self.index.assignments, self.index.classes, self.index.losses)

    def _set_clusters(
        self, assignments: np.ndarray, classes: np.ndarray, losses: np.ndarray
    ) -> None:
        order = np.argsort(assignments, kind="stable")
        self._members = np.split(order, np.cumsum(np.bincount(assignments))[:-1])
        self._classes = classes
        total = losses.sum()
        # If no cluster has a loss, all are equally likely.
        self._probabilities = losses / total if total > 0 else np.full(losses.size, 1 / losses.size)

    def _draw_members(self, number: int, rng: np.random.Generator) -> np.ndarray:
        """Images of a cluster, `(members,)`."""
        own = self._members[number]
        return rng.choice(own, self.members, replace=own.size < self.members)

    def _neighborhood(self, rng: np.random.Generator) -> np.ndarray:
        """A seed cluster and the nearest of other classes, `(clusters,)`."""
        first = rng.choice(self._probabilities.size, p=self._probabilities)
        others = np.flatnonzero(self._classes != self._classes[first])
        if self.index is None:
            nearest = rng.permutation(others)
        else:
            centers = self.index.centers
            squares = np.sum(np.square(centers[others] - centers[first]), axis=1)
            nearest = others[np.argsort(squares, kind="stable")]
        return np.array([first, *nearest[: self.clusters - 1]])


class RefreshClusters(keras.callbacks.Callback):
    """Embeds and clusters all images of `MagnetBatches` at the start of every epoch.

    The index is a function of the weights, the seed and the epoch, so a resumed training rebuilds
    it.

    Args:
        batches: The batches that `fit` trains on.
        images: The images in the order of `batches`, as inputs of the model: an array or a
            `keras.utils.PyDataset`; None for `batches.images`.

    Raises:
        ClusterError: In training, if the embeddings cannot be clustered; see `cluster`.

    Example:

    >>> import mhe
    >>> images, labels = np.random.default_rng(0).normal(size=(24, 5)), np.arange(24) % 3
    >>> batches = MagnetBatches(images, labels, per_class=2, clusters=3, members=2)
    >>> model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(4)])
    >>> model.compile("sgd", mhe.losses.MagnetLoss())
    >>> history = model.fit(batches, epochs=1, verbose=0, callbacks=[RefreshClusters(batches)])
    >>> batches.index.centers.shape
    (6, 4)
    """

    def __init__(self, batches: MagnetBatches, images: Any = None) -> None:
        super().__init__()
        self.batches = batches
        self.images = batches.images if images is None else images

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Builds the index of the epoch."""
        self.batches.refresh(self.model.predict(self.images, verbose=0), epoch)
