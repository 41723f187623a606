"""Distances between prototypes, and how well they follow the costs of mistakes."""

from typing import Any

import keras
import numpy as np
from keras import ops

from mhe import checks
from mhe.types import Tensor

# One block of differences is at most this many float64 numbers (8 MiB).
_BLOCK = 1 << 20

# Below this fraction of the squared lengths, a squared distance has lost too many digits to the
# difference of squares, and is computed from the difference of the rows instead.
_NEARLY_EQUAL = 1e-6


def pairwise_distances(rows: Tensor) -> np.ndarray:
    """Returns the Euclidean distance between every two rows, in float64.

    Args:
        rows: `(N, D)`: a Keras variable, a tensor of the backend or an array.

    Returns:
        An array `(N, N)`, symmetric with a zero diagonal. Even tiny distances are accurate, and
        equal rows are exactly 0 apart.

    Raises:
        ValueError: If `rows` does not have two axes.

    Example:

    >>> pairwise_distances([[0.0, 0.0], [3.0, 4.0], [0.0, 1e-9]])[0].tolist()
    [0.0, 5.0, 1e-09]
    """
    rows = np.asarray(ops.convert_to_numpy(rows)).astype(np.float64)
    if rows.ndim != 2:
        raise ValueError(f"`rows` must be rows (N, D). Received: shape {rows.shape}")
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


def distortion(prototypes: Tensor, D: Any, scale_free: bool = True) -> float:  # noqa: N803
    """Returns how far the distances of prototypes are from the costs of their classes, on average.

    With the Euclidean distances d of the prototypes, it is the mean over ordered pairs of classes

        1 / (K(K-1)) · Σ_{k≠l} |s·d_kl - D_kl| / D_kl

    where s is 1 or, if `scale_free`, the scale that minimizes it: the median of the ratios
    D_kl / d_kl, weighted by d_kl / D_kl.

    Args:
        prototypes: `(classes, dims)`: a Keras variable, a tensor of the backend or an array.
        D: Costs `(classes, classes)`, more than 0 off the diagonal.
        scale_free: Whether to ignore a common factor of all distances.

    Returns:
        A number, 0 if the distances equal the costs. If `scale_free`, it is at most 1.

    Raises:
        ValueError: If `D` is not such a matrix, or a class lacks a finite prototype.

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
    """Returns the s ≥ 0 that minimizes `Σ |s·r - 1|`.

    The sum is `Σ r·|s - 1/r|`, so s is the median of the 1/r, weighted by r.

    Args:
        ratios: Numbers r ≥ 0 along one axis, distances over costs.

    Returns:
        A number; 1 if all ratios are 0, when no scale is better than another.

    Example:

    >>> optimal_scale(np.array([0.5, 0.5, 0.1]))  # the small ratio hardly counts
    2.0
    """
    ordered = np.sort(ratios)
    weights = np.cumsum(ordered)
    if not len(ordered) or weights[-1] == 0:
        return 1.0
    return float(1.0 / ordered[np.searchsorted(weights, weights[-1] / 2)])


# The package `mhe` has registered the regularizer of this name.
@keras.saving.register_keras_serializable(package="mhe.metrics")
class Distortion(keras.metrics.Metric):
    """The distortion of the prototypes of the last update; see `distortion`.

    Prototypes are the same for every batch, so this metric takes no labels: update it with the
    weight itself, after training or from a callback.

    Args:
        D: Costs `(classes, classes)`, more than 0 off the diagonal.
        scale_free: Whether to ignore a common factor of all distances.
        name: Name of the metric.
        dtype: As in Keras's metrics.

    Raises:
        ValueError: If `D` is not such a matrix.

    Example:

    >>> import keras, mhe
    >>> metric = mhe.metrics.Distortion([[0, 2, 6], [2, 0, 4], [6, 4, 0]])
    >>> metric.update_state([[0.0], [1.0], [3.0]])
    >>> float(metric.result())
    0.0
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    >>> model.compile("sgd", mhe.losses.MagnetLoss(), metrics=[metric])
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

    def update_state(self, prototypes: Tensor) -> None:
        """Measures prototypes `(classes, dims)`, in float64."""
        self._value.assign(distortion(prototypes, self.costs, self.scale_free))

    def result(self) -> Tensor:
        """The distortion, 0 before the first update."""
        return ops.convert_to_tensor(self._value)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "D": self.costs.tolist(),
            "scale_free": self.scale_free,
        }
