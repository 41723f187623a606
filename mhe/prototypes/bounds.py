"""How well a placement separates its prototypes, and how well any placement can."""

import math
from typing import Any

import numpy as np

from mhe import checks

# Entries of a block of rows: 64 MiB in float64.
_BLOCK = 2**23
# Placements proven optimal beyond what the bounds below give: dims: ((classes, cosine), …).
# 3 dims: Schütte and van der Waerden 1951 (7 to 9), Danzer 1963 (10, 11), Musin and Tarasov
# 2012 (13) and 2015 (14), Robinson 1961 (24).
# 4: Bachoc and Vallentin 2009 (10); de Laat, Leijenhorst and de Muinck Keizer 2024 (24, as the D4
# roots are the only kissing configuration); Andreev 1999 (120).
# The others: Cohn, de Laat and Leijenhorst 2024 (arXiv:2403.16874), triangle-free strongly regular
# graphs and Kerdock codes.
_PROVEN = {
    3: (
        (7, 0.2101383127),
        (8, (math.sqrt(8) - 1) / 7),
        (9, 1 / 3),
        (10, 0.4043943252),
        (11, 1 / math.sqrt(5)),
        (13, 0.5426364868),
        (14, 0.5639503003),
        (24, 0.7230784683),
    ),
    4: ((10, 1 / 6), (24, 0.5), (120, (1 + math.sqrt(5)) / 4)),
    16: ((288, 1 / 4),),
    20: ((56, 1 / 15),),
    21: ((50, 1 / 21), (77, 1 / 12)),
    64: ((4224, 1 / 8),),
    256: ((66048, 1 / 16),),
    1024: ((2**20 + 2**11, 1 / 32),),
}


def check_shape(classes: int, dims: int) -> None:
    """Raises a `ValueError` unless there are at least 2 classes and 2 dimensions.

    Example:

    >>> check_shape(1, 2)
    Traceback (most recent call last):
        ...
    ValueError: `classes` must be an integer >= 2. Received: classes=1
    """
    checks.check_count("classes", classes, 2)
    checks.check_count("dims", dims, 2)


