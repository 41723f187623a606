"""The determinant of the Gaussian Gram matrix of neurons."""

from typing import Any

import keras
from keras import ops

from mhe.checks import check_choice, check_number
from mhe.energy import SPACES
from mhe.regularizers.base import OfNeurons
from mhe.regularizers.neurons import cosines, count_rows, neuron_rows, same_row
from mhe.types import Tensor

# Added to the diagonal, which keeps the determinant of equal neurons above 0, and steps bounded.
_RIDGE = 1e-4


def log_determinant(
    weights: Tensor, epsilon: float = 1.0, space: str = "full", axis: int | tuple[int, ...] = -1
) -> Tensor:
    """The logarithm of the determinant of neurons' Gaussian Gram matrix, per neuron.

    With the neurons û_i scaled to unit length,

        1/N · log det(K + 10⁻⁴·I),    K_ij = exp(-ε²·‖û_i - û_j‖²)

    and in half space the same over the 2N points ±û_i. The paper has log det K; the small multiple
    of the identity keeps value and gradient finite where neurons are equal, and the factor 1/N
    makes it independent of a layer's width. It is at most about 0, for neurons infinitely far
    apart, and at least about log 10⁻⁴.

    A zero vector counts as orthogonal to every other. In half space the matrix of 2N points falls
    apart into two of N. Time is O(N²·D + N³), memory that of N² numbers.

    Args:
        weights: Tensor or variable of any shape and numeric dtype.
        epsilon: Finite number > 0, the inverse width of the kernel. Large ones tell only the
            nearest neurons apart, small ones make K singular.
        space: `"full"` or `"half"`.
        axis: The axis, or axes, that count the neurons; 0 for features `(B, dims)`.

    Returns:
        A scalar tensor: float64 for float64 weights, else float32.

    Raises:
        ValueError: If an argument is not one of the above.

    Example:

    >>> import keras
    >>> near = keras.ops.convert_to_tensor([[1.0, 0.0], [1.0, 0.1]])
    >>> float(log_determinant(near, axis=0)) < float(log_determinant(keras.ops.eye(2)))
    True

    Reference:
        Liu et al., Learning with hyperspherical uniformity, AISTATS 2021
        ([arXiv:2103.01649](https://arxiv.org/abs/2103.01649)), maximum Gram determinant.
    """
    check_number("epsilon", epsilon, above=0)
    check_choice("space", space, SPACES)
    rows = neuron_rows(weights, axis)
    if 0 in rows.shape:
        return ops.sum(rows)
    itself, count = same_row(rows), count_rows(rows)
    scaled = 2.0 * epsilon**2 * cosines(rows)
    # The diagonal by itself: a zero vector has no distance from itself, either.
    near = ops.where(itself, 1.0 + _RIDGE, ops.exp(scaled - 2.0 * epsilon**2))
    if space == "full":
        return _log_determinant(near) / count
    far = ops.where(
        itself,
        ops.exp(-4.0 * epsilon**2 * ops.ones_like(scaled)),
        ops.exp(-scaled - 2.0 * epsilon**2),
    )
    return (_log_determinant(near + far) + _log_determinant(near - far)) / (2.0 * count)


def _log_determinant(matrix: Tensor) -> Tensor:
    return 2.0 * ops.sum(ops.log(ops.diagonal(ops.cholesky(matrix))))


@keras.saving.register_keras_serializable(package="mhe")
class GramDeterminant(OfNeurons):
    """Makes the volume that neurons span in a Gaussian kernel as large as possible (MGD).

    Adds minus `strength` times `log_determinant` to the loss.

    Args:
        strength: Finite factor ≥ 0.
        epsilon: Finite number > 0, the inverse width of the kernel exp(-ε²·‖û_i - û_j‖²).
        space: `"full"`, or `"half"` to count every neuron's opposite as well.
        axis: The axis, or axes, of the weight that count its neurons; 0 for features. `mhe.attach`
            knows it for every layer.

    Raises:
        ValueError: If an argument is not one of the above.

    Example:

    >>> import keras, mhe
    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
    >>> table = mhe.attach(model, mhe.regularizers.GramDeterminant(0.1))

    Reference:
        Liu et al., Learning with hyperspherical uniformity, AISTATS 2021
        ([arXiv:2103.01649](https://arxiv.org/abs/2103.01649)).
    """

    def __init__(
        self,
        strength: float = 1.0,
        epsilon: float = 1.0,
        space: str = "full",
        axis: int | tuple[int, ...] = -1,
    ) -> None:
        super().__init__(strength, space, axis)
        check_number("epsilon", epsilon, above=0)
        self.epsilon = epsilon

    def value(self, x: Tensor) -> Tensor:
        """Minus the logarithm of the determinant, per neuron."""
        return -log_determinant(x, self.epsilon, self.space, self.axis)

    def own_config(self) -> dict[str, Any]:
        return {"epsilon": self.epsilon}
