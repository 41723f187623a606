"""Kissing configurations: the points in which spheres of a dense packing touch one of them.

All have a largest cosine of 1/2.
"""

import functools
import itertools
from collections.abc import Sequence

import numpy as np

from mhe.prototypes.bounds import unit
from mhe.prototypes.configurations.derivation import SAME
from mhe.prototypes.configurations.lattices import leech

# Nodes of the Dynkin diagram of E8, in an order in which the first k are that of the laminated
# lattice in k dimensions (A1, A2, A3, D4, D5, E6, E7, E8), each with the earlier one it is joined
# to.
_JOINED = (None, 0, 1, 1, 2, 3, 4, 6)

# By their length: as many words of weight 4 as there can be with at most two ones in common, found
# by search among those with a symmetry. It is a permutation of the places, followed by where the
# ones are of words that it makes all the others from.
_WORDS = {
    10: (
        (1, 2, 3, 4, 5, 6, 7, 8, 9, 0),
        ((0, 1, 3, 4), (0, 1, 2, 6), (0, 2, 4, 7)),
    ),
    11: (
        (1, 2, 0, 4, 5, 3, 7, 8, 6, 9, 10),
        (
            *((0, 1, 3, 5), (0, 1, 6, 10), (0, 1, 8, 9), (0, 3, 4, 8), (0, 3, 6, 9)),
            *((0, 3, 7, 10), (0, 4, 6, 7), (0, 4, 9, 10), (0, 5, 6, 8), (3, 4, 5, 9)),
            *((3, 4, 6, 10), (3, 7, 8, 9), (6, 7, 8, 10)),
        ),
    ),
    12: (
        (1, 2, 0, 4, 5, 3, 7, 8, 6, 10, 11, 9),
        (
            *((0, 1, 3, 7), (0, 1, 4, 5), (0, 1, 6, 8), (0, 1, 10, 11), (0, 3, 5, 9)),
            *((0, 3, 6, 11), (0, 3, 8, 10), (0, 4, 6, 10), (0, 4, 7, 11), (0, 4, 8, 9)),
            *((0, 5, 7, 10), (0, 5, 8, 11), (0, 6, 7, 9), (3, 4, 7, 8), (3, 4, 9, 11)),
            *((3, 7, 9, 10), (6, 7, 10, 11)),
        ),
    ),
}


@functools.lru_cache(maxsize=1)  # A search takes it twice.
def leech_section(dims: int) -> np.ndarray:
    """The Leech lattice's shortest vectors orthogonal to a laminated lattice among them.

    They are those of the laminated lattice in the dimensions left: 93,150 in 23, 906 in 13.

    Args:
        dims: From 13 to 23.

    Returns:
        `(N, dims)`, unit rows.

    Reference:
        Conway and Sloane, Sphere Packings, Lattices and Groups, chapter 6.
    """
    rows = leech()
    left, held = rows, np.empty((0, 24))
    for place in range(24 - dims):
        if place < len(_JOINED):
            # Those joined are at 120 degrees, others at 90.
            wanted = [-0.5 if each == _JOINED[place] else 0.0 for each in range(place)]
            added = rows[_all_at(wanted, rows, held)][0]
        else:
            # At 60 degrees to the further ones, and most of those left are orthogonal to it.
            further = held[len(_JOINED) :] if place > len(_JOINED) else held[:1]
            some = rows[_all_at(0.5, rows, further)]
            counts = (np.abs(left @ some.T) < SAME).sum(axis=0)
            added = some[np.argmax(np.where(counts < len(left), counts, 0))]
        held = np.concatenate([held, added[None]])
        left = left[_all_at(0.0, left, added[None])]
    basis = np.linalg.qr(held.T, mode="complete")[0][:, len(held) :]
    return unit(left @ basis)


def _all_at(cosines: float | Sequence[float], rows: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Whether each row is at these cosines to all the others, bool `(N,)`."""
    return (np.abs(rows @ others.T - cosines) < SAME).all(axis=1)


def of_words(length: int, shorten: int = 0) -> np.ndarray:
    """Construction A: the axes, and words of weight 4 that meet in two places, with all signs.

    Args:
        length: The length of the words, 10, 11 or 12.
        shorten: How many of the last places no word may have a one in, which are left out.

    Returns:
        Unit rows `(2·D + 16·W, D)` for W words of length D = `length` - `shorten`: 306 in 9
        dimensions (10, shortened by 1; the packing P9a), 500 in 10 (P10b), 582 in 11, 840 in 12.

    Reference:
        Conway and Sloane, Sphere Packings, Lattices and Groups, chapter 5.
    """
    permutation, blocks = _WORDS[length]
    turn, places = np.array(permutation), np.array(blocks)
    words = np.zeros((0, length), "int8")
    for _ in range(length):  # No symmetry above is of a larger order.
        added = np.zeros((len(places), length), "int8")
        np.put_along_axis(added, places, 1, axis=1)
        words = np.unique(np.concatenate([words, added]), axis=0)
        places = turn[places]
    dims = length - shorten
    words = words[~words[:, dims:].any(axis=1), :dims]
    signs = np.array(list(itertools.product((1.0, -1.0), repeat=4)))
    signed = np.zeros((len(words), 16, dims))
    for rows, word in zip(signed, words, strict=True):
        rows[:, word == 1] = signs
    axes = 2 * np.eye(dims)
    return unit(np.concatenate([axes, -axes, signed.reshape(-1, dims)]))
