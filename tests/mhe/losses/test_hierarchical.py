"""Hierarchical cross-entropy: values, gradients, focal factors, limits and what is refused."""

import keras
import numpy as np
import pytest
from keras import ops

import mhe
from mhe import losses

# Leaves at depths 1 to 4, a node with one child alone, and labels in no order of the tree.
PATHS = ["a/b/c", "d", "a/e", "a/b/f", "g/h/i/j", "g/k"]
TREE = mhe.ClassTree.from_paths(PATHS)


def reference(logits, labels, alpha, gamma=0.0, paths=PATHS):
    """arXiv:1912.09393, HXE: one sample, one edge at a time, in float64, from the paths alone."""
    result = []
    for row, label in zip(np.asarray(logits, "float64"), labels, strict=True):
        p = np.exp(row - row.max())
        parts = paths[label].split("/")
        total, above = 0.0, p.sum()
        for level in range(1, len(parts) + 1):
            below = [path.split("/")[:level] == parts[:level] for path in paths]
            node = p[below].sum()
            total -= np.exp(-alpha * level) * (1 - node / above) ** gamma * np.log(node / above)
            above = node
        result.append(total)
    return np.array(result)


@pytest.mark.parametrize(("alpha", "gamma"), [(0.4, 0), (-0.5, 0), (0.4, 2)])
def test_value_and_gradient(alpha, gamma, draw, value_and_gradient, reference_gradient):
    labels, logits, weights = np.array([0, 1, 4, 5]), 3 * draw(4, 6), np.array([1.0, 2.0, 0.5, 1.0])
    factors = [1.0, 0.5, 2.0, 1.0, 3.0, 1.0]
    loss = losses.HierarchicalCrossEntropy(TREE, alpha, gamma, class_weight=factors)

    def expected(logits):
        each = reference(logits, labels, alpha, gamma)
        return np.mean(each * weights * np.take(factors, labels))

    value, gradient = value_and_gradient(lambda z: loss(labels, z, weights), logits)
    assert value == pytest.approx(expected(logits), rel=1e-5)
    np.testing.assert_allclose(gradient, reference_gradient(expected, logits), atol=1e-5)


@pytest.mark.parametrize("tree", [TREE, mhe.ClassTree.from_paths("abcdef")], ids=["deep", "flat"])
def test_without_discount_it_is_the_cross_entropy(tree, draw):
    labels, logits = np.arange(6), 5 * draw(6, 6)
    each = losses.hierarchical_cross_entropy(labels, logits, tree, alpha=0)
    expected = keras.losses.sparse_categorical_crossentropy(labels, logits, from_logits=True)
    np.testing.assert_allclose(
        ops.convert_to_numpy(each), ops.convert_to_numpy(expected), rtol=1e-5, atol=1e-6
    )


def test_dense_predictions_and_an_ignored_class(draw):
    labels, logits = np.array([[[0, 255], [4, 1]]]), draw(1, 2, 2, 6).astype("float16")
    each = losses.hierarchical_cross_entropy(labels, logits, TREE, alpha=0.3, ignore_class=255)
    known = labels != 255
    assert keras.backend.standardize_dtype(each.dtype) == "float32"
    each = ops.convert_to_numpy(each)
    expected = reference(logits[known], labels[known], 0.3)
    np.testing.assert_allclose(each[known], expected, rtol=1e-5)
    assert each[~known] == 0


@pytest.mark.parametrize("gamma", [0, 0.5])
def test_far_logits_lose_nothing(gamma, gradient_step):
    # Below the root's child "a", all probabilities of the first sample vanish in float32; still the
    # loss knows how they share what is left.
    logits = np.array([[-1e4, 1e4, -1e4, -1e4, 0, 0], [1e4, -1e4, 0, -1e4, 0, 0]], "float32")
    loss = losses.HierarchicalCrossEntropy(TREE, 0.5, gamma, reduction="sum")
    step = gradient_step(lambda z: loss([0, 0], z))
    value, gradient = step(logits)
    shares = (1 / 3) ** gamma * np.log(1.5), 0.5**gamma * np.log(2)
    expected = np.exp([-0.5, -1, -1.5]) @ [2e4 - np.log(3), *shares]
    assert value == pytest.approx(expected, rel=1e-6)
    assert np.isfinite(gradient).all()
    if gamma == 0:
        slopes = np.exp(-0.5) * (np.eye(6)[1] - [1 / 3, 0, 1 / 3, 1 / 3, 0, 0])
        slopes += np.exp(-1) * np.array([1 / 3 - 1 / 2, 0, 1 / 3, 1 / 3 - 1 / 2, 0, 0])
        slopes += np.exp(-1.5) * np.array([1 / 2 - 1, 0, 0, 1 / 2, 0, 0])
        np.testing.assert_allclose(gradient, [slopes, np.zeros(6)], atol=1e-6)
    # The root's children cost nothing now; in their 20,000, digits of the others were lost.
    logits[0, 1] = logits[0, 4:] = -1e4 - 200
    assert step(logits)[0] == pytest.approx(np.exp([-1, -1.5]) @ shares, rel=1e-6)


def test_a_coarse_mistake_costs_more_the_larger_alpha_is():
    far_and_near = np.array([[0, 5, 0, 0, 0, 0], [0, 0, 0, 5, 0, 0]], "float32")
    ratios = []
    for alpha in (0, 0.5, 1):
        each = losses.hierarchical_cross_entropy([0, 0], far_and_near, TREE, alpha)
        far, near = ops.convert_to_numpy(each)
        ratios.append(far / near)
    assert ratios[0] == pytest.approx(1, rel=1e-6)
    assert ratios[0] < ratios[1] < ratios[2]


def test_json_gives_the_same_loss_back(check_copies):
    loss = losses.HierarchicalCrossEntropy(TREE, 0.4, 1.5, ignore_class=-1, class_weight={2: 3.0})
    copy = check_copies(loss)
    assert copy.tree.classes == TREE.classes


def test_saved_models_keep_their_tree(tmp_path):
    model = keras.Sequential([keras.Input((6,)), keras.layers.Identity()])
    model.compile(loss=losses.HierarchicalCrossEntropy(TREE, 0.4))
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras", safe_mode=True)
    assert loaded.loss.tree.classes == TREE.classes
    assert loaded.loss.get_config() == model.loss.get_config()


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"tree": np.eye(3)}, "`tree` must be a mhe.ClassTree. Received: tree=array"),
        ({"tree": TREE}, r"must be \(..., 6\), one per class. Received: shape \(2, 3\)"),
        ({"alpha": float("inf")}, "`alpha` must be a finite number. Received: alpha=inf"),
        ({"gamma": -0.5}, "`gamma` must be a finite number >= 0. Received: gamma=-0.5"),
        ({"labels": [0, 3]}, "integers from 0 to 2, as there are 3 classes. Received: label 3"),
    ],
)
def test_what_is_refused(options, named, draw):
    options = {"tree": mhe.ClassTree.from_paths("abc"), "alpha": 0.5, **options}
    labels = options.pop("labels", [0, 1])
    with pytest.raises(ValueError, match=named):
        losses.HierarchicalCrossEntropy(**options)(labels, draw(2, 3))
    with pytest.raises(ValueError, match=named):
        losses.hierarchical_cross_entropy(labels, draw(2, 3), **options)
