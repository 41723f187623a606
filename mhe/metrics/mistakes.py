"""What mistakes cost, and at which level of a class tree they happen."""

from typing import Any

import keras
import numpy as np
from keras import ops

from mhe import checks
from mhe.metrics.label_metric import LabelMetric
from mhe.types import Tensor


@keras.saving.register_keras_serializable(package="mhe")
class AverageCost(LabelMetric):
    """The average cost of the predicted classes, when mistakes differ in cost.

    The predicted class is the one with the largest score. In dense predictions every position
    counts.

    Args:
        D: Costs `(classes, classes)`, such as `ClassTree.cost_matrix` returns.
        ignore_class: A label that does not count, or None.
        name: Name of the metric.
        dtype: As in Keras's metrics.

    Raises:
        ValueError: If `D` is not a cost matrix.

    Example:

    >>> import keras, mhe
    >>> tree = mhe.ClassTree.from_paths(["animal/dog", "animal/cat", "oak"])
    >>> metric = mhe.metrics.AverageCost(tree.cost_matrix())
    >>> metric.update_state([0, 1], [[0.1, 0.7, 0.2], [0.0, 0.4, 0.6]])  # cat for dog, oak for cat
    >>> float(metric.result())  # the mean of 2 and 3
    2.5
    >>> outputs = keras.layers.Dense(3, activation="softmax")
    >>> model = keras.Sequential([keras.Input((4,)), outputs])
    >>> model.compile("sgd", "sparse_categorical_crossentropy", metrics=[metric])

    Reference:
        Garnot and Landrieu, Leveraging class hierarchies with metric-guided prototype learning
        ([arXiv:2007.03047](https://arxiv.org/abs/2007.03047)).
    """

    def __init__(
        self,
        D: Any,  # noqa: N803
        ignore_class: int | None = None,
        name: str = "average_cost",
        dtype: Any = None,
    ) -> None:
        self.costs = checks.check_costs(D)
        super().__init__(len(self.costs), ignore_class, name, dtype)

    def values(self, labels: Tensor, scores: Tensor) -> Tensor:
        """The cost of the class with the largest score."""
        return _cost_of_best(self.costs, labels, scores, self.dtype)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "D": self.costs.tolist()}


@keras.saving.register_keras_serializable(package="mhe")
class MistakeSeverity(LabelMetric):
    """The average cost of the mistakes alone: how bad a mistake is when the model makes one.

    A mistake is a predicted class, the one with the largest score, other than the label. Without
    mistakes the result is 0. Compare it at equal error rates only: a model that makes more and
    smaller mistakes has a lower severity, and may have a higher `AverageCost`, which is the
    severity times the error rate.

    Args:
        costs: `(classes, classes)`, such as `ClassTree.cost_matrix` returns: the cost of each
            predicted class for each true class, 0 on the diagonal. It need not be symmetric.
        ignore_class: A label that does not count, or None.
        name: Name of the metric.
        dtype: As in Keras's metrics.

    Raises:
        ValueError: If the costs are not such a matrix.

    Example:

    >>> import keras, mhe
    >>> tree = mhe.ClassTree.from_paths(["animal/dog", "animal/cat", "oak"])
    >>> metric = mhe.metrics.MistakeSeverity(tree.cost_matrix())
    >>> metric.update_state([0, 0, 2], [[0.9, 0.1, 0.0], [0.1, 0.7, 0.2], [0.0, 0.6, 0.4]])
    >>> float(metric.result())  # the mean of 2 and 3
    2.5
    >>> outputs = keras.layers.Dense(3, activation="softmax")
    >>> model = keras.Sequential([keras.Input((4,)), outputs])
    >>> model.compile("sgd", "sparse_categorical_crossentropy", metrics=[metric])

    Reference:
        Bertinetto et al., Making better mistakes: leveraging class hierarchies with deep networks,
        CVPR 2020 ([arXiv:1912.09393](https://arxiv.org/abs/1912.09393)), "hierarchical distance of
        a mistake"; Karthik et al., ICLR 2021
        ([arXiv:2104.00795](https://arxiv.org/abs/2104.00795)), on what it hides.
    """

    def __init__(
        self,
        costs: Any,
        ignore_class: int | None = None,
        name: str = "mistake_severity",
        dtype: Any = None,
    ) -> None:
        self.costs = checks.check_answer_costs(costs, square=True)
        super().__init__(len(self.costs), ignore_class, name, dtype)

    def values(self, labels: Tensor, scores: Tensor) -> Tensor:
        """The cost of the class with the largest score."""
        return _cost_of_best(self.costs, labels, scores, self.dtype)

    def counts(self, labels: Tensor, scores: Tensor) -> Tensor:
        """Whether the class with the largest score is a mistake."""
        return ops.not_equal(ops.cast(ops.argmax(scores, axis=-1), labels.dtype), labels)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "costs": self.costs.tolist()}


