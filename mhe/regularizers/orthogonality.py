"""How far the neurons of a weight are from orthonormal."""

from typing import Any

import keras
from keras import ops

from mhe.checks import check_choice, check_flag
from mhe.directions import unit_vectors
from mhe.regularizers.base import OfNeurons
from mhe.regularizers.distances import lengths
from mhe.regularizers.neurons import count_rows, gram, neuron_rows, same_row
from mhe.types import Tensor

KINDS = ("single", "double", "coherence", "spectral")

# Steps of the power iteration, of two products with WᵀW - I each.
_ITERATIONS = 16


def orthogonality(
    weights: Tensor,
    kind: str = "single",
    unit: bool = False,
    axis: int | tuple[int, ...] = -1,
) -> Tensor:
    """How far neurons are from orthonormal, in four measures.

    With the N neurons of D numbers as the columns of W (D, N):

        single      ‖WᵀW - I‖²                    soft orthogonality, SO
        double      ‖WᵀW - I‖² + ‖WWᵀ - I‖²       double soft orthogonality, DSO
        coherence   max_ij |WᵀW - I|_ij           mutual coherence, MC
        spectral    σ(WᵀW - I)                    restricted isometry, SRIP

    with Frobenius norms and the largest absolute eigenvalue σ. Since ‖WWᵀ‖ = ‖WᵀW‖, `double` is
    exactly 2·single + D - N: with the same strength it pulls twice as hard, to the same place.

    σ comes from 16 steps of power iteration, with WᵀW where N ≤ D and else with W alone, in 128·N·D
    flops, from a start that depends on the weights. The eigenvector counts as constant in the
    gradient, which is exact where the iteration has converged; until then, the value is a lower
    bound. Unlike in the published code, the start is not random, so that equal weights have equal
    values.

    `coherence` shares the gradient between pairs that are equally coherent. With `unit`, a zero
    vector counts as a unit vector that is orthogonal to every other. No neuron has the value 0.

    Args:
        weights: Tensor or variable of any shape and numeric dtype.
        kind: `"single"`, `"double"`, `"coherence"` or `"spectral"`.
        unit: Whether to scale the neurons to unit length first, so that only directions count.
        axis: The axis, or axes, that count the neurons; 0 for features `(B, dims)`.

    Returns:
        A scalar tensor ≥ 0: float64 for float64 weights, else float32.

    Raises:
        ValueError: If an argument is not one of the above.

    Example:

    >>> import keras
    >>> weights = keras.ops.convert_to_tensor([[1.0, 0.5], [0.0, 1.0]])
    >>> float(orthogonality(weights)), float(orthogonality(weights, "coherence"))
    (0.5625, 0.5)

    Reference:
        Bansal et al., Can we gain more from orthogonality regularizations in training deep
        networks?, NeurIPS 2018 ([arXiv:1810.09102](https://arxiv.org/abs/1810.09102)), section 3.
    """
    check_choice("kind", kind, KINDS)
    check_flag("unit", unit)
    rows = neuron_rows(weights, axis)
    count, dims = rows.shape
    if count == 0 or dims == 0:
        return ops.sum(rows)
    if unit:
        rows = unit_vectors(rows)
    # A zero vector counts as a unit vector in a dimension of its own.
    zero = ops.cast(ops.all(ops.equal(rows, 0.0), axis=1), rows.dtype) * float(unit)
    if kind == "spectral":
        return _spectral(rows, zero)
    if kind == "coherence":
        products = gram(rows) + ops.where(same_row(rows), zero[:, None] - 1.0, 0.0)
        # The sign instead of `ops.absolute`, whose gradient at 0 is 1 on JAX.
        return ops.max(products * ops.stop_gradient(ops.sign(products)))
    single = _single(rows, zero)
    return single if kind == "single" else 2.0 * single + float(dims) - count_rows(rows)


