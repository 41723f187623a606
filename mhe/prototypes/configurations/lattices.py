"""Root systems, the shortest vectors of lattices, and configurations among these."""

import itertools
import math

import numpy as np

from mhe.prototypes import codes
from mhe.prototypes.bounds import unit
from mhe.prototypes.configurations.derivation import SAME, derive


def d_roots(dims: int) -> np.ndarray:
    """The roots ±e_i ± e_j."""
    rows = []
    for i, j in itertools.combinations(range(dims), 2):
        for signs in itertools.product((1.0, -1.0), repeat=2):
            row = np.zeros(dims)
            row[[i, j]] = signs
            rows.append(row)
    return unit(np.array(rows))


def e8() -> np.ndarray:
    halves = [s for s in itertools.product((1.0, -1.0), repeat=8) if s.count(-1.0) % 2 == 0]
    return np.concatenate([d_roots(8), unit(np.array(halves))])


def e7() -> np.ndarray:
    return _orthogonal(e8(), 1)


def e6() -> np.ndarray:
    rows = e8()
    # The second root is at 120° to the first, so that the two span a root system A2.
    second = np.flatnonzero(np.abs(rows @ rows[0] + 0.5) < SAME)[0]
    return _orthogonal(np.concatenate([rows[[0, second]], rows]), 2)


def _orthogonal(rows: np.ndarray, count: int) -> np.ndarray:
    """The rows orthogonal to the first `count`, in coordinates of the space they span."""
    basis = np.linalg.qr(rows[:count].T, mode="complete")[0][:, count:]
    return unit(rows[(np.abs(rows @ rows[:count].T) < SAME).all(axis=1)] @ basis)


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
    fours = np.rint(4 * math.sqrt(2) * d_roots(24)).astype("int8")
    return np.concatenate([twos.reshape(-1, 24), ones.reshape(-1, 24), fours])


def leech() -> np.ndarray:
    return _leech_vectors() / math.sqrt(32)


def barnes_wall() -> np.ndarray:
    """The Leech lattice's shortest vectors that vanish on an octad."""
    vectors = _leech_vectors()
    octad = np.flatnonzero(vectors[0])
    rows = vectors[~vectors[:, octad].any(axis=1)]
    return np.delete(rows, octad, axis=1) / math.sqrt(32)


def equiangular() -> np.ndarray:
    """552 points on 276 equiangular lines: pairs of shortest vectors with a given sum."""
    vectors = _leech_vectors().astype("int64")
    other = vectors[np.flatnonzero(vectors @ vectors[0] == -8)[0]]
    total = vectors[0] + other
    halves = vectors[vectors @ total == 24] / math.sqrt(32)
    basis = np.linalg.qr(total[:, None].astype("float64"), mode="complete")[0][:, 1:]
    return unit(halves @ basis)


def quadrangle3() -> np.ndarray:
    """The 112 points at cosine −1/4 to one of the 275 points of McLaughlin's graph."""
    return derive(derive(equiangular()), -0.25)
