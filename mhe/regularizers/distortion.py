"""Costs between classes as Keras regularizers of prototypes, one row a class."""

import math
from typing import Any

import keras
import numpy as np
from keras import ops

from mhe import checks, energy
from mhe.precision import at_least_float32

# Up to this many numbers (256 KiB), the differences of all pairs of rows are held at once, which is
# exact. With more, they would take ten times as long as a matrix product.
_DIFFERENCES = 2**16
# A squared distance from a matrix product is known to about 1e-7 of the squared lengths. Pairs
# nearer than this part count as being at it, and do not move each other; but for this many others
# that are the nearest to a row, whose distances come from differences after all.
_CLOSEST = 1e-6
_NEAREST = 8


def squared_distortion(prototypes: Any, D: Any, scale_free: bool = True) -> Any:  # noqa: N803
    """How far the distances of prototypes are from the costs of their classes, squared.

    With d the Euclidean distances, the mean over ordered pairs of classes is

        1 / (K(K-1)) · Σ_{k≠l} (s·d_kl - D_kl)² / D_kl²

    where s is 1, or the scale for which this is least if `scale_free`: Σ r / Σ r² with the ratios
    r_kl = d_kl / D_kl. The gradient is that of first order; as s is optimal, it does not go through
    s. Equal prototypes do not move each other, and where all are equal the value is 1.

    Args:
        prototypes: `(classes, dims)` of any floating dtype.
        D: Costs `(classes, classes)`, more than 0 off the diagonal.
        scale_free: Whether a common factor of all distances does not count.

    Returns:
        A scalar tensor: float64 for float64 prototypes, else float32. Scale-free it is at most 1.

    Raises:
        ValueError: If `D` is no such matrix, or is of another number of classes.

    Example:

    >>> import numpy as np
    >>> costs = np.array([[0, 2, 6], [2, 0, 4], [6, 4, 0]])
    >>> float(squared_distortion(np.array([[0.0], [1.0], [3.0]], "float32"), costs))
    0.0
    >>> float(squared_distortion(np.array([[0.0], [1.0], [3.0]], "float32"), costs, False))
    0.25

    Reference:
        Garnot and Landrieu, Leveraging class hierarchies with metric-guided prototype learning
        ([arXiv:2007.03047](https://arxiv.org/abs/2007.03047)).
    """
    rows, costs = _rows_and_costs(prototypes, D, positive=True)
    count = len(costs)
    # The diagonal has no cost and no part in the sums: 1 / inf is 0.
    inverse = 1.0 / np.where(np.eye(count, dtype=bool), np.inf, costs)
    ratios = prototype_distances(rows) * ops.convert_to_tensor(inverse, rows.dtype)
    if scale_free:
        largest = _largest(ratios)
        fixed = ops.stop_gradient(ratios) / largest
        scale = ops.divide_no_nan(ops.sum(fixed), ops.sum(ops.square(fixed)))
        ratios = ratios / largest * scale
    # On the diagonal (0 - 1)² is 1.
    return (ops.sum(ops.square(ratios - 1.0)) - count) / (count * (count - 1))


