"""How well an embedding does on episodes of classes that it was not trained on."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from keras import ops

from mhe.checks import check_count
from mhe.fewshot.episodes import Episodes, _few
from mhe.fewshot.network import _check_distance


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
