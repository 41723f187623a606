"""A tree whose leaves are classes."""

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from mhe import checks
from mhe.hierarchy import drawing, reading
from mhe.hierarchy.edges import checked_classes, find_root, listed, parents_by_name

KINDS = ("path", "height")


@keras.saving.register_keras_serializable(package="mhe")
class ClassTree:
    """A tree whose leaves are classes: it tells near misses from bad mistakes.

    Create it by `from_paths`, `from_parents`, `from_linkage`, `from_wordnet`, `from_categories` or
    `ready`. It is immutable. Layers, losses and metrics with a tree save it in their configs.

    Args:
        edges: Pairs of names, a child and its parent.
        classes: Names of the classes in the order of their labels, or None for all leaves, in the
            order in which they first appear as a child. Nodes that lead to no class are dropped.

    Attributes:
        nodes: Names of all nodes, the root first and every node after its parent.
        parents: `(nodes,)` integers, the index of each node's parent in `nodes`; -1 for the root.
        classes: Names of the leaves, in the order of labels.
        leaves: `(classes,)` integers, the index of each class in `nodes`.
        depths: `(nodes,)` integers, edges from the root.
        depth: The largest depth. Leaves may be at different depths.

    Raises:
        ValueError: If the edges are not a tree (a cycle, several roots, a node with two parents),
            or a class is unknown, given twice or above another.

    Example:

    >>> import mhe
    >>> tree = mhe.ClassTree.from_paths(["animal/dog/poodle", "animal/dog/husky", "plant/oak"])
    >>> tree.classes
    ('poodle', 'husky', 'oak')
    >>> tree.cost_matrix()
    array([[0., 2., 5.],
           [2., 0., 5.],
           [5., 5., 0.]])
    >>> print(tree)
    /
    ├── animal
    │   └── dog
    │       ├── poodle
    │       └── husky
    └── plant
        └── oak
    """

    def __init__(
        self, edges: Iterable[tuple[str, str]], classes: Sequence[str] | None = None
    ) -> None:
        above = parents_by_name(edges)
        root = find_root(above)
        if classes is None:
            inner = set(above.values())
            classes = [name for name in above if name not in inner]
        self.classes = checked_classes(classes, above, root)
        # Only nodes that lead to a class: WordNet shrinks to the thousand classes of ImageNet.
        below: dict[str, list[str]] = {}
        seen = {root}
        for name in self.classes:
            while name not in seen:
                seen.add(name)
                below.setdefault(above[name], []).append(name)
                name = above[name]
        nodes: list[str] = []
        parents: list[int] = []
        waiting = [(root, -1)]
        while waiting:
            name, parent = waiting.pop()
            waiting.extend((child, len(nodes)) for child in reversed(below.get(name, ())))
            nodes.append(name)
            parents.append(parent)
        self.nodes = tuple(nodes)
        self.parents = np.array(parents)
        places = {name: place for place, name in enumerate(nodes)}
        self.leaves = np.array([places[name] for name in self.classes])
        self.depths = np.zeros(len(nodes), int)
        for place, parent in enumerate(parents[1:], 1):
            self.depths[place] = self.depths[parent] + 1
        self.depth = int(self.depths.max())
        for array in (self.parents, self.leaves, self.depths):
            array.flags.writeable = False

    @classmethod
    def from_paths(cls, paths: Iterable[str | Sequence[str]], separator: str = "/") -> "ClassTree":
        """A tree from the path to each class, in the order of labels.

        A node is named after the last part of its path, or after the whole path if several nodes
        share that part, as in `"Greek/character01"` and `"Latin/character01"`. The name of the root
        is the separator.

        Args:
            paths: Paths such as `"animal/dog/poodle"`, or sequences of their parts.
            separator: Separates the parts.

        Raises:
            ValueError: If a path is given twice, has an empty part or continues another.

        Example:

        >>> ClassTree.from_paths(["Greek/character01", "Latin/character01"]).classes
        ('Greek/character01', 'Latin/character01')
        """
        branches = [
            tuple(path.split(separator)) if isinstance(path, str) else tuple(path) for path in paths
        ]
        for branch in branches:
            if not branch or not all(branch):
                raise ValueError(
                    "Every part of a path must be a name. "
                    f"Received: {separator.join(map(str, branch))!r}"
                )
        twice = [branch for branch, count in Counter(branches).items() if count > 1]
        if twice:
            raise ValueError(
                f"A path is given twice. Received: {listed(map(separator.join, twice))}"
            )
        # In order of appearance, inner nodes before those below them.
        nodes = {branch[:end]: None for branch in branches for end in range(1, len(branch) + 1)}
        shared = Counter(node[-1] for node in nodes)
        names = {
            node: node[-1] if shared[node[-1]] == 1 else separator.join(node) for node in nodes
        }
        names[()] = separator
        edges = [(names[node], names[node[:-1]]) for node in nodes]
        return cls(edges, [names[branch] for branch in branches])

    @classmethod
    def from_parents(
        cls, parents: Mapping[str, str], classes: Sequence[str] | None = None
    ) -> "ClassTree":
        """A tree from each node's parent.

        Args:
            parents: Child → parent. The root is not a child.
            classes: As in the constructor.

        Raises:
            ValueError: As in the constructor.

        Example:

        >>> ClassTree.from_parents({"dog": "animal", "cat": "animal", "animal": "thing"}).classes
        ('dog', 'cat')
        """
        return cls(parents.items(), classes)

    @classmethod
    def from_linkage(cls, merges: Any, classes: Sequence[str] | None = None) -> "ClassTree":
        """A binary tree from a hierarchical clustering of the classes.

        Args:
            merges: `children_` of scikit-learn's `AgglomerativeClustering`, `(classes - 1, 2)`, or
                the linkage of `scipy.cluster.hierarchy`, `(classes - 1, 4)`, whose last two
                columns, heights and sizes, are ignored.
            classes: Names of the classes in the order in which they were clustered; by default
                their numbers, `"0"`, `"1"`, …

        Returns:
            The tree. Its inner nodes are named `"merge 1"`, `"merge 2"`, … in the order in which
            they were created.

        Raises:
            ValueError: If this is not such a clustering, or has another number of classes.

        Example:

        >>> ClassTree.from_linkage([[0, 2], [1, 3]], ["cat", "oak", "dog"]).cost_matrix()
        array([[0., 3., 2.],
               [3., 0., 3.],
               [2., 3., 0.]])
        """
        pairs = reading.linkage_pairs(merges)
        count = len(pairs) + 1
        if classes is None:
            classes = [str(number) for number in range(count)]
        if len(classes) != count:
            raise ValueError(
                f"A clustering of {count} classes needs as many names. Received: {len(classes)}"
            )
        names = [*classes, *(f"merge {step}" for step in range(1, count))]
        edges = [
            (names[child], names[count + step])
            for step, pair in enumerate(pairs)
            for child in pair.tolist()
        ]
        return cls(edges, classes)

    @classmethod
    def from_wordnet(
        cls, path: str | os.PathLike, classes: Sequence[str] | None = None
    ) -> "ClassTree":
        """A tree from a file of pairs, such as ImageNet's `wordnet.is_a.txt`.

        Each line holds a parent and its child, separated by a space. Empty lines and those starting
        with `#` are ignored.

        Args:
            path: The file.
            classes: As in the constructor. WordNet as a whole is not a tree, as some of its nodes
                have several parents.

        Raises:
            ValueError: If a line is not such a pair, or as in the constructor.
            OSError: If the file cannot be opened.

        Example:

        >>> import pathlib, tempfile
        >>> path = pathlib.Path(tempfile.mkdtemp(), "is_a.txt")
        >>> _ = path.write_text("thing animal" + chr(10) + "animal dog" + chr(10) + "animal cat")
        >>> ClassTree.from_wordnet(path).classes
        ('dog', 'cat')
        """
        with reading.naming(path):
            return cls(reading.pairs(path), classes)

    @classmethod
    def from_categories(cls, path: str | os.PathLike) -> "ClassTree":
        """The taxonomy of a year of iNaturalist, from a file of its challenge.

        Either `categories.json`, or an annotation file with `categories` such as `val.json`. Each
        category has an `id`, a `name`, and names from `kingdom` to `genus`, some of which may be
        empty or missing.

        Args:
            path: The file.

        Returns:
            The tree, with classes in the order of the ids.

        Raises:
            ValueError: If the file does not hold such categories.
            OSError: If the file cannot be opened.

        Example:

        >>> import json, pathlib, tempfile
        >>> path = pathlib.Path(tempfile.mkdtemp(), "categories.json")
        >>> oak = {"id": 1, "name": "Quercus alba", "kingdom": "Plantae", "genus": "Quercus"}
        >>> fly = {"id": 0, "name": "Musca domestica", "kingdom": "Animalia", "genus": "Musca"}
        >>> _ = path.write_text(json.dumps([oak, fly]))
        >>> ClassTree.from_categories(path).classes
        ('Musca domestica', 'Quercus alba')
        """
        with reading.naming(path):
            return cls.from_paths(reading.categories(path))

    @classmethod
    def ready(cls, name: str) -> "ClassTree":
        """A tree that comes with the library.

        Args:
            name: `"cifar100"`, the 100 classes in their 20 superclasses; `"cifar10"`, vehicles and
                animals; `"digits"`, by their shape; or `"inaturalist2019"`, 1,010 species by
                kingdom, phylum, class, order, family and genus. The challenge withheld their names:
                species are numbered by category. For other years see `from_categories`.

        Returns:
            The tree, with classes in the order of the dataset's labels.

        Raises:
            ValueError: If there is no such tree.

        Example:

        >>> tree = ClassTree.ready("cifar100")
        >>> tree.classes[:3], len(tree.classes), tree.depth
        (('apple', 'aquarium_fish', 'baby'), 100, 2)
        """
        return cls(reading.pairs(reading.ready_path(name)))

    def cost_matrix(
        self,
        lengths: Sequence[float] | None = None,
        kind: str = "path",
        inner: bool = False,
    ) -> np.ndarray:
        """The cost of predicting one class, or a node above classes, for another class.

            kind="path"      the length of the path between two classes
            kind="height"    the height of their lowest common ancestor: the length of the longest
                             path from there down to a class

        Where all classes are equally deep a path is twice a height. Where they are not, the two
        rank mistakes differently.

        Args:
            lengths: Length of the edges at each level, `depth` numbers > 0, from the root down; by
                default every edge has length 1.
            kind: `"path"` or `"height"`.
            inner: Whether all nodes may be answers, not only the classes: for a dog, `"animal"` may
                be a better answer than `"cat"`.

        Returns:
            A float64 array `(classes, classes)`, symmetric with a zero diagonal; with `inner`,
            `(classes, nodes)` in the order of `nodes`. Column `leaves[k]` then is that of class k.

        Raises:
            ValueError: If there is not one length per level, or `kind` is unknown.

        Example:

        >>> tree = ClassTree.from_paths(["animal/dog/poodle", "animal/dog/husky", "plant/oak"])
        >>> tree.cost_matrix(lengths=[4, 2, 1])
        array([[ 0.,  2., 13.],
               [ 2.,  0., 13.],
               [13., 13.,  0.]])
        >>> tree.cost_matrix(kind="height")
        array([[0., 1., 3.],
               [1., 0., 3.],
               [3., 3., 0.]])
        >>> tree.nodes
        ('/', 'animal', 'dog', 'poodle', 'husky', 'plant', 'oak')
        >>> tree.cost_matrix(inner=True)[0]
        array([3., 2., 1., 0., 2., 4., 5.])

        Reference:
            Paths: Garnot and Landrieu, Leveraging class hierarchies with metric-guided prototype
            learning ([arXiv:2007.03047](https://arxiv.org/abs/2007.03047)). Heights: Bertinetto et
            al., Making better mistakes ([arXiv:1912.09393](https://arxiv.org/abs/1912.09393)),
            section 3.
        """
        checks.check_choice("kind", kind, KINDS)
        edges = np.ones(self.depth) if lengths is None else np.asarray(lengths, np.float64)
        if edges.shape != (self.depth,) or not np.all((edges > 0) & np.isfinite(edges)):
            raise ValueError(
                f"`lengths` must be {self.depth} finite numbers > 0, one for each level of the "
                f"tree. Received: lengths={edges.tolist()}"
            )
        from_root = np.concatenate([[0.0], np.cumsum(edges)])
        answers = np.arange(len(self.nodes)) if inner else self.leaves
        common = self._common_ancestors(answers)
        shared = from_root[self.depths[common]]
        reach = from_root[self.depths]
        if kind == "path":
            costs = reach[self.leaves][:, None] + reach[answers] - 2 * shared
        else:
            deepest = from_root[self.depths]
            # Children come after their parents.
            for place in range(len(self.nodes) - 1, 0, -1):
                above = self.parents[place]
                deepest[above] = max(deepest[above], deepest[place])
            costs = deepest[common] - shared
        # Sums in another order may leave a rounding error.
        costs[self.leaves[:, None] == answers] = 0.0
        return costs

    def groups(self, level: int) -> np.ndarray:
        """The branch of each class at a level.

        Args:
            level: Edges from the root, from 1 to `depth`. A class that is nearer to the root is a
                branch of its own.

        Returns:
            Integers `(classes,)` from 0, in the order of branches in `nodes`.

        Raises:
            ValueError: If there is no such level.

        Example:

        >>> tree = ClassTree.from_paths(["animal/dog/poodle", "animal/dog/husky", "plant/oak"])
        >>> tree.groups(1), tree.groups(3)
        (array([0, 0, 1]), array([0, 1, 2]))
        """
        if isinstance(level, bool) or level not in range(1, self.depth + 1):
            raise ValueError(
                f"`level` must be an integer from 1 to {self.depth}, the depth of the tree. "
                f"Received: level={level!r}"
            )
        return np.unique(self._ancestors(level, self.leaves), return_inverse=True)[1]

    def labels(self, names: Sequence[str]) -> np.ndarray:
        """The labels of classes by name: the index of each name in `classes`.

        Args:
            names: Names of classes.

        Raises:
            ValueError: If a name is not a class.

        Example:

        >>> ClassTree.ready("cifar100").labels(["worm", "apple"])
        array([99,  0])
        """
        places = {name: label for label, name in enumerate(self.classes)}
        unknown = [name for name in names if name not in places]
        if unknown:
            raise ValueError(f"The tree has no such class. Received: {listed(unknown)}")
        return np.array([places[name] for name in names], int)

    def classes_below(self) -> np.ndarray:
        """Which classes are which nodes or below them.

        Returns:
            A bool array `(classes, nodes)`.

        Example:

        >>> tree = ClassTree.from_paths(["animal/dog", "animal/cat", "oak"])
        >>> tree.classes_below().astype(int)  # of the root, animal, dog, cat, oak
        array([[1, 1, 1, 0, 0],
               [1, 1, 0, 1, 0],
               [1, 0, 0, 0, 1]])
        """
        below = np.zeros((len(self.classes), len(self.nodes)), bool)
        for label, node in enumerate(self.leaves):
            while node >= 0:
                below[label, node] = True
                node = self.parents[node]
        return below

    def draw(self, path: str | os.PathLike) -> None:
        """Draws the tree as a PNG, with the root on the left and the classes below each other.

        Args:
            path: The file to write.

        Raises:
            ImportError: If matplotlib is not installed.

        Example:

        >>> import pathlib, tempfile
        >>> path = pathlib.Path(tempfile.mkdtemp(), "tree.png")
        >>> ClassTree.from_paths(["animal/dog", "animal/cat", "oak"]).draw(path)
        >>> path.read_bytes()[1:4]
        b'PNG'
        """
        drawing.as_png(path, self.nodes, self.parents, self.depths)

    def get_config(self) -> dict[str, Any]:
        edges = [
            [self.nodes[place], self.nodes[parent]]
            for place, parent in enumerate(self.parents.tolist())
            if place
        ]
        return {"edges": edges, "classes": list(self.classes)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "ClassTree":
        return cls(config["edges"], config["classes"])

    def __str__(self) -> str:
        return drawing.as_text(self.nodes, self.parents, self.depths)

    def __repr__(self) -> str:
        return (
            f"ClassTree({len(self.classes)} classes, {len(self.nodes)} nodes, depth {self.depth})"
        )

    def _common_ancestors(self, answers: np.ndarray) -> np.ndarray:
        """The lowest node above or at both a class and an answer, `(classes, answers)`."""
        common = np.zeros((len(self.classes), len(answers)), int)
        for level in range(1, self.depth + 1):
            ancestors = self._ancestors(level, self.leaves)
            common = np.where(
                ancestors[:, None] == self._ancestors(level, answers), ancestors[:, None], common
            )
        return common

    def _ancestors(self, level: int, nodes: np.ndarray) -> np.ndarray:
        """The node above each node at a level, or the node itself if it is not that deep."""
        nodes = nodes.copy()
        while (deeper := self.depths[nodes] > level).any():
            nodes[deeper] = self.parents[nodes[deeper]]
        return nodes
