"""Cross-entropy along the path from the root of a class tree to the class."""

import dataclasses
import itertools
import math
from typing import Any

import keras
import numpy as np
from keras import ops

from mhe import checks
from mhe.losses.targets import ClassWeight, LabelLoss, focus, label_losses, of_class
from mhe.types import Tensor


@dataclasses.dataclass(frozen=True, eq=False)
class PathTerm:
    """Cross-entropy at each node on the path from the root to the class.

    Attributes:
        branches: The branch of each class at every level but the last, `(depth - 1, classes)`.
        alpha: α of the weights exp(-α·l).
        gamma: γ of the focal factors.
    """

    branches: np.ndarray
    alpha: float
    gamma: float

    def __post_init__(self) -> None:
        checks.check_number("alpha", self.alpha)
        checks.check_number("gamma", self.gamma, least=0)

    @classmethod
    def from_tree(cls, tree: Any, alpha: float, gamma: float) -> "PathTerm":
        """The term of a `mhe.ClassTree`."""
        if not all(hasattr(tree, name) for name in ("classes", "depth", "groups", "get_config")):
            raise ValueError(f"`tree` must be a mhe.ClassTree. Received: tree={tree!r}")
        # At the last level each class is a branch of its own.
        levels = [tree.groups(level) for level in range(1, tree.depth)]
        return cls(np.reshape(np.array(levels, "int32"), (-1, len(tree.classes))), alpha, gamma)

    def __call__(self, index: Tensor, logits: Tensor) -> Tensor:
        """Classes `(...)` and logits `(..., classes)` → losses `(...)`."""
        # Over all classes, then over those below each node on the path, then over the class itself.
        # Beyond the end of a shorter path nothing changes, to the last bit.
        nodes = [_log_sum_exp(logits)]
        for level in self.branches:
            numbers = ops.convert_to_tensor(level)
            own = ops.expand_dims(ops.take(numbers, index, axis=0), -1)
            nodes.append(_log_sum_exp(ops.where(ops.equal(numbers, own), logits, -math.inf)))
        nodes.append(_log_sum_exp(ops.expand_dims(of_class(logits, index), -1)))
        loss = 0.0
        for level, ((above, more), (largest, rest)) in enumerate(itertools.pairwise(nodes), 1):
            log_probability = (largest - above) + (rest - more)
            weight = math.exp(-self.alpha * level)
            loss = loss - weight * focus(log_probability, float(self.gamma))
        return loss


def _log_sum_exp(logits: Tensor) -> tuple[Tensor, Tensor]:
    """The largest logit, without a gradient, and by how much the log-sum-exp exceeds it.

    In a single number, the second would lose its digits to a first that is far from 0.
    """
    largest = ops.stop_gradient(ops.max(logits, axis=-1, keepdims=True))
    rest = ops.log(ops.sum(ops.exp(logits - largest), axis=-1))
    return ops.squeeze(largest, -1), rest


