"""Sharp configurations: a catalogue of the best known placements of certain sizes."""

import functools
import itertools
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from mhe.prototypes import codes
from mhe.prototypes.bounds import unit

# Cosines of exact configurations that are further apart than this are different.
_SAME = 1e-9


def derive(rows: np.ndarray, cosine: float | None = None) -> np.ndarray:
    """The points at one cosine to the first, seen from it: a configuration one dimension down.

    Points at cosine c to the first, projected to the space orthogonal to it, have the cosines
    (x − c²)/(1 − c²), so that a largest cosine of 1/k becomes one of 1/(k + 1).

    Args:
        rows: `(N, D)` float64, unit rows.
        cosine: c; by default the largest cosine to the first point.

    Returns:
        `(n, D − 1)` float64, unit rows.

    Example:

    >>> derive(np.array([[1.0, 0.0], [0.0, 1.0], [0.0, -1.0], [-1.0, 0.0]]))
    array([[ 1.],
           [-1.]])
    """
    cosines = rows @ rows[0]
    if cosine is None:
        cosine = cosines[1:].max()
    near = rows[np.abs(cosines - cosine) < _SAME]
    # The reflection that takes the first point to an axis, which is then left out.
    axis = np.argmax(np.abs(rows[0]))
    mirror = rows[0].copy()
    mirror[axis] += math.copysign(1, mirror[axis])
    mirror /= np.linalg.norm(mirror)
    near = near - 2 * np.outer(near @ mirror, mirror)
    return unit(np.delete(near, axis, axis=1))


