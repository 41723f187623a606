"""Quadratic polynomials of cosines: their sum over all pairs, and the one nearest to a potential.

Σ c_ij = ‖Σ u_i‖² and Σ c_ij² = ‖UᵀU‖² over all pairs, i = j included, where U `(N, D)` has the unit
vectors as its rows and ‖·‖ is the Frobenius norm: a sum over N² pairs takes O(N·D²).
"""

import numpy as np
from keras import ops

from mhe.energy.layout import Layout
from mhe.energy.potential import Variant, measures_of_cosines, potential
from mhe.energy.pullback import Pullback, differentiable
from mhe.energy.units import inverse_norms, sum_by_rows, tangential
from mhe.precision import at_least_float32
from mhe.types import Tensor

# The neurons whose pairs a polynomial is fitted to.
_FITTED = 256
# Pairs with a cosine of a larger magnitude are left out: no polynomial follows a pole, and a few
# equal neurons would take the fit away from all other pairs.
_LARGEST_COSINE = 0.9
# Cosines are scaled to about 1 before the fit, unless they are smaller than this to begin with.
_SMALLEST_SPREAD = 1e-3
# Added to the variances of scaled cosines, so that equal cosines have coefficients of 0.
_RIDGE = 1e-6


def polynomial_sum(
    vectors: Tensor, coefficients: Tensor, layout: Layout, squares: bool = True
) -> Tensor:
    """Σ_{i≠j} a₁·c_ij + a₂·c_ij² over ordered pairs, differentiable along `vectors`.

    Time is O(N·D·min(N, D)), memory O(N·D + min(N, D)²).

    Args:
        vectors: N vectors of D numbers; a zero vector is orthogonal to every other.
        coefficients: a₁ and a₂, `(2,)`, without a gradient.
        layout: Where the vectors are.
        squares: Whether to sum squares; otherwise a₂ counts as 0, and time is O(N·D).
    """

    def evaluate(vectors: Tensor, coefficients: Tensor) -> tuple[Tensor, Pullback]:
        inverse = inverse_norms(ops.sum(vectors * vectors, axis=1 - layout.axis))
        units = vectors * layout.per_vector(inverse)
        # The pairs i = j, which have a cosine of 1.
        itself = ops.sum(ops.cast(inverse > 0, units.dtype))
        total = ops.sum(units, axis=layout.axis)
        across = Layout(in_columns=not layout.in_columns)
        first, second = coefficients[0], coefficients[1]
        value = first * (ops.sum(total * total) - itself)
        side = across
        gram = None
        if squares:
            count, dims = layout.count_and_dims(units)
            side = layout if count < dims else across
            gram = side.gram(units, units)
            value = value + second * (sum_by_rows(gram * gram) - itself)

        def pullback(upstream: Tensor) -> Tensor:
            pull = 2.0 * first * across.per_vector(total)
            if gram is not None:
                pull = pull + side.mix(4.0 * second * gram, units)
            return tangential(pull, units, layout) * layout.per_vector(upstream * inverse)

        return value, pullback

    return differentiable(evaluate, vectors, coefficients)


def nearest_polynomial(
    vectors: Tensor, layout: Layout, variant: Variant, squares: bool = True
) -> Tensor:
    """a₁ and a₂ of the polynomial nearest to the potential at the cosines of some vectors.

    A least-squares fit to the pairs of up to 256 vectors, always the same ones, so that the result
    does not depend on any draw. In half space a₁ is 0.

    Args:
        vectors: The vectors.
        layout: Where they are.
        variant: Which energy.
        squares: Whether to fit a₂; otherwise it is 0.

    Returns:
        A tensor `(2,)` without a gradient.
    """
    count, _ = layout.count_and_dims(vectors)
    if count > _FITTED:
        chosen = np.random.default_rng(0).choice(count, _FITTED, replace=False)
        vectors = ops.take(vectors, np.sort(chosen).astype("int32"), axis=layout.axis)
    vectors = ops.stop_gradient(at_least_float32(vectors))
    inverse = inverse_norms(ops.sum(vectors * vectors, axis=1 - layout.axis))
    units = vectors * layout.per_vector(inverse)
    c = layout.gram(units, units)
    excess, _ = potential(c, measures_of_cosines(c, variant), variant)
    kept = ops.cast(ops.absolute(c) < _LARGEST_COSINE, c.dtype)
    weights = kept / ops.maximum(sum_by_rows(kept), 1.0)

    def mean(values: Tensor) -> Tensor:
        return sum_by_rows(weights * values)

    def centered(values: Tensor) -> Tensor:
        return values - mean(values)

    def slope(values: Tensor, along: Tensor) -> Tensor:
        return mean(values * along) / (mean(along * along) + _RIDGE)

    spread = ops.maximum(ops.sqrt(mean(c * c)), _SMALLEST_SPREAD)
    line, parabola, target = map(centered, (c / spread, ops.square(c / spread), excess))
    first, second = ops.zeros_like(spread), ops.zeros_like(spread)
    if squares:
        curve = parabola if variant.half else parabola - slope(parabola, line) * line
        second = slope(target, curve)
    if not variant.half:
        first = slope(target - second * parabola, line)
    return ops.stack([first / spread, second / (spread * spread)])
