"""Class trees: every way to make one, the costs they imply, and what is no tree."""

import itertools
import json

import keras
import numpy as np
import pytest

import mhe
from mhe.hierarchy import ClassTree

pytestmark = pytest.mark.one_backend

UNEVEN = ["animal/dog/poodle", "animal/dog/husky", "animal/cat", "plant/oak", "stone"]


def path_lengths(tree, lengths, answers=None):
    """Costs by a walk along the edges of the tree, both ways, from every leaf."""
    near = {name: {} for name in tree.nodes}
    for place, parent in enumerate(tree.parents):
        if place:
            length = lengths[tree.depths[place] - 1]
            near[tree.nodes[place]][tree.nodes[parent]] = length
            near[tree.nodes[parent]][tree.nodes[place]] = length
    rows = []
    for start in tree.classes:
        away, waiting = {start: 0.0}, [start]
        while waiting:
            name = waiting.pop()
            for other, length in near[name].items():
                if other not in away:
                    away[other] = away[name] + length
                    waiting.append(other)
        rows.append([away[name] for name in answers or tree.classes])
    return np.array(rows)


@pytest.mark.parametrize(
    "tree",
    [
        ClassTree.from_paths(UNEVEN),
        ClassTree.from_linkage([[0, 3], [1, 4], [2, 5]]),
        ClassTree.ready("cifar100"),
    ],
    ids=["uneven", "linkage", "cifar100"],
)
def test_costs_are_lengths_of_paths(tree):
    assert np.array_equal(tree.cost_matrix(), path_lengths(tree, [1] * tree.depth))
    lengths = [0.5, 3.0, 1.25][: tree.depth]
    assert np.allclose(tree.cost_matrix(lengths), path_lengths(tree, lengths), rtol=1e-14)
    found = tree.cost_matrix(lengths, inner=True)
    assert np.allclose(found, path_lengths(tree, lengths, tree.nodes), rtol=1e-14)
    assert np.array_equal(found[:, tree.leaves], tree.cost_matrix(lengths))


def lca_heights(tree, lengths):
    """Heights of lowest common ancestors, by the sets of classes below every node."""
    above = dict(zip(tree.nodes, tree.parents, strict=True))
    below, height = {}, dict.fromkeys(tree.nodes, 0.0)
    for name in tree.classes:
        node, length = name, 0.0
        while True:
            below.setdefault(node, set()).add(name)
            height[node] = max(height[node], length)
            if above[node] < 0:
                break
            length += lengths[tree.depths[tree.nodes.index(node)] - 1]
            node = tree.nodes[above[node]]

    def cost(one, other):
        common = [node for node, classes in below.items() if {one, other} <= classes]
        return 0.0 if one == other else height[min(common, key=lambda node: len(below[node]))]

    return np.array([[cost(one, other) for other in tree.classes] for one in tree.classes])


@pytest.mark.parametrize(
    "tree",
    [ClassTree.from_paths(UNEVEN), ClassTree.from_linkage([[0, 3], [1, 4], [2, 5]])],
    ids=["uneven", "linkage"],
)
def test_costs_are_heights_of_common_ancestors(tree):
    lengths = [0.5, 3.0, 1.25][: tree.depth]
    found = tree.cost_matrix(lengths, kind="height")
    assert np.allclose(found, lca_heights(tree, lengths), rtol=1e-14)
    # They rank mistakes otherwise than paths do.
    assert np.argsort(found[0]).tolist() != np.argsort(tree.cost_matrix(lengths)[0]).tolist()


def test_heights_of_a_level_tree_are_half_its_paths():
    tree = ClassTree.ready("cifar100")
    assert np.array_equal(2 * tree.cost_matrix(kind="height"), tree.cost_matrix())
    with pytest.raises(ValueError, match="'sum'"):
        tree.cost_matrix(kind="sum")