def rank_loss(
    prototypes: Any,
    D: Any,  # noqa: N803
    triplets: int | None = None,
    seed: int = 0,
) -> Any:
    """Whether the distances of prototypes are in the order of the costs of their classes.

    For three classes, o = d_kl - d_km is compared with the order of D_kl and D_km by RankNet's
    cross-entropy

        log(1 + exp(o)) - S·o,    S = 1 if D_kl > D_km, 0 if D_kl < D_km, 1/2 if they are equal

    and the value is the mean over ordered triplets of different classes. The paper has S = 0 for
    equal costs; as both (k, l, m) and (k, m, l) are drawn, the mean over all triplets is the same.
    It is 0 at best where no costs are equal, and at least log 2 times the part of those that are.

    Args:
        prototypes: `(classes, dims)` of any floating dtype, at least 3 classes.
        D: Costs `(classes, classes)`.
        triplets: How many to draw, or None for all, which takes memory for classes³ numbers. Where
            there are no more than that, but for the order of l and m, all are taken.
        seed: Integer ≥ 0. The draw is a function of it and of the prototypes, so that it differs
            from step to step of a compiled training loop.

    Returns:
        A scalar tensor: float64 for float64 prototypes, else float32.

    Raises:
        ValueError: If `D` is no such matrix, is of another number of classes or of fewer than 3,
            or `triplets` is no number ≥ 1.

    Example:

    >>> import numpy as np
    >>> costs = np.array([[0, 1, 3], [1, 0, 2], [3, 2, 0]])
    >>> right = np.array([[0.0], [9.0], [27.0]], "float32")
    >>> bool(rank_loss(right, costs) < 0.01), bool(rank_loss(right[[0, 2, 1]], costs) > 2)
    (True, True)

    Reference:
        Garnot and Landrieu, Leveraging class hierarchies with metric-guided prototype learning
        ([arXiv:2007.03047](https://arxiv.org/abs/2007.03047)), rank-based guiding; after Burges et
        al., Learning to rank using gradient descent, ICML 2005.
    """
    energy.check_count("triplets", triplets, 1)
    rows, costs = _rows_and_costs(prototypes, D, positive=False)
    count = len(costs)
    if count < 3:
        raise ValueError(f"There must be 3 classes or more. Received: {count}")
    number = count * (count - 1) * (count - 2)
    if triplets is not None and 2 * triplets < number:
        return _drawn_rank_loss(rows, costs, triplets, seed)
    distances = prototype_distances(rows)
    order = _order(ops.convert_to_tensor(costs, rows.dtype))
    terms = _cross_entropy(distances[:, :, None] - distances[:, None, :], order)
    # A term with l = m is log 2, whatever the prototypes; one with k = l or k = m is masked.
    other = ops.convert_to_tensor(1.0 - np.eye(count), rows.dtype)
    terms = terms * other[:, :, None] * other[:, None, :]
    return (ops.sum(terms) - count * (count - 1) * math.log(2.0)) / number


def prototype_distances(prototypes: Any) -> Any:
    """Euclidean distance between every two prototypes, with a finite gradient everywhere.

    As long as classes² · dims numbers are no more than 2²⁴, distances come from the differences of
    rows and keep their digits however small they are. Else they come from one matrix product, and
    only those from a row to the 8 that are nearest to it come from differences; where more rows
    than that are within a thousandth of their lengths, the others count as being that far apart,
    without a gradient. Equal rows have no gradient, for there is no direction in which to part.

    Args:
        prototypes: `(classes, dims)`.

    Returns:
        A tensor `(classes, classes)`, symmetric with a zero diagonal: float64 for float64
        prototypes, else float32.

    Example:

    >>> import numpy as np
    >>> np.asarray(prototype_distances(np.array([[0.0, 0.0], [3.0, 4.0]], "float32")))
    array([[0., 5.], [5., 0.]], dtype=float32)
    """
    rows = at_least_float32(prototypes)
    count, dims = (int(side) for side in rows.shape)
    if count * count * dims <= _DIFFERENCES:
        return _lengths(rows[:, None] - rows[None])
    centred = rows - ops.mean(rows, axis=0)
    largest = _largest(centred)
    centred = centred / largest
    lengths = ops.sum(ops.square(centred), axis=1)
    lengths = lengths[:, None] + lengths
    squares = lengths - 2.0 * ops.matmul(centred, ops.transpose(centred))
    distances = ops.sqrt(ops.maximum(squares, _CLOSEST * ops.stop_gradient(lengths) + 1e-30))
    others = ops.convert_to_tensor(1.0 - np.eye(count), rows.dtype)
    # Of squares of at most 4 · dims: none is the nearest to itself.
    ranked = ops.stop_gradient(squares) * others + (1.0 - others) * (8.0 * dims)
    nearest = min(_NEAREST, count - 1)
    near = ops.reshape(ops.top_k(-ranked, nearest)[1], (count * nearest,))
    itself = ops.convert_to_tensor(np.repeat(np.arange(count), nearest), near.dtype)
    exact = _lengths(ops.take(rows, itself, axis=0) - ops.take(rows, near, axis=0))
    places = ops.stack([itself, near], axis=1)
    return ops.scatter_update(distances * others * largest, places, exact)


