"""Softmax among siblings against a float64 walk down the tree, on trees of uneven depth."""

import json
import math

import keras
import numpy as np
import pytest
from keras import ops

import mhe
from mhe import layers
from mhe.layers import hierarchical_log_probabilities

array = ops.convert_to_numpy
# Uneven; a chain without siblings; a leaf beside inner nodes; the first node is not the root's only
# child, and the labels are not in the order of the nodes.
TREE = mhe.ClassTree(
    [
        *(("dog", "animal"), ("animal", "thing"), ("poodle", "dog"), ("husky", "dog")),
        *(("cat", "animal"), ("oak", "plant"), ("plant", "thing"), ("stone", "thing")),
        *(("siamese", "cat"), ("tabby", "siamese")),
    ],
    ["stone", "tabby", "husky", "oak", "poodle"],
)


def reference(logits):
    """Log-probabilities of the classes, from names alone."""
    names = list(TREE.nodes)
    parent = {
        name: names[place] for name, place in zip(names, TREE.parents, strict=True) if place >= 0
    }
    value = dict(zip(names[1:], logits, strict=True))
    assert parent.keys() == value.keys()
    found = []
    for name in TREE.classes:
        total = 0.0
        while name in parent:
            siblings = [other for other in parent if parent[other] == parent[name]]
            total += value[name] - math.log(sum(math.exp(value[other]) for other in siblings))
            name = parent[name]
        found.append(total)
    return np.array(found)


def test_log_probabilities_and_their_gradient(draw, value_and_gradient, reference_gradient):
    logits, pull = draw(2, len(TREE.nodes) - 1), draw(2, 5, seed=1)
    head = layers.HierarchicalLogits(TREE)

    def total(logits):
        return sum(np.sum(p * reference(row)) for p, row in zip(pull, logits, strict=True))

    jit_compile = keras.backend.backend() != "torch"
    value, gradient = value_and_gradient(
        lambda x: ops.sum(ops.multiply(head(x), pull)), logits, jit_compile=jit_compile
    )
    assert value == pytest.approx(total(logits.astype("float64")), rel=1e-5)
    np.testing.assert_allclose(gradient, reference_gradient(total, logits), atol=1e-5)
    expected = [reference(row) for row in logits.astype("float64")]
    np.testing.assert_allclose(array(head(logits)), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(np.exp(array(head(logits))).sum(axis=1), 1, rtol=1e-6)


@pytest.mark.one_backend
def test_groups_of_siblings_of_any_size(draw):
    """Siblings are reduced a few at a time: once, twice, or not at all."""
    sizes = {"a": 1, "b": 2, "c": 16, "d": 17, "e": 70, "f": 3}
    paths = [f"{group}/{group}{i}" for group, size in sizes.items() for i in range(size)]
    tree = mhe.ClassTree.from_paths(sorted(paths, key=lambda path: path[::-1]))
    parents = np.asarray(tree.parents)
    logits = 30 * draw(3, len(parents) - 1)
    logits[0] += 1e4  # whose exponential overflows
    expected = np.zeros((3, len(tree.leaves)))
    for row, place in np.ndindex(expected.shape):
        node = tree.leaves[place]
        while node:
            others = logits[row, np.flatnonzero(parents == parents[node]) - 1].astype("float64")
            own = logits[row, node - 1].astype("float64")
            expected[row, place] += own - others.max()
            expected[row, place] -= np.log(np.exp(others - others.max()).sum())
            node = parents[node]
    found = array(layers.HierarchicalLogits(tree)(logits))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_the_root_is_not_the_first_node():
    """Only its own siblings count for the first node, and a root's children are siblings."""
    assert TREE.nodes[:2] == ("thing", "stone")
    logits = np.zeros(len(TREE.nodes) - 1, "float32")
    logits[0] = 2.0
    shares = np.exp(array(hierarchical_log_probabilities(logits, TREE.parents, TREE.leaves)))
    other = 1 / (math.exp(2) + 2)  # animal and plant, each
    expected = {"stone": 1 - 2 * other, "oak": other, "tabby": other / 2}
    expected.update(husky=other / 4, poodle=other / 4)
    np.testing.assert_allclose(shares, [expected[name] for name in TREE.classes], rtol=1e-6)


def test_nodes_without_siblings_have_probability_one(draw):
    chain = mhe.ClassTree.from_parents({"leaf": "twig", "twig": "branch", "branch": "root"})
    logits = 100 * draw(2, 3)
    found = hierarchical_log_probabilities(logits, chain.parents, chain.leaves)
    np.testing.assert_array_equal(array(found), 0)


def test_large_and_half_precision_logits(draw):
    logits = draw(2, 3, len(TREE.nodes) - 1)
    head = layers.HierarchicalLogits(TREE, dtype="mixed_float16")
    found = head((3e4 * logits).clip(-6e4, 6e4).astype("float16"))
    assert keras.backend.standardize_dtype(found.dtype) == "float32"
    assert tuple(found.shape) == (2, 3, 5)
    assert np.isfinite(array(found)).all()
    assert array(found).max() <= 0
    # As a common shift, whatever its size, does not count.
    shifted = array(hierarchical_log_probabilities(logits + 512, TREE.parents, TREE.leaves))
    np.testing.assert_allclose(shifted, array(layers.HierarchicalLogits(TREE)(logits)), atol=2e-4)
    assert head(keras.KerasTensor((None, 7, 10))).shape == (None, 7, 5)


def test_the_tree_is_saved(tmp_path, draw):
    head = layers.HierarchicalLogits(TREE)
    config = json.loads(json.dumps(keras.saving.serialize_keras_object(head)))
    copy = keras.saving.deserialize_keras_object(config)
    assert copy.tree.nodes == TREE.nodes
    assert copy.get_config() == head.get_config()
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(10), head])
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras", safe_mode=True)
    x = draw(3, 2)
    np.testing.assert_array_equal(array(loaded(x)), array(model(x)))


def test_bad_input():
    with pytest.raises(ValueError, match=r"`tree` must be a mhe.ClassTree. Received: tree=\['a'"):
        layers.HierarchicalLogits(["a", "b"])
    with pytest.raises(ValueError, match=r"11 nodes needs logits.*10\).*Received: shape \(2, 9\)"):
        hierarchical_log_probabilities(np.ones((2, 9), "float32"), TREE.parents, TREE.leaves)
    with pytest.raises(ValueError, match="have value 10, but received"):
        layers.HierarchicalLogits(TREE)(np.ones((2, 9), "float32"))
