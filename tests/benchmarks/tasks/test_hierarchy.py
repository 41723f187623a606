"""The trees, networks and losses of the methods that learn from costs."""

import json

import keras
import numpy as np
import pytest

import mhe


@pytest.fixture
def hierarchy(load):
    return load("hierarchy")


@pytest.fixture
def task(load_task):
    return load_task("hierarchy")


PATHS = ["animal/dog/poodle", "animal/dog/husky", "animal/cat", "oak"]
TREE = mhe.ClassTree.from_paths(PATHS)
D = TREE.cost_matrix()
LABELS = np.array([0, 3, 1, 2, 2, 0])


def softmax_log(logits):
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def cross_entropy(scores):
    return -softmax_log(scores)[np.arange(6), LABELS].mean()


def expected(args, ends, rows):
    """Scores and loss in float64, from the numbers at the network's end and the prototypes."""
    if args.model_name in ("learnt", "metric_guided", "fixed_metric", "deepncm"):
        scores = -np.linalg.norm(ends[:, None] - rows, axis=-1)
        if args.model_name == "deepncm":
            scores = -(scores**2)
        guide = 0.0
        if args.model_name == "metric_guided":
            apart = np.linalg.norm(rows[:, None] - rows, axis=-1)
            off = ~np.eye(4, dtype=bool)
            ratios = apart[off] / D[off]
            guide = 0.5 * np.mean((ratios * ratios.sum() / (ratios**2).sum() - 1) ** 2)
        return scores, cross_entropy(scores) + guide
    if args.model_name in ("hyperspherical", "frame"):
        cosines = ends @ rows.T / np.linalg.norm(ends, axis=1, keepdims=True)
        return cosines, np.sum((1 - cosines[np.arange(6), LABELS]) ** 2)
    if args.model_name == "hierarchical":
        # Nodes: animal, dog, poodle, husky, cat, oak.
        top, pets, dogs = (softmax_log(ends[:, of]) for of in ([0, 5], [1, 4], [2, 3]))
        dog = top[:, 0] + pets[:, 0]
        scores = np.stack([dog + dogs[:, 0], dog + dogs[:, 1], top[:, 0] + pets[:, 1], top[:, 1]])
        return scores.T, -scores.T[np.arange(6), LABELS].mean()
    if args.model_name == "soft_labels":
        targets = np.exp(softmax_log(-4 * D / D.max()))[LABELS]
        return ends, -(targets * softmax_log(ends)).sum(1).mean()
    return ends, cross_entropy(ends)


@pytest.mark.parametrize(
    "model",
    [
        *("softmax", "learnt", "metric_guided", "fixed_metric", "hyperspherical", "deepncm"),
        *("frame", "hierarchical", "soft_labels"),
    ],
)
def test_scores_and_losses_are_the_published_ones(hierarchy, task, small, model, parsed):
    flags = ["--model_name", model, "--dims", "3", "--strength", "0.5", "--beta", "4"]
    args = parsed(hierarchy, *flags)
    images = np.random.default_rng(0).normal(size=(6, 8, 8, 1)).astype("float32")
    network = task.build(args, (8, 8, 1), TREE, task.prototypes(args, D), steps=10)
    ends = keras.ops.convert_to_numpy(network.backbone(images)).astype("float64")
    if model == "softmax":
        assert network.prototypes is None
    if model == "fixed_metric":
        apart = np.linalg.norm(network.prototypes[:, None] - network.prototypes, axis=-1)
        np.testing.assert_allclose(apart, 5 * D, rtol=0.2)
    if model == "frame":
        given = mhe.prototypes.embed(D, 3, method="frame")
        np.testing.assert_allclose(network.prototypes, given, atol=1e-6)
    scores, loss = expected(args, ends, network.prototypes)
    found = network.model(images)
    np.testing.assert_allclose(keras.ops.convert_to_numpy(found), scores, rtol=1e-4, atol=1e-4)
    value = network.model.compute_loss(x=images, y=LABELS, y_pred=found, training=False)
    assert keras.ops.convert_to_numpy(value) == pytest.approx(loss, rel=1e-4)


@pytest.mark.parametrize("model", ["hxe", "emd"])
def test_losses_of_the_tree_take_their_flags(hierarchy, task, model, parsed):
    args = parsed(hierarchy, "--model_name", model, "--alpha", "0.4", "--mu", "0.2")
    logits = np.random.default_rng(0).normal(size=(6, 4)).astype("float32")
    loss = task.loss(args, TREE, D)
    values = {
        "hxe": lambda: mhe.losses.hierarchical_cross_entropy(LABELS, logits, TREE, 0.4),
        "emd": lambda: mhe.losses.squared_earth_mover(LABELS, logits, D, 0.2),
    }[model]()
    mean = np.mean(keras.ops.convert_to_numpy(values))
    assert float(loss(LABELS, logits)) == pytest.approx(mean, rel=1e-5)


@pytest.mark.one_backend
def test_a_tree_has_the_classes_in_the_order_of_their_labels(task, tmp_path):
    file = tmp_path / "tree.txt"
    file.write_text("# what they are\nanimal/dog/poodle\n\nanimal/cat\nplant/oak\nfake/cat\n")
    tree = task.read_tree(str(file), ["oak", "animal/cat", "dog/poodle"])
    assert tree.classes == ("oak", "cat", "poodle")
    np.testing.assert_array_equal(tree.cost_matrix(), [[0, 4, 5], [4, 0, 3], [5, 3, 0]])
    names = ["Greek/character02", "Greek/character01", "Latin/character01"]
    np.testing.assert_array_equal(task.read_tree("names", names).cost_matrix()[0], [0, 2, 4])
    some = task.read_tree("cifar10", ["truck", "cat", "dog"])
    assert some.classes == ("truck", "cat", "dog")
    np.testing.assert_array_equal(some.cost_matrix()[2], [4, 2, 0])
    species = [("Acer rubrum", "Acer"), ("Acer alba", "Acer"), ("Pica pica", "Pica")]
    categories = [{"id": i, "name": n, "genus": genus} for i, (n, genus) in enumerate(species)]
    (tmp_path / "2018.json").write_text(json.dumps(categories))
    year = task.read_tree(str(tmp_path / "2018.json"), ["Pica pica", "Acer alba"])
    assert year.classes == ("Pica pica", "Acer alba")
    np.testing.assert_array_equal(year.cost_matrix(), [[0, 4], [4, 0]])
    with pytest.raises(ValueError, match=r"Received: no path that ends in beech"):
        task.read_tree(str(file), ["oak", "beech"])
    with pytest.raises(ValueError, match=r"Received: 2 paths that end in cat"):
        task.read_tree(str(file), ["oak", "cat"])
