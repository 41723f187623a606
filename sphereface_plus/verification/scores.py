"""Cosine scores of pairs of embeddings, in float32 and in bounded memory."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from mhe import checks

# Numbers in memory at once (32 MiB).
_BLOCK = 2**23


def unit_rows(embeddings: Any, name: str = "embeddings") -> np.ndarray:
    """Embeddings divided by their lengths.

    Args:
        embeddings: Array-like `(n, dims)`.
        name: Their name in errors.

    Returns:
        A float32 array `(n, dims)`.

    Raises:
        ValueError: If there are no embeddings, or one is zero or not finite.

    Example:

    >>> unit_rows([[3.0, 4.0]])
    array([[0.6, 0.8]], dtype=float32)
    """
    rows = np.asarray(embeddings)
    if rows.ndim != 2 or 0 in rows.shape or rows.dtype.kind not in "fiu":
        raise ValueError(
            f"`{name}` must be real numbers (n, dims). "
            f"Received: shape {rows.shape}, dtype {rows.dtype}"
        )
    # In float64 no square of a float32 overflows or vanishes.
    lengths = np.sqrt(np.einsum("ij,ij->i", rows, rows, dtype=np.float64))
    wrong = ~(np.isfinite(lengths) & (lengths > 0))
    if wrong.any():
        row = int(wrong.argmax())
        raise ValueError(
            f"`{name}` must be finite and not zero, which has no direction. "
            f"Received: row {row} of length {lengths[row]}"
        )
    units = np.empty(rows.shape, np.float32)
    return np.divide(rows, lengths[:, None], out=units, casting="same_kind")


def cosine_scores(a: Any, b: Any) -> np.ndarray:
    """The cosine of each row of `a` with the same row of `b`.

    Args:
        a: Embeddings `(n, dims)`.
        b: Embeddings `(n, dims)`.

    Returns:
        A float32 array `(n,)`.

    Raises:
        ValueError: If the shapes differ, or an embedding is zero or not finite.

    Example:

    >>> cosine_scores([[1.0, 0.0], [3.0, 4.0]], [[0.0, 2.0], [0.0, 1.0]])
    array([0. , 0.8], dtype=float32)
    """
    a, b = unit_rows(a, "a"), unit_rows(b, "b")
    if a.shape != b.shape:
        raise ValueError(f"`a` and `b` must have the same shape. Received: {a.shape} and {b.shape}")
    return np.einsum("ij,ij->i", a, b)


def merged(vectors: np.ndarray, groups: np.ndarray, what: str) -> tuple[np.ndarray, np.ndarray]:
    """The normalized sum of the vectors of each group.

    Args:
        vectors: Vectors `(n, dims)`.
        groups: The group of each, sorted, `(n,)`.
        what: What the error calls a group.

    Returns:
        The sums, float32 `(T, dims)` of length 1, and the groups `(T,)`.

    Raises:
        ValueError: If the vectors of a group cancel each other.

    Example:

    >>> merged(np.array([[1.0, 0.0], [0.0, 5.0], [0.0, 7.0]]), np.array([2, 3, 3]), "group")
    (array([[1., 0.], [0., 1.]], dtype=float32), array([2, 3]))
    """
    names, starts = np.unique(groups, return_index=True)
    sums = np.add.reduceat(vectors, starts, axis=0, dtype=np.float64)
    # Vectors that cancel leave only a rounding error.
    sizes = np.add.reduceat(np.linalg.norm(vectors, axis=1), starts)
    cancelled = np.linalg.norm(sums, axis=1) <= 1e-6 * sizes
    if cancelled.any():
        raise ValueError(
            f"The embeddings of a {what} must have a mean. "
            f"Received: those of {what} {names[cancelled.argmax()]!s}, which cancel each other"
        )
    return unit_rows(sums), names


def pair_scores(embeddings: Any, pairs: Any) -> np.ndarray:
    """The cosines of pairs given as rows, so that each image is embedded once.

    Args:
        embeddings: Embeddings `(images, dims)`.
        pairs: Integers `(n, 2)`, two rows per pair, as in `Pairs.rows`.

    Returns:
        A float32 array `(n,)`.

    Raises:
        ValueError: If a row does not exist, or an embedding is zero or not finite.

    Example:

    >>> pair_scores([[1.0, 0.0], [3.0, 4.0], [0.0, 2.0]], [[0, 1], [1, 2]])
    array([0.6, 0.8], dtype=float32)
    """
    units = unit_rows(embeddings)
    pairs = np.asarray(pairs)
    if pairs.ndim != 2 or pairs.shape[1] != 2 or pairs.dtype.kind not in "iu":
        raise ValueError(
            f"`pairs` must be integers (n, 2). Received: shape {pairs.shape}, dtype {pairs.dtype}"
        )
    checks.check_labels(pairs, len(units))
    scores = np.empty(len(pairs), np.float32)
    for block in blocks(len(pairs), 2 * units.shape[1]):
        first, second = units[pairs[block].T]
        np.einsum("ij,ij->i", first, second, out=scores[block])
    return scores


def all_pairs(embeddings: Any, labels: Any) -> tuple[np.ndarray, np.ndarray]:
    """Scores all n(n - 1)/2 pairs of embeddings.

    Args:
        embeddings: Embeddings `(n, dims)`.
        labels: The person of each, `(n,)`: integers or names.

    Returns:
        The cosines, float32, and whether each pair is of the same person, bool; for the pairs
        (0, 1), (0, 2), …, (1, 2), …, in the order of `np.triu_indices(n, 1)`. In addition, 32 MiB
        and the embeddings in float32 are in memory.

    Raises:
        ValueError: If there is not one label per embedding, there are fewer than two embeddings, or
            an embedding is zero or not finite.

    Example:

    >>> all_pairs([[1.0, 0.0], [3.0, 4.0], [0.0, 2.0]], ["ann", "ann", "bob"])
    (array([0.6, 0. , 0.8], dtype=float32), array([ True, False, False]))
    """
    units = unit_rows(embeddings)
    labels = np.asarray(labels)
    if labels.shape != (len(units),) or len(units) < 2:
        raise ValueError(
            "There must be at least two embeddings, with one label each. "
            f"Received: labels {labels.shape} for embeddings {units.shape}"
        )
    # Integers compare faster than names.
    _, people = np.unique(labels, return_inverse=True)
    count = len(units) * (len(units) - 1) // 2
    scores, same = np.empty(count, np.float32), np.empty(count, bool)
    done = 0
    for block in blocks(len(units), len(units)):
        cosines = units[block] @ units[block.start :].T
        for place, row in enumerate(range(block.start, block.stop)):
            part = slice(done, done + len(units) - row - 1)
            scores[part] = cosines[place, place + 1 :]
            np.equal(people[row + 1 :], people[row], out=same[part])
            done = part.stop
    return scores, same


def blocks(count: int, width: int) -> Iterator[slice]:
    """Blocks of rows of `width` numbers, each of at most 2²³ numbers.

    Example:

    >>> list(blocks(5, 2**22))
    [slice(0, 2, None), slice(2, 4, None), slice(4, 5, None)]
    """
    height = max(1, _BLOCK // max(1, width))
    for start in range(0, count, height):
        yield slice(start, min(start + height, count))
