"""What can be read off weights and off the output of heads."""

import math
import numbers
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
from keras import ops

from mhe import checks
from mhe.energy import neuron_axes
from mhe.labels import check_readable, read_labels, weights_per_sample

# One block of cosines is at most this many float64 numbers (8 MiB), whatever the number of neurons.
_BLOCK = 1 << 20

# Past this |cosine| the arc cosine magnifies rounding, and the chord formula takes over.
_NEARLY_COLLINEAR = 0.99

# Below this part of the squared lengths a squared distance has lost too many digits to the
# difference of squares, and is taken from the difference of the rows.
_NEARLY_EQUAL = 1e-6


def unit_neurons(weights: Any, axis: int | tuple[int, ...] = -1) -> np.ndarray:
    """Returns the neurons of a weight as unit rows in float64, `(N, D)`.

    Args:
        weights: A weight: a Keras variable, a tensor of the backend or an array.
        axis: The neuron axis or axes of `weights`.

    Returns:
        An array `(N, D)`. A zero neuron has no direction and stays zero.

    Raises:
        ValueError: If an axis is out of range or given twice.

    Example:

    >>> from mhe.metrics import unit_neurons
    >>> unit_neurons([[3.0, 0.0], [4.0, 2.0]])
    array([[0.6, 0.8], [0. , 1. ]])
    """
    array = np.asarray(keras.ops.convert_to_numpy(weights)).astype(np.float64)
    axes = neuron_axes(axis, array.ndim)
    others = tuple(a for a in range(array.ndim) if a not in axes)
    count = int(np.prod([array.shape[a] for a in axes]))
    dims = int(np.prod([array.shape[a] for a in others]))
    rows = array.transpose(axes + others).reshape(count, dims)
    # The largest entry goes first, so that squares neither overflow nor vanish.
    largest = np.max(np.abs(rows), axis=1, initial=0.0, keepdims=True)
    rows = rows / np.where(largest == 0, 1.0, largest)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(norms == 0, 1.0, norms)


