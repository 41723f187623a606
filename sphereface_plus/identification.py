"""Whose face is it? Closed-set identification, and templates from several images."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from sphereface_plus.verification.scores import blocks, unit_rows


@dataclass(frozen=True)
class Identification:
    """The rank of the correct person for each probe.

    Attributes:
        ranks: The rank of each probe's person among the gallery's, from 1, `(probes,)`.
        people: The number of people in the gallery.

    Example:

    >>> result = Identification(np.array([1, 3, 1, 1]), people=3)
    >>> result.rank(1), result.cmc.tolist()
    (0.75, [0.75, 0.75, 1.0])
    """

    ranks: np.ndarray
    people: int

    @property
    def cmc(self) -> np.ndarray:
        """The cumulative match characteristic: identification rates at ranks 1…people, float64."""
        counts = np.bincount(self.ranks - 1, minlength=self.people)
        return np.cumsum(counts) / len(self.ranks)

    def rank(self, rank: int) -> float:
        """The fraction of probes whose person is among the first `rank`."""
        return float(np.mean(self.ranks <= rank))


def identify(gallery: Any, gallery_labels: Any, probes: Any, probe_labels: Any) -> Identification:
    """Ranks the people of a gallery for each probe, by the cosine of their nearest image.

    A tie counts against the probe's own person: embeddings that are all equal identify nobody.

    Args:
        gallery: Embeddings `(G, dims)`, one or more per person; see `templates` to merge several.
        gallery_labels: The person of each, `(G,)`: integers or names.
        probes: Embeddings `(P, dims)`.
        probe_labels: The person of each, `(P,)`, who must be in the gallery.

    Returns:
        The rank of each probe's person. Cosines are computed in blocks of 32 MiB.

    Raises:
        ValueError: If the shapes do not match, an embedding is zero or not finite, or a probe's
            person is not in the gallery.

    Example:

    >>> gallery, probes = [[1.0, 0.0], [0.0, 1.0]], [[0.9, 0.1], [0.6, 0.5], [0.1, 0.9]]
    >>> identify(gallery, ["ann", "bob"], probes, ["ann", "bob", "bob"]).ranks
    array([1, 2, 1])
    """
    gallery, gallery_labels = _labelled("gallery", gallery, gallery_labels)
    probes, probe_labels = _labelled("probes", probes, probe_labels)
    if gallery.shape[1] != probes.shape[1]:
        raise ValueError(
            "`gallery` and `probes` must have the same number of dimensions. "
            f"Received: {gallery.shape[1]} and {probes.shape[1]} dimensions"
        )
    order = np.argsort(gallery_labels, kind="stable")
    people, starts = np.unique(gallery_labels[order], return_index=True)
    unknown = np.setdiff1d(probe_labels, people)
    if len(unknown):
        raise ValueError(
            "The people of all probes must be in the gallery. "
            f"Received: {unknown[0]!s}, who is not in it"
        )
    own = np.searchsorted(people, probe_labels)
    gallery = gallery[order]
    ranks = np.empty(len(probes), np.int64)
    for block in blocks(len(probes), len(gallery)):
        nearest = np.maximum.reduceat(probes[block] @ gallery.T, starts, axis=1)
        reached = np.take_along_axis(nearest, own[block, None], axis=1)
        ranks[block] = np.count_nonzero(nearest >= reached, axis=1)
    return Identification(ranks, len(people))


def templates(embeddings: Any, groups: Any) -> tuple[np.ndarray, np.ndarray]:
    """Merges the embeddings of several images into their normalized mean direction.

    Args:
        embeddings: Embeddings `(n, dims)`.
        groups: The group of each, such as a person or a video, `(n,)`: integers or names.

    Returns:
        The templates, float32 `(T, dims)`, and the sorted groups `(T,)`.

    Raises:
        ValueError: If the shapes do not match, an embedding is zero or not finite, or those of a
            group cancel each other.

    Example:

    >>> templates([[2.0, 0.0], [0.0, 1.0], [0.0, 5.0]], ["ann", "ann", "bob"])
    (array([[0.70710677, 0.70710677], [0. , 1. ]], dtype=float32), array(['ann', 'bob'], ...))
    """
    units, groups = _labelled("embeddings", embeddings, groups)
    order = np.argsort(groups, kind="stable")
    names, starts = np.unique(groups[order], return_index=True)
    sums = np.add.reduceat(units[order], starts, axis=0, dtype=np.float64)
    # Directions that cancel leave only a rounding error.
    counts = np.diff(np.r_[starts, len(units)])
    cancelled = np.linalg.norm(sums, axis=1) <= 1e-6 * counts
    if cancelled.any():
        raise ValueError(
            "The directions of a group must have a mean. "
            f"Received: those of {names[cancelled.argmax()]!s}, which cancel each other"
        )
    return unit_rows(sums), names


def _labelled(name: str, embeddings: Any, labels: Any) -> tuple[np.ndarray, np.ndarray]:
    """Returns unit rows and their labels, or raises a `ValueError`."""
    units, labels = unit_rows(embeddings, name), np.asarray(labels)
    if labels.shape != (len(units),):
        raise ValueError(
            f"There must be one label for each of the {len(units)} rows of `{name}`. "
            f"Received: shape {labels.shape}"
        )
    return units, labels
