"""The search of the paper: gradient descent on the largest cosine of each prototype."""

import math

import numpy as np

from mhe.prototypes.bounds import separation, unit
from mhe.prototypes.optimize.smooth import BLOCK, Term
from mhe.prototypes.optimize.work import Effort, Stopped


def sgd(
    start: np.ndarray,
    steps: int = 10_000,
    rate: float = 0.1,
    term: Term | None = None,
    effort: Effort | None = None,
) -> np.ndarray:
    """The published search: gradient descent on the mean over prototypes of the largest cosine.

    Args:
        start: `(N, D)`, the rows to start from.
        steps: Number of steps; after each, the rows are scaled back to length 1.
        rate: The learning rate.
        term: As for `lbfgs`.
        effort: As for `lbfgs`.

    Returns:
        `(N, D)` float64, unit rows.

    Example:

    >>> found = sgd(np.random.default_rng(0).normal(size=(3, 2)), steps=500)
    >>> (found @ found.T).round(1)
    array([[ 1. , -0.5, -0.5],
           [-0.5,  1. , -0.5],
           [-0.5, -0.5,  1. ]])

    Reference:
        Mettes et al., Hyperspherical Prototype Networks, NeurIPS 2019
        ([arXiv:1901.10514](https://arxiv.org/abs/1901.10514)), equation 2.
    """
    effort = effort or Effort()
    points = unit(start)
    for done in range(1, steps + 1):
        try:
            nearest = _nearest(points, effort)
        except Stopped:
            break
        effort.count(len(points), len(points), points.shape[1])
        gradient = points[nearest]
        np.add.at(gradient, nearest, points)
        gradient /= len(points)
        if term is not None:
            gradient += term(points)[1]
        points = unit(points - rate * gradient)
        if effort.is_stopped:
            break
        if done % 1000 == 0:
            effort.tell(f"step {done} of {steps}: largest cosine {separation(points):.6f}")
    return points


def _nearest(points: np.ndarray, effort: Effort) -> np.ndarray:
    """The index of each point's nearest other point, `(N,)`, a block of cosines at a time."""
    nearest = np.empty(len(points), "int64")
    step = max(1, BLOCK // len(points))
    for above in range(0, len(points), step):
        if above:
            effort.go_on()
        cosines = points[above : above + step] @ points.T
        itself = np.arange(len(cosines))
        cosines[itself, above + itself] = -math.inf
        nearest[above : above + step] = cosines.argmax(axis=1)
    return nearest
