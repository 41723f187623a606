"""Boxes of a detector: overlaps, suppression, average precision."""

import doctest

import numpy as np
import pytest

pytestmark = pytest.mark.one_backend


@pytest.fixture
def boxes(load_task):
    return load_task("boxes")


def test_average_precision_is_the_area_under_the_curve(boxes):
    rng = np.random.default_rng(0)
    for _ in range(20):
        count = rng.integers(1, 12)
        scores, right = rng.permutation(count) / 10, rng.random(count) < 0.5
        objects = right.sum() + rng.integers(1, 3)
        order = np.argsort(-scores)
        points = [
            (right[order[: n + 1]].sum() / objects, right[order[: n + 1]].mean())
            for n in range(count)
        ]
        # At each recall the best precision there or further on; 0 where none is reached.
        recalls = np.arange(1, objects + 1) / objects
        best = [max([p for r, p in points if r >= each - 1e-9], default=0) for each in recalls]
        assert boxes.average_precision(scores, right, objects) == pytest.approx(np.mean(best))


def test_overlaps_are_shared_pixels(boxes):
    rng = np.random.default_rng(1)
    corners = rng.integers(0, 10, size=(6, 2))
    made = np.concatenate([corners, corners + rng.integers(1, 8, size=(6, 2))], axis=1)
    masks = np.zeros((6, 20, 20), bool)
    for mask, (top, left, bottom, right) in zip(masks, made, strict=True):
        mask[top:bottom, left:right] = True
    shared = (masks[:, None] & masks).sum((2, 3)) / (masks[:, None] | masks).sum((2, 3))
    np.testing.assert_allclose(boxes.overlaps(made, made), shared)
    kept = boxes.suppress(made, scores := rng.random(6), threshold=0.2)
    assert kept[0] == scores.argmax()
    assert np.all(shared[np.ix_(kept, kept)][~np.eye(len(kept), dtype=bool)] < 0.2)
    for place in set(range(6)) - set(kept.tolist()):
        assert np.any((shared[place, kept] >= 0.2) & (scores[kept] > scores[place]))


def test_examples_run(boxes):
    tried = doctest.testmod(boxes)
    assert tried.attempted > 0
    assert tried.failed == 0
