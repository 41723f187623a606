"""The potential between two neurons, and its slope."""

import functools
import math
from typing import NamedTuple

import keras
import numpy as np
from keras import ops

from mhe.types import Tensor

# Pairs closer than this (squared distance) have the potential that they would have at it, and no
# slope: equal vectors have no direction in which to part, and in float32 anything closer is hard to
# tell from equal.
_CLOSEST = 1e-6


class Variant(NamedTuple):
    """Which energy: the exponent, the distance, the space, and the smallest squared distance."""

    s: float
    distance: str
    half: bool
    closest: float

    @classmethod
    def of(cls, s: float, distance: str, space: str) -> "Variant":
        """The variant that options name."""
        # A slope goes as ρ^(-s - 2); it must leave room in float32 for a sum over many pairs.
        closest = max(_CLOSEST, 10.0 ** (-24.0 / (s / 2 + 1)))
        return cls(float(s), distance, space == "half", closest)

    @property
    def orthogonal(self) -> float:
        """The potential of two orthogonal neurons."""
        return self._at(math.sqrt(2.0), math.pi / 2)

    @property
    def antipodal(self) -> float:
        """The potential of a neuron and its opposite."""
        return self._at(math.sqrt(4.0), math.pi)

    @property
    def slope_of_orthogonal(self) -> float:
        """The derivative of `potential` along the cosine at 0."""
        if self.half:
            return 0.0
        s = self.s or 1.0
        if self.distance == "euclidean":
            return s * 2.0 ** (-self.s / 2 - 1)
        return s * (math.pi / 2) ** (-self.s - 1)

    def _at(self, chord: float, angle: float) -> float:
        rho = chord if self.distance == "euclidean" else angle
        return -math.log(rho) if self.s == 0 else rho**-self.s


# What a potential is a function of, for all pairs: which arrays these are depends on the variant.
Measures = tuple[Tensor, ...]


def measures_of_cosines(c: Tensor, variant: Variant) -> Measures:
    """The measures of pairs whose cosines are `c`, as exact as a cosine tells them.

    Euclidean: 1 - c; in half space 1 - c² where both distances follow from that, else 1 - c and
    1 + c. Angle: θ, in half space the smaller of θ and π - θ; and 1 - c².
    """
    if variant.distance == "angle":
        return _smaller_angle(c) if variant.half else _angle(c), 1.0 - c * c
    if not variant.half:
        return (1.0 - c,)
    return (1.0 - c * c,) if variant.s in (0, 2) else (1.0 - c, 1.0 + c)


def measures_of_distances(x: Tensor, y: Tensor, variant: Variant) -> Measures:
    """The same from half the squared distances x = 1 - c and y = 1 + c, exact near 0, too."""
    if variant.distance == "angle":
        near, far = (ops.minimum(x, y), ops.maximum(x, y)) if variant.half else (x, y)
        return 2.0 * ops.arctan2(ops.sqrt(near), ops.sqrt(far)), x * y
    if not variant.half:
        return (x,)
    return (x * y,) if variant.s in (0, 2) else (x, y)


def potential(c: Tensor, measures: Measures, variant: Variant) -> tuple[Tensor, Tensor]:
    """Excess h(c) - h(0) and slope h'(c) of the potential, elementwise.

    In half space h(c) = g(c) + g(-c), the energies of u_i with u_j and with -u_j.
    """
    if variant.distance == "euclidean":
        return _euclidean_potential(c, measures, variant)
    return _angle_potential(c, measures, variant)


def excess_of_cosines(c: Tensor, variant: Variant) -> Tensor:
    """Excess h(c) - h(0), elementwise, with the slope of `potential` for its gradient.

    That is finite where the derivative of a measure is not.
    """
    fixed = ops.stop_gradient(c)
    excess, slope = potential(fixed, measures_of_cosines(fixed, variant), variant)
    return excess + slope * (c - fixed)


