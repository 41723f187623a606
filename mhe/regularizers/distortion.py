"""Prototypes whose distances follow the costs between their classes."""

from typing import Any

import keras
import numpy as np
from keras import ops

from mhe import checks
from mhe.regularizers.base import Weighted
from mhe.regularizers.distances import largest_entry, prototype_distances, rows_and_costs
from mhe.types import Tensor


def squared_distortion(prototypes: Tensor, D: Tensor, scale_free: bool = True) -> Tensor:  # noqa: N803
    """Squared distortion between the distances of prototypes and the costs of their classes.

    With d the Euclidean distances, the mean over ordered pairs of classes is

        1 / (K(K-1)) · Σ_{k≠l} (s·d_kl - D_kl)² / D_kl²

    where s is 1 or, if `scale_free`, the scale that minimises this: Σ r / Σ r² with the ratios
    r_kl = d_kl / D_kl. The gradient is of first order; since s is optimal, it does not go through
    s. Equal prototypes do not move each other, and if all are equal the value is 1.

    Args:
        prototypes: `(classes, dims)` of any floating dtype.
        D: Costs `(classes, classes)`, more than 0 off the diagonal.
        scale_free: Whether to ignore a common factor of all distances.

    Returns:
        A scalar tensor: float64 for float64 prototypes, else float32. At most 1 if scale-free.

    Raises:
        ValueError: If `D` is not such a matrix, or has another number of classes.

    Example:

    >>> import numpy as np
    >>> costs = np.array([[0, 2, 6], [2, 0, 4], [6, 4, 0]])
    >>> float(squared_distortion(np.array([[0.0], [1.0], [3.0]], "float32"), costs))
    0.0
    >>> float(squared_distortion(np.array([[0.0], [1.0], [3.0]], "float32"), costs, False))
    0.25

    Reference:
        Garnot and Landrieu, Leveraging class hierarchies with metric-guided prototype learning
        ([arXiv:2007.03047](https://arxiv.org/abs/2007.03047)).
    """
    rows, costs = rows_and_costs(prototypes, D, positive=True)
    count = len(costs)
    # 1 / inf is 0, which keeps the diagonal out of the sums.
    inverse = 1.0 / np.where(np.eye(count, dtype=bool), np.inf, costs)
    ratios = prototype_distances(rows) * ops.convert_to_tensor(inverse, rows.dtype)
    if scale_free:
        largest = largest_entry(ratios)
        fixed = ops.stop_gradient(ratios) / largest
        scale = ops.divide_no_nan(ops.sum(fixed), ops.sum(ops.square(fixed)))
        ratios = ratios / largest * scale
    # On the diagonal (0 - 1)² is 1.
    return (ops.sum(ops.square(ratios - 1.0)) - count) / (count * (count - 1))


@keras.saving.register_keras_serializable(package="mhe")
class Distortion(Weighted):
    """Makes the distances of prototypes follow the costs between their classes.

    Adds `strength` times `squared_distortion` to the loss; `mhe.metrics.distortion` measures the
    result.

    Args:
        D: Costs `(classes, classes)`, more than 0 off the diagonal, such as
            `ClassTree.cost_matrix` returns.
        strength: Finite factor ≥ 0.
        scale_free: Whether to ignore a common factor of all distances.

    Raises:
        ValueError: If an argument is not one of the above; when called, if the weight does not
            have one row per class.

    Example:

    >>> import keras, mhe
    >>> tree = mhe.ClassTree.from_paths(["animal/dog", "animal/cat", "oak"])
    >>> guide = mhe.Distortion(tree.cost_matrix())
    >>> layer = keras.layers.Embedding(3, 2, embeddings_regularizer=guide)
    >>> model = keras.Sequential([keras.Input((1,)), layer])

    Reference:
        Garnot and Landrieu, Leveraging class hierarchies with metric-guided prototype learning
        ([arXiv:2007.03047](https://arxiv.org/abs/2007.03047)).
    """

    def __init__(
        self,
        D: Tensor,  # noqa: N803
        strength: float = 1.0,
        scale_free: bool = True,
    ) -> None:
        self.costs = checks.check_costs(D, positive=True)
        super().__init__(strength)
        self.scale_free = bool(scale_free)

    def value(self, x: Tensor) -> Tensor:
        """The squared distortion of the rows `x`."""
        return squared_distortion(x, self.costs, self.scale_free)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "D": self.costs.tolist(), "scale_free": self.scale_free}

    def __repr__(self) -> str:
        free = ", scale_free" if self.scale_free else ""
        return f"Distortion({len(self.costs)} classes, {self.strength:g}{free})"
