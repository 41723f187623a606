"""Regular figures in three and four dimensions."""

import itertools
import math

import numpy as np

from mhe.prototypes.bounds import unit


def icosahedron() -> np.ndarray:
    golden = (1 + math.sqrt(5)) / 2
    corners = [
        np.roll((0.0, first, second * golden), turn)
        for first, second, turn in itertools.product((1, -1), (1, -1), range(3))
    ]
    return unit(np.array(corners))


def snub_cube() -> np.ndarray:
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


def cell600() -> np.ndarray:
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
