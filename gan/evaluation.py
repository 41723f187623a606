"""All scores of generated images at once, batch by batch."""

from collections.abc import Iterable

import numpy as np

from gan.classifiers import Classifier
from gan.scores import (
    Reference,
    Statistics,
    frechet_distance,
    inception_score,
    kernel_inception_distance,
    precision_recall,
)

_SUBSET = 1000
# The neighbor that bounds the balls of precision and recall, as published.
_NEIGHBOR = 3


def least_images(splits: int, k: int = _NEIGHBOR) -> int:
    """The minimum number of generated images for `evaluate`.

    Args:
        splits: Number of splits of the inception score.
        k: The neighbor in precision and recall.

    Example:

    >>> least_images(splits=10), least_images(splits=2)
    (10, 4)
    """
    return max(splits, k + 1)


def evaluate(
    batches: Iterable[np.ndarray],
    classifier: Classifier,
    reference: Reference,
    *,
    splits: int = 10,
    k: int = _NEIGHBOR,
    seed: int = 0,
    batch_size: int = 100,
) -> dict[str, float]:
    """Scores generated images.

    Images are not kept: one batch is in memory, with the class probabilities and statistics of all
    images, and the features of as many images as `reference` has.

    Args:
        batches: The generated images, uint8 `(B, H, W, C)` each.
        classifier: The classifier that `reference` was computed with.
        reference: The real images.
        splits: Number of splits of the inception score.
        k: The neighbor in precision and recall.
        seed: Seed of the subsets of the kernel inception distance.
        batch_size: Number of images to score at once.

    Returns:
        `inception_score` and `inception_score_over_splits_std`, `frechet_distance`,
        `kernel_inception_distance` and `kernel_inception_distance_over_subsets_std` (100 subsets of
        1000 images, or of all if there are fewer), `precision` and `recall` (of equally many
        images). No name ends in a plain `_std`, which in a table of runs is the deviation over
        seeds.

    Raises:
        ValueError: If there are too few images.
    """
    statistics = Statistics(classifier.dims)
    probabilities: list[np.ndarray] = []
    kept: list[np.ndarray] = []
    wanted = len(reference.features)
    for images in batches:
        predicted, features = classifier.score(images, batch_size)
        probabilities.append(predicted)
        statistics.update(features)
        missing = wanted - sum(len(each) for each in kept)
        kept.append(features[: max(0, missing)].copy())
    least = least_images(splits, k)
    if statistics.count < least or wanted <= k:
        raise ValueError(
            f"Scores with {splits} splits and {k} neighbors need at least {least} generated and "
            f"{k + 1} real images. Received: {statistics.count} and {wanted}"
        )
    fake = np.concatenate(kept)
    real = reference.features[: len(fake)]
    score, score_std = inception_score(np.concatenate(probabilities), splits)
    kernel, kernel_std = kernel_inception_distance(
        reference.features, fake, size=min(_SUBSET, len(fake)), seed=seed
    )
    precision, recall = precision_recall(real, fake, k)
    of_real = reference.statistics
    return {
        "inception_score": score,
        "inception_score_over_splits_std": score_std,
        "frechet_distance": frechet_distance(
            of_real.mu, of_real.sigma, statistics.mu, statistics.sigma
        ),
        "kernel_inception_distance": kernel,
        "kernel_inception_distance_over_subsets_std": kernel_std,
        "precision": precision,
        "recall": recall,
    }
