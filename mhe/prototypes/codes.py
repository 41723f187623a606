"""Block codes as placements: words of 0 and 1 become rows of ±1/√dims.

Two words of length n at Hamming distance h become rows at the cosine 1 − 2h/n, so that a code whose
words differ in about half of the places is a good placement with many more rows than dimensions.
"""

import math
from collections.abc import Callable
from typing import TypeAlias

import numpy as np

# Elements of a binary field: integers whose bits are coefficients.
_Elements: TypeAlias = np.ndarray | np.integer
# Coefficients of primitive polynomials of each degree over GF(2), the highest left out.
_PRIMITIVE = {
    1: 0b1,
    2: 0b11,
    3: 0b011,
    4: 0b0011,
    5: 0b00101,
    6: 0b000011,
    7: 0b0000011,
    8: 0b00011101,
    9: 0b000010001,
    10: 0b0000001001,
    11: 0b00000000101,
    12: 0b000001010011,
}
# x² = ax + b makes a field of 4 or 9 elements out of one of 2 or 3.
_QUADRATIC = {4: (2, 1, 1), 9: (3, 1, 1)}


def field(q: int) -> tuple[np.ndarray, np.ndarray]:
    """Addition and multiplication in the field of q elements, for q prime or 4 or 9.

    Args:
        q: The number of elements, which are numbered 0 … q − 1.

    Returns:
        Two tables `(q, q)`.

    Example:

    >>> plus, times = field(4)
    >>> times
    array([[0, 0, 0, 0],
           [0, 1, 2, 3],
           [0, 2, 3, 1],
           [0, 3, 1, 2]])
    """
    first, second = np.meshgrid(np.arange(q), np.arange(q), indexing="ij")
    if q not in _QUADRATIC:
        return (first + second) % q, first * second % q
    p, a, b = _QUADRATIC[q]
    (f1, f0), (s1, s0) = np.divmod(first, p), np.divmod(second, p)
    plus = (f1 + s1) % p * p + (f0 + s0) % p
    squares = f1 * s1
    return plus, (f1 * s0 + f0 * s1 + a * squares) % p * p + (f0 * s0 + b * squares) % p


def golay() -> np.ndarray:
    """The extended binary Golay code: 4,096 words of length 24 that differ in at least 8 places.

    Returns:
        `(4096, 24)` uint8.

    Example:

    >>> np.bincount(golay().sum(axis=1)).nonzero()[0]
    array([ 0,  8, 12, 16, 24])
    """
    # The cyclic code of length 23 that this polynomial generates, with a parity bit.
    generator = [1, 0, 1, 0, 1, 1, 1, 0, 0, 0, 1, 1]
    basis = np.zeros((12, 24), "uint8")
    for shift, row in enumerate(basis):
        row[shift : shift + 12] = generator
    basis[:, 23] = basis.sum(axis=1) % 2
    chosen = (np.arange(4096)[:, None] >> np.arange(12)) & 1
    return (chosen @ basis % 2).astype("uint8")


