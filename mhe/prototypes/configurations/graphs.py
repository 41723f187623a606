"""Strongly regular graphs, whose eigenspaces hold configurations."""

import itertools

import numpy as np

from mhe.prototypes import codes
from mhe.prototypes.bounds import unit


def spectral(adjacency: np.ndarray, eigenvalue: float, dims: int) -> np.ndarray:
    """The vertices of a strongly regular graph, projected to one of its eigenspaces.

    Args:
        adjacency: `(N, N)`, 1 between neighbors and 0 elsewhere.
        eigenvalue: θ of the eigenspace. Neighbors get the cosine θ/k, where k is the degree of a
            vertex, others −(θ + 1)/(N − 1 − k).
        dims: The dimensions of the eigenspace.

    Returns:
        `(N, dims)` float64, unit rows.

    Example:

    >>> pentagon = np.roll(np.eye(5), 1, axis=0) + np.roll(np.eye(5), -1, axis=0)
    >>> rows = spectral(pentagon, (5**0.5 - 1) / 2, 2)
    >>> (rows @ rows[0]).round(3)
    array([ 1.   ,  0.309, -0.809, -0.809,  0.309])

    Reference:
        Delsarte, Goethals and Seidel, Spherical codes and designs, Geometriae Dedicata 6, 1977.
    """
    size = len(adjacency)
    valency = adjacency[0].sum()
    gram = np.where(adjacency > 0, eigenvalue / valency, -(eigenvalue + 1) / (size - 1 - valency))
    np.fill_diagonal(gram, 1.0)
    # The Gram matrix is a multiple of the projection, so it maps random vectors to a basis.
    vectors = np.random.default_rng(0).normal(size=(size, dims))
    return unit(np.linalg.qr(gram @ vectors)[0])


def _hexads() -> np.ndarray:
    """The 77 blocks of the Steiner system S(3, 6, 22), `(77, 22)`."""
    words = codes.golay()
    return words[(words.sum(axis=1) == 8) & (words[:, :2] == 1).all(axis=1)][:, 2:].astype("int64")


def higman_sims() -> np.ndarray:
    """A vertex joined to 22 points, these to the hexads that contain them, and disjoint hexads."""
    hexads = _hexads()
    adjacency = np.zeros((100, 100), "int64")
    adjacency[0, 1:23] = adjacency[1:23, 0] = 1
    adjacency[1:23, 23:] = hexads.T
    adjacency[23:, 1:23] = hexads
    adjacency[23:, 23:] = hexads @ hexads.T == 0
    return spectral(adjacency, -8, 22)


def gewirtz() -> np.ndarray:
    """The 56 hexads without a given point, joined if they are disjoint."""
    hexads = _hexads()
    hexads = hexads[hexads[:, 0] == 0]
    return spectral((hexads @ hexads.T == 0).astype("int64"), -4, 20)


def hoffman_singleton() -> np.ndarray:
    """Robertson's pentagons and pentagrams."""
    adjacency = np.zeros((50, 50), "int64")
    for h, j in itertools.product(range(5), repeat=2):
        adjacency[5 * h + j, 5 * h + (j + 1) % 5] = 1
        adjacency[25 + 5 * h + j, 25 + 5 * h + (j + 2) % 5] = 1
        for i in range(5):
            adjacency[5 * h + j, 25 + 5 * i + (h * i + j) % 5] = 1
    return spectral(adjacency | adjacency.T, -3, 21)


def elliptic_quadric(q: int) -> np.ndarray:
    """The points of the elliptic quadric in five dimensions over GF(q), joined if orthogonal.

    It is a generalized quadrangle of order (q, q²); the family is that of Cameron, Goethals and
    Seidel, Strongly regular graphs having strongly regular subconstituents, J. Algebra 55, 1978.
    """
    plus, times = codes.field(q)

    def form(x: np.ndarray, c: np.signedinteger) -> np.ndarray:
        """x0·x1 + x2·x3 + x4² + x4·x5 + c·x5²."""
        total = plus[times[x[..., 0], x[..., 1]], times[x[..., 2], x[..., 3]]]
        last = plus[times[x[..., 4], x[..., 4]], times[x[..., 4], x[..., 5]]]
        return plus[total, plus[last, times[c, times[x[..., 5], x[..., 5]]]]]

    elements = np.arange(q)
    c = next(c for c in elements if (plus[plus[times[elements, elements], elements], c] != 0).all())
    vectors = np.array(list(itertools.product(range(q), repeat=6)))
    first = vectors[np.arange(len(vectors)), (vectors != 0).argmax(axis=1)]
    points = vectors[(first == 1) & (form(vectors, c) == 0)]
    # Two singular points are orthogonal if their sum is singular.
    adjacency = np.array([form(plus[points, point], c) == 0 for point in points]).astype("int64")
    np.fill_diagonal(adjacency, 0)
    return spectral(adjacency, -(q**2) - 1, q * (q**2 - q + 1))
