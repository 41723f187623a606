"""An index of clusters: k-means over each class of a training set, and the clusters' losses."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from mhe import checks
from mhe.clusters.distances import distance_scale, largest, squared_distances


class ClusterError(ValueError):
    """Embeddings that cannot be clustered."""


@dataclass(frozen=True)
class ClusterIndex:
    """The clusters of a training set.

    Attributes:
        centers: The mean of each cluster's embeddings, `(clusters, dims)`.
        classes: The class of each cluster `(clusters,)`.
        assignments: The cluster of each image `(N,)`.
        variance: σ², the sum of the images' squared distances from their centers over N - 1.
        losses: The mean loss of each cluster's images `(clusters,)`: see `cluster`.
    """

    centers: np.ndarray
    classes: np.ndarray
    assignments: np.ndarray
    variance: float
    losses: np.ndarray


def cluster(
    embeddings: Any,
    labels: Any,
    per_class: int,
    alpha: float = 1.0,
    seed: int | Sequence[int] = 0,
    class_names: Sequence[str] | None = None,
) -> ClusterIndex:
    """Finds k clusters per class by k-means, and measures their losses.

    The loss of an image is Magnet loss over the whole training set, with the clusters' own centers
    and variance (equation 4 of the paper). The paper stores the losses that images had in their
    last batch. As all images are embedded anyway, here the losses are never stale or missing, and
    no state passes from epoch to epoch.

    Args:
        embeddings: Array `(N, dims)`.
        labels: Class of each image `(N,)`, integers from 0.
        per_class: k, clusters per class.
        alpha: The separation α of the loss.
        seed: Seed of k-means++: a non-negative integer, or several.
        class_names: Names of the classes for errors, or None for numbers.

    Returns:
        The index, with clusters sorted by class.

    Raises:
        ValueError: If the shapes do not fit, or a class has fewer than k images.
        ClusterError: If an embedding is not finite, or a cluster stays empty because a class has
            fewer than k distinct embeddings.
        ImportError: If scikit-learn is not installed.

    Example:

    >>> embeddings = np.array([[0.0], [0.2], [5.0], [5.2], [2.0], [2.2], [9.0], [9.2]])
    >>> index = cluster(embeddings, [0, 0, 0, 0, 1, 1, 1, 1], per_class=2)
    >>> sorted(index.centers[:, 0].round(1).tolist()), index.classes.tolist()
    ([0.1, 2.1, 5.1, 9.1], [0, 0, 1, 1])
    >>> round(index.variance, 4)
    0.0114

    Reference:
        Rippel et al., Metric learning with adaptive density discrimination, ICLR 2016
        ([arXiv:1511.05939](https://arxiv.org/abs/1511.05939)), section 3.
    """
    embeddings = np.asarray(embeddings)
    labels = checked_labels(labels, per_class, class_names)
    checks.check_number("alpha", alpha)
    if embeddings.ndim != 2 or len(embeddings) != len(labels):
        raise ValueError(
            "`embeddings` must be (N, dims), one for each of the labels (N,). "
            f"Received: embeddings {embeddings.shape}, labels {labels.shape}"
        )
    finite = np.isfinite(embeddings).all(axis=1)
    if not finite.all():
        wrong = labels[~finite][0]
        raise ClusterError(
            f"Embeddings must be finite. Received: {_named(wrong, class_names)} has "
            f"{np.count_nonzero(~finite & (labels == wrong))} that are not, of "
            f"{np.count_nonzero(labels == wrong)}"
        )
    embeddings = embeddings.astype(np.float64)
    assignments = _assignments(embeddings, labels, per_class, seed, class_names)
    counts = np.bincount(assignments)
    centers = np.zeros((counts.size, embeddings.shape[1]))
    np.add.at(centers, assignments, embeddings)
    centers /= counts[:, None]
    classes = np.repeat(np.unique(labels), per_class)
    own = np.sum(np.square(embeddings - centers[assignments]), axis=1)
    variance = float(own.sum() / max(own.size - 1, 1))
    scale = distance_scale(variance, centers)
    losses = np.empty(own.size)
    for rows, squares in squared_distances(embeddings, centers):
        impostors = classes != labels[rows, None]
        exponents = np.where(impostors, -squares / scale, -np.inf)
        top = largest(exponents)
        with np.errstate(divide="ignore"):
            # A single class has no impostors, and no loss.
            total = np.log(np.exp(exponents - top).sum(axis=1)) + top[:, 0]
        losses[rows] = np.maximum(alpha + own[rows] / scale + total, 0.0)
    mean_losses = np.bincount(assignments, weights=losses) / counts
    return ClusterIndex(centers, classes, assignments, variance, mean_losses)


def _assignments(
    embeddings: np.ndarray,
    labels: np.ndarray,
    per_class: int,
    seed: int | Sequence[int],
    class_names: Sequence[str] | None,
) -> np.ndarray:
    """The cluster of each image `(N,)`, by k-means over each class."""
    classes = np.unique(labels)
    assignments = np.empty(labels.size, np.int64)
    states = np.random.SeedSequence(seed).generate_state(classes.size)
    with _k_means() as clusters_of:
        for place, (label, state) in enumerate(zip(classes, states, strict=True)):
            chosen = np.flatnonzero(labels == label)
            own = clusters_of(embeddings[chosen], per_class, state)
            empty = per_class - len(np.unique(own))
            if empty:
                raise ClusterError(
                    f"Each of the {per_class} clusters of a class must have an image. Received: "
                    f"{empty} without one in {_named(label, class_names)}, whose {chosen.size} "
                    f"images have {len(np.unique(embeddings[chosen], axis=0))} distinct embeddings"
                )
            assignments[chosen] = place * per_class + own
    return assignments


def checked_labels(
    labels: Any, per_class: int, class_names: Sequence[str] | None = None
) -> np.ndarray:
    """Returns labels as an array, or raises a `ValueError` if a class has too few images.

    Args:
        labels: Class of each image `(N,)`, integers from 0.
        per_class: Clusters per class.
        class_names: Names of the classes for errors, or None for numbers.

    Returns:
        An array `(N,)` of int64.

    Raises:
        ValueError: If labels are not such integers, or a class has fewer images than clusters.

    Example:

    >>> checked_labels([0, 0, 1], 2, ["cat", "dog"])
    Traceback (most recent call last):
    ValueError: `per_class` must be at most the number of images of a class. Received:
    per_class=2, and 1 image of class 1, dog
    """
    checks.check_count("per_class", per_class, 1)
    labels = np.asarray(labels)
    if labels.ndim != 1 or labels.size == 0 or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(
            "`labels` must be integers (N,), at least one. "
            f"Received: shape {labels.shape}, dtype {labels.dtype}"
        )
    if labels.min() < 0:
        raise ValueError(f"`labels` must not be negative. Received: {labels.min()}")
    labels = labels.astype(np.int64)
    classes, counts = np.unique(labels, return_counts=True)
    if counts.min() < per_class:
        least = int(np.argmin(counts))
        images = "image" if counts[least] == 1 else "images"
        raise ValueError(
            "`per_class` must be at most the number of images of a class. Received: "
            f"per_class={per_class}, and {counts[least]} {images} of "
            f"{_named(classes[least], class_names)}"
        )
    return labels


@contextmanager
def _k_means() -> Iterator[Callable[[np.ndarray, int, int], np.ndarray]]:
    """Yields a function that finds the cluster of each embedding; some may stay empty."""
    try:
        from sklearn.cluster import KMeans
        from sklearn.exceptions import ConvergenceWarning
        from threadpoolctl import threadpool_limits
    except ImportError as error:
        raise ImportError(
            'Clustering needs scikit-learn: pip install ".[train]" from the checkout'
        ) from error

    def clusters_of(embeddings: np.ndarray, clusters: int, state: int) -> np.ndarray:
        means = KMeans(clusters, n_init=1, random_state=np.random.RandomState(state))
        return means.fit_predict(embeddings)

    # Classes are small: threads would wait for each other, four times as long on a busy machine.
    with warnings.catch_warnings(), threadpool_limits(1):
        # It warns about clusters that stay empty, for which the caller raises an error.
        warnings.simplefilter("ignore", ConvergenceWarning)
        yield clusters_of


def _named(label: int, class_names: Sequence[str] | None) -> str:
    return f"class {label}" if class_names is None else f"class {label}, {class_names[label]}"
