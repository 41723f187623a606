"""Balanced and long-tailed subsets, and the same share of every class held out."""

import numpy as np
import pytest

from mhe.harness.datasets import balanced_subset, held_out, long_tailed
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


def test_long_tailed_has_the_exponential_profile():
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(10), 5000))
    chosen = long_tailed(labels, 100, seed=1)
    expected = [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]  # of long-tailed CIFAR-10
    assert np.bincount(labels[chosen]).tolist() == expected
    assert np.all(np.diff(chosen) > 0)
    np.testing.assert_array_equal(long_tailed(labels, 100, seed=1), chosen)
    assert not np.array_equal(long_tailed(labels, 100, seed=2), chosen)
    assert set(chosen) < set(long_tailed(labels, 10, seed=1))
    assert np.bincount(labels[long_tailed(labels, 1, seed=1)]).tolist() == [5000] * 10


def test_the_head_is_as_large_as_the_smallest_class():
    labels = np.repeat([2, 3, 7], [40, 20, 30])
    counts = np.bincount(labels[long_tailed(labels, 20, seed=0)], minlength=8)
    assert counts.tolist() == [0, 0, 20, 4, 0, 0, 0, 1]


def test_long_tails_that_cannot_be():
    labels = np.repeat([0, 1], [40, 20])
    with pytest.raises(BadInput, match=r"must keep an image, .* at most 20, .* Received: 21"):
        long_tailed(labels, 21, seed=0)
    with pytest.raises(BadInput, match=r"at least 1. Received: 2 classes, an imbalance of 0.5"):
        long_tailed(labels, 0.5, seed=0)
    with pytest.raises(BadInput, match=r"at least two classes .* Received: 1 classes"):
        long_tailed(labels[:9], 2, seed=0)