def spectral(adjacency: np.ndarray, eigenvalue: float, dims: int) -> np.ndarray:
    """The vertices of a strongly regular graph, projected to one of its eigenspaces.

    Args:
        adjacency: `(N, N)`, 1 between neighbours and 0 elsewhere.
        eigenvalue: θ of the eigenspace. Neighbours get the cosine θ/k, where k is the number of a
            vertex's neighbours, others −(θ + 1)/(N − 1 − k).
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
    # The Gram matrix is a multiple of the projection, so what it makes of anything spans the space.
    anything = np.random.default_rng(0).normal(size=(size, dims))
    return unit(np.linalg.qr(gram @ anything)[0])


# --- regular figures ----------------------------------------------------------------------------


def _icosahedron() -> np.ndarray:
    golden = (1 + math.sqrt(5)) / 2
    corners = [
        np.roll((0.0, first, second * golden), turn)
        for first, second, turn in itertools.product((1, -1), (1, -1), range(3))
    ]
    return unit(np.array(corners))


def _snub_cube() -> np.ndarray:
    """The chiral half of the permutations of (±1, ±1/t, ±t), t³ = t² + t + 1."""
    tribonacci = (1 + np.cbrt(19 + 3 * math.sqrt(33)) + np.cbrt(19 - 3 * math.sqrt(33))) / 3
    corners = []
    for order in itertools.permutations(range(3)):
        odd = _parity(order)
        for signs in itertools.product((1, -1), repeat=3):
            if (signs.count(-1) + odd) % 2 == 0:
                corner = np.array((1, 1 / tribonacci, tribonacci)) * signs
                corners.append(corner[list(order)])
    return unit(np.array(corners))


def _cell600() -> np.ndarray:
    golden = (1 + math.sqrt(5)) / 2
    corners = [sign * row for row in np.eye(4) for sign in (1.0, -1.0)]
    corners += [np.array(signs) / 2 for signs in itertools.product((1.0, -1.0), repeat=4)]
    for order in itertools.permutations(range(4)):
        if not _parity(order):
            for signs in itertools.product((1, -1), repeat=3):
                corner = np.array((golden, 1, 1 / golden, 0)) * (*signs, 0) / 2
                corners.append(corner[list(order)])
    return unit(np.array(corners))


def _parity(order: tuple[int, ...]) -> int:
    return sum(a > b for a, b in itertools.combinations(order, 2)) % 2


# --- root systems and lattices ------------------------------------------------------------------


def _d_roots(dims: int) -> np.ndarray:
    """The roots ±e_i ± e_j."""
    rows = []
    for i, j in itertools.combinations(range(dims), 2):
        for signs in itertools.product((1.0, -1.0), repeat=2):
            row = np.zeros(dims)
            row[[i, j]] = signs
            rows.append(row)
    return unit(np.array(rows))


def _e8() -> np.ndarray:
    halves = [s for s in itertools.product((1.0, -1.0), repeat=8) if s.count(-1.0) % 2 == 0]
    return np.concatenate([_d_roots(8), unit(np.array(halves))])


def _e7() -> np.ndarray:
    return _orthogonal(_e8(), 1)


def _e6() -> np.ndarray:
    rows = _e8()
    # A root at 120° to the first comes second, so that the two span a root system A2.
    second = np.flatnonzero(np.abs(rows @ rows[0] + 0.5) < _SAME)[0]
    return _orthogonal(np.concatenate([rows[[0, second]], rows]), 2)


def _orthogonal(rows: np.ndarray, count: int) -> np.ndarray:
    """The rows orthogonal to the first `count`, in coordinates of the space they span."""
    basis = np.linalg.qr(rows[:count].T, mode="complete")[0][:, count:]
    return unit(rows[(np.abs(rows @ rows[:count].T) < _SAME).all(axis=1)] @ basis)


def _leech_vectors() -> np.ndarray:
    """The shortest vectors of the Leech lattice, times √8: `(196560, 24)` int8."""
    words = codes.golay()
    octads = words[words.sum(axis=1) == 8]
    signs = 1 - 2 * ((np.arange(128)[:, None] >> np.arange(7)) & 1)
    signs = 2 * np.concatenate([signs, signs.prod(axis=1, keepdims=True)], axis=1)
    twos = np.zeros((len(octads), 128, 24), "int8")
    for rows, octad in zip(twos, octads, strict=True):
        rows[:, octad == 1] = signs
    ones = np.repeat(1 - 2 * words[:, None, :], 24, axis=1).astype("int8")
    which = np.arange(24)
    ones[:, which, which] *= -3
    fours = np.rint(4 * math.sqrt(2) * _d_roots(24)).astype("int8")
    return np.concatenate([twos.reshape(-1, 24), ones.reshape(-1, 24), fours])


def _leech() -> np.ndarray:
    return _leech_vectors() / math.sqrt(32)


def _barnes_wall() -> np.ndarray:
    """The Leech lattice's shortest vectors that vanish on an octad."""
    vectors = _leech_vectors()
    octad = np.flatnonzero(vectors[0])
    rows = vectors[~vectors[:, octad].any(axis=1)]
    return np.delete(rows, octad, axis=1) / math.sqrt(32)


def _equiangular() -> np.ndarray:
    """552 points on 276 equiangular lines: the pairs of shortest vectors that add up to one."""
    vectors = _leech_vectors().astype("int64")
    other = vectors[np.flatnonzero(vectors @ vectors[0] == -8)[0]]
    total = vectors[0] + other
    halves = vectors[vectors @ total == 24] / math.sqrt(32)
    basis = np.linalg.qr(total[:, None].astype("float64"), mode="complete")[0][:, 1:]
    return unit(halves @ basis)


def _quadrangle3() -> np.ndarray:
    """112 points: what lies at cosine −1/4 to a point of the 275 of McLaughlin's graph."""
    return derive(derive(_equiangular()), -0.25)


# --- strongly regular graphs --------------------------------------------------------------------


def _hexads() -> np.ndarray:
    """The 77 blocks of the Steiner system S(3, 6, 22), `(77, 22)`."""
    words = codes.golay()
    return words[(words.sum(axis=1) == 8) & (words[:, :2] == 1).all(axis=1)][:, 2:].astype("int64")