def _single(rows: Tensor, zero: Tensor) -> Tensor:
    """‖WᵀW - I‖², over the smaller of the two Gram matrices."""
    count, dims = rows.shape
    if count is not None and dims < count:
        columns = ops.transpose(rows)
        difference = gram(columns) - ops.eye(dims, dtype=rows.dtype)
        # Zero vectors do not count as those of raw neurons do.
        return ops.sum(ops.square(difference)) + float(count - dims) - ops.sum(zero)
    difference = gram(rows) + ops.where(same_row(rows), zero[:, None] - 1.0, 0.0)
    return ops.sum(ops.sum(ops.square(difference), axis=1))


def _spectral(rows: Tensor, zero: Tensor) -> Tensor:
    def minus_identity(product: Tensor, vector: Tensor) -> Tensor:
        return product + (zero - 1.0) * vector

    def apply(matrix: Tensor, vector: Tensor) -> Tensor:
        """(WᵀW - I)·v, `(N,)`."""
        product = ops.matmul(matrix, ops.matmul(ops.transpose(matrix), vector))
        return minus_identity(product, vector)

    fixed = ops.stop_gradient(rows)
    count, dims = rows.shape
    # All products of few neurons take less time than to go through the neurons at every step.
    is_wide = count is not None and count <= dims
    products = ops.matmul(fixed, ops.transpose(fixed)) if is_wide else None

    def step(vector: Tensor) -> Tensor:
        if products is None:
            return apply(fixed, vector)
        return minus_identity(ops.matmul(products, vector), vector)

    # Numbers that no eigenvector is likely to be orthogonal to.
    index = ops.cumsum(ops.ones_like(fixed[:, 0]))
    vector = unit_vectors(ops.sin(index * index + ops.sum(fixed, axis=1)))
    for _ in range(_ITERATIONS):
        vector = unit_vectors(step(unit_vectors(step(vector))))
    return lengths(apply(rows, ops.stop_gradient(vector)))


@keras.saving.register_keras_serializable(package="mhe")
class Orthogonality(OfNeurons):
    """Draws the neurons of a layer to an orthonormal set.

    Adds `strength` times `orthogonality` to the loss, a sum over pairs as in the paper, which
    starts at a strength of 0.1 and lowers it during training. Other than on the sphere, the lengths
    of neurons count, too, unless `unit` is set; and beyond D neurons of D numbers, where
    orthogonal ones cannot be, those that come nearest to it stand in for them.

    Args:
        strength: Finite factor ≥ 0.
        kind: `"single"` (SO), `"double"` (DSO), `"coherence"` (MC) or `"spectral"` (SRIP); see
            `orthogonality`.
        unit: Whether to scale the neurons to unit length first, so that only directions count.
        space: `"full"` or `"half"`, as for the other regularizers. Either has the same value: a
            neuron and its opposite are equally far from orthogonal to any other.
        axis: The axis, or axes, of the weight that count its neurons; 0 for features. `mhe.attach`
            knows it for every layer.

    Raises:
        ValueError: If an argument is not one of the above.

    Example:

    >>> import keras, mhe
    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
    >>> table = mhe.attach(model, mhe.regularizers.Orthogonality(1e-3, kind="spectral"))

    Reference:
        Bansal et al., Can we gain more from orthogonality regularizations in training deep
        networks?, NeurIPS 2018 ([arXiv:1810.09102](https://arxiv.org/abs/1810.09102)).
    """

    def __init__(
        self,
        strength: float = 1.0,
        kind: str = "single",
        unit: bool = False,
        space: str = "full",
        axis: int | tuple[int, ...] = -1,
    ) -> None:
        super().__init__(strength, space, axis)
        check_choice("kind", kind, KINDS)
        check_flag("unit", unit)
        self.kind = kind
        self.unit = unit

    def value(self, x: Tensor) -> Tensor:
        """How far the neurons of `x` are from orthonormal."""
        return orthogonality(x, self.kind, self.unit, self.axis)

    def own_config(self) -> dict[str, Any]:
        return {"kind": self.kind, "unit": self.unit}