def separation(prototypes: Any) -> float:
    """The largest cosine between two different rows: the smaller, the better they are separated.

    The matrix of all cosines is computed in float64, a block at a time.

    Args:
        prototypes: `(classes, dims)`, unit rows.

    Returns:
        A number from −1 to 1.

    Raises:
        ValueError: If there are fewer than two rows or dimensions, or the rows are not unit rows.

    Example:

    >>> separation([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]])
    0.0
    """
    rows = checks.check_unit_rows(prototypes)
    step = max(1, min(1024, _BLOCK // rows.shape[1]))
    largest = -math.inf
    for start in range(0, len(rows), step):
        block = unit(rows[start : start + step])
        for other in range(start, len(rows), step):
            if other == start:
                cosines = block @ block.T
                np.fill_diagonal(cosines, -math.inf)
            else:
                cosines = block @ unit(rows[other : other + step]).T
            largest = max(largest, float(cosines.max()))
    return min(1.0, max(-1.0, largest))


def unit(rows: np.ndarray) -> np.ndarray:
    """Rows of length 1 in float64.

    Args:
        rows: `(N, D)`, none of them zero.

    Returns:
        `(N, D)` float64.

    Example:

    >>> unit(np.array([[3.0, 4.0], [3e-200, 4e-200]]))
    array([[0.6, 0.8],
           [0.6, 0.8]])
    """
    # Scaled by a power of two, which changes no digit, so that squares neither overflow nor vanish.
    rows = rows.astype("float64")
    _, exponents = np.frexp(np.abs(rows).max(axis=1, keepdims=True, initial=0))
    rows = np.ldexp(rows, -exponents)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def cosine_lower_bound(classes: int, dims: int) -> float:
    """A lower bound on the largest cosine of any placement.

    It is the largest of the bounds that apply: in two dimensions the regular polygon's cosine;
    Rankin's −1/(classes − 1) up to dims + 1 classes, and 0 beyond; Levenshtein's beyond 2·dims; and
    the cosine of a placement of at most as many classes that is proven to be optimal.

    Args:
        classes: At least 2.
        dims: At least 2.

    Returns:
        A number from −1 to 1. Simplex, orthoplex and the sharp configurations attain it; most
        other placements cannot.

    Raises:
        ValueError: If an argument is not an integer of at least 2.

    Example:

    >>> [round(cosine_lower_bound(classes, 6), 6) for classes in (7, 12, 27)]
    [-0.166667, 0.0, 0.25]

    Reference:
        Rankin, The closest packing of spherical caps in n dimensions, 1955; Levenshtein, On bounds
        for packings in n-dimensional Euclidean space, Soviet Math. Dokl. 20, 1979, and Universal
        bounds for codes and designs, Handbook of Coding Theory, 1998.
    """
    check_shape(classes, dims)
    classes, dims = int(classes), int(dims)
    if dims == 2:
        return math.cos(2 * math.pi / classes)
    if classes <= dims + 1:
        return -1 / (classes - 1)
    if classes <= 2 * dims:
        return 0.0
    proven = [cosine for fewer, cosine in _PROVEN.get(dims, ()) if fewer <= classes]
    return max(levenshtein(classes, dims), *proven, 0.0)


def levenshtein(classes: int, dims: int) -> float:
    """The cosine at which Levenshtein's bound on the number of points is `classes`.

    At most L_τ(s) points in `dims` dimensions can have s as their largest cosine, where τ follows
    from the number of points, which lies between the least sizes of designs of strength τ and τ+1:

        L_{2k−1}(s) = C(k+d−3, k−1)·[(2k+d−3)/(d−1) − (P_{k−1} − P_k)/((1−s)·P_k)]
        L_{2k}(s) = C(k+d−2, k)·[(2k+d−1)/(d−1) − (1+s)(P_k − P_{k+1})/((1−s)(P_k + P_{k+1}))]

    with the Gegenbauer polynomials P_i of s, P_i(1) = 1.

    Args:
        classes: At least 2.
        dims: At least 3.

    Returns:
        A cosine, reduced by more than the rounding error.

    Example:

    >>> round(levenshtein(240, 8), 9), round(levenshtein(56, 7), 9)
    (0.5, 0.333333333)
    """
    strength = 1
    while _design(dims, strength + 1) <= classes:
        strength += 1
    k = (strength + 1) // 2
    # The range of this strength ends at the largest zeros of Jacobi polynomials.
    half = (dims - 1) / 2
    if strength % 2:
        low, high = _largest_zero(k - 1, half, half), _largest_zero(k, half, half - 1)
        count = _odd
    else:
        k = strength // 2
        low, high = _largest_zero(k, half, half - 1), _largest_zero(k, half, half)
        count = _even
    # The bound on the number grows with the cosine.
    for _ in range(60):
        middle = (low + high) / 2
        if count(middle, k, dims) < classes:
            low = middle
        else:
            high = middle
    return low - 1e-12


def _design(dims: int, strength: int) -> int:
    """The least number of points of a spherical design (Delsarte, Goethals and Seidel 1977)."""
    k = strength // 2
    if strength % 2:
        return 2 * math.comb(dims + k - 1, k)
    return math.comb(dims + k - 1, k) + math.comb(dims + k - 2, k - 1) if k else 1


def _odd(s: float, k: int, dims: int) -> float:
    before, here, _ = _gegenbauer(s, k, dims)
    inner = (2 * k + dims - 3) / (dims - 1) - (before - here) / ((1 - s) * here)
    return math.comb(k + dims - 3, k - 1) * inner


def _even(s: float, k: int, dims: int) -> float:
    _, here, after = _gegenbauer(s, k, dims)
    share = (1 + s) * (here - after) / ((1 - s) * (here + after))
    return math.comb(k + dims - 2, k) * ((2 * k + dims - 1) / (dims - 1) - share)


def _gegenbauer(s: float, k: int, dims: int) -> tuple[float, float, float]:
    """P_{k−1}, P_k and P_{k+1} at s, for k ≥ 1."""
    before, here = 1.0, s
    for i in range(1, k):
        before, here = here, ((2 * i + dims - 2) * s * here - i * before) / (i + dims - 2)
    return before, here, ((2 * k + dims - 2) * s * here - k * before) / (k + dims - 2)


def _largest_zero(k: int, a: float, b: float) -> float:
    """The largest zero of the Jacobi polynomial P_k^(a, b), −1 for k = 0: an eigenvalue."""
    if k == 0:
        return -1.0
    i = np.arange(k, dtype="float64")
    both = 2 * i + a + b
    diagonal = (b * b - a * a) / (both * (both + 2))
    i, both = i[1:], both[1:]
    beside = i * (i + a) * (i + b) * (i + a + b) / (both**2 * (both + 1) * (both - 1))
    beside = 2 * np.sqrt(beside)
    matrix = np.diag(diagonal) + np.diag(beside, 1) + np.diag(beside, -1)
    return float(np.linalg.eigvalsh(matrix)[-1])