def test_nodes_stand_after_their_parents():
    tree = ClassTree.from_paths(UNEVEN)
    assert tree.nodes[0] == "/"
    assert tree.parents[0] == -1
    assert all(parent < place for place, parent in enumerate(tree.parents))
    assert [tree.nodes[leaf] for leaf in tree.leaves] == list(tree.classes)
    assert tree.classes == ("poodle", "husky", "cat", "oak", "stone")
    assert tree.depths[tree.leaves].tolist() == [3, 3, 2, 2, 1]
    with pytest.raises(ValueError, match="read-only"):
        tree.parents[1] = 0


def test_paths_are_names_where_their_last_part_is_not():
    tree = ClassTree.from_paths(["Greek/c1", "Latin/c1", "Latin/c2", "Latin/Greek"])
    assert tree.classes == ("Greek/c1", "Latin/c1", "c2", "Latin/Greek")
    assert ClassTree.from_paths([("a", "b/c"), ("a", "d")]).classes == ("b/c", "d")
    assert ClassTree.from_paths(["a.x", "b.y"], separator=".").nodes[0] == "."


def test_classes_choose_and_order_leaves():
    parents = {"b": "a", "c": "a", "d": "b", "e": "b", "f": "e"}
    assert ClassTree.from_parents(parents).classes == ("c", "d", "f")
    tree = ClassTree.from_parents(parents, ["e", "c"])
    assert tree.classes == ("e", "c")
    assert set(tree.nodes) == {"a", "b", "c", "e"}
    assert tree.cost_matrix().tolist() == [[0, 3], [3, 0]]


def test_linkage_of_both_libraries():
    from scipy.cluster.hierarchy import linkage
    from sklearn.cluster import AgglomerativeClustering

    points = np.random.default_rng(0).normal(size=(12, 3))
    scipy_tree = ClassTree.from_linkage(linkage(points, "average"))
    clusters = AgglomerativeClustering(n_clusters=None, distance_threshold=0, linkage="average")
    sklearn_tree = ClassTree.from_linkage(clusters.fit(points).children_)
    assert np.array_equal(scipy_tree.cost_matrix(), sklearn_tree.cost_matrix())
    assert scipy_tree.classes == tuple(map(str, range(12)))


def test_cifar100():
    tree = ClassTree.ready("cifar100")
    assert list(tree.classes) == sorted(tree.classes)
    assert len(tree.classes) == 100
    superclasses = tree.groups(1)
    assert np.bincount(superclasses).tolist() == [5] * 20
    for group in (
        ["beaver", "dolphin", "otter", "seal", "whale"],
        ["bicycle", "bus", "motorcycle", "pickup_truck", "train"],
        ["lawn_mower", "rocket", "streetcar", "tank", "tractor"],
        ["camel", "cattle", "chimpanzee", "elephant", "kangaroo"],
    ):
        assert len(set(superclasses[tree.labels(group)])) == 1
    costs = tree.cost_matrix()
    assert sorted(np.unique(costs)) == [0, 2, 4]
    assert (costs == 2).sum() == 100 * 4


def test_small_ready_trees():
    """A mistake within a group, of two classes that look alike, is the cheapest."""
    costs = ClassTree.ready("cifar10").cost_matrix()
    assert sorted(set(costs.ravel())) == [0, 2, 4]
    assert (costs[0] == 2).nonzero()[0].tolist() == [1, 8, 9]  # airplane: automobile, ship, truck
    digits = ClassTree.ready("digits")
    assert digits.classes == tuple("0123456789")
    assert [np.argsort(row, kind="stable")[1] for row in digits.cost_matrix()] == [
        *(6, 7, 5, 8, 1, 2, 0, 1, 3, 0)
    ]


def test_inaturalist2019():
    tree = ClassTree.ready("inaturalist2019")
    assert tree.classes == tuple(map(str, range(1010)))
    branches = [len(set(tree.groups(level))) for level in range(1, 8)]
    assert branches == [3, 4, 9, 34, 57, 72, 1010]
    assert tree.cost_matrix().max() == 14


