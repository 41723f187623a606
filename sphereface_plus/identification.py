"""Whose face is it, if anybody's? Identification, and templates from several images."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from mhe import checks
from sphereface_plus.verification.scores import blocks, merged, unit_rows


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
    gallery, gallery_labels, probes, probe_labels = _checked(
        gallery, gallery_labels, probes, probe_labels
    )
    people = np.unique(gallery_labels)
    unknown = np.setdiff1d(probe_labels, people)
    if len(unknown):
        raise ValueError(
            "The people of all probes must be in the gallery. "
            f"Received: {unknown[0]!s}, who is not in it"
        )
    own = np.searchsorted(people, probe_labels)
    ranks = np.empty(len(probes), np.int64)
    for block, nearest in _nearest(gallery, gallery_labels, probes):
        reached = np.take_along_axis(nearest, own[block, None], axis=1)
        ranks[block] = np.count_nonzero(nearest >= reached, axis=1)
    return Identification(ranks, len(people))


@dataclass(frozen=True)
class Search:
    """How a search for probes went, some of whose people are in the gallery and some are not.

    Attributes:
        ranks: The rank, from 1, of the person of each probe in the gallery, `(mated,)`.
        scores: The score of that person, `(mated,)`.
        false_scores: The largest score of each probe whose person is not in it, `(others,)`.

    Example:

    >>> result = Search(np.array([1, 2, 1]), np.array([0.9, 0.5, 0.3]), np.array([0.4, 0.1]))
    >>> round(result.rank(1), 3), round(result.tpir_at(0.5), 3), result.tpir_at(0.1)
    (0.667, 0.667, None)
    """

    ranks: np.ndarray
    scores: np.ndarray
    false_scores: np.ndarray

    def rank(self, rank: int) -> float:
        """The fraction of the probes in the gallery whose person is among the first `rank`."""
        return float(np.mean(self.ranks <= rank))

    def threshold_at(self, fpir: float) -> float | None:
        """The smallest threshold with at most this false positive identification rate.

        A false positive is a probe of somebody who is not in the gallery with a score above the
        threshold.

        Args:
            fpir: A rate in (0, 1).

        Returns:
            The threshold, or None if there are fewer than 1/`fpir` such probes: so few allow no
            false positive at all.
        """
        checks.check_number("fpir", fpir, above=0, below=1)
        return threshold_at(self.false_scores, fpir)

    def tpir_at(self, fpir: float, rank: int = 1) -> float | None:
        """The true positive identification rate at a false positive identification rate.

        Args:
            fpir: A rate in (0, 1).
            rank: The rank that a probe's person must have, besides a score above the threshold.

        Returns:
            The fraction of the probes in the gallery that are found, or None as `threshold_at`.
        """
        checks.check_count("rank", rank, 1)
        threshold = self.threshold_at(fpir)
        if threshold is None:
            return None
        return float(np.mean((self.scores > threshold) & (self.ranks <= rank)))


def search(gallery: Any, gallery_labels: Any, probes: Any, probe_labels: Any) -> Search:
    """Searches a gallery for probes, some of whose people are not in it: open-set identification.

    The score of a person is the cosine of their nearest embedding. A tie counts against the probe's
    own person.

    Args:
        gallery: Embeddings `(G, dims)`, one or more per person.
        gallery_labels: The person of each, `(G,)`: integers or names.
        probes: Embeddings `(P, dims)`.
        probe_labels: The person of each, `(P,)`, in the gallery or not.

    Returns:
        The ranks and scores. Cosines are computed in blocks of 32 MiB.

    Raises:
        ValueError: If the shapes do not match, an embedding is zero or not finite, or no probe's
            person is in the gallery.

    Example:

    >>> gallery, probes = [[1.0, 0.0], [0.0, 1.0]], [[0.9, 0.1], [0.6, 0.5], [-0.1, -0.9]]
    >>> found = search(gallery, ["ann", "bob"], probes, ["ann", "bob", "cid"])
    >>> found.ranks, found.false_scores.round(2)
    (array([1, 2]), array([-0.11], dtype=float32))

    Reference:
        Maze et al., IARPA Janus Benchmark - C: face dataset and protocol, ICB 2018.
    """
    gallery, gallery_labels, probes, probe_labels = _checked(
        gallery, gallery_labels, probes, probe_labels
    )
    people = np.unique(gallery_labels)
    mated = np.isin(probe_labels, people)
    if not mated.any():
        raise ValueError(
            "At least one probe must be of a person in the gallery. "
            f"Received: {len(probes):,} probes, none of which is"
        )
    own = np.searchsorted(people, np.where(mated, probe_labels, people[0]))
    ranks, scores = np.empty(len(probes), np.int64), np.empty(len(probes), np.float32)
    largest = np.empty(len(probes), np.float32)
    for block, nearest in _nearest(gallery, gallery_labels, probes):
        reached = np.take_along_axis(nearest, own[block, None], axis=1)
        ranks[block] = np.count_nonzero(nearest >= reached, axis=1)
        scores[block] = reached[:, 0]
        largest[block] = np.max(nearest, axis=1)
    return Search(ranks[mated], scores[mated], largest[~mated])


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
    return merged(units[order], groups[order], "group")


def nearest(gallery: Any, gallery_labels: Any, probes: Any) -> tuple[np.ndarray, np.ndarray]:
    """Names the person of a gallery that is nearest to each probe, known or not.

    Args:
        gallery: Embeddings `(G, dims)`, one or more per person.
        gallery_labels: The person of each, `(G,)`: integers or names.
        probes: Embeddings `(P, dims)`.

    Returns:
        The person with the nearest embedding, `(P,)`, and its cosine, float32 `(P,)`. Of people who
        are equally near it is the first in their order. Cosines are computed in blocks of 32 MiB.

    Raises:
        ValueError: If the shapes do not match, or an embedding is zero or not finite.

    Example:

    >>> gallery, probes = [[1.0, 0.0], [0.0, 1.0]], [[4.0, 3.0], [-1.0, 0.0]]
    >>> people, cosines = nearest(gallery, ["ann", "bob"], probes)
    >>> people.tolist(), cosines.round(2).tolist()
    (['ann', 'bob'], [0.800000011920929, 0.0])
    """
    probes = unit_rows(probes, "probes")
    gallery, labels, probes, _ = _checked(gallery, gallery_labels, probes, np.arange(len(probes)))
    people = np.unique(labels)
    names, cosines = np.empty(len(probes), people.dtype), np.empty(len(probes), np.float32)
    for block, each in _nearest(gallery, labels, probes):
        names[block] = people[np.argmax(each, axis=1)]
        cosines[block] = np.max(each, axis=1)
    return names, cosines


def stranger_scores(gallery: Any, gallery_labels: Any) -> np.ndarray:
    """What the people of a gallery would score as strangers: the cosine of the nearest other.

    With `threshold_at` they give a threshold where no probes of strangers are at hand.

    Args:
        gallery: Embeddings `(G, dims)`, one or more per person.
        gallery_labels: The person of each, `(G,)`: integers or names, of at least two people.

    Returns:
        For each embedding the largest cosine with an embedding of anybody else, float32 `(G,)`.

    Raises:
        ValueError: If the shapes do not match, there is one person alone, or an embedding is zero
            or not finite.

    Example:

    >>> stranger_scores([[1.0, 0.0], [4.0, 3.0], [0.0, 1.0]], ["ann", "ann", "bob"]).round(2)
    array([0. , 0.6, 0.6], dtype=float32)
    """
    gallery, labels = _labelled("gallery", gallery, gallery_labels)
    people, own = np.unique(labels, return_inverse=True)
    if len(people) < 2:
        raise ValueError(f"`gallery` must hold at least 2 people. Received: {len(people)}")
    scores = np.empty(len(gallery), np.float32)
    for block, each in _nearest(gallery, labels, gallery):
        np.put_along_axis(each, own[block, None], -np.inf, axis=1)
        scores[block] = np.max(each, axis=1)
    return scores


def threshold_at(false_scores: Any, rate: float) -> float | None:
    """The smallest threshold that at most this share of the scores of strangers is above.

    Args:
        false_scores: Scores of which none should be accepted, `(n,)`.
        rate: The share, in (0, 1).

    Returns:
        The threshold, or None if there are fewer than 1/`rate` scores: so few allow no false alarm
        at all.

    Raises:
        ValueError: If the rate is outside (0, 1).

    Example:

    >>> threshold_at([0.1, 0.4, 0.2, 0.3], 0.25)
    0.3
    >>> threshold_at([0.1, 0.4, 0.2, 0.3], 0.1)
    """
    checks.check_number("rate", rate, above=0, below=1)
    # 1e-2 · 100 must be 1, whatever the rounding.
    allowed = math.floor(rate * len(false_scores) * (1 + 1e-9))
    if allowed < 1:
        return None
    falling = np.sort(false_scores)[::-1]
    return float(falling[min(allowed, len(falling) - 1)])


def _checked(
    gallery: Any, gallery_labels: Any, probes: Any, probe_labels: Any
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Returns unit rows and labels of one number of dimensions, or raises a `ValueError`."""
    gallery, gallery_labels = _labelled("gallery", gallery, gallery_labels)
    probes, probe_labels = _labelled("probes", probes, probe_labels)
    if gallery.shape[1] != probes.shape[1]:
        raise ValueError(
            "`gallery` and `probes` must have the same number of dimensions. "
            f"Received: {gallery.shape[1]} and {probes.shape[1]} dimensions"
        )
    return gallery, gallery_labels, probes, probe_labels


def _nearest(
    gallery: np.ndarray, labels: np.ndarray, probes: np.ndarray
) -> Iterator[tuple[slice, np.ndarray]]:
    """For blocks of probes, the cosine of each person's nearest embedding, people in order."""
    order = np.argsort(labels, kind="stable")
    _, starts = np.unique(labels[order], return_index=True)
    gallery = gallery[order]
    for block in blocks(len(probes), len(gallery)):
        yield block, np.maximum.reduceat(probes[block] @ gallery.T, starts, axis=1)


def _labelled(name: str, embeddings: Any, labels: Any) -> tuple[np.ndarray, np.ndarray]:
    """Returns unit rows and their labels, or raises a `ValueError`."""
    units, labels = unit_rows(embeddings, name), np.asarray(labels)
    if labels.shape != (len(units),):
        raise ValueError(
            f"There must be one label for each of the {len(units)} rows of `{name}`. "
            f"Received: shape {labels.shape}"
        )
    return units, labels