def angle_blocks(rows: np.ndarray) -> Iterator[np.ndarray]:
    """Yields the angles between all pairs of unit rows, a bounded number at a time.

    Args:
        rows: Unit rows `(N, D)`, as `unit_neurons` returns them.

    Yields:
        Float64 arrays of angles in radians; joined, they are the pairs (i, j), i < j, row by row.

    Example:

    >>> import numpy as np
    >>> from mhe.metrics import angle_blocks
    >>> [np.degrees(block).round().tolist() for block in angle_blocks(np.eye(3))]
    [[90.0, 90.0, 90.0]]
    """
    count, dims = rows.shape
    height = max(1, _BLOCK // max(count, 1))
    for top in range(0, count - 1, height):
        block = rows[top : top + height]
        cosines = block @ rows[top:].T
        first, second = np.nonzero(np.triu(np.ones(cosines.shape, bool), 1))
        cosines = cosines[first, second]
        angles = np.arccos(np.clip(cosines, -1.0, 1.0))
        near = np.flatnonzero(np.abs(cosines) > _NEARLY_COLLINEAR)
        for pairs in np.array_split(near, -(-near.size * max(dims, 1) // _BLOCK) or 1):
            u, v = block[first[pairs]], rows[top:][second[pairs]]
            # Kahan: the chords |u - v| and |u + v| keep every digit where the cosine has lost half.
            angles[pairs] = 2 * np.arctan2(
                np.linalg.norm(u - v, axis=1), np.linalg.norm(u + v, axis=1)
            )
        yield angles


def pairwise_angles(weights: Any, axis: int | tuple[int, ...] = -1) -> np.ndarray:
    """Returns the angle between every two neurons of a weight.

    Computed in float64 and in blocks: beside the result, the memory taken is the neurons and a
    few dozen MiB. Equal neurons are at exactly 0, opposite ones at exactly π. A zero neuron has
    no direction; its dot product with any other is 0, and so it counts as π/2 from all of them.

    Args:
        weights: A weight: a Keras variable, a tensor of the backend or an array.
        axis: The neuron axis or axes, as `mhe.hyperspherical_energy` takes them.

    Returns:
        A float32 array `(N(N-1)/2,)` in radians, of the pairs (i, j), i < j, row by row. Empty
        when there are fewer than two neurons.

    Raises:
        ValueError: If an axis is out of range or given twice.

    Example:

    >>> import numpy as np
    >>> from mhe.metrics import pairwise_angles
    >>> kernel = np.array([[1.0, 0.0, -2.0], [0.0, 1.0, 0.0]])  # three neurons in the plane
    >>> np.degrees(pairwise_angles(kernel)).tolist()
    [90.0, 180.0, 90.0]
    """
    rows = unit_neurons(weights, axis)
    count = rows.shape[0]
    angles = np.empty(count * (count - 1) // 2, np.float32)
    filled = 0
    for block in angle_blocks(rows):
        angles[filled : filled + block.size] = block
        filled += block.size
    return angles


def pairwise_distances(rows: Any) -> np.ndarray:
    """Returns the Euclidean distance between every two rows, in float64.

    Args:
        rows: `(N, D)`: a Keras variable, a tensor of the backend or an array.

    Returns:
        An array `(N, N)`, symmetric with a zero diagonal. Distances keep their digits however
        small they are; equal rows are at exactly 0.

    Raises:
        ValueError: If `rows` has not two axes.

    Example:

    >>> pairwise_distances([[0.0, 0.0], [3.0, 4.0], [0.0, 1e-9]])[0].tolist()
    [0.0, 5.0, 1e-09]
    """
    rows = np.asarray(ops.convert_to_numpy(rows)).astype(np.float64)
    if rows.ndim != 2:
        raise ValueError(f"There must be rows (N, D). Received: shape {rows.shape}")
    centred = rows - rows.mean(axis=0)
    squares = np.sum(centred * centred, axis=1)
    lengths = squares[:, None] + squares
    distances = lengths - 2 * (centred @ centred.T)
    one, other = np.nonzero(np.triu(distances <= _NEARLY_EQUAL * lengths, 1))
    distances = np.sqrt(np.maximum(distances, 0.0))
    for pairs in np.array_split(np.arange(len(one)), -(-len(one) * rows.shape[1] // _BLOCK) or 1):
        i, j = one[pairs], other[pairs]
        distances[i, j] = distances[j, i] = np.linalg.norm(rows[i] - rows[j], axis=1)
    np.fill_diagonal(distances, 0.0)
    return (distances + distances.T) / 2


def distortion(prototypes: Any, D: Any, scale_free: bool = True) -> float:  # noqa: N803
    """How far the distances of prototypes are from the costs of their classes, on average.

    With d the Euclidean distances of the prototypes, the mean over ordered pairs of classes is

        1 / (K(K-1)) · Σ_{k≠l} |s·d_kl - D_kl| / D_kl

    where s is 1, or the scale for which this is least if `scale_free`: the median of the ratios
    D_kl / d_kl, each weighted by d_kl / D_kl.

    Args:
        prototypes: `(classes, dims)`: a Keras variable, a tensor of the backend or an array.
        D: Costs `(classes, classes)`, more than 0 off the diagonal.
        scale_free: Whether a common factor of all distances does not count.

    Returns:
        A number, 0 where the distances are the costs. Scale-free it is at most 1.

    Raises:
        ValueError: If `D` is no such matrix, or there is not a finite prototype for every class.

    Example:

    >>> distortion([[0.0], [1.0], [3.0]], [[0, 2, 6], [2, 0, 4], [6, 4, 0]])
    0.0
    >>> distortion([[0.0], [1.0], [3.0]], [[0, 2, 6], [2, 0, 4], [6, 4, 0]], scale_free=False)
    0.5

    Reference:
        Garnot and Landrieu, Leveraging class hierarchies with metric-guided prototype learning
        ([arXiv:2007.03047](https://arxiv.org/abs/2007.03047)).
    """
    costs = checks.check_costs(D, positive=True)
    distances = pairwise_distances(prototypes)
    if len(distances) != len(costs) or not np.isfinite(distances).all():
        raise ValueError(
            f"There must be a finite prototype for each of the {len(costs)} classes. "
            f"Received: {len(distances)} rows"
        )
    upper = np.triu_indices(len(costs), 1)
    ratios = distances[upper] / costs[upper]
    if scale_free:
        ratios = ratios * optimal_scale(ratios)
    return float(np.mean(np.abs(ratios - 1.0)))


def optimal_scale(ratios: np.ndarray) -> float:
    """The s ≥ 0 for which Σ |s·r - 1| is least.

    The sum is Σ r·|s - 1/r|, so that s is the median of the 1/r weighted by the r.

    Args:
        ratios: Numbers r ≥ 0 along one axis, distances by costs.

    Returns:
        A number; 1 where all ratios are 0 and no scale is better than another.

    Example:

    >>> optimal_scale(np.array([0.5, 0.5, 0.1]))  # the small ratio hardly counts
    2.0
    """
    ordered = np.sort(ratios)
    weights = np.cumsum(ordered)
    if not len(ordered) or weights[-1] == 0:
        return 1.0
    return float(1.0 / ordered[np.searchsorted(weights, weights[-1] / 2)])


class _LabelMetric(keras.metrics.Metric):
    """The weighted mean over all labels, whatever the batches, of a value that each has.

    Subclasses say in `values` what that is.
    """

    def __init__(
        self, classes: int, ignore_class: int | None, name: str | None, dtype: Any
    ) -> None:
        super().__init__(name=name, dtype=dtype)
        self.classes = classes
        self.ignore_class = ignore_class
        self._total = self.add_variable((), "zeros", name="total")
        self._weight = self.add_variable((), "zeros", name="weight")

    def values(self, labels: Any, scores: Any) -> Any:
        """Labels `(...)` and scores `(..., classes)` → values `(...)`."""
        raise NotImplementedError

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        """Counts a batch.

        Args:
            y_true: Labels `(...)` or `(..., 1)`.
            y_pred: Scores `(..., classes)`: logits, probabilities, cosines, negative distances.
            sample_weight: None, or weights of the leading axes of the labels.

        Raises:
            ValueError: If the shapes do not fit, or a label in an array or a list is no class.
        """
        scores = ops.convert_to_tensor(y_pred)
        if scores.shape[-1] != self.classes:
            raise ValueError(
                f"There must be a score for each of the {self.classes} classes along the last "
                f"axis. Received: shape {tuple(scores.shape)}"
            )
        check_readable(y_true, self.classes, self.ignore_class)
        index, known, wrong = read_labels(y_true, scores, self.classes, self.ignore_class)
        values = ops.cast(self.values(index, scores), self.dtype)
        # A wrong label must show, also in a tensor, which cannot be read.
        values = ops.where(wrong, math.nan, values)
        weights = ops.cast(ops.logical_or(known, wrong), self.dtype)
        if sample_weight is not None:
            weights = weights * weights_per_sample(sample_weight, scores, self.dtype)
        values = ops.where(weights > 0, values, 0.0)
        self._total.assign_add(ops.sum(values * weights))
        self._weight.assign_add(ops.sum(weights))

    def result(self) -> Any:
        """The mean, 0 where nothing was counted."""
        return ops.divide_no_nan(self._total, self._weight)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "ignore_class": self.ignore_class}


@keras.saving.register_keras_serializable(package="mhe")
class AverageCost(_LabelMetric):
    """What the predicted classes cost on average, where mistakes cost differently.

    The predicted class is that of the largest score. Dense predictions count every place.

    Args:
        D: Costs `(classes, classes)`, such as `ClassTree.cost_matrix` gives.
        ignore_class: None, or a label that does not count.
        name: Of the metric.
        dtype: As in Keras's metrics.

    Raises:
        ValueError: If `D` is no cost matrix.

    Example:

    >>> import mhe
    >>> tree = mhe.ClassTree.from_paths(["animal/dog", "animal/cat", "oak"])
    >>> metric = mhe.metrics.AverageCost(tree.cost_matrix())
    >>> metric.update_state([0, 1], [[0.1, 0.7, 0.2], [0.0, 0.4, 0.6]])  # cat for dog, oak for cat
    >>> float(metric.result())  # the mean of 2 and 3
    2.5

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

    def values(self, labels: Any, scores: Any) -> Any:
        """The cost of the class with the largest score."""
        rows = ops.take(ops.convert_to_tensor(self.costs, self.dtype), labels, axis=0)
        best = ops.expand_dims(ops.argmax(scores, axis=-1), -1)
        return ops.squeeze(ops.take_along_axis(rows, best, axis=-1), -1)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "D": self.costs.tolist()}


@keras.saving.register_keras_serializable(package="mhe")
class HierarchicalDistance(_LabelMetric):
    """The mean cost of the k classes with the largest scores: how far off the next guesses are.

    With `k=1` this is `AverageCost`. The true class, among the k, costs 0.

    Args:
        D: Costs `(classes, classes)`, such as `ClassTree.cost_matrix` gives.
        k: How many classes, from 1 to all of them.
        ignore_class: None, or a label that does not count.
        name: Of the metric; by default `hierarchical_distance_at_k`.
        dtype: As in Keras's metrics.

    Raises:
        ValueError: If `D` is no cost matrix, or `k` no such number.

    Example:

    >>> import mhe
    >>> tree = mhe.ClassTree.from_paths(["animal/dog", "animal/cat", "oak"])
    >>> metric = mhe.metrics.HierarchicalDistance(tree.cost_matrix(), k=2)
    >>> metric.update_state([0], [[0.7, 0.1, 0.2]])  # dog itself, then oak
    >>> float(metric.result())
    1.5

    Reference:
        Bertinetto et al., Making better mistakes: leveraging class hierarchies with deep networks,
        CVPR 2020 ([arXiv:1912.09393](https://arxiv.org/abs/1912.09393)), "average
        hierarchical distance of top-k", whose cost is the height of the lowest common ancestor.
    """

    def __init__(
        self,
        D: Any,  # noqa: N803
        k: int = 5,
        ignore_class: int | None = None,
        name: str | None = None,
        dtype: Any = None,
    ) -> None:
        self.costs = checks.check_costs(D)
        if (
            isinstance(k, bool)
            or not isinstance(k, numbers.Integral)
            or not 1 <= k <= len(self.costs)
        ):
            raise ValueError(f"`k` must be an int from 1 to {len(self.costs)}. Received: k={k!r}")
        name = f"hierarchical_distance_at_{k}" if name is None else name
        super().__init__(len(self.costs), ignore_class, name, dtype)
        self.k = int(k)

    def values(self, labels: Any, scores: Any) -> Any:
        """The mean cost of the k classes with the largest scores."""
        rows = ops.take(ops.convert_to_tensor(self.costs, self.dtype), labels, axis=0)
        best = ops.top_k(scores, self.k)[1]
        return ops.mean(ops.take_along_axis(rows, best, axis=-1), axis=-1)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "D": self.costs.tolist(), "k": self.k}


@keras.saving.register_keras_serializable(package="mhe")
class LevelError(_LabelMetric):
    """The error rate at a level of a class tree: how often the predicted branch is another.

    At the deepest level it is the error rate of the classes themselves. Where a class is nearer to
    the root than the level, it is a branch of its own.

    Args:
        tree: A `mhe.ClassTree`.
        level: Edges from the root, from 1 to the depth of the tree.
        ignore_class: None, or a label that does not count.
        name: Of the metric; by default `error_at_level_` and the level.
        dtype: As in Keras's metrics.

    Raises:
        ValueError: If there is no such level.

    Example:

    >>> import mhe
    >>> tree = mhe.ClassTree.from_paths(["animal/dog", "animal/cat", "oak"])
    >>> rates = [mhe.metrics.LevelError(tree, level) for level in (1, 2)]
    >>> for rate in rates:
    ...     rate.update_state([0, 1], [[0.1, 0.7, 0.2], [0.0, 0.4, 0.6]])  # cat and oak
    >>> [float(rate.result()) for rate in rates]
    [0.5, 1.0]
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

    def values(self, labels: Any, scores: Any) -> Any:
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


# The regularizer of this name is registered as mhe's own.
@keras.saving.register_keras_serializable(package="mhe.metrics")
class Distortion(keras.metrics.Metric):
    """The distortion of the prototypes that were given last; see `distortion`.

    Prototypes are the same for every batch, so that this takes no labels: give it the weight
    itself, after training or from a callback.

    Args:
        D: Costs `(classes, classes)`, more than 0 off the diagonal.
        scale_free: Whether a common factor of all distances does not count.
        name: Of the metric.
        dtype: As in Keras's metrics.

    Raises:
        ValueError: If `D` is no such matrix.

    Example:

    >>> import mhe
    >>> metric = mhe.metrics.Distortion([[0, 2, 6], [2, 0, 4], [6, 4, 0]])
    >>> metric.update_state([[0.0], [1.0], [3.0]])
    >>> float(metric.result())
    0.0
    """

    def __init__(
        self,
        D: Any,  # noqa: N803
        scale_free: bool = True,
        name: str = "distortion",
        dtype: Any = None,
    ) -> None:
        self.costs = checks.check_costs(D, positive=True)
        super().__init__(name=name, dtype=dtype)
        self.scale_free = bool(scale_free)
        self._value = self.add_variable((), "zeros", name="value")

    def update_state(self, prototypes: Any) -> None:
        """Measures prototypes `(classes, dims)`, in float64."""
        self._value.assign(distortion(prototypes, self.costs, self.scale_free))

    def result(self) -> Any:
        """The distortion, 0 before any prototypes were given."""
        return ops.convert_to_tensor(self._value)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "D": self.costs.tolist(),
            "scale_free": self.scale_free,
        }