def _higman_sims() -> np.ndarray:
    """A vertex joined to 22 points, these to the hexads they lie in, and disjoint hexads joined."""
    hexads = _hexads()
    adjacency = np.zeros((100, 100), "int64")
    adjacency[0, 1:23] = adjacency[1:23, 0] = 1
    adjacency[1:23, 23:] = hexads.T
    adjacency[23:, 1:23] = hexads
    adjacency[23:, 23:] = hexads @ hexads.T == 0
    return spectral(adjacency, -8, 22)


def _gewirtz() -> np.ndarray:
    """The 56 hexads without one point, joined where they are disjoint."""
    hexads = _hexads()
    hexads = hexads[hexads[:, 0] == 0]
    return spectral((hexads @ hexads.T == 0).astype("int64"), -4, 20)


def _hoffman_singleton() -> np.ndarray:
    """Robertson's pentagons and pentagrams."""
    adjacency = np.zeros((50, 50), "int64")
    for h, j in itertools.product(range(5), repeat=2):
        adjacency[5 * h + j, 5 * h + (j + 1) % 5] = 1
        adjacency[25 + 5 * h + j, 25 + 5 * h + (j + 2) % 5] = 1
        for i in range(5):
            adjacency[5 * h + j, 25 + 5 * i + (h * i + j) % 5] = 1
    return spectral(adjacency | adjacency.T, -3, 21)


def _elliptic_quadric(q: int) -> np.ndarray:
    """The points of the elliptic quadric in five dimensions over GF(q), joined where orthogonal.

    It is a generalized quadrangle of order (q, q²); the family is that of Cameron, Goethals and
    Seidel, Strongly regular graphs having strongly regular subconstituents, J. Algebra 55, 1978.
    """
    plus, times = codes.field(q)

    def form(x: np.ndarray, c: int) -> np.ndarray:
        """x0·x1 + x2·x3 + x4² + x4·x5 + c·x5²."""
        total = plus[times[x[..., 0], x[..., 1]], times[x[..., 2], x[..., 3]]]
        last = plus[times[x[..., 4], x[..., 4]], times[x[..., 4], x[..., 5]]]
        return plus[total, plus[last, times[c, times[x[..., 5], x[..., 5]]]]]

    elements = np.arange(q)
    c = next(c for c in elements if (plus[plus[times[elements, elements], elements], c] != 0).all())
    vectors = np.array(list(itertools.product(range(q), repeat=6)))
    first = vectors[np.arange(len(vectors)), (vectors != 0).argmax(axis=1)]
    points = vectors[(first == 1) & (form(vectors, c) == 0)]
    # Two singular points are orthogonal where their sum is singular.
    adjacency = np.array([form(plus[points, point], c) == 0 for point in points]).astype("int64")
    np.fill_diagonal(adjacency, 0)
    return spectral(adjacency, -(q**2) - 1, q * (q**2 - q + 1))


# --- the catalogue ------------------------------------------------------------------------------


class Configuration(NamedTuple):
    """A placement that is known by name.

    Attributes:
        name: What it is made from.
        steps: How often it was derived from that, see `derive`.
        classes: The number of its points.
        dims: The dimensions they span.
        cosine: Their largest cosine.
        build: Makes the points it is derived from; of codes the first so many, or all for None.

    Example:

    >>> {(each.classes, each.dims) for each in catalogue()} >= {(27, 6), (100, 22), (4224, 64)}
    True
    """

    name: str
    steps: int
    classes: int
    dims: int
    cosine: float
    build: Callable[[int | None], np.ndarray]

    def rows(self, count: int) -> np.ndarray:
        """The first `count` points.

        Args:
            count: At most `classes`.

        Returns:
            `(count, dims)`, unit rows, float32 for codes and else float64.
        """
        rows = self.build(None if self.steps else count)
        for _ in range(self.steps):
            rows = derive(rows)
        return rows[:count]

    def __str__(self) -> str:
        times = {0: "", 1: ", derived once", 2: ", derived twice"}
        return self.name + times.get(self.steps, f", derived {self.steps} times")


