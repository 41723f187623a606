"""Cross-entropy with labels that are softened by the costs of mistakes."""

import dataclasses
from typing import Any

import keras
import numpy as np
from keras import ops

from mhe import checks
from mhe.losses.targets import ClassWeight, LabelLoss, focus, label_losses
from mhe.types import Tensor


def soft_labels(D: Any, beta: float) -> np.ndarray:  # noqa: N803
    """Returns the target distribution of each class: the softmax of -β·D / max D along its row.

    Args:
        D: Costs `(classes, classes)`, such as `ClassTree.cost_matrix` returns, not all 0.
        beta: β ≥ 0. With 0 all labels are uniform; the larger β, the closer they are to one-hot.

    Returns:
        A float64 array `(classes, classes)`, whose rows sum to 1.

    Raises:
        ValueError: If `D` is not such a matrix, or `beta` is negative or not finite.

    Example:

    >>> import math
    >>> soft_labels([[0, 1, 2], [1, 0, 2], [2, 2, 0]], beta=2 * math.log(2)).round(3)
    array([[0.571, 0.286, 0.143],
           [0.286, 0.571, 0.143],
           [0.167, 0.167, 0.667]])

    Reference:
        Bertinetto et al., Making better mistakes: leveraging class hierarchies with deep networks,
        CVPR 2020 ([arXiv:1912.09393](https://arxiv.org/abs/1912.09393)), on soft labels.
    """
    costs = checks.check_costs(D)
    checks.check_number("beta", beta, least=0)
    largest = costs.max()
    if largest == 0:
        raise ValueError("Some mistake must have a cost > 0. Received: costs of 0 alone")
    # A class itself costs 0, the least: no exponential is more than 1.
    weights = np.exp(-beta * (costs / largest))
    return weights / weights.sum(axis=1, keepdims=True)


@dataclasses.dataclass(frozen=True, eq=False)
class SoftLabelTerm:
    """Cross-entropy with the soft labels of all classes.

    Attributes:
        targets: Soft labels `(classes, classes)`.
        gamma: γ of the focal factors.
    """

    targets: np.ndarray
    gamma: float

    def __post_init__(self) -> None:
        checks.check_number("gamma", self.gamma, least=0)

    def __call__(self, index: Tensor, logits: Tensor) -> Tensor:
        """Classes `(...)` and logits `(..., classes)` → losses `(...)`."""
        weights = ops.take(ops.convert_to_tensor(self.targets, logits.dtype), index, axis=0)
        return -ops.sum(weights * focus(ops.log_softmax(logits), float(self.gamma)), axis=-1)


def soft_label_cross_entropy(
    labels: Tensor,
    logits: Tensor,
    D: Any,  # noqa: N803
    beta: float,
    gamma: float = 0.0,
    ignore_class: int | None = None,
    class_weight: ClassWeight = None,
) -> Tensor:
    """Cross-entropy with labels that give near misses a share of the probability.

    With p the softmax of the logits and q the soft label of the class y, the loss is

        -Σ_k q_k · log p_k,    q_k = exp(-β·D_yk / max D) / Σ_l exp(-β·D_yl / max D)

    A γ > 0 makes it focal: each term is multiplied by (1 - p_k)^γ, as in Garnot and Landrieu's
    code. Unlike there, the entropy of q is left out, since it is constant.

    Args:
        labels: Integers `(...)` or `(..., 1)`, in any dtype.
        logits: Tensor `(..., classes)`; log-probabilities are logits too.
        D: Costs `(classes, classes)`, such as `ClassTree.cost_matrix` returns, not all 0.
        beta: β ≥ 0. With 0 all labels are uniform; the larger β, the closer they are to one-hot.
        gamma: γ ≥ 0.
        ignore_class: A label whose samples have no loss and no gradient, such as 255 or -1.
        class_weight: A factor per class, `(classes,)`, or for some classes: `{class: factor}`.

    Returns:
        A tensor `(...)`: float64 for float64 logits, else float32. See `mhe.losses` for wrong
        labels.

    Raises:
        ValueError: If an argument is not as described, or the shapes do not fit.

    Example:

    >>> import numpy as np
    >>> costs = [[0, 1, 2], [1, 0, 2], [2, 2, 0]]
    >>> logits = np.array([[5.0, 4.0, 0.0], [5.0, 0.0, 4.0]], "float32")  # a near and a far second
    >>> np.asarray(soft_label_cross_entropy([0, 0], logits, costs, beta=4)).round(3)
    array([0.515, 0.921], dtype=float32)

    Reference:
        Bertinetto et al., Making better mistakes: leveraging class hierarchies with deep networks,
        CVPR 2020 ([arXiv:1912.09393](https://arxiv.org/abs/1912.09393)), on soft labels.
    """
    term = SoftLabelTerm(soft_labels(D, beta), gamma)
    return label_losses(labels, logits, term, ignore_class, class_weight, len(term.targets))


@keras.saving.register_keras_serializable(package="mhe")
class SoftLabelCrossEntropy(LabelLoss):
    """Cross-entropy with soft labels: the softmax of -β·D / max D along the row of the class.

    See `soft_label_cross_entropy`, and `mhe.losses.PrototypeLoss` for labels and sample weights.

    Args:
        D: Costs `(classes, classes)`, such as `ClassTree.cost_matrix` returns, not all 0.
        beta: β ≥ 0. With 0 all labels are uniform; the larger β, the closer they are to one-hot.
            The paper uses 4 to 30.
        gamma: γ ≥ 0 of the focal factors (1 - p)^γ.
        ignore_class, class_weight, reduction, name, dtype: As in `mhe.losses.PrototypeLoss`.

    Raises:
        ValueError: If an argument is not as described.

    Example:

    >>> import keras, mhe
    >>> tree = mhe.ClassTree.from_paths(["animal/dog", "animal/cat", "oak"])
    >>> loss = mhe.losses.SoftLabelCrossEntropy(tree.cost_matrix(), beta=4)
    >>> round(float(loss([0, 1], [[5.0, 4.0, 0.0], [5.0, 0.0, 4.0]])), 3)
    2.699
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    >>> model.compile("sgd", loss)

    Reference:
        Bertinetto et al., Making better mistakes: leveraging class hierarchies with deep networks,
        CVPR 2020 ([arXiv:1912.09393](https://arxiv.org/abs/1912.09393)), on soft labels.
    """

    def __init__(
        self,
        D: Any,  # noqa: N803
        beta: float,
        gamma: float = 0.0,
        ignore_class: int | None = None,
        class_weight: ClassWeight = None,
        reduction: str | None = "sum_over_batch_size",
        name: str | None = "soft_label_cross_entropy",
        dtype: Any = None,
    ) -> None:
        self.costs = checks.check_costs(D)
        term = SoftLabelTerm(soft_labels(D, beta), gamma)
        options = (ignore_class, class_weight, reduction, name, dtype)
        super().__init__(term, *options, classes=len(self.costs))
        self.beta = float(beta)
        self.gamma = float(gamma)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "D": self.costs.tolist(),
            "beta": self.beta,
            "gamma": self.gamma,
        }