@keras.saving.register_keras_serializable(package="mhe")
class Distortion(keras.regularizers.Regularizer):
    """Guides prototypes: their distances follow the costs between their classes.

    Adds `strength` times `squared_distortion` to the loss. `mhe.metrics.distortion` measures what
    was reached.

    Args:
        D: Costs `(classes, classes)`, more than 0 off the diagonal, such as
            `ClassTree.cost_matrix` gives.
        strength: Finite factor ≥ 0.
        scale_free: Whether a common factor of all distances does not count.

    Raises:
        ValueError: If an argument is not one of the above; when called, if the weight has not a
            row for each class.

    Example:

    >>> import keras, mhe
    >>> tree = mhe.ClassTree.from_paths(["animal/dog", "animal/cat", "oak"])
    >>> guide = mhe.Distortion(tree.cost_matrix())
    >>> layer = keras.layers.Embedding(3, 2, embeddings_regularizer=guide)

    Reference:
        Garnot and Landrieu, Leveraging class hierarchies with metric-guided prototype learning
        ([arXiv:2007.03047](https://arxiv.org/abs/2007.03047)).
    """

    def __init__(
        self,
        D: Any,  # noqa: N803
        strength: float = 1.0,
        scale_free: bool = True,
    ) -> None:
        self.costs = checks.check_costs(D, positive=True)
        energy.check_strength(strength)
        self.strength = float(strength)
        self.scale_free = bool(scale_free)

    def __call__(self, x: Any) -> Any:
        """Strength times the squared distortion of rows `x`, a scalar of Keras's `floatx`."""
        value = squared_distortion(x, self.costs, self.scale_free)
        return ops.cast(self.strength * value, keras.config.floatx())

    def get_config(self) -> dict[str, Any]:
        return {
            "D": self.costs.tolist(),
            "strength": self.strength,
            "scale_free": self.scale_free,
        }

    def __repr__(self) -> str:
        free = ", scale_free" if self.scale_free else ""
        return f"Distortion({len(self.costs)} classes, {self.strength:g}{free})"


@keras.saving.register_keras_serializable(package="mhe")
class Rank(keras.regularizers.Regularizer):
    """Guides prototypes: their distances are in the order of the costs between their classes.

    Adds `strength` times `rank_loss` to the loss. Triplets of classes are drawn afresh wherever a
    step has moved the prototypes: the draw is a function of them alone. So it changes inside a
    compiled train step too, and a training that is resumed draws what an unbroken one would.

    Args:
        D: Costs `(classes, classes)`, such as `ClassTree.cost_matrix` gives.
        strength: Finite factor ≥ 0.
        triplets: How many to draw a step, or None for all. Where there are no more than that, all
            are taken.

    Raises:
        ValueError: If an argument is not one of the above; when called, if the weight has not a
            row for each class.

    Example:

    >>> import keras, mhe
    >>> tree = mhe.ClassTree.from_paths(["animal/dog", "animal/cat", "oak"])
    >>> guide = mhe.Rank(tree.cost_matrix(), strength=0.5)
    >>> layer = keras.layers.Embedding(3, 2, embeddings_regularizer=guide)

    Reference:
        Garnot and Landrieu, Leveraging class hierarchies with metric-guided prototype learning
        ([arXiv:2007.03047](https://arxiv.org/abs/2007.03047)), rank-based guiding.
    """

    def __init__(
        self,
        D: Any,  # noqa: N803
        strength: float = 1.0,
        triplets: int | None = 1000,
    ) -> None:
        self.costs = checks.check_costs(D)
        if len(self.costs) < 3:
            raise ValueError(f"There must be 3 classes or more. Received: {len(self.costs)}")
        energy.check_count("triplets", triplets, 1)
        energy.check_strength(strength)
        self.strength = float(strength)
        self.triplets = triplets

    def __call__(self, x: Any) -> Any:
        """Strength times the rank loss of rows `x`, a scalar of Keras's `floatx`."""
        value = rank_loss(x, self.costs, self.triplets)
        return ops.cast(self.strength * value, keras.config.floatx())

    def get_config(self) -> dict[str, Any]:
        return {"D": self.costs.tolist(), "strength": self.strength, "triplets": self.triplets}

    def __repr__(self) -> str:
        drawn = "all" if self.triplets is None else self.triplets
        return f"Rank({len(self.costs)} classes, {self.strength:g}, triplets={drawn})"


