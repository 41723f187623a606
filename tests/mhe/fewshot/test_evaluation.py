"""Evaluation on episodes, against a loop in float64."""

import itertools

import numpy as np
import pytest

from mhe.fewshot import Episodes, evaluate

pytestmark = pytest.mark.one_backend


@pytest.mark.parametrize("distance", ["squared", "cosine"])
def test_evaluation_is_that_of_a_loop(distance, reference_logits):
    rng = np.random.default_rng(0)
    labels = np.arange(48) % 4
    # Far from zero, where the squares of float32 would have no digits left for the differences.
    images = 1000 + rng.normal(size=(4, 3))[labels] + rng.normal(size=(48, 3))
    found = evaluate(np.asarray, images, labels, 3, 2, episodes=20, queries=4, seed=7,
                     distance=distance)  # fmt: skip
    accuracies = []
    for support, query in itertools.islice(Episodes(labels, 3, 2, 4, seed=7), 20):
        right = 0
        for own, rows in enumerate(query):
            logits = reference_logits(images[support], images[rows], distance, 1)
            right += sum(logits.argmax(axis=1) == own)
        accuracies.append(right / 12)
    np.testing.assert_allclose(found.accuracies, accuracies)
    assert found.accuracy == pytest.approx(np.mean(accuracies))
    variance = sum((each - np.mean(accuracies)) ** 2 for each in accuracies) / 19
    assert found.interval == pytest.approx(1.96 * np.sqrt(variance / 20))
    assert 0.3 < found.accuracy < 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda e: np.where(np.arange(13)[:, None] == 3, np.nan, e), r"NaN.* for class a with 1"),
        (lambda e: e * np.inf, r"for class a with 4, class b with 4, class c with 4 and 1 more"),
        (lambda e: e[:5], r"each of the 13 images. Received: shape \(5, 2\)"),
        (lambda e: e[:, 0], r"each of the 13 images. Received: shape \(13,\)"),
    ],
)
def test_embeddings_that_cannot_be_scored(change, message, names):
    with pytest.raises(ValueError, match=message):
        evaluate(change, np.ones((13, 2)), names, 3, 1, queries=2, skip_small=True)


def test_images_and_labels_of_two_lengths_are_refused(names):
    with pytest.raises(ValueError, match=r"Received: 4 images, 13 labels"):
        evaluate(np.asarray, np.ones((4, 2)), names, 3, 1, queries=2, skip_small=True)
