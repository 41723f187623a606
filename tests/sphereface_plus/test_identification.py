"""Identification against ranks that are counted one by one."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from sphereface_plus.identification import identify, templates

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


BAD = {
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
    assert named in str(error.value).split("Received: ")[1]
