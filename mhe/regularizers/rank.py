"""Prototypes whose distances are in the order of the costs between their classes."""

import math
from typing import Any

import keras
import numpy as np
from keras import ops

from mhe.checks import check_costs, check_count
from mhe.regularizers.base import Weighted
from mhe.regularizers.distances import lengths, prototype_distances, rows_and_costs
from mhe.seeds import fresh_seed
from mhe.types import Tensor


def rank_loss(
    prototypes: Tensor,
    D: Tensor,  # noqa: N803
    triplets: int | None = None,
    seed: int = 0,
) -> Tensor:
    """How well the distances of prototypes keep the order of the costs of their classes.

    For three classes, o = d_kl - d_km is compared with the order of D_kl and D_km by RankNet's
    cross-entropy

        log(1 + exp(o)) - S·o,    S = 1 if D_kl > D_km, 0 if D_kl < D_km, 1/2 if they are equal

    and the value is the mean over ordered triplets of different classes. The paper has S = 0 for
    equal costs; since both (k, l, m) and (k, m, l) are drawn, the mean over all triplets is the
    same. At best it is 0 if no costs are equal, else log 2 times the fraction of equal ones.

    Args:
        prototypes: `(classes, dims)` of any floating dtype, at least 3 classes.
        D: Costs `(classes, classes)`.
        triplets: Number of triplets to draw, or None for all, which needs memory for classes³
            numbers. If there are no more than that, up to the order of l and m, all are used.
        seed: Integer ≥ 0. The draw depends on it and on the prototypes, so that it differs from
            step to step of a compiled training loop.

    Returns:
        A scalar tensor: float64 for float64 prototypes, else float32.

    Raises:
        ValueError: If `D` is not such a matrix, has another number of classes or fewer than 3, or
            `triplets` is neither None nor an integer ≥ 1.

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
    check_count("triplets", triplets, 1, optional=True)
    rows, costs = rows_and_costs(prototypes, D, positive=False)
    count = len(costs)
    if count < 3:
        raise ValueError(f"There must be 3 classes or more. Received: {count}")
    number = count * (count - 1) * (count - 2)
    if triplets is not None and 2 * triplets < number:
        return _drawn_rank_loss(rows, costs, triplets, seed)
    distances = prototype_distances(rows)
    costs = ops.convert_to_tensor(costs, rows.dtype)
    order = _order_of(costs[:, :, None] - costs[:, None, :])
    terms = _cross_entropy(distances[:, :, None] - distances[:, None, :], order)
    # A term with l = m is log 2 for any prototypes; one with k = l or k = m is masked.
    other = ops.convert_to_tensor(1.0 - np.eye(count), rows.dtype)
    terms = terms * other[:, :, None] * other[:, None, :]
    return (ops.sum(terms) - count * (count - 1) * math.log(2.0)) / number


@keras.saving.register_keras_serializable(package="mhe")
class Rank(Weighted):
    """Makes the distances of prototypes keep the order of the costs between their classes.

    Adds `strength` times `rank_loss` to the loss. Triplets of classes are drawn afresh whenever a
    step has moved the prototypes: the draw depends on them alone. So it changes inside a compiled
    train step, too, and resumed training draws the same triplets as uninterrupted training.

    Args:
        D: Costs `(classes, classes)`, such as `ClassTree.cost_matrix` returns.
        strength: Finite factor ≥ 0.
        triplets: Number of triplets to draw per step, or None for all. If there are no more than
            that, all are used.

    Raises:
        ValueError: If an argument is not one of the above; when called, if the weight does not
            have one row per class.

    Example:

    >>> import keras, mhe
    >>> tree = mhe.ClassTree.from_paths(["animal/dog", "animal/cat", "oak"])
    >>> guide = mhe.Rank(tree.cost_matrix(), strength=0.5)
    >>> layer = keras.layers.Embedding(3, 2, embeddings_regularizer=guide)
    >>> model = keras.Sequential([keras.Input((1,)), layer])

    Reference:
        Garnot and Landrieu, Leveraging class hierarchies with metric-guided prototype learning
        ([arXiv:2007.03047](https://arxiv.org/abs/2007.03047)), rank-based guiding.
    """

    def __init__(
        self,
        D: Tensor,  # noqa: N803
        strength: float = 1.0,
        triplets: int | None = 1000,
    ) -> None:
        self.costs = check_costs(D)
        if len(self.costs) < 3:
            raise ValueError(f"There must be 3 classes or more. Received: {len(self.costs)}")
        check_count("triplets", triplets, 1, optional=True)
        super().__init__(strength)
        self.triplets = triplets

    def value(self, x: Tensor) -> Tensor:
        """The rank loss of the rows `x`."""
        return rank_loss(x, self.costs, self.triplets)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "D": self.costs.tolist(), "triplets": self.triplets}

    def __repr__(self) -> str:
        drawn = "all" if self.triplets is None else self.triplets
        return f"Rank({len(self.costs)} classes, {self.strength:g}, triplets={drawn})"


def _drawn_rank_loss(rows: Tensor, costs: np.ndarray, triplets: int, seed: int) -> Tensor:
    count = len(costs)

    def draw(number: int, below: int) -> Tensor:
        source = fresh_seed(rows[:, 0], 3 * seed + number)
        return keras.random.randint((triplets,), 0, below, seed=source)

    # Steps from k to l and on to m that never come back make all triplets equally likely.
    first, near, far = (draw(number, count - number) for number in range(3))
    far = far + ops.cast(far >= near, far.dtype)
    others = [(first + 1 + near) % count, (first + 1 + far) % count]
    distances = [
        lengths(ops.take(rows, first, axis=0) - ops.take(rows, other, axis=0)) for other in others
    ]
    flat = ops.convert_to_tensor(costs.ravel(), rows.dtype)
    drawn_costs = [ops.take(flat, first * count + other, axis=0) for other in others]
    order = _order_of(drawn_costs[0] - drawn_costs[1])
    return ops.mean(_cross_entropy(distances[0] - distances[1], order))


def _order_of(differences: Tensor) -> Tensor:
    """S of each difference D_kl - D_km: 1, 0 or 1/2."""
    return (ops.sign(differences) + 1.0) / 2.0


def _cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """-S·log σ(o) - (1 - S)·log(1 - σ(o))."""
    return ops.softplus(logits) - targets * logits
