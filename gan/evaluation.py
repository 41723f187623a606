"""All scores of generated images at once, in batches."""

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
from mhe.harness.errors import BadInput

_SUBSET = 1000
# Precision and recall reach to this neighbour, as published.
_NEIGHBOUR = 3


def least_images(splits: int, k: int = _NEIGHBOUR) -> int:
    """How many generated images `evaluate` needs.

    Args:
        splits: Parts of the inception score.
        k: The neighbour that precision and recall reach to.

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
    k: int = _NEIGHBOUR,
    seed: int = 0,
    batch_size: int = 100,
) -> dict[str, float]:
    """Scores generated images.

    No image is kept: in memory are a batch, the class probabilities and statistics of all, and the
    features of as many images as `reference` has.

    Args:
        batches: The generated images, uint8 `(B, H, W, C)` each.
        classifier: What sees them, the one that `reference` was computed with.
        reference: The real images.
        splits: Parts of the inception score.
        k: The neighbour that precision and recall reach to.
        seed: Of the subsets of the kernel inception distance.
        batch_size: Images that are scored at once.

    Returns:
        `inception_score` and `inception_score_over_splits_std`, `frechet_distance`,
        `kernel_inception_distance` and `kernel_inception_distance_over_subsets_std` (100 subsets of
        1000 images, or of all if there are fewer), `precision` and `recall` (of equally many
        images). Neither deviation ends in a bare `_std`, which a table of runs has for that over
        their seeds.

    Raises:
        BadInput: If there are too few images.
    """
    statistics, kept, probabilities = Statistics(classifier.dims), [], []
    wanted = len(reference.features)
    for images in batches:
        predicted, features = classifier.score(images, batch_size)
        probabilities.append(predicted)
        statistics.update(features)
        kept.append(features[: max(0, wanted - sum(map(len, kept)))].copy())
    least = least_images(splits, k)
    if statistics.count < least or wanted <= k:
        raise BadInput(
            f"Scores with {splits} splits and {k} neighbours need {least} generated and {k + 1} "
            f"real images or more. Received: {statistics.count} and {wanted}"
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