@keras.saving.register_keras_serializable(package="mhe")
class TopKCost(LabelMetric):
    """The mean cost of the k answers with the largest scores: how far off the next guesses are.

    With `k=1` it is the average cost of the answers. `HierarchicalDistance` is the same for costs
    between classes. Here the costs need be neither square nor symmetric: the answers may be all
    nodes of a tree, as `mhe.layers.LeastExpectedCost` scores them.

    Args:
        costs: `(classes, answers)`, the cost of each answer for each true class, such as
            `ClassTree.cost_matrix()` or `ClassTree.cost_matrix(inner=True)`.
        k: Number of answers, from 1 to all of them.
        ignore_class: A label that does not count, or None.
        name: Name of the metric, `top_k_cost` with the number for k by default.
        dtype: As in Keras's metrics.

    Raises:
        ValueError: If the costs are not such a matrix, or `k` is out of range.

    Example:

    >>> import keras, mhe
    >>> tree = mhe.ClassTree.from_paths(["animal/dog", "animal/cat", "oak"])
    >>> costs = tree.cost_matrix(inner=True)  # answers /, animal, dog, cat, oak
    >>> metric = mhe.metrics.TopKCost(costs, k=2)
    >>> metric.update_state([0], [[0.0, 0.3, 0.7, 0.0, 0.0]])  # dog itself, then animal
    >>> float(metric.result())
    0.5
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    >>> model.add(mhe.layers.LeastExpectedCost(costs))
    >>> model.compile(metrics=[metric])

    Reference:
        Bertinetto et al., Making better mistakes: leveraging class hierarchies with deep networks,
        CVPR 2020 ([arXiv:1912.09393](https://arxiv.org/abs/1912.09393)), "average
        hierarchical distance of top-k".
    """

    def __init__(
        self,
        costs: Any,
        k: int = 5,
        ignore_class: int | None = None,
        name: str | None = None,
        dtype: Any = None,
    ) -> None:
        self.costs = checks.check_answer_costs(costs)
        classes, answers = self.costs.shape
        checks.check_count("k", k, least=1, most=answers)
        name = f"top_{k}_cost" if name is None else name
        super().__init__(classes, ignore_class, name, dtype, answers)
        self.k = int(k)

    def values(self, labels: Tensor, scores: Tensor) -> Tensor:
        """The mean cost of the k answers with the largest scores."""
        best = ops.top_k(scores, self.k)[1]
        return ops.mean(_costs(self.costs, labels, best, self.dtype), axis=-1)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "costs": self.costs.tolist(), "k": self.k}


