"""Log-probabilities of classes from logits of all nodes of their tree."""

from typing import Any

import keras
import numpy as np
from keras import ops

from mhe.layers.head import Head
from mhe.precision import at_least_float32
from mhe.types import Tensor

# Siblings are reduced to one in this many at a time.
_AT_A_TIME = 16


def hierarchical_log_probabilities(logits: Tensor, parents: Any, leaves: Any) -> Tensor:
    """Returns the log-probability of each leaf, summed over the nodes on its path from the root.

    The probability of a node, given its parent, is the softmax of its logit among its siblings; an
    only child has probability 1. The root has no logit.

    Args:
        logits: Tensor `(..., nodes - 1)`, of all nodes but the root, in their order.
        parents: `(nodes,)` integers, the index of each node's parent; -1 for the root, which is the
            first node, as in `mhe.ClassTree.parents`.
        leaves: `(classes,)` integers, the index of each class among the nodes.

    Returns:
        A tensor `(..., classes)`: float64 for float64 logits, else float32.

    Raises:
        ValueError: If there is not one logit per node except the root.

    Example:

    >>> import mhe
    >>> import numpy as np
    >>> tree = mhe.ClassTree.from_paths(["animal/dog", "animal/cat", "oak"])
    >>> tree.nodes[1:]
    ('animal', 'dog', 'cat', 'oak')
    >>> logits = np.log(np.array([3.0, 1.0, 1.0, 1.0], "float32"))  # 3 to 1, an animal
    >>> logs = hierarchical_log_probabilities(logits, tree.parents, tree.leaves)
    >>> np.exp(np.asarray(logs)).round(3)
    array([0.375, 0.375, 0.25 ], dtype=float32)

    Reference:
        Redmon and Farhadi, YOLO9000: better, faster, stronger, CVPR 2017
        ([arXiv:1612.08242](https://arxiv.org/abs/1612.08242)), section 4.
    """
    logits = at_least_float32(logits)
    parents = np.asarray(parents)
    nodes = len(parents)
    if logits.shape[-1] != nodes - 1:
        raise ValueError(
            f"A tree of {nodes} nodes needs logits (..., {nodes - 1}), one per node but the root. "
            f"Received: shape {tuple(logits.shape)}"
        )
    # Nodes first.
    rows = ops.transpose(ops.reshape(logits, (-1, nodes - 1)))
    groups, family = _siblings(parents)
    tables = _tables(groups)
    largest = ops.stop_gradient(_reduced(rows, tables, ops.max, -np.inf))
    rows = rows - ops.take(largest, family, axis=0)
    totals = _reduced(ops.exp(rows), tables, ops.sum, 0.0)
    rows = rows - ops.log(ops.take(totals, family, axis=0))
    # A last row of zeros represents the root, in which shorter paths end.
    rows = ops.pad(rows, ((0, 1), (0, 0)))
    paths = ops.convert_to_tensor(_paths(parents, np.asarray(leaves)), "int32")
    rows = ops.transpose(ops.sum(ops.take(rows, paths, axis=0), axis=0))
    return ops.reshape(rows, (*ops.shape(logits)[:-1], len(leaves)))