def test_categories_of_inaturalist(tmp_path):
    ranks = ("kingdom", "phylum", "class", "order", "family", "genus", "name")
    rows = ["A P C O F G s1", "A P C O F G s2", "A P C O F H s3", "A P - - - I s4"]
    categories = [
        {
            "id": number,
            **{rank: "" if part == "-" else part for rank, part in zip(ranks, parts, strict=True)},
        }
        for number, parts in enumerate(row.split() for row in rows)
    ]
    path = tmp_path / "categories.json"
    for stored in (categories[::-1], {"info": {}, "categories": categories}):
        path.write_text(json.dumps(stored))
        tree = ClassTree.from_categories(path)
        assert tree.classes == ("s1", "s2", "s3", "s4")
        assert tree.cost_matrix()[0].tolist() == [0, 2, 4, 7]
    twice = json.dumps([*categories, {**categories[0], "name": "s9"}])
    deep = 100_000 * "["
    for wrong in ("[", "[]", "{}", '[{"id": 1, "name": "x"}]', '[{"id": "1"}]', "3", twice, deep):
        path.write_text(wrong)
        with pytest.raises(ValueError, match=r"categories\.json.*Received: "):
            ClassTree.from_categories(path)


def test_wordnet_files(tmp_path):
    path = tmp_path / "is_a.txt"
    path.write_text("# parent child\n\nn1 n2\nn1 n3\nn3\tn4\nn3 n5\n")
    tree = ClassTree.from_wordnet(path)
    assert tree.classes == ("n2", "n4", "n5")
    assert ClassTree.from_wordnet(path, ["n5", "n2"]).cost_matrix()[0, 1] == 3
    path.write_text("n1 n2\nn1 n2 n3\n")
    with pytest.raises(ValueError, match=r"line 2.*Received: 'n1 n2 n3'"):
        ClassTree.from_wordnet(path)


@pytest.mark.parametrize(
    ("parents", "classes", "message"),
    [
        ({"a": "b", "b": "c", "c": "a"}, None, "cycle.*Received: a → b → c → a"),
        ({"x": "r", "a": "b", "b": "a"}, None, "cycle.*Received: a → b → a"),
        ({"a": "a"}, None, "cycle.*Received: a → a"),
        ({"a": "r", "b": "s"}, None, "one root.*Received: 'r', 's'"),
        ({}, None, "must have classes.*Received: none"),
        ({"a": "r"}, [], "must have classes.*Received: none"),
        ({"a": "r", "b": "r"}, ["a", "z"], "no such class.*Received: 'z'"),
        ({"a": "r", "b": "r"}, ["a", "a"], "given twice.*Received: 'a'"),
        ({"a": "r", "b": "a"}, ["b", "a"], "leaf.*Received: 'a', which is above 'b'"),
        ({"a": "r", "b": "a"}, ["a", "b"], "leaf.*Received: 'a', which is above 'b'"),
        ({"a": "r", "b": "r"}, ["r", "b"], "leaf.*Received: 'r', which is above 'b'"),
        ({"a": 3}, None, "name, a string.*Received: 3"),
        ({"a": ""}, None, "name, a string.*Received: ''"),
    ],
)
def test_what_is_no_tree(parents, classes, message):
    with pytest.raises(ValueError, match=message):
        ClassTree.from_parents(parents, classes)


def test_two_parents():
    with pytest.raises(ValueError, match=r"one parent.*Received: 'a' below 'r' and 's'"):
        ClassTree([("a", "r"), ("s", "r"), ("a", "s")])


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        (["a/b", "a/b"], "given twice. Received: 'a/b'"),
        (["a/b", "a"], "leaf.*Received: 'a', which is above 'b'"),
        (["a//b"], "part of a path.*Received: 'a//b'"),
        (["a/b", ""], "part of a path.*Received: ''"),
        ([], "must have classes"),
    ],
)
def test_bad_paths(paths, message):
    with pytest.raises(ValueError, match=message):
        ClassTree.from_paths(paths)


