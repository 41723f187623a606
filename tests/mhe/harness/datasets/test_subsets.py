"""Balanced subsets, and the same share of every class held out."""

import numpy as np
import pytest

from mhe.harness.datasets import balanced_subset, held_out
from mhe.harness.errors import BadInput

pytestmark = pytest.mark.one_backend


def test_balanced_subset():
    labels = np.random.default_rng(0).integers(5, size=500)
    images = np.arange(500)
    chosen, chosen_labels = balanced_subset(images, labels, 50, seed=1)
    assert np.bincount(chosen_labels).tolist() == [10] * 5
    np.testing.assert_array_equal(labels[chosen], chosen_labels)
    assert len(set(chosen.tolist())) == 50
    np.testing.assert_array_equal(balanced_subset(images, labels, 50, seed=1)[0], chosen)
    assert not np.array_equal(balanced_subset(images, labels, 50, seed=2)[0], chosen)
    assert set(balanced_subset(images, labels, 25, seed=1)[0]) < set(chosen)
    uneven = np.bincount(balanced_subset(images, labels, 53, seed=1)[1])
    assert sorted(uneven) == [10, 10, 11, 11, 11]


def test_balanced_subset_that_cannot_be():
    labels = np.array([0, 0, 0, 1])
    with pytest.raises(BadInput, match=r"needs 2 of class 1, which has 1. Received: 4"):
        balanced_subset(labels, labels, 4, seed=0)
    with pytest.raises(BadInput, match=r"of 2 classes needs at least as many images. Received: 1"):
        balanced_subset(labels, labels, 1, seed=0)


def test_held_out_takes_the_same_share_of_every_class():
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(7), 20))
    chosen = held_out(labels, 0.25, seed=3)
    assert np.bincount(labels[chosen]).tolist() == [5] * 7
    np.testing.assert_array_equal(held_out(labels, 0.25, seed=3), chosen)
    assert not np.array_equal(held_out(labels, 0.25, seed=4), chosen)
