"""The logarithm of the mean Gaussian potential between neurons."""

from typing import Any

import keras
from keras import ops

from mhe.checks import check_choice, check_number
from mhe.energy import SPACES
from mhe.regularizers.base import OfNeurons
from mhe.regularizers.neurons import cosines, count_rows, neuron_rows, same_row
from mhe.types import Tensor

# The exponent of a pair that does not count.
_NEVER = -1e30


def uniformity(
    weights: Tensor, t: float = 2, space: str = "full", axis: int | tuple[int, ...] = -1
) -> Tensor:
    """How uniformly neurons, or features, are spread: the smaller, the more.

    With the neurons û_i scaled to unit length, the value is

        log 1/(N(N-1)) · Σ_{i≠j} exp(-t·‖û_i - û_j‖²)

    and in half space the same over the 2N points ±û_i, antipodal pairs included. It is at least
    -4t and at most 0, where all neurons are equal.

    Value and gradient are finite everywhere: equal neurons do not move each other, and a zero
    vector counts as orthogonal to every other. Without a pair, the value is 0. Memory is that of
    N² numbers.

    Args:
        weights: Tensor or variable of any shape and numeric dtype.
        t: Finite number > 0; the larger, the more the nearest pairs count.
        space: `"full"` or `"half"`.
        axis: The axis, or axes, that count the neurons; 0 for features `(B, dims)`.

    Returns:
        A scalar tensor: float64 for float64 weights, else float32.

    Raises:
        ValueError: If an argument is not one of the above.

    Example:

    >>> import keras
    >>> right_angle = keras.ops.eye(2)
    >>> round(float(uniformity(right_angle)), 6)
    -4.0

    Reference:
        Wang and Isola, Understanding contrastive representation learning through alignment and
        uniformity on the hypersphere, ICML 2020
        ([arXiv:2005.10242](https://arxiv.org/abs/2005.10242)), section 4.1.2.
    """
    check_number("t", t, above=0)
    check_choice("space", space, SPACES)
    rows = neuron_rows(weights, axis)
    if 0 in rows.shape:
        return ops.sum(rows)
    count, itself = count_rows(rows), same_row(rows)
    scaled = 2.0 * t * cosines(rows)
    if space == "half":
        exponents = ops.where(itself, -4.0 * t, ops.logaddexp(scaled, -scaled) - 2.0 * t)
        return ops.logsumexp(exponents) - ops.log(count * (2.0 * count - 1.0))
    exponents = ops.where(itself, _NEVER, scaled - 2.0 * t)
    pairs = count * (count - 1.0)
    value = ops.logsumexp(exponents) - ops.log(ops.maximum(pairs, 1.0))
    return ops.where(pairs > 0.0, value, 0.0)


@keras.saving.register_keras_serializable(package="mhe")
class Uniformity(OfNeurons):
    """Spreads neurons, or features, uniformly over the sphere by a Gaussian potential.

    Adds `strength` times `uniformity` to the loss.

    Args:
        strength: Finite factor ≥ 0.
        t: Finite number > 0; the larger, the more the nearest pairs count.
        space: `"full"`, or `"half"` to count every neuron's opposite as well.
        axis: The axis, or axes, of the weight that count its neurons; 0 for features. `mhe.attach`
            knows it for every layer.

    Raises:
        ValueError: If an argument is not one of the above.

    Example:

    >>> import keras, mhe
    >>> spread = mhe.regularizers.Uniformity(0.1, axis=0)
    >>> layer = keras.layers.Dense(16, activity_regularizer=spread)  # on the features of a batch

    Reference:
        Wang and Isola, Understanding contrastive representation learning through alignment and
        uniformity on the hypersphere, ICML 2020
        ([arXiv:2005.10242](https://arxiv.org/abs/2005.10242)).
    """

    def __init__(
        self,
        strength: float = 1.0,
        t: float = 2,
        space: str = "full",
        axis: int | tuple[int, ...] = -1,
    ) -> None:
        super().__init__(strength, space, axis)
        check_number("t", t, above=0)
        self.t = t

    def value(self, x: Tensor) -> Tensor:
        """The uniformity of the neurons of `x`."""
        return uniformity(x, self.t, self.space, self.axis)

    def own_config(self) -> dict[str, Any]:
        return {"t": self.t}