def hierarchical_cross_entropy(
    labels: Tensor,
    logits: Tensor,
    tree: Any,
    alpha: float,
    gamma: float = 0.0,
    ignore_class: int | None = None,
    class_weight: ClassWeight = None,
) -> Tensor:
    """Cross-entropy at each node on the path from the root to the class, weighted by its level.

    The probability of a node is that of the classes below it, and p the softmax of the logits. With
    C_0, the root, to C_n, the class, the nodes on the path, the loss is

        -Σ_l exp(-α·l) · log p(C_l | C_(l-1)),    l = 1…n

    so that α = 0 gives the cross-entropy of the classes, and the larger α, the more the coarse
    levels count. The paper calls h(C) in exp(-α·h(C)) the height of a node, yet says that α
    discounts what is down the hierarchy; in its code h is the number of edges from the root, as
    here. (That code also divides by the sum of the weights of all nodes of the tree, a factor that
    is left out here, as in the equation. Garnot and Landrieu's code counts from the deepest leaves,
    with 1 for them: in a tree of even depth, this is α < 0 here up to a common factor.) In a tree
    of uneven depth, paths have as many terms as edges; an only child adds nothing to the loss.

    A γ > 0 makes it focal: each term is multiplied by (1 - p(C_l | C_(l-1)))^γ, as in Garnot and
    Landrieu's code.

    Log-probabilities of nodes are differences of log-sum-exps over the logits below them, which are
    stored separately from their maxima: no probability, however small, is rounded to 0 before its
    logarithm is taken. A level takes about the time and memory of a softmax.

    Args:
        labels: Integers `(...)` or `(..., 1)`, in any dtype.
        logits: Tensor `(..., classes)`; log-probabilities are logits too.
        tree: `mhe.ClassTree`.
        alpha: α, a finite number; 0.1 to 0.6 in the paper.
        gamma: γ ≥ 0.
        ignore_class: A label whose samples have no loss and no gradient, such as 255 or -1.
        class_weight: A factor per class, `(classes,)`, or for some classes: `{class: factor}`.

    Returns:
        A tensor `(...)`: float64 for float64 logits, else float32. See `mhe.losses` for wrong
        labels.

    Raises:
        ValueError: If an argument is not as described, or the shapes do not fit.

    Example:

    >>> import mhe
    >>> import numpy as np
    >>> tree = mhe.ClassTree.from_paths(["animal/dog", "animal/cat", "oak"])
    >>> logits = np.array([[0.0, 5.0, 0.0], [0.0, 0.0, 5.0]], "float32")  # near and far from a dog
    >>> np.asarray(hierarchical_cross_entropy([0, 0], logits, tree, alpha=0.5)).round(3)
    array([1.846, 2.875], dtype=float32)

    Reference:
        Bertinetto et al., Making better mistakes: leveraging class hierarchies with deep networks,
        CVPR 2020 ([arXiv:1912.09393](https://arxiv.org/abs/1912.09393)), on hierarchical
        cross-entropy.
    """
    term = PathTerm.from_tree(tree, alpha, gamma)
    return label_losses(labels, logits, term, ignore_class, class_weight, len(tree.classes))


@keras.saving.register_keras_serializable(package="mhe")
class HierarchicalCrossEntropy(LabelLoss):
    """Cross-entropy at each node on the path from the root to the class: exp(-α·l) at level l.

    See `hierarchical_cross_entropy`, and `mhe.losses.PrototypeLoss` for labels and sample weights.

    Args:
        tree: `mhe.ClassTree` with the classes of the logits. It is saved with the loss.
        alpha: α, a finite number; 0.1 to 0.6 in the paper, and 0 gives the cross-entropy.
        gamma: γ ≥ 0 of the focal factors (1 - p)^γ.
        ignore_class, class_weight, reduction, name, dtype: As in `mhe.losses.PrototypeLoss`.

    Raises:
        ValueError: If an argument is not as described.

    Example:

    >>> import keras, mhe
    >>> tree = mhe.ClassTree.from_paths(["animal/dog", "animal/cat", "oak"])
    >>> loss = mhe.losses.HierarchicalCrossEntropy(tree, alpha=0.5)
    >>> round(float(loss([0, 1], [[5.0, 4.0, 0.0], [5.0, 0.0, 4.0]])), 2)
    1.07
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    >>> model.compile("sgd", loss)

    Reference:
        Bertinetto et al., Making better mistakes: leveraging class hierarchies with deep networks,
        CVPR 2020 ([arXiv:1912.09393](https://arxiv.org/abs/1912.09393)), on hierarchical
        cross-entropy.
    """

    def __init__(
        self,
        tree: Any,
        alpha: float,
        gamma: float = 0.0,
        ignore_class: int | None = None,
        class_weight: ClassWeight = None,
        reduction: str | None = "sum_over_batch_size",
        name: str | None = "hierarchical_cross_entropy",
        dtype: Any = None,
    ) -> None:
        term = PathTerm.from_tree(tree, alpha, gamma)
        options = (ignore_class, class_weight, reduction, name, dtype)
        super().__init__(term, *options, classes=len(tree.classes))
        self.tree = tree
        self.alpha = float(alpha)
        self.gamma = float(gamma)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "tree": keras.saving.serialize_keras_object(self.tree),
            "alpha": self.alpha,
            "gamma": self.gamma,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "HierarchicalCrossEntropy":
        tree = keras.saving.deserialize_keras_object(config["tree"])
        return super().from_config({**config, "tree": tree})
