"""Decisions of least expected cost, from the logits or probabilities of any model."""

import math
from typing import Any

import keras
import numpy as np
from keras import ops

from mhe import checks
from mhe.labels import is_readable
from mhe.layers.head import Head
from mhe.precision import at_least_float32
from mhe.types import Tensor

# How far probabilities of a tensor may be from summing to 1: bfloat16 rounds each by 0.4 %.
_SUM_OF_TENSORS = 2e-2


def expected_costs(
    scores: Tensor, costs: Any, from_logits: bool = True, temperature: float = 1.0
) -> Tensor:
    """Returns what each answer is expected to cost, given the probabilities of the classes.

    With p the probabilities and C the costs, the expected cost of an answer k is

        Σ_c p_c · C_ck,    p = softmax(logits / temperature)

    The answer of least expected cost is the best decision if the probabilities are right, which
    `mhe.calibrate` brings them closer to.

    Args:
        scores: Logits `(..., classes)`, or probabilities with `from_logits=False`.
        costs: `(classes, answers)`, the cost of each answer for each true class: such as
            `ClassTree.cost_matrix()`, or `ClassTree.cost_matrix(inner=True)`, where the answers are
            all nodes. It need be neither square nor symmetric.
        from_logits: Whether the scores are logits.
        temperature: Divides the logits, > 0.

    Returns:
        A tensor `(..., answers)`: float64 for float64 scores, else float32. Probabilities in a
        tensor that do not sum to 1 give NaN.

    Raises:
        ValueError: If the costs are not such numbers or do not fit the scores, or probabilities in
            an array or a list do not sum to 1.

    Example:

    >>> import mhe
    >>> import numpy as np
    >>> tree = mhe.ClassTree.from_paths(["animal/dog", "animal/cat", "oak"])
    >>> probabilities = np.array([0.35, 0.25, 0.4], "float32")  # an animal, though oak leads
    >>> expected = expected_costs(probabilities, tree.cost_matrix(), from_logits=False)
    >>> np.asarray(expected).round(3)
    array([1.7, 1.9, 1.8], dtype=float32)

    Reference:
        Karthik et al., No cost likelihood manipulation at test time for making better mistakes in
        deep networks, ICLR 2021 ([arXiv:2104.00795](https://arxiv.org/abs/2104.00795)), on
        conditional risk minimization.
    """
    costs = checks.check_answer_costs(costs)
    _check_scaling(from_logits, temperature)
    if not from_logits and is_readable(scores):
        checks.check_probabilities(scores)
    scores = at_least_float32(scores)
    if len(scores.shape) == 0 or scores.shape[-1] != len(costs):
        raise ValueError(
            f"Costs of {len(costs)} classes need scores (..., {len(costs)}). "
            f"Received: shape {tuple(scores.shape)}"
        )
    matrix = ops.convert_to_tensor(costs, scores.dtype)
    if from_logits:
        return ops.matmul(ops.softmax(scores / temperature, axis=-1), matrix)
    total = ops.sum(scores, axis=-1, keepdims=True)
    sums_to_one = ops.absolute(total - 1.0) <= _SUM_OF_TENSORS
    return ops.where(sums_to_one, ops.matmul(scores, matrix), math.nan)


def _check_scaling(from_logits: bool, temperature: float) -> None:
    checks.check_number("temperature", temperature, above=0)
    if not from_logits and temperature != 1:
        raise ValueError(
            "A `temperature` divides logits; probabilities have none. "
            f"Received: from_logits={from_logits!r}, temperature={temperature!r}"
        )


@keras.saving.register_keras_serializable(package="mhe")
class LeastExpectedCost(Head):
    """Minus the expected cost of each answer: the largest is the decision of least expected cost.

    It has no weights and needs no training. Put it after a trained model, to be exported with it or
    to be evaluated by metrics that pick the largest score; or call it on the logits that a model
    has predicted. With the same cost for every mistake it decides like the model itself. Computed
    and returned in float32 also under `mixed_float16` and `mixed_bfloat16`. See `expected_costs`.

    Args:
        costs: `(classes, answers)`, the cost of each answer for each true class.
        from_logits: Whether the inputs are logits; else probabilities.
        temperature: Divides the logits, > 0, as `mhe.calibrate` finds it.
        **kwargs: `name`, `dtype` and `trainable`, as for every Keras layer.

    Raises:
        ValueError: If the costs are not finite numbers >= 0 or do not fit the inputs, or
            probabilities in an array or a list do not sum to 1; in a tensor they give NaN.

    Example:

    >>> import keras, mhe
    >>> import numpy as np
    >>> tree = mhe.ClassTree.from_paths(["animal/dog", "animal/cat", "animal/cow", "oak"])
    >>> decide = mhe.layers.LeastExpectedCost(tree.cost_matrix(), from_logits=False)
    >>> probabilities = np.array([[0.3, 0.2, 0.15, 0.35]])
    >>> int(np.argmax(probabilities)), int(keras.ops.argmax(decide(probabilities)[0]))
    (3, 0)
    >>> classifier = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
    >>> logits = mhe.layers.LeastExpectedCost(tree.cost_matrix())
    >>> keras.Sequential([classifier, logits]).output_shape
    (None, 4)

    Reference:
        Karthik et al., No cost likelihood manipulation at test time for making better mistakes in
        deep networks, ICLR 2021 ([arXiv:2104.00795](https://arxiv.org/abs/2104.00795)), on
        conditional risk minimization.
    """

    def __init__(
        self, costs: Any, from_logits: bool = True, temperature: float = 1.0, **kwargs: Any
    ) -> None:
        self.costs = checks.check_answer_costs(costs)
        _check_scaling(from_logits, temperature)
        super().__init__(*self.costs.shape, **kwargs)
        self.from_logits = bool(from_logits)
        self.temperature = float(temperature)

    def __call__(self, inputs: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        # Keras turns arrays into tensors, which cannot be read while a step is traced.
        if is_readable(inputs):
            if not self.from_logits:
                checks.check_probabilities(inputs)
            inputs = np.asarray(inputs)
        return super().__call__(inputs, *args, **kwargs)

    def call(self, inputs: Tensor) -> Tensor:
        """Logits or probabilities `(..., classes)` → minus expected costs `(..., answers)`."""
        inputs = ops.cast(inputs, self.output_dtype)
        return -expected_costs(inputs, self.costs, self.from_logits, self.temperature)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "costs": self.costs.tolist(),
            "from_logits": self.from_logits,
            "temperature": self.temperature,
        }
