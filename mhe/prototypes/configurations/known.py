"""The catalogue of known configurations."""

import functools
import itertools
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from mhe.prototypes import codes
from mhe.prototypes.bounds import unit
from mhe.prototypes.configurations import figures, graphs, lattices, packings
from mhe.prototypes.configurations.derivation import derive


class Configuration(NamedTuple):
    """A named placement.

    Attributes:
        name: The configuration it is derived from.
        steps: How often it was derived, see `derive`.
        classes: The number of its points.
        dims: The dimensions they span.
        cosine: Their largest cosine.
        build: Makes the points it is derived from: the first `count` of a code, all for None.

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
            `(count, dims)`, unit rows, float32 for codes, otherwise float64.
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
        # Deriving needs full precision.
        words = codes.code_rows(codes.kerdock_forms(degree), dims**2)
        return unit(np.concatenate([axes, words]))
    words = codes.code_rows(codes.kerdock_forms(degree), max(0, count - 2 * dims))
    return np.concatenate([axes[:count], words])


def _dual_bch(degree: int, terms: int, count: int | None) -> np.ndarray:
    """The affine functions, alone and added to quadratic forms."""
    per_form = 2 ** (degree + 1)
    if count is None:
        count = per_form * 2 ** (degree * terms)
    return codes.code_rows(codes.gold_forms(degree, -(-count // per_form), terms), count)


def _ignoring_count(build: Callable[[], np.ndarray]) -> Callable[[int | None], np.ndarray]:
    return lambda count: build()


# By the dimensions of a laminated lattice: the number of its shortest vectors, and as in `_SIZES`.
_LAMINATED: dict[int, tuple[int, ...]] = {
    # The fourth derived one is only on the way to the others.
    23: (93150, 2464, 495, 200, 100, 96, 62),
    22: (49896, 1492, 297, 132),
    21: (27720, 972),
    20: (17400, 712),
    19: (10668, 580),
    18: (7398, 514),
    17: (5346, 512, 135),
    15: (2340, 180, 57),
    14: (1422,),
    13: (906,),
}
# By name: how a family is built; k, where its largest cosine is 1/k; its dimensions; and the number
# of its points, followed by those of the derived configurations that have more than 2·dims points
# and more than those of other families.
_SIZES: dict[str, tuple[Callable[[], np.ndarray], float, int, tuple[int, ...]]] = {
    "snub cube": (figures.snub_cube, 1.3829757679, 3, (24,)),
    "600-cell": (figures.cell600, math.sqrt(5) - 1, 4, (120,)),
    "icosahedron": (figures.icosahedron, math.sqrt(5), 3, (12,)),
    "D4 roots": (functools.partial(lattices.d_roots, 4), 2, 4, (24,)),
    "D5 roots": (functools.partial(lattices.d_roots, 5), 2, 5, (40,)),
    "E6 roots": (lattices.e6, 2, 6, (72, 20)),
    "E7 roots": (lattices.e7, 2, 7, (126, 32)),
    "E8 roots": (lattices.e8, 2, 8, (240, 56, 27, 16, 10)),
    "Barnes-Wall lattice": (lattices.barnes_wall, 2, 16, (4320, 280)),
    "Leech lattice": (lattices.leech, 2, 24, (196560, 4600, 891, 336, 170, 100, 66)),
    "276 equiangular lines": (lattices.equiangular, 5, 23, (552, 275, 162, 105, 72, 51)),
    "quadrangle (3, 9)": (lattices.quadrangle3, 9, 21, (112, 81, 60, 45)),
    "quadrangle (4, 16)": (
        functools.partial(graphs.elliptic_quadric, 4),
        16,
        52,
        (325, 256, 204, 164, 133, 108),
    ),
    "quadrangle (5, 25)": (
        functools.partial(graphs.elliptic_quadric, 5),
        25,
        105,
        (756, 625, 520, 435, 370, 313, 268, 239),
    ),
    "quadrangle (7, 49)": (
        functools.partial(graphs.elliptic_quadric, 7),
        49,
        301,
        (2752, 2401, 2100, 1841, 1624, 1431, 1268, 1135, 1038, 971),
    ),
    "packing P9a": (functools.partial(packings.of_words, 10, shorten=1), 2, 9, (306, 64)),
    "packing P10b": (functools.partial(packings.of_words, 10), 2, 10, (500, 96, 39, 24)),
    "packing of 35 words of length 11": (functools.partial(packings.of_words, 11), 2, 11, (582,)),
    "packing P12a": (functools.partial(packings.of_words, 12), 2, 12, (840, 136, 47, 32, 18)),
    **{
        f"laminated lattice in {dims} dimensions": (
            functools.partial(packings.leech_section, dims),
            2,
            dims,
            sizes,
        )
        for dims, sizes in _LAMINATED.items()
    },
    "Higman-Sims graph": (graphs.higman_sims, 11, 22, (100, 77, 60, 47, 37)),
    "Gewirtz graph": (graphs.gewirtz, 15, 20, (56, 45)),
    "Hoffman-Singleton graph": (graphs.hoffman_singleton, 21, 21, (50, 42)),
}
_KERDOCK_SIZES: dict[int, tuple[int, ...]] = {
    4: (288, 128, 70, 42, 26),
    6: (4224, 2048, 1116, 660, 414, 268, 182, 124),
    8: (66048, 32768, 17272, 9576, 5540, 3326, 2063, 1304, 859, 561),
    10: (2**20 + 2**11,),
    12: (2**24 + 2**13,),
}


@functools.cache
def catalogue() -> tuple[Configuration, ...]:
    """All known configurations, sorted by increasing cosine.

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
    known: list[Configuration] = []
    for name, (build, inverse, dims, sizes) in _SIZES.items():
        for step, classes in enumerate(sizes):
            cosine = 1 / (inverse + step)
            build_all = _ignoring_count(build)
            known.append(Configuration(name, step, classes, dims - step, cosine, build_all))
    for degree, sizes in _KERDOCK_SIZES.items():
        name, kerdock = f"Kerdock code of length {2**degree}", functools.partial(_kerdock, degree)
        for step, classes in enumerate(sizes):
            cosine = 1 / (2 ** (degree // 2) + step)
            known.append(Configuration(name, step, classes, 2**degree - step, cosine, kerdock))
    for degree, terms in itertools.product(range(5, 13), (1, 2)):
        # The difference of two forms has at least rank m − r, and the cosine is 2^((r − m)/2).
        missing = 2 * terms - degree % 2
        name, classes = f"dual BCH code of length {2**degree}", 2 ** (degree * (terms + 1) + 1)
        cosine = 2.0 ** ((missing - degree) // 2)
        dual_bch = functools.partial(_dual_bch, degree, terms)
        known.append(Configuration(name, 0, classes, 2**degree, cosine, dual_bch))
    return tuple(sorted(known, key=lambda each: each.cosine))
