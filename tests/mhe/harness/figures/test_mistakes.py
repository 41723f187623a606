"""Figures of mistakes: what they draw, read back from matplotlib's objects, against counts."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from mhe import ClassTree
from mhe.harness import figures
from mhe.harness.figures import mistakes

pytestmark = pytest.mark.one_backend

# The labels are not in the order of the tree.
TREE = ClassTree.from_parents(
    {"oak": "plant", "husky": "dog", "cat": "animal", "poodle": "dog", "dog": "animal"}
    | {"plant": "all", "animal": "all"}
)
CLASSES = len(TREE.classes)


def guesses(count=300):
    generator = np.random.default_rng(0)
    labels = generator.integers(0, CLASSES, count)
    return labels, np.where(generator.random(count) < 0.6, labels, (labels * 3 + 1) % CLASSES)


def test_the_matrix_is_in_the_order_of_the_tree(tmp_path, drawn):
    labels, answers = guesses()
    figures.draw_confusion(TREE, labels, answers, tmp_path / "confusion.png", "a run")
    axes = drawn[0].axes[0]
    names = [text.get_text() for text in axes.get_yticklabels()]
    assert names == [text.get_text() for text in axes.get_xticklabels()]
    assert names == [name for name in TREE.nodes if name in TREE.classes]
    shares = np.asarray(axes.images[0].get_array())
    for i, true in enumerate(names):
        own = labels == TREE.classes.index(true)
        for j, other in enumerate(names):
            share = 100 * np.mean(answers[own] == TREE.classes.index(other))
            assert shares[i, j] == pytest.approx(share)
    # One line between plants and animals, in each direction.
    (across, up) = (line.get_xydata() for line in axes.get_lines())
    between = [names.index("oak"), names.index("cat")]
    assert min(between) <= across[0, 1] <= max(between)
    assert across[0, 1] == up[0, 0]


def test_many_classes_are_named_by_their_branches(tmp_path, drawn):
    tree = ClassTree.ready("cifar100")
    labels = np.arange(100)
    figures.draw_confusion(tree, labels, labels, tmp_path / "confusion.png")
    axes = drawn[0].axes[0]
    names = [text.get_text() for text in axes.get_yticklabels()]
    assert names == [tree.nodes[place] for place in np.flatnonzero(tree.depths == 1)]
    assert_allclose(axes.get_yticks(), np.arange(20) * 5 + 2)
    assert_array_equal(np.asarray(axes.images[0].get_array()), 100 * np.eye(100))
    flat = ClassTree.from_paths([f"{number:03}" for number in range(70)])
    figures.draw_confusion(flat, [0], [1], tmp_path / "confusion.png")
    assert not drawn[1].axes[0].get_yticklabels()


def test_mistakes_pass_edges_and_turn_at_nodes():
    labels, answers = guesses()
    passing, turning = mistakes.mistakes_on(TREE, mistakes.confusion(labels, answers, CLASSES))
    expected = np.zeros((2, len(TREE.nodes)), int)
    for label, answer in zip(labels, answers, strict=True):
        if label == answer:
            continue
        paths = []
        for place in (TREE.leaves[label], TREE.leaves[answer]):
            path = [place]
            while TREE.parents[path[-1]] >= 0:
                path.append(TREE.parents[path[-1]])
            paths.append(path)
        common = next(place for place in paths[0] if place in paths[1])
        expected[1, common] += 1
        for path in paths:
            expected[0, path[: path.index(common)]] += 1
    assert_array_equal(passing, expected[0])
    assert_array_equal(turning, expected[1])
    assert turning.sum() == np.sum(labels != answers)


def test_the_tree_shows_rates_counts_and_the_most_frequent_paths(tmp_path, drawn):
    labels, answers = guesses()
    figures.draw_mistakes(TREE, labels, answers, tmp_path / "mistakes.png", "a run")
    assert (tmp_path / "mistakes.png").read_bytes().startswith(b"\x89PNG")
    passing, turning = mistakes.mistakes_on(TREE, mistakes.confusion(labels, answers, CLASSES))
    (axes,) = drawn[0].axes
    names = {text.get_text() for text in axes.texts}
    rates = {
        f"{name} ({100 * np.mean(answers[labels == label] != label):.1f} %)"
        for label, name in enumerate(TREE.classes)
    }
    inner = set(range(len(TREE.nodes))) - set(TREE.leaves.tolist())
    counts = {
        f"{TREE.nodes[place]} ({turning[place]})" if turning[place] else TREE.nodes[place]
        for place in inner
    }
    assert names == rates | counts
    edges, disks = axes.collections
    widths = np.asarray(edges.get_linewidths())
    assert_array_equal(np.argsort(widths, kind="stable"), np.argsort(passing[1:], kind="stable"))
    assert_allclose(
        disks.get_sizes() / disks.get_sizes().max(), turning[turning > 0] / turning.max()
    )
    assert drawn[0].get_suptitle() == f"a run: {turning.sum()} mistakes in 300 images"


def test_no_mistakes_and_no_images_of_a_class(tmp_path, drawn):
    figures.draw_mistakes(TREE, [0, 0], [0, 0], tmp_path / "mistakes.png")
    assert drawn[0].get_suptitle() == "0 mistakes in 2 images"
    names = {text.get_text() for text in drawn[0].axes[0].texts}
    assert f"{TREE.classes[0]} (0.0 %)" in names
    assert f"{TREE.classes[1]} (no images)" in names
    figures.draw_confusion(TREE, [0, 0], [0, 0], tmp_path / "confusion.png")
    assert np.asarray(drawn[1].axes[0].images[0].get_array()).sum() == 100


def test_coverage_has_a_line_for_each_decision(tmp_path, drawn):
    curves = {"one": ([0.25, 1.0], [0.5, 1.5]), "other": ([1.0], [2.0])}
    curves = {name: (np.array(x), np.array(y)) for name, (x, y) in curves.items()}
    figures.draw_coverage(curves, tmp_path / "coverage.png")
    axes = drawn[0].axes[0]
    for line, (name, (shares, costs)) in zip(axes.lines, curves.items(), strict=True):
        assert line.get_label() == f"{name} ({costs[-1]:.3f} over all)"
        assert_allclose(line.get_data(), [100 * shares, costs])


@pytest.mark.parametrize(
    ("labels", "answers", "named"),
    [([0, 1], [0], "2 labels, 1 answers"), ([0, 9], [0, 1], "label 9"), ([0], [-1], "label -1")],
)
def test_bad_input_is_named(tmp_path, labels, answers, named):
    for draw in (figures.draw_confusion, figures.draw_mistakes):
        with pytest.raises(ValueError, match=f"Received: {named}"):
            draw(TREE, labels, answers, tmp_path / "no.png")
    assert not (tmp_path / "no.png").exists()