def _kerdock(degree: int, count: int | None) -> np.ndarray:
    """The axes and their opposites, then the Kerdock code: d/2 + 1 mutually unbiased bases."""
    dims = 2**degree
    axes = np.zeros((2 * dims, dims), "float32")
    axes[np.arange(2 * dims), np.arange(2 * dims) // 2] = np.tile([1, -1], dims)
    if count is None:
        # To be derived from, in full precision.
        words = codes.code_rows(codes.kerdock_forms(degree), dims**2)
        return unit(np.concatenate([axes, words]))
    words = codes.code_rows(codes.kerdock_forms(degree), max(0, count - 2 * dims))
    return np.concatenate([axes[:count], words])


def _dual_bch(degree: int, terms: int, count: int | None) -> np.ndarray:
    """The affine functions, each alone and added to quadratic forms."""
    per_form = 2 ** (degree + 1)
    return codes.code_rows(codes.gold_forms(degree, -(-count // per_form), terms), count)


def _whole(build: Callable[[], np.ndarray]) -> Callable[[int | None], np.ndarray]:
    return lambda count: build()


# A family's name: how it is built; k, where its largest cosine is 1/k; its dimensions; and the
# number of its points, followed by those of what is derived from it, as long as more than 2·dims
# are left and no other family has more.
_SIZES = {
    "snub cube": (_snub_cube, 1.3829757679, 3, (24,)),
    "600-cell": (_cell600, math.sqrt(5) - 1, 4, (120,)),
    "icosahedron": (_icosahedron, math.sqrt(5), 3, (12,)),
    "D4 roots": (functools.partial(_d_roots, 4), 2, 4, (24,)),
    "D5 roots": (functools.partial(_d_roots, 5), 2, 5, (40,)),
    "E6 roots": (_e6, 2, 6, (72, 20)),
    "E7 roots": (_e7, 2, 7, (126, 32)),
    "E8 roots": (_e8, 2, 8, (240, 56, 27, 16, 10)),
    "Barnes-Wall lattice": (_barnes_wall, 2, 16, (4320, 280)),
    "Leech lattice": (_leech, 2, 24, (196560, 4600, 891, 336, 170, 100, 66)),
    "276 equiangular lines": (_equiangular, 5, 23, (552, 275, 162, 105, 72, 51)),
    "quadrangle (3, 9)": (_quadrangle3, 9, 21, (112, 81, 60, 45)),
    "quadrangle (4, 16)": (
        functools.partial(_elliptic_quadric, 4),
        16,
        52,
        (325, 256, 204, 164, 133, 108),
    ),
    "quadrangle (5, 25)": (
        *(functools.partial(_elliptic_quadric, 5), 25, 105),
        (756, 625, 520, 435, 370, 313, 268, 239),
    ),
    "quadrangle (7, 49)": (
        *(functools.partial(_elliptic_quadric, 7), 49, 301),
        (2752, 2401, 2100, 1841, 1624, 1431, 1268, 1135, 1038, 971),
    ),
    "Higman-Sims graph": (_higman_sims, 11, 22, (100, 77, 60, 47, 37)),
    "Gewirtz graph": (_gewirtz, 15, 20, (56, 45)),
    "Hoffman-Singleton graph": (_hoffman_singleton, 21, 21, (50, 42)),
}
_KERDOCK_SIZES = {
    4: (288, 128, 70, 42, 26),
    6: (4224, 2048, 1116, 660, 414, 268, 182, 124),
    8: (66048, 32768, 17272, 9576, 5540, 3326, 2063, 1304, 859, 561),
    10: (2**20 + 2**11,),
    12: (2**24 + 2**13,),
}


@functools.cache
def catalogue() -> tuple[Configuration, ...]:
    """All configurations known here, the smallest cosine first.

    Returns:
        A tuple of `Configuration`.

    Example:

    >>> str(catalogue()[-1].name)
    '600-cell'

    Reference:
        Cohn and Kumar, Universally optimal distribution of points on spheres, J. Amer. Math. Soc.
        20, 2007 ([arXiv:math/0607446](https://arxiv.org/abs/math/0607446)), table 1;
        Conway and Sloane, Sphere Packings, Lattices and Groups, chapter 14, on deriving;
        Cohn, de Laat and Leijenhorst, Optimality of spherical codes via exact semidefinite
        programming bounds, 2024 ([arXiv:2403.16874](https://arxiv.org/abs/2403.16874));
        Lindström et al., 2024 ([arXiv:2407.07664](https://arxiv.org/abs/2407.07664)), for codes as
        prototypes.
    """
    found = []
    for name, (build, inverse, dims, sizes) in _SIZES.items():
        for step, classes in enumerate(sizes):
            shape = (step, classes, dims - step, 1 / (inverse + step))
            found.append(Configuration(name, *shape, _whole(build)))
    for degree, sizes in _KERDOCK_SIZES.items():
        for step, classes in enumerate(sizes):
            shape = (step, classes, 2**degree - step, 1 / (2 ** (degree // 2) + step))
            build = functools.partial(_kerdock, degree)
            found.append(Configuration(f"Kerdock code of length {2**degree}", *shape, build))
    for degree, terms in itertools.product(range(5, 13), (1, 2)):
        # Two forms differ by one of rank m − r at least, and the cosine is 2^((r − m)/2).
        missing = 2 * terms - degree % 2
        shape = (0, 2 ** (degree * (terms + 1) + 1), 2**degree, 2.0 ** ((missing - degree) // 2))
        build = functools.partial(_dual_bch, degree, terms)
        found.append(Configuration(f"dual BCH code of length {2**degree}", *shape, build))
    return tuple(sorted(found, key=lambda each: each.cosine))


class Composition(NamedTuple):
    """Configurations in orthogonal subspaces, filled up with axes and their opposites.

    Attributes:
        parts: The configurations.
        cosine: Their largest cosine: those between two parts are 0.
    """

    parts: tuple[Configuration, ...]
    cosine: float

    def rows(self, classes: int, dims: int) -> np.ndarray:
        """The first points, a part after the other.

        Args:
            classes: How many.
            dims: The dimensions they stand in.

        Returns:
            `(classes, dims)` float32, unit rows.
        """
        rows = np.zeros((classes, dims), "float32")
        above = left = 0
        for part in self.parts:
            count = min(part.classes, classes - above)
            rows[above : above + count, left : left + part.dims] = part.rows(count)
            above, left = above + count, left + part.dims
        which = np.arange(classes - above)
        rows[above + which, left + which // 2] = 1 - 2 * (which % 2)
        return rows

    def __str__(self) -> str:
        return " + ".join(map(str, self.parts))


def compose(classes: int, dims: int) -> Composition | None:
    """The composition of known configurations that separates so many points best.

    Two configurations in orthogonal subspaces have the cosine 0 between them. So the points add up
    as the dimensions do, and the best choice of parts is a knapsack.

    Args:
        classes: How many points, more than 2·dims.
        dims: In how many dimensions at most.

    Returns:
        The composition, or None where nothing known has so many points.

    Example:

    >>> found = compose(156, 44)
    >>> str(found), round(1 / found.cosine)
    ('Higman-Sims graph, derived once + Higman-Sims graph, derived once', 12)
    """
    most = [2 * each for each in range(dims + 1)]
    parts: list[tuple[Configuration, ...]] = [()] * (dims + 1)
    for each in catalogue():
        for room in range(each.dims, dims + 1):
            total = most[room - each.dims] + each.classes
            if total > most[room]:
                most[room] = total
                parts[room] = (*parts[room - each.dims], each)
        if most[dims] >= classes:
            return Composition(parts[dims], each.cosine)
    return None
