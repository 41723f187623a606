"""Cross-entropy with the squared earth mover's distance."""

import dataclasses
from typing import Any

import keras
import numpy as np
from keras import ops

from mhe import checks
from mhe.losses.targets import ClassWeight, LabelLoss, label_losses, of_class
from mhe.types import Tensor


@dataclasses.dataclass(frozen=True, eq=False)
class EarthMoverTerm:
    """Cross-entropy plus λ · Σ_k p_k² · (D_yk + μ).

    Attributes:
        costs: D `(classes, classes)`.
        mu: μ.
        strength: λ.
    """

    costs: np.ndarray
    mu: float
    strength: float

    def __post_init__(self) -> None:
        checks.check_number("mu", self.mu)
        checks.check_number("strength", self.strength, least=0)

    def __call__(self, index: Tensor, logits: Tensor) -> Tensor:
        """Classes `(...)` and logits `(..., classes)` → losses `(...)`."""
        log_probabilities = ops.log_softmax(logits)
        ground = ops.convert_to_tensor(self.costs + self.mu, logits.dtype)
        moved = ops.exp(2.0 * log_probabilities) * ops.take(ground, index, axis=0)
        regularizer = float(self.strength) * ops.sum(moved, axis=-1)
        return regularizer - of_class(log_probabilities, index)


def squared_earth_mover(
    labels: Tensor,
    logits: Tensor,
    D: Any,  # noqa: N803
    mu: float,
    strength: float = 0.5,
    ignore_class: int | None = None,
    class_weight: ClassWeight = None,
) -> Tensor:
    """Cross-entropy plus the squared cost of moving the predicted probabilities to the class.

    With p the softmax of the logits, y the class and λ the strength, the loss is

        -log p_y + λ · Σ_k p_k² · (D_yk + μ)

    The second term is Hou, Yu and Samaras's regularizer of the cross-entropy, for classes without
    an order; μ is its bias of the ground distance. A class with D_yk + μ > 0 loses probability, one
    with D_yk + μ < 0 gains some. So μ = 0 spares the class itself, μ < 0 rewards it and those that
    cost less than -μ, and μ > 0 spares none, which keeps predictions from becoming certain. D is
    not normalized, and μ is in its units. For the paper's power ω of the distances, pass `D**ω`.
    There is no focal variant.

    The best μ and λ depend on the size of D; the default of λ is not a published number. In
    [bjin96/emd](https://github.com/bjin96/emd), which repeats the paper's experiments on ages, D is
    in [0, 1], (ω, μ) is (1, 0.5) or (2, 0.25), and λ is 5, or chosen so that the second term is
    1/3.5 of the first, both measured after a few epochs of cross-entropy alone.

    Args:
        labels: Integers `(...)` or `(..., 1)`, in any dtype.
        logits: Tensor `(..., classes)`; log-probabilities are logits too.
        D: Costs `(classes, classes)`, such as `ClassTree.cost_matrix` returns.
        mu: μ, a finite number of either sign, in the units of D.
        strength: λ ≥ 0.
        ignore_class: A label whose samples have no loss and no gradient, such as 255 or -1.
        class_weight: A factor per class, `(classes,)`, or for some classes: `{class: factor}`.

    Returns:
        A tensor `(...)`: float64 for float64 logits, else float32. With μ < 0 it can be negative.
        See `mhe.losses` for wrong labels.

    Raises:
        ValueError: If an argument is not as described, or the shapes do not fit.

    Example:

    >>> import numpy as np
    >>> costs = [[0, 1, 2], [1, 0, 2], [2, 2, 0]]
    >>> logits = np.array([[5.0, 5.0, 0.0], [5.0, 0.0, 5.0]], "float32")  # a near and a far second
    >>> np.asarray(squared_earth_mover([0, 0], logits, costs, mu=0)).round(3)
    array([0.821, 0.945], dtype=float32)

    Reference:
        Hou, Yu and Samaras, Squared earth mover's distance-based loss for training deep neural
        networks ([arXiv:1611.05916](https://arxiv.org/abs/1611.05916)).
    """
    term = EarthMoverTerm(checks.check_costs(D), mu, strength)
    return label_losses(labels, logits, term, ignore_class, class_weight, len(term.costs))


@keras.saving.register_keras_serializable(package="mhe")
class SquaredEarthMover(LabelLoss):
    """Cross-entropy plus λ · Σ_k p_k² · (D_yk + μ), a squared earth mover's distance.

    See `squared_earth_mover`, and `mhe.losses.PrototypeLoss` for labels and sample weights.

    Args:
        D: Costs `(classes, classes)`, such as `ClassTree.cost_matrix` returns.
        mu: μ, a finite number of either sign, in the units of D.
        strength: λ ≥ 0.
        ignore_class, class_weight, reduction, name, dtype: As in `mhe.losses.PrototypeLoss`.

    Raises:
        ValueError: If an argument is not as described.

    Example:

    >>> import keras, mhe
    >>> tree = mhe.ClassTree.from_paths(["animal/dog", "animal/cat", "oak"])
    >>> loss = mhe.losses.SquaredEarthMover(tree.cost_matrix(), mu=0)
    >>> round(float(loss([0, 1], [[5.0, 4.0, 0.0], [5.0, 0.0, 4.0]])), 3)
    3.172
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    >>> model.compile("sgd", loss)

    Reference:
        Hou, Yu and Samaras, Squared earth mover's distance-based loss for training deep neural
        networks ([arXiv:1611.05916](https://arxiv.org/abs/1611.05916)).
    """

    def __init__(
        self,
        D: Any,  # noqa: N803
        mu: float,
        strength: float = 0.5,
        ignore_class: int | None = None,
        class_weight: ClassWeight = None,
        reduction: str | None = "sum_over_batch_size",
        name: str | None = "squared_earth_mover",
        dtype: Any = None,
    ) -> None:
        self.costs = checks.check_costs(D)
        term = EarthMoverTerm(self.costs, mu, strength)
        options = (ignore_class, class_weight, reduction, name, dtype)
        super().__init__(term, *options, classes=len(self.costs))
        self.mu = float(mu)
        self.strength = float(strength)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "D": self.costs.tolist(),
            "mu": self.mu,
            "strength": self.strength,
        }