@keras.saving.register_keras_serializable(package="mhe")
class HierarchicalDistance(TopKCost):
    """The mean cost of the k classes with the largest scores: how far off the next guesses are.

    With `k=1` it equals `AverageCost`. If the true class is among the k, it costs 0.

    Args:
        D: Costs `(classes, classes)`, such as `ClassTree.cost_matrix` returns.
        k: Number of classes, from 1 to all of them.
        ignore_class: A label that does not count, or None.
        name: Name of the metric, `hierarchical_distance_at_k` by default.
        dtype: As in Keras's metrics.

    Raises:
        ValueError: If `D` is not a cost matrix, or `k` is out of range.

    Example:

    >>> import keras, mhe
    >>> tree = mhe.ClassTree.from_paths(["animal/dog", "animal/cat", "oak"])
    >>> metric = mhe.metrics.HierarchicalDistance(tree.cost_matrix(), k=2)
    >>> metric.update_state([0], [[0.7, 0.1, 0.2]])  # dog itself, then oak
    >>> float(metric.result())
    1.5
    >>> outputs = keras.layers.Dense(3, activation="softmax")
    >>> model = keras.Sequential([keras.Input((4,)), outputs])
    >>> model.compile("sgd", "sparse_categorical_crossentropy", metrics=[metric])

    Reference:
        Bertinetto et al., Making better mistakes: leveraging class hierarchies with deep networks,
        CVPR 2020 ([arXiv:1912.09393](https://arxiv.org/abs/1912.09393)), "average
        hierarchical distance of top-k", whose cost is `ClassTree.cost_matrix(kind="height")`.
    """

    def __init__(
        self,
        D: Any,  # noqa: N803
        k: int = 5,
        ignore_class: int | None = None,
        name: str | None = None,
        dtype: Any = None,
    ) -> None:
        name = f"hierarchical_distance_at_{k}" if name is None else name
        super().__init__(checks.check_costs(D), k, ignore_class, name, dtype)

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        config["D"] = config.pop("costs")
        return config


@keras.saving.register_keras_serializable(package="mhe")
class LevelError(LabelMetric):
    """The error rate at a level of a class tree: how often the predicted branch is wrong.

    At the deepest level it is the error rate of the classes themselves. A class that is nearer to
    the root than the level is a branch of its own.

    Args:
        tree: A `mhe.ClassTree`.
        level: Edges from the root, from 1 to the depth of the tree.
        ignore_class: A label that does not count, or None.
        name: Name of the metric, `error_at_level_` and the level by default.
        dtype: As in Keras's metrics.

    Raises:
        ValueError: If there is no such level.

    Example:

    >>> import keras, mhe
    >>> tree = mhe.ClassTree.from_paths(["animal/dog", "animal/cat", "oak"])
    >>> rates = [mhe.metrics.LevelError(tree, level) for level in (1, 2)]
    >>> for rate in rates:
    ...     rate.update_state([0, 1], [[0.1, 0.7, 0.2], [0.0, 0.4, 0.6]])  # cat and oak
    >>> [float(rate.result()) for rate in rates]
    [0.5, 1.0]
    >>> outputs = keras.layers.Dense(3, activation="softmax")
    >>> model = keras.Sequential([keras.Input((4,)), outputs])
    >>> model.compile("sgd", "sparse_categorical_crossentropy", metrics=rates)
    """

    def __init__(
        self,
        tree: Any,
        level: int,
        ignore_class: int | None = None,
        name: str | None = None,
        dtype: Any = None,
    ) -> None:
        groups = tree.groups(level)
        name = f"error_at_level_{level}" if name is None else name
        super().__init__(len(groups), ignore_class, name, dtype)
        self.tree = tree
        self.level = int(level)
        self._groups = groups.astype("int32")

    def values(self, labels: Tensor, scores: Tensor) -> Tensor:
        """1 where the class with the largest score is in another branch than the label, else 0."""
        groups = ops.convert_to_tensor(self._groups)
        predicted = ops.take(groups, ops.argmax(scores, axis=-1), axis=0)
        return ops.not_equal(predicted, ops.take(groups, labels, axis=0))

    def get_config(self) -> dict[str, Any]:
        tree = keras.saving.serialize_keras_object(self.tree)
        return {**super().get_config(), "tree": tree, "level": self.level}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "LevelError":
        return cls(**{**config, "tree": keras.saving.deserialize_keras_object(config["tree"])})


def _cost_of_best(costs: np.ndarray, labels: Tensor, scores: Tensor, dtype: str) -> Tensor:
    """The costs of the answers with the largest scores, `(...)`."""
    best = ops.argmax(scores, axis=-1, keepdims=True)
    return ops.squeeze(_costs(costs, labels, best, dtype), -1)


def _costs(costs: np.ndarray, labels: Tensor, answers: Tensor, dtype: str) -> Tensor:
    """The costs of answers for labels, `(...)` and `(..., k)` → `(..., k)`."""
    rows = ops.take(ops.convert_to_tensor(costs, dtype), labels, axis=0)
    return ops.take_along_axis(rows, answers, axis=-1)
