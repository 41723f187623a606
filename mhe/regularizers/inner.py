"""Inner problems: a direction that makes something smallest, found within one evaluation."""

from collections.abc import Callable

from keras import ops

from mhe.directions import unit_vectors
from mhe.types import Tensor

# The first step, in radians, and how much shorter each step is than the one before.
_FIRST_STEP = 0.3
_SHRINK = 0.8

# From a unit vector `(D,)` to what is made smaller, a scalar, and its gradient, `(D,)`.
Objective = Callable[[Tensor], tuple[Tensor, Tensor]]


def descend(objective: Objective, start: Tensor, steps: int) -> Tensor:
    """Moves a direction down a slope on the sphere, by steps of given, shrinking lengths.

    The result has no gradient: at an optimum of the inner problem, the outer gradient is the one
    for a fixed solution (envelope theorem).

    Args:
        objective: What is made smaller, and its gradient.
        start: `(D,)`, not necessarily of unit length.
        steps: Number of steps.

    Returns:
        The best direction on the way, a unit vector `(D,)`.

    Example:

    >>> import numpy as np
    >>> up, start = (ops.convert_to_tensor(each, "float32") for each in ([0.0, 1.0], [1.0, 0.1]))
    >>> np.asarray(descend(lambda v: (-v[1], -up), start, 30)).round(1) + 0.0
    array([0., 1.], dtype=float32)
    """
    point = unit_vectors(ops.stop_gradient(start))
    value, slope = objective(point)
    best, least = point, value
    step = _FIRST_STEP
    for _ in range(steps):
        along = unit_vectors(slope - ops.sum(slope * point) * point)
        point = unit_vectors(point - step * along)
        step *= _SHRINK
        value, slope = objective(point)
        best = ops.where(value < least, point, best)
        least = ops.minimum(value, least)
    return ops.stop_gradient(best)