@pytest.mark.parametrize(
    ("merges", "classes", "message"),
    [
        ([[0, 1, 2]], None, r"Received: shape \(1, 3\)"),
        ([], None, "Received: shape"),
        ([[0, 3], [1, 2]], None, r"Received: \[0, 3\] in step 0"),
        ([[0, 1], [1, 3]], None, "Received: 1 twice"),
        ([[0, 0.5], [1, 2]], None, r"Received: \[0.0, 0.5\]"),
        ([[0, 1], [2, 3]], ["a", "b"], "3 classes.*Received: 2"),
    ],
)
def test_bad_linkage(merges, classes, message):
    with pytest.raises(ValueError, match=message):
        ClassTree.from_linkage(merges, classes)


def test_bad_arguments():
    tree = ClassTree.from_paths(UNEVEN)
    for lengths in ([1, 2], [1, 2, 0], [1, 2, np.nan], 3):
        with pytest.raises(ValueError, match=r"3 finite numbers > 0.*Received: lengths"):
            tree.cost_matrix(lengths)
    for level in (0, 4, True, 1.5):
        with pytest.raises(ValueError, match=r"from 1 to 3.*Received: level"):
            tree.groups(level)
    with pytest.raises(ValueError, match=r"no such class. Received: 'dog'"):
        tree.labels(["cat", "dog"])
    with pytest.raises(ValueError, match=r"digits, inaturalist2019. Received: 'mnist'"):
        ClassTree.ready("mnist")


def test_a_config_gives_the_same_tree_back():
    tree = ClassTree.from_parents({"b": "a", "c": "a", "d": "b", "e": "b"}, ["e", "c", "d"])
    config = json.loads(json.dumps(keras.saving.serialize_keras_object(tree)))
    copy = keras.saving.deserialize_keras_object(config)
    assert repr(copy) == "ClassTree(3 classes, 5 nodes, depth 2)"
    assert (copy.nodes, copy.classes) == (tree.nodes, tree.classes)
    assert np.array_equal(copy.cost_matrix(), tree.cost_matrix())
    assert keras.saving.get_registered_object("mhe>ClassTree") is mhe.ClassTree


def test_a_deep_tree_needs_no_recursion():
    parents = {str(n): str(n - 1) for n in range(1, 1200)}
    tree = ClassTree.from_parents({**parents, "leaf": "0"})
    assert tree.cost_matrix().tolist() == [[0, 1200], [1200, 0]]
    assert str(tree).count("\n") == 1200


def test_text_has_a_line_for_each_node():
    lines = str(ClassTree.from_paths(UNEVEN)).splitlines()
    assert lines == [
        "/",
        "├── animal",
        "│   ├── dog",
        "│   │   ├── poodle",
        "│   │   └── husky",
        "│   └── cat",
        "├── plant",
        "│   └── oak",
        "└── stone",
    ]


def test_picture_shows_every_edge(tmp_path, monkeypatch):
    from matplotlib.axes import Axes

    drawn = []
    monkeypatch.setattr(Axes, "add_collection", lambda self, lines: drawn.append(lines))
    tree = ClassTree.from_paths(UNEVEN)
    tree.draw(tmp_path / "tree.png")
    (lines,) = drawn
    ends = {tuple(corners[-1]) for corners in lines.get_segments()}
    assert len(ends) == len(tree.nodes) - 1
    starts = {tuple(corners[0]) for corners in lines.get_segments()}
    inner = {tuple(end) for end in ends if end[0] < 3} & starts
    assert len(starts) == 4  # of /, animal, dog and plant
    assert len(inner) == 3
    heights = sorted(y for x, y in ends if (x, y) not in starts)
    assert heights == [1, 2, 3, 4, 5]
    assert all(a != b for a, b in itertools.combinations(ends, 2))


@pytest.mark.one_backend
def test_errors_about_a_file_name_it(tmp_path):
    path = tmp_path / "tree.txt"
    for text, message in (("", "must have classes"), ("a b\nc d\n", "must have one root")):
        path.write_text(text, "utf-8")
        with pytest.raises(ValueError, match=rf"tree\.txt: A tree {message}"):
            ClassTree.from_wordnet(path)
