"""Probabilities that are as often right as they say: one temperature for all logits (NumPy)."""

from typing import Any

import numpy as np
from keras import ops

from mhe import checks
from mhe.types import Tensor

# Newton's steps halve the bracket at least; 200 of them would exhaust float64.
_STEPS = 200
_TOLERANCE = 1e-12


def calibrate(logits: Tensor, labels: Any, ignore_class: int | None = None) -> float:
    """Fits the temperature that makes logits most likely on held-out data.

    The temperature T > 0 minimizes the mean cross-entropy of softmax(z / T):

        mean over samples of  log Σ_k exp(z_k / T) - z_y / T

    It changes no predicted class and no error rate, only how sure the model is; above 1 the model
    was too sure. The cross-entropy is convex in 1/T, and its minimum is found in float64 by
    Newton's method within a bracket. Fit it on data that the model was not trained on. Use it in
    `mhe.layers.LeastExpectedCost(costs, temperature=...)`, or divide logits by it.

    Args:
        logits: `(..., classes)`, of a trained model.
        labels: Integers `(...)` or `(..., 1)`.
        ignore_class: A label that does not count, or None.

    Returns:
        The temperature.

    Raises:
        ValueError: If the shapes do not fit, a logit is not finite, a label is not a class, or no
            temperature is best: all labels have the largest logit, where the loss falls as T → 0;
            or the logits are no better than equal ones, where it falls as T → ∞.

    Example:

    >>> import numpy as np
    >>> logits = np.array([[4.0, 0.0], [4.0, 0.0], [4.0, 0.0], [4.0, 0.0]])
    >>> temperature = calibrate(logits, [0, 0, 0, 1])  # right 3 times of 4, but 98 % sure
    >>> round(temperature, 4), round(float(np.exp(4 / temperature)), 4)
    (3.641, 3.0)

    Reference:
        Guo et al., On calibration of modern neural networks, ICML 2017
        ([arXiv:1706.04599](https://arxiv.org/abs/1706.04599)), equation 9.
    """
    values = np.asarray(ops.convert_to_numpy(logits), np.float64)
    if values.ndim < 1 or values.shape[-1] < 2:
        raise ValueError(
            f"`logits` must be (..., classes), of two classes or more. Received: {values.shape}"
        )
    labels = np.asarray(ops.convert_to_numpy(labels))
    if labels.shape not in (values.shape[:-1], (*values.shape[:-1], 1)):
        raise ValueError(
            "There must be one label for each row of logits. "
            f"Received: labels {labels.shape}, logits {values.shape}"
        )
    classes = values.shape[-1]
    checks.check_labels(labels, classes, ignore_class)
    values, labels = values.reshape(-1, classes), labels.reshape(-1)
    if ignore_class is not None:
        values, labels = values[labels != ignore_class], labels[labels != ignore_class]
    if not len(labels):
        raise ValueError("There must be a label that counts. Received: none")
    if not np.isfinite(values).all():
        raise ValueError(f"Logits must be finite. Received: {values[~np.isfinite(values)][0]}")
    values = values - values.max(axis=1, keepdims=True)
    own = values[np.arange(len(values)), labels.astype(int)]
    if not own.any():
        raise ValueError(
            "No temperature is best where every label has the largest logit: use data on which the "
            f"model makes mistakes. Received: {len(own)} labels without a mistake"
        )
    if np.mean(own - values.mean(axis=1)) <= 0:
        raise ValueError(
            "No temperature is best where logits are no better than equal ones. Received: a mean "
            f"logit of the labels {np.mean(own - values.mean(axis=1)):g} above that of all classes"
        )
    return 1.0 / _best_inverse(values, own)


def _best_inverse(values: np.ndarray, own: np.ndarray) -> float:
    """Finds where the slope of the cross-entropy in β = 1/T, which rises in β, is 0.

    Args:
        values: Logits `(N, classes)`, 0 the largest of each row.
        own: The logit of each label, `(N,)`.
    """

    def slope(beta: float) -> tuple[float, float]:
        """The first and the second derivative."""
        weights = np.exp(beta * values)
        p = weights / weights.sum(axis=1, keepdims=True)
        means = np.sum(p * values, axis=1)
        return float(np.mean(means - own)), float(np.mean(np.sum(p * values**2, axis=1) - means**2))

    low, high = 0.0, 1.0 / max(float(-values.min()), np.finfo(np.float64).tiny)
    while slope(high)[0] < 0:
        low, high = high, 2 * high
    beta = (low + high) / 2
    for _ in range(_STEPS):
        first, second = slope(beta)
        low, high = (beta, high) if first < 0 else (low, beta)
        if high - low <= _TOLERANCE * high:
            break
        step = beta - first / second if second > 0 else low
        # Newton's step, or half of the bracket if it would leave it.
        if low < step < high:
            if abs(step - beta) <= _TOLERANCE * beta:
                return step
            beta = step
        else:
            beta = (low + high) / 2
    return beta
