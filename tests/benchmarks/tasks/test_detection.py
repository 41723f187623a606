"""What a detector finds on scenes."""

import doctest

import numpy as np
import pytest

pytestmark = pytest.mark.one_backend


@pytest.fixture
def scenes(load_task):
    return load_task("scenes")


@pytest.fixture
def task(load_task):
    return load_task("detection")


def test_a_perfect_embedding_detects_everything(load, task, scenes, monkeypatch, parsed):
    """Brightness tells classes and, against black, how well a box fits."""
    levels = np.array([80, 160, 240], "uint8")
    images = np.broadcast_to(levels[:, None, None, None], (3, 12, 12, 1))
    drawn = scenes.draw_scenes(images, np.arange(3), 4, np.random.default_rng(3))

    def embeddings(embed, regions):
        mean, spread = regions.mean(axis=(1, 2, 3)), regions.std(axis=(1, 2, 3))
        return np.stack([mean, spread], axis=1).astype("float32") / 100

    monkeypatch.setattr(task, "embeddings", embeddings)
    few = np.stack([levels / 100, 0 * levels], axis=1)[:, None]
    head = task.Representatives(3, 1, 2, representatives=few)
    args = parsed(load("detection"))
    found = task.detect(args, None, head, drawn)
    assert task.mean_average_precision(found, drawn) > 0.8
    swapped = [[scene[1], scene[0], scene[2]] for scene in found]
    assert task.mean_average_precision(swapped, drawn) < 0.6


def test_examples_run(task):
    tried = doctest.testmod(task)
    assert tried.attempted > 0
    assert tried.failed == 0
