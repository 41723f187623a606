"""Angles between the neurons of a weight."""

from collections.abc import Iterator

import numpy as np
from keras import ops

from mhe.energy import neuron_axes
from mhe.types import Tensor

# One block of cosines is at most this many float64 numbers (8 MiB), for any number of neurons.
_BLOCK = 1 << 20

# Beyond this |cosine| the arc cosine magnifies rounding, and the chord formula takes over.
_NEARLY_COLLINEAR = 0.99


def unit_rows(rows: np.ndarray) -> np.ndarray:
    """Scales rows to unit length in float64; zero rows stay zero.

    Args:
        rows: `(N, D)`.

    Returns:
        `(N, D)` float64.

    Example:

    >>> unit_rows(np.array([[3.0, 4.0], [3e-200, 4e-200], [0.0, 0.0]]))
    array([[0.6, 0.8],
           [0.6, 0.8],
           [0. , 0. ]])
    """
    # Scaled by a power of two, which is exact, so that squares neither overflow nor vanish.
    rows = rows.astype(np.float64)
    _, exponents = np.frexp(np.max(np.abs(rows), axis=1, keepdims=True, initial=0.0))
    rows = np.ldexp(rows, -exponents)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(norms == 0, 1.0, norms)


def unit_neurons(weights: Tensor, axis: int | tuple[int, ...] = -1) -> np.ndarray:
    """Returns the neurons of a weight as unit rows in float64, `(N, D)`.

    Args:
        weights: A weight: a Keras variable, a tensor of the backend or an array.
        axis: The neuron axis or axes of `weights`.

    Returns:
        An array `(N, D)`. A zero neuron has no direction and stays zero.

    Raises:
        ValueError: If an axis is out of range or given twice.

    Example:

    >>> from mhe.metrics import unit_neurons
    >>> unit_neurons([[3.0, 0.0], [4.0, 2.0]])
    array([[0.6, 0.8], [0. , 1. ]])
    """
    array = np.asarray(ops.convert_to_numpy(weights)).astype(np.float64)
    axes = neuron_axes(axis, array.ndim)
    others = tuple(a for a in range(array.ndim) if a not in axes)
    count = int(np.prod([array.shape[a] for a in axes]))
    dims = int(np.prod([array.shape[a] for a in others]))
    return unit_rows(array.transpose(axes + others).reshape(count, dims))


def angle_blocks(rows: np.ndarray) -> Iterator[np.ndarray]:
    """Yields the angles between all pairs of unit rows, a bounded number at a time.

    Args:
        rows: Unit rows `(N, D)`, as `unit_neurons` returns them.

    Yields:
        Float64 arrays of angles in radians; together, the pairs (i, j), i < j, row by row.

    Example:

    >>> import numpy as np
    >>> from mhe.metrics import angle_blocks
    >>> [np.degrees(block).round().tolist() for block in angle_blocks(np.eye(3))]
    [[90.0, 90.0, 90.0]]
    """
    count, dims = rows.shape
    height = max(1, _BLOCK // max(count, 1))
    for top in range(0, count - 1, height):
        block = rows[top : top + height]
        cosines = block @ rows[top:].T
        first, second = np.nonzero(np.triu(np.ones(cosines.shape, bool), 1))
        cosines = cosines[first, second]
        angles = np.arccos(np.clip(cosines, -1.0, 1.0))
        near = np.flatnonzero(np.abs(cosines) > _NEARLY_COLLINEAR)
        for pairs in np.array_split(near, -(-near.size * max(dims, 1) // _BLOCK) or 1):
            u, v = block[first[pairs]], rows[top:][second[pairs]]
            # Kahan: the chords |u - v| and |u + v| keep every digit where the cosine has lost half.
            angles[pairs] = 2 * np.arctan2(
                np.linalg.norm(u - v, axis=1), np.linalg.norm(u + v, axis=1)
            )
        yield angles


def pairwise_angles(weights: Tensor, axis: int | tuple[int, ...] = -1) -> np.ndarray:
    """Returns the angle between every two neurons of a weight.

    Computed in float64 and in blocks, so that beyond the result it takes the memory of the neurons
    and a few dozen MiB. Equal neurons are exactly 0 apart, opposite ones exactly π. A zero neuron
    has no direction: its dot product with any other is 0, so it counts as π/2 from all of them.

    Args:
        weights: A weight: a Keras variable, a tensor of the backend or an array.
        axis: The neuron axis or axes, as `mhe.hyperspherical_energy` takes them.

    Returns:
        A float32 array `(N(N-1)/2,)` in radians: the pairs (i, j), i < j, row by row. Empty if
        there are fewer than two neurons.

    Raises:
        ValueError: If an axis is out of range or given twice.

    Example:

    >>> import numpy as np
    >>> from mhe.metrics import pairwise_angles
    >>> kernel = np.array([[1.0, 0.0, -2.0], [0.0, 1.0, 0.0]])  # three neurons in the plane
    >>> np.degrees(pairwise_angles(kernel)).tolist()
    [90.0, 180.0, 90.0]
    """
    rows = unit_neurons(weights, axis)
    count = rows.shape[0]
    angles = np.empty(count * (count - 1) // 2, np.float32)
    filled = 0
    for block in angle_blocks(rows):
        angles[filled : filled + block.size] = block
        filled += block.size
    return angles