def _euclidean_potential(c: Tensor, measures: Measures, variant: Variant) -> tuple[Tensor, Tensor]:
    s, half, closest = variant.s, variant.half, variant.closest
    if half and s in (0, 2):
        # The two terms add up to a function of 1 - c² alone.
        product, free = _clamped(measures[0], closest)
        inverse = 1.0 / product
        if s == 0:
            return -0.5 * ops.log(product), c * inverse * free
        return c * c * inverse, 2.0 * c * inverse * inverse * free
    x, free = _clamped(measures[0], closest / 2)
    if s == 0:
        return -0.5 * ops.log(x), 0.5 * free / x
    if s == 2:
        inverse = 0.5 / x
        return c * inverse, 2.0 * inverse * inverse * free
    near, near_slope = _inverse_power(2.0 * x, s)
    if not half:
        return near - 2.0 ** (-s / 2), near_slope * free
    y, far_free = _clamped(measures[1], closest / 2)
    far, far_slope = _inverse_power(2.0 * y, s)
    return near + far - 2.0 ** (1 - s / 2), near_slope * free - far_slope * far_free


def _clamped(values: Tensor, least: float) -> tuple[Tensor, Tensor]:
    """Values, none below `least`, and 1 for each that was above it, else 0."""
    return ops.maximum(values, least), ops.cast(values > least, values.dtype)


def _inverse_power(squared: Tensor, s: float) -> tuple[Tensor, Tensor]:
    """ρ^(-s) of a squared distance ρ² = 2 - 2c, and its slope along c, s·ρ^(-s-2)."""
    if s == 1:
        value = ops.rsqrt(squared)
        return value, value * value * value
    value = ops.power(squared, -s / 2)
    return value, s * value / squared


def _angle_potential(c: Tensor, measures: Measures, variant: Variant) -> tuple[Tensor, Tensor]:
    s, half, closest = variant.s, variant.half, variant.closest
    angle, product = measures
    sine = ops.sqrt(ops.maximum(product, closest))
    clamped, free = _clamped(angle, math.sqrt(closest))
    near, near_slope = _inverse_angle(clamped, s)
    right = variant.orthogonal
    if not half:
        return near - right, near_slope * free / sine
    far, far_slope = _inverse_angle(math.pi - angle, s)
    slope = (near_slope * free - far_slope) / sine
    return near + far - 2 * right, ops.where(c < 0, -slope, slope)


def _inverse_angle(angle: Tensor, s: float) -> tuple[Tensor, Tensor]:
    """f_s(θ) and -f_s'(θ)."""
    inverse = 1.0 / angle
    if s == 0:
        return ops.log(inverse), inverse
    if s == 1:
        return inverse, inverse * inverse
    value = inverse * inverse if s == 2 else ops.power(inverse, s)
    return value, s * value * inverse


def _angle(c: Tensor) -> Tensor:
    """The angle of each pair in radians, from 0 to π."""
    if keras.backend.backend() == "jax" and c.dtype == np.float32:
        smaller = _smaller_angle(c)
        return ops.where(c < 0, math.pi - smaller, smaller)
    return ops.arccos(ops.clip(c, -1.0, 1.0))


def _smaller_angle(c: Tensor) -> Tensor:
    """The smaller of each pair's angle and that with the opposite, from 0 to π/2."""
    a = ops.minimum(ops.absolute(c), 1.0)
    if keras.backend.backend() == "jax" and c.dtype == np.float32:
        return _fused_arccos(a)
    return ops.arccos(a)


@functools.cache
def _arccos_coefficients() -> tuple[float, ...]:
    """Chebyshev fit of arccos(a) / √(1 - a) on 0 ≤ a ≤ 1, relative error below 2e-9."""
    fit = np.polynomial.Chebyshev.interpolate(
        lambda a: np.arccos(a) / np.sqrt(1 - a), deg=11, domain=(0, 1)
    )
    return tuple(fit.convert(kind=np.polynomial.Polynomial).coef)


def _fused_arccos(a: Tensor) -> Tensor:
    """Arccos of numbers from 0 to 1 in multiplications and additions, for float32.

    XLA compiles arccos to scalar calls on a CPU, at 10 to 20 times the cost of this.
    """
    value = ops.zeros_like(a)
    for coefficient in reversed(_arccos_coefficients()):
        value = value * a + coefficient
    return value * ops.sqrt(1.0 - a)
