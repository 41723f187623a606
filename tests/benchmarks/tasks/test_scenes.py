"""Scenes of a detection set, and the regions cut from them."""

import doctest

import numpy as np
import pytest

pytestmark = pytest.mark.one_backend


@pytest.fixture
def boxes(load_task):
    return load_task("boxes")


@pytest.fixture
def scenes(load_task):
    return load_task("scenes")


def test_every_object_of_a_scene_stands_in_its_box(scenes, boxes):
    rng = np.random.default_rng(2)
    images = np.full((5, 12, 12, 1), 200, "uint8")
    drawn = scenes.draw_scenes(images, np.arange(5), 20, rng)
    proposals = scenes.proposals()
    best = []
    for scene in drawn:
        inside = np.zeros(scene.canvas.shape, bool)
        for top, left, bottom, right in scene.boxes:
            inside[top:bottom, left:right] = True
        np.testing.assert_array_equal(scene.canvas > 0, inside)
        shared = boxes.overlaps(scene.boxes, scene.boxes)
        np.testing.assert_array_equal(shared, np.eye(len(shared)))
        best += boxes.overlaps(scene.boxes, proposals).max(axis=1).tolist()
    # The grid alone can find nearly all of them.
    assert np.mean(np.array(best) >= 0.5) > 0.98
    regions, labels = scenes.regions(drawn, 5, rng)
    assert regions.shape[1:] == (28, 28, 1)
    covered = (regions > 0).mean(axis=(1, 2, 3))
    assert covered[labels < 5].min() > 0.5
    assert np.median(covered[labels == 5]) < 0.5
    assert 0.4 < np.mean(labels == 5) < 0.6


def test_examples_run(scenes):
    tried = doctest.testmod(scenes)
    assert tried.attempted > 0
    assert tried.failed == 0