def _drawn_rank_loss(rows: Any, costs: np.ndarray, triplets: int, seed: int) -> Any:
    count = len(costs)
    source = energy.fresh_seed(rows[:, 0], 3 * seed)
    first = keras.random.randint((triplets,), 0, count, seed=source)
    # Steps from k to l and on to m that never come back: each triplet is as likely as any other.
    source = energy.fresh_seed(rows[:, 0], 3 * seed + 1)
    near = keras.random.randint((triplets,), 0, count - 1, seed=source)
    source = energy.fresh_seed(rows[:, 0], 3 * seed + 2)
    far = keras.random.randint((triplets,), 0, count - 2, seed=source)
    far = far + ops.cast(far >= near, far.dtype)
    second, third = (first + 1 + near) % count, (first + 1 + far) % count
    apart = [
        _lengths(ops.take(rows, first, axis=0) - ops.take(rows, other, axis=0))
        for other in (second, third)
    ]
    flat = ops.convert_to_tensor(costs.ravel(), rows.dtype)
    asked = [ops.take(flat, first * count + other, axis=0) for other in (second, third)]
    order = (ops.sign(asked[0] - asked[1]) + 1.0) / 2.0
    return ops.mean(_cross_entropy(apart[0] - apart[1], order))


def _order(costs: Any) -> Any:
    """S of every triplet (k, l, m): 1, 0 or 1/2."""
    return (ops.sign(costs[:, :, None] - costs[:, None, :]) + 1.0) / 2.0


def _cross_entropy(logits: Any, targets: Any) -> Any:
    """-S·log σ(o) - (1 - S)·log(1 - σ(o))."""
    return ops.softplus(logits) - targets * logits


def _lengths(vectors: Any) -> Any:
    """Length along the last axis; no gradient where it is 0."""
    # The largest entry goes first, so that squares neither overflow nor vanish.
    largest = ops.stop_gradient(ops.max(ops.absolute(vectors), axis=-1, keepdims=True))
    apart = largest > 0
    scaled = vectors / ops.where(apart, largest, 1.0)
    squares = ops.sum(ops.square(scaled), axis=-1)
    apart, largest = ops.squeeze(apart, -1), ops.squeeze(largest, -1)
    return ops.where(apart, ops.sqrt(ops.where(apart, squares, 1.0)) * largest, 0.0)


def _largest(rows: Any) -> Any:
    """The largest entry, 1 where all are 0."""
    largest = ops.stop_gradient(ops.max(ops.absolute(rows)))
    return ops.where(largest > 0, largest, 1.0)


def _rows_and_costs(prototypes: Any, costs: Any, positive: bool) -> tuple[Any, np.ndarray]:
    costs = checks.check_costs(costs, positive=positive)
    rows = at_least_float32(prototypes)
    if len(rows.shape) != 2 or rows.shape[0] != len(costs):
        raise ValueError(
            f"Costs of {len(costs)} classes need as many prototypes, (classes, dims). "
            f"Received: shape {tuple(rows.shape)}"
        )
    return rows, costs
