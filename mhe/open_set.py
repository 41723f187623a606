"""Inputs of no known class: scores of how known an input looks, and a threshold on them.

Every score is larger for inputs that look known, so that an input counts as unknown if its score is
below the threshold. `mhe.metrics.roc_curve` tells how well a score separates the two.
"""

from typing import Any

import numpy as np
from keras import ops

from mhe import checks
from mhe.layers.distance import distances
from mhe.precision import at_least_float32
from mhe.types import Tensor


def largest_logit(logits: Tensor) -> Tensor:
    """The largest logit of each input, or the largest of any scores of classes.

    Args:
        logits: `(..., classes)`.

    Returns:
        A tensor `(...)`: float64 for float64 logits, else float32.

    Raises:
        ValueError: If there is no axis of classes.

    Example:

    >>> import numpy as np
    >>> np.asarray(largest_logit(np.array([[2.0, 9.0], [1.0, 0.5]], "float32")))
    array([9., 1.], dtype=float32)

    Reference:
        Hendrycks et al., Scaling out-of-distribution detection for real-world settings, ICML 2022
        ([arXiv:1911.11132](https://arxiv.org/abs/1911.11132)), "maximum logit".
    """
    return ops.max(_checked_logits(logits), axis=-1)


def largest_cosine(embeddings: Tensor, prototypes: Tensor) -> Tensor:
    """The largest cosine of each embedding with the vector of a class.

    `mhe.layers.PrototypeHead` returns cosines: of its outputs, `largest_logit` is the same.

    Args:
        embeddings: `(..., dims)`.
        prototypes: `(classes, dims)`, such as the transposed kernel of a `Dense` layer.

    Returns:
        A tensor `(...)`: float64 for float64 embeddings, else float32. A zero vector has cosine 0.

    Raises:
        ValueError: If the shapes do not fit.

    Example:

    >>> import numpy as np
    >>> embeddings = np.array([[3.0, 4.0], [-2.0, 0.0]], "float32")
    >>> np.asarray(largest_cosine(embeddings, np.eye(2))).round(6)
    array([0.8, 0. ], dtype=float32)

    Reference:
        Zhang and Xiang, Decoupling MaxLogit for out-of-distribution detection, CVPR 2023,
        "MaxCosine".
    """
    return 1.0 + nearest_prototype(embeddings, prototypes, "cosine")


def negative_energy(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Minus the free energy of each input, a smooth largest logit.

    With the logits z and the temperature T it is

        T · log Σ_k exp(z_k / T)

    Args:
        logits: `(..., classes)`.
        temperature: T > 0. The largest logit is its limit as T → 0.

    Returns:
        A tensor `(...)`: float64 for float64 logits, else float32.

    Raises:
        ValueError: If there is no axis of classes, or the temperature is not > 0.

    Example:

    >>> import numpy as np
    >>> logits = np.array([[1000.0, 1000.0], [0.0, 0.0]], "float32")
    >>> np.asarray(negative_energy(logits)).round(3)
    array([1.000693e+03, 6.930000e-01], dtype=float32)

    Reference:
        Liu et al., Energy-based out-of-distribution detection, NeurIPS 2020
        ([arXiv:2010.03759](https://arxiv.org/abs/2010.03759)).
    """
    checks.check_number("temperature", temperature, above=0)
    return temperature * ops.logsumexp(_checked_logits(logits) / temperature, axis=-1)


def nearest_prototype(
    embeddings: Tensor, prototypes: Tensor, distance: str = "euclidean"
) -> Tensor:
    """Minus the distance of each embedding to the nearest prototype.

    Args:
        embeddings: `(..., dims)`.
        prototypes: `(classes, dims)`, such as class means.
        distance: As in `mhe.layers.distances`.

    Returns:
        A tensor `(...)`: float64 for float64 embeddings, else float32.

    Raises:
        ValueError: If there is no such distance or the shapes do not fit.

    Example:

    >>> import numpy as np
    >>> embeddings = np.array([[3.0, 4.0], [1.0, 0.0]], "float32")
    >>> np.asarray(nearest_prototype(embeddings, np.array([[0.0, 0.0], [1.0, 0.0]], "float32")))
    array([-4.472136, -0.      ], dtype=float32)
    """
    return -ops.min(distances(embeddings, prototypes, distance), axis=-1)


def threshold(scores: Any, false_alarms: float = 0.05) -> float:
    """The largest threshold below which at most a share of known inputs has its score.

    It needs no unknown inputs. Choose it on held-out data: on the data that the model was trained
    on, scores are higher than on new ones.

    Args:
        scores: Scores of known inputs, of any shape.
        false_alarms: The share of known inputs that may be taken for unknown, from 0 to less
            than 1.

    Returns:
        One of the scores. An input is unknown if its score is less.

    Raises:
        ValueError: If there are no scores, one is not finite, or the share is out of range.

    Example:

    >>> threshold([0.9, 0.5, 0.8, 0.7], false_alarms=0.25)  # 0.5 would be a false alarm
    0.7
    """
    checks.check_number("false_alarms", false_alarms, least=0, below=1)
    values = np.sort(np.asarray(ops.convert_to_numpy(scores), np.float64), axis=None)
    if not values.size or not np.isfinite(values).all():
        wrong = "none" if not values.size else f"{values[~np.isfinite(values)][0]}"
        raise ValueError(f"`scores` must be finite numbers, at least one. Received: {wrong}")
    # 0.05 · 100 must be 5, whatever the rounding.
    allowed = int(false_alarms * values.size * (1 + 1e-9))
    return float(values[min(allowed, values.size - 1)])


def _checked_logits(values: Tensor) -> Tensor:
    values = at_least_float32(values)
    if len(values.shape) == 0 or values.shape[-1] == 0:
        raise ValueError(
            "`logits` must be (..., classes), of one class or more. "
            f"Received: shape {tuple(values.shape)}"
        )
    return values