def kerdock_forms(degree: int) -> np.ndarray:
    """Quadratic forms over GF(2) whose pairwise differences have full rank.

    Args:
        degree: m, the number of variables, even and at least 4.

    Returns:
        The values of 2^(m−1) forms at 2^m points, `(2^(m−1), 2^m)` uint8.

    Example:

    >>> kerdock_forms(4).shape
    (8, 16)

    Reference:
        MacWilliams and Sloane, The Theory of Error-Correcting Codes, 1977, chapter 15, section 5.
    """
    times, trace = _binary_field(degree - 1)
    size = 2 ** (degree - 1)
    elements = np.arange(size)
    forms = np.zeros((size, 2, size), "uint8")
    for form, factor in zip(forms, elements, strict=True):
        scaled = times(factor, elements)
        power = scaled
        for _ in range((degree - 2) // 2):
            power = times(power, power)
            form ^= trace[times(scaled, power)]
        form[1] ^= trace[scaled]
    return forms.reshape(size, 2 * size)


def gold_forms(degree: int, count: int, terms: int = 1) -> np.ndarray:
    """The quadratic forms Tr(a₁x³ + a₂x⁵ + … + a_t·x^(2^t + 1)) over GF(2^m).

    With the affine functions they are the dual of an extended BCH code of designed distance 2t + 4
    where t ≤ 2. The rank of a difference of two is at least m − 2t.

    Args:
        degree: m.
        count: Number of forms, at most 2^(mt).
        terms: t.

    Returns:
        The values of the forms at 2^m points, `(count, 2^m)` uint8.

    Example:

    >>> gold_forms(5, 3).shape
    (3, 32)
    """
    times, trace = _binary_field(degree)
    elements = np.arange(2**degree)
    forms = np.zeros((count, 2**degree), "uint8")
    power = elements
    for term in range(terms):
        power = times(power, power)
        exponent = times(power, elements)
        factors = np.arange(count) >> (term * degree) & (2**degree - 1)
        for form, factor in zip(forms, factors, strict=True):
            form ^= trace[times(factor, exponent)]
    return forms


def code_rows(forms: np.ndarray, count: int) -> np.ndarray:
    """The rows of all words f + l, l affine: for each form an orthonormal basis and its opposite.

    Args:
        forms: `(F, 2^m)`, values of quadratic forms.
        count: Number of rows, at most F·2^(m+1).

    Returns:
        `(count, 2^m)` float32, unit rows.

    Example:

    >>> code_rows(np.zeros((1, 2), "uint8"), 4).round(4)
    array([[ 0.7071,  0.7071],
           [-0.7071, -0.7071],
           [ 0.7071, -0.7071],
           [-0.7071,  0.7071]], dtype=float32)
    """
    dims = forms.shape[1]
    linear = walsh(dims)
    rows = np.empty((count, dims), "float32")
    for form, start in zip(forms, range(0, count, 2 * dims), strict=False):
        block = rows[start : start + 2 * dims]
        basis = (linear[: -(-len(block) // 2)] ^ form).astype("float32")
        basis = (1 - 2 * basis) / math.sqrt(dims)
        block[::2] = basis
        block[1::2] = -basis[: len(block) // 2]
    return rows


def walsh(size: int) -> np.ndarray:
    """The linear functions of log₂(size) bits, the first-order Reed–Muller code's words.

    Args:
        size: A power of 2.

    Returns:
        `(size, size)` uint8.

    Example:

    >>> walsh(4)
    array([[0, 0, 0, 0],
           [0, 1, 0, 1],
           [0, 0, 1, 1],
           [0, 1, 1, 0]], dtype=uint8)
    """
    table = np.zeros((1, 1), "uint8")
    while len(table) < size:
        table = np.block([[table, table], [table, 1 - table]])
    return table


def _binary_field(
    degree: int,
) -> tuple[Callable[[_Elements, _Elements], np.ndarray], np.ndarray]:
    """Multiplication of arrays in GF(2^degree), and the table of the trace."""
    size = 2**degree
    power, powers = 1, []
    for _ in range(size - 1):
        powers.append(power)
        power <<= 1
        if power & size:
            power = power ^ size ^ _PRIMITIVE[degree]
    exponential = np.array(powers * 2)
    logarithm = np.zeros(size, "int64")
    logarithm[powers] = np.arange(size - 1)

    def times(first: _Elements, second: _Elements) -> np.ndarray:
        product = exponential[logarithm[first] + logarithm[second]]
        return np.where((first == 0) | (second == 0), 0, product)

    trace = np.zeros(size, "int64")
    conjugate = np.arange(size)
    for _ in range(degree):
        trace ^= conjugate
        conjugate = times(conjugate, conjugate)
    return times, trace.astype("uint8")