@keras.saving.register_keras_serializable(package="mhe")
class HierarchicalLogits(Head):
    """Log-probabilities of the classes from one logit per node of their tree, except the root.

    They are logits too, and their softmax is the probabilities: train with
    `keras.losses.SparseCategoricalCrossentropy(from_logits=True)`. They are computed and returned
    in float32 also under `mixed_float16` and `mixed_bfloat16`. See
    `hierarchical_log_probabilities`.

    Args:
        tree: A `mhe.ClassTree`. Logits belong to `tree.nodes[1:]`, in that order.
        **kwargs: `name`, `dtype` and `trainable`, as for every Keras layer.

    Raises:
        ValueError: If `tree` is not such a tree, or there is not one logit per node but the root.

    Example:

    >>> import keras, mhe
    >>> tree = mhe.ClassTree.from_paths(["animal/dog", "animal/cat", "oak"])
    >>> nodes = keras.layers.Dense(len(tree.nodes) - 1)
    >>> head = mhe.layers.HierarchicalLogits(tree)
    >>> keras.Sequential([keras.Input((8,)), nodes, head]).output_shape
    (None, 3)

    Reference:
        Redmon and Farhadi, YOLO9000: better, faster, stronger, CVPR 2017
        ([arXiv:1612.08242](https://arxiv.org/abs/1612.08242)), section 4.
    """

    def __init__(self, tree: Any, **kwargs: Any) -> None:
        if not all(hasattr(tree, name) for name in ("nodes", "parents", "leaves")):
            raise ValueError(f"`tree` must be a mhe.ClassTree. Received: tree={tree!r}")
        if len(tree.nodes) < 2:
            raise ValueError(f"`tree` must have nodes below its root. Received: tree={tree!r}")
        super().__init__(len(tree.nodes) - 1, len(tree.leaves), **kwargs)
        self.tree = tree

    def call(self, inputs: Tensor) -> Tensor:
        """Logits `(..., nodes - 1)` → log-probabilities `(..., classes)`."""
        inputs = ops.cast(inputs, self.output_dtype)
        return hierarchical_log_probabilities(inputs, self.tree.parents, self.tree.leaves)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "tree": keras.saving.serialize_keras_object(self.tree)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "HierarchicalLogits":
        tree = keras.saving.deserialize_keras_object(config["tree"])
        return super().from_config({**config, "tree": tree})


def _siblings(parents: np.ndarray) -> tuple[list[np.ndarray], np.ndarray]:
    """The rows of each group of siblings, and the group of each row, `(nodes - 1,)` int32."""
    known, family = np.unique(parents[1:], return_inverse=True)
    groups = [np.flatnonzero(family == group) for group in range(len(known))]
    return groups, family.astype("int32")


def _tables(groups: list[np.ndarray]) -> list[np.ndarray]:
    """Which rows to reduce to one, a few at a time, until one is left of each group.

    Each table `(N, few)` makes N rows of those before. An index beyond them is no row.

    Not segments of rows: programs of PyTorch keep the batch size that those had when they were
    exported. Nor one table of all siblings, which one large group would make large.
    """
    tables: list[np.ndarray] = []
    count = sum(map(len, groups))
    # At least one, which also sorts the rows by group.
    while not tables or max(map(len, groups)) > 1:
        width = min(_AT_A_TIME, max(map(len, groups)))
        parts = [-(-len(group) // width) for group in groups]
        ends = np.cumsum(parts)
        table = np.full((ends[-1], width), count, "int32")
        for group, end, size in zip(groups, ends, parts, strict=True):
            table[end - size : end].flat[: len(group)] = group
        tables.append(table)
        groups = [np.arange(end - size, end) for end, size in zip(ends, parts, strict=True)]
        count = int(ends[-1])
    return tables


def _reduced(rows: Tensor, tables: list[np.ndarray], reduce: Any, neutral: float) -> Tensor:
    """The maximum or sum over each group of rows, `(nodes - 1, B)` → `(groups, B)`."""
    for table in tables:
        rows = ops.pad(rows, ((0, 1), (0, 0)), constant_values=neutral)
        rows = reduce(ops.take(rows, table, axis=0), axis=1)
    return rows


def _paths(parents: np.ndarray, leaves: np.ndarray) -> np.ndarray:
    """The rows of the nodes on each leaf's path, `(depth, classes)`.

    The row of a node is its index minus one, as the root has no row. Beyond the end of a path it is
    the row after the last.
    """
    levels, nodes = [], leaves
    while (below_root := nodes > 0).any():
        levels.append(np.where(below_root, nodes - 1, len(parents) - 1))
        nodes = np.where(below_root, parents[nodes], 0)
    return np.stack(levels)
