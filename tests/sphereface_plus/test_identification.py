"""Identification against ranks that are counted one by one."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from sphereface_plus.identification import (
    identify,
    nearest,
    search,
    stranger_scores,
    templates,
    threshold_at,
)

pytestmark = pytest.mark.one_backend


def test_ranks_are_those_of_people(monkeypatch):
    monkeypatch.setattr("sphereface_plus.verification.scores._BLOCK", 40)
    generator = np.random.default_rng(4)
    names = np.array(["ann", "bob", "cy", "dee"])
    gallery, probes = generator.normal(size=(12, 3)), generator.normal(size=(9, 3))
    owners, sought = names[np.arange(12) % 4], names[generator.integers(4, size=9)]
    found = identify(gallery, owners, probes, sought)
    for probe, own, rank in zip(probes, sought, found.ranks, strict=True):
        cosines = gallery @ probe / np.linalg.norm(gallery, axis=1)
        nearest = {name: cosines[owners == name].max() for name in names}
        assert rank == 1 + sum(each > nearest[own] for each in nearest.values())
    assert len(set(found.ranks)) > 2
    assert found.people == 4
    assert_allclose(found.cmc, [np.mean(found.ranks <= rank) for rank in (1, 2, 3, 4)])
    assert found.rank(2) == found.cmc[1]
    # Whose people are all alike is of no use.
    alike = identify(np.ones((4, 3)), names, np.ones((4, 3)), names)
    assert_array_equal(alike.ranks, 4)


def test_templates_are_mean_directions():
    embeddings = np.random.default_rng(4).normal(size=(7, 3))
    groups = np.array([5, 2, 5, 9, 2, 5, 5])
    found, order = templates(embeddings, groups)
    assert_array_equal(order, [2, 5, 9])
    for template, group in zip(found, order, strict=True):
        own = embeddings[groups == group]
        mean = np.mean(own / np.linalg.norm(own, axis=1, keepdims=True), axis=0)
        assert_allclose(template, mean / np.linalg.norm(mean), atol=1e-6)


def test_the_nearest_and_what_strangers_score(monkeypatch):
    monkeypatch.setattr("sphereface_plus.verification.scores._BLOCK", 40)
    generator = np.random.default_rng(6)
    names = np.array(["dee", "ann", "cy", "bob"])
    gallery, probes = generator.normal(size=(12, 3)), generator.normal(size=(9, 3))
    owners = names[np.arange(12) % 4]
    units = [each / np.linalg.norm(each, axis=1, keepdims=True) for each in (gallery, probes)]
    found, cosines = nearest(gallery, owners, probes)
    for name, cosine, probe in zip(found, cosines, units[1], strict=True):
        assert name == owners[np.argmax(units[0] @ probe)]
        assert cosine == pytest.approx(np.max(units[0] @ probe), abs=1e-6)
    alike, _ = nearest(np.ones((4, 3)), names, np.ones((2, 3)))
    assert_array_equal(alike, "ann")
    for score, unit, owner in zip(stranger_scores(gallery, owners), units[0], owners, strict=True):
        assert score == pytest.approx(np.max(units[0][owners != owner] @ unit), abs=1e-6)


def test_thresholds_are_the_lowest_that_are_strict_enough():
    scores = np.random.default_rng(7).normal(size=50).round(1)
    for rate in (0.02, 0.1, 0.5, 0.9):
        bars = np.r_[scores.min() - 1, np.unique(scores)]
        assert threshold_at(scores, rate) == next(
            bar for bar in bars if np.mean(scores > bar) <= rate
        )
    assert threshold_at(scores, 0.019) is threshold_at([], 0.5) is None
    probes = np.random.default_rng(8).normal(size=(20, 3))
    found = search(np.eye(3), [1, 2, 3], probes, np.arange(20) % 5)
    assert found.threshold_at(0.2) == threshold_at(found.false_scores, 0.2)


BAD = {
    "Received: 1": lambda: stranger_scores(np.eye(2), [1, 1]),
    "rate=1": lambda: threshold_at([0.5], 1),
    "row 0 of length 0.0": lambda: nearest(np.eye(2), [1, 2], np.zeros((1, 2))),
    "2 and 1 dimensions": lambda: nearest(np.eye(2), [1, 2], np.ones((1, 1))),
    "those of group 1, which cancel each other": lambda: templates(
        [[1, 0], [0, 2], [0, -3]], [0, 1, 1]
    ),
    "3, who is not": lambda: identify(np.eye(2), [1, 2], np.eye(2), [1, 3]),
    "2 and 3 dimensions": lambda: identify(np.eye(2), [1, 2], np.eye(3), [1, 2, 2]),
    "shape (1,)": lambda: identify(np.eye(2), [1, 2], np.eye(2), [1]),
}


@pytest.mark.parametrize("named", BAD)
def test_bad_input_is_named(named):
    with pytest.raises(ValueError) as error:  # noqa: PT011 - the message is what is tested
        BAD[named]()
    assert named in f"Received: {str(error.value).split('Received: ')[1]}"
