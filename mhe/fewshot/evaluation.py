"""How well an embedding does on episodes of classes that it was not trained on."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from keras import ops

from mhe.checks import check_count, check_same_length, read_class_names
from mhe.fewshot.episodes import Episodes, describe_classes
from mhe.fewshot.network import check_distance
from mhe.types import Tensor


@dataclass(frozen=True)
class Evaluation:
    """How well an embedding does on many episodes.

    Attributes:
        accuracies: The accuracy over the queries of each episode, `(episodes,)`.

    Example:

    >>> evaluation = Evaluation(np.array([0.8, 1.0, 0.9, 0.9]))
    >>> f"{evaluation.accuracy:.3f} ± {evaluation.interval:.3f}"
    '0.900 ± 0.080'
    """

    accuracies: np.ndarray

    @property
    def accuracy(self) -> float:
        """The mean over the episodes."""
        return float(self.accuracies.mean())

    @property
    def interval(self) -> float:
        """Half the width of the 95% confidence interval of the mean, 1.96 s/√n over n episodes."""
        return float(1.96 * self.accuracies.std(ddof=1) / np.sqrt(self.accuracies.size))


def evaluate(
    embed: Callable[[np.ndarray], Tensor],
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
    """Evaluates an embedding on episodes of classes, seen in training or not.

    Every image is embedded once. Each query of an episode is assigned to the class whose mean
    support embedding is nearest.

    Args:
        embed: Maps images `(N, ...)` to embeddings `(N, dims)`, such as
            `PrototypicalNetwork.embed`.
        images: Array `(N, ...)`.
        labels: Class of each image `(N,)`, integers or names.
        ways: Classes per episode.
        shots: Support images per class.
        episodes: Number of episodes, at least 2.
        queries: Query images per class.
        seed: Seed of the episodes.
        distance: `"squared"` Euclidean or `"cosine"`.
        skip_small: Whether to skip classes with fewer than `shots + queries` images; otherwise
            they are an error.

    Returns:
        The accuracies of the episodes, their mean and its 95% confidence interval.

    Raises:
        ValueError: If episodes cannot be drawn (see `Episodes`), or embeddings are not finite rows,
            one per image.

    Example:

    >>> import numpy as np
    >>> labels = np.arange(60) % 3
    >>> result = evaluate(lambda images: images, np.eye(3)[labels], labels, ways=3, episodes=10)
    >>> result.accuracy, result.interval
    (1.0, 0.0)

    Reference:
        Snell et al., Prototypical Networks for Few-shot Learning, NeurIPS 2017
        ([arXiv:1703.05175](https://arxiv.org/abs/1703.05175)), section 3.1.
    """
    check_distance(distance)
    check_count("episodes", episodes, least=2)
    labels = read_class_names("labels", labels)
    drawn = Episodes(labels, ways, shots, queries, seed, skip_small)
    check_same_length(images=images, labels=labels)
    embeddings = np.asarray(ops.convert_to_numpy(embed(images)), np.float64)
    if embeddings.ndim != 2 or len(embeddings) != len(labels):
        raise ValueError(
            f"`embed` must return a row of numbers for each of the {len(labels)} images. "
            f"Received: shape {embeddings.shape}"
        )
    finite = np.isfinite(embeddings).all(axis=1)
    if not finite.all():
        raise ValueError(
            "Embeddings must be finite. Received: NaN or infinity for "
            f"{describe_classes(*np.unique(labels[~finite], return_counts=True))} such images"
        )
    if distance == "squared":
        # Distances do not change, and their digits are not spent on what all rows have in common.
        embeddings -= embeddings.mean(axis=0)
    targets = np.repeat(np.arange(ways), queries)
    accuracies = np.empty(episodes)
    for number in range(episodes):
        support, query = drawn[number]
        prototypes = embeddings[support].mean(axis=1)
        # The length of a query does not affect which prototype is nearest.
        scores = embeddings[query.reshape(-1)] @ prototypes.T
        squares = np.square(prototypes).sum(axis=1)
        if distance == "squared":
            scores -= squares / 2
        else:
            scores /= np.sqrt(np.where(squares > 0, squares, 1))
        accuracies[number] = np.mean(scores.argmax(axis=1) == targets)
    return Evaluation(accuracies)
