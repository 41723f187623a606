"""The energies that are timed, and the layers they are timed on."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np
from keras import ops

import mhe
from mhe.energy import sampled_energy
from mhe.types import Tensor
from timing import backend

# Number of float32 arrays of all pairs of points that are alive at once when the published formula
# is differentiated, operation by operation or fused by XLA: measured on all backends, rounded up.
PUBLISHED_ARRAYS = {"euclidean": (8, 4), "angle": (12, 6)}


def published_energy(weights: Tensor, s: float, distance: str, space: str) -> Tensor:
    """The paper's mean energy as it is usually written: all pairs of points in one matrix.

    Args:
        weights: `(D, N)`, the neurons in columns, none of them equal or opposite.
        s: Power of the potential.
        distance: `"euclidean"` or `"angle"`.
        space: `"full"` or `"half"`.

    Returns:
        A scalar, to be differentiated by the backend.

    Example:

    >>> round(float(published_energy(ops.eye(2), 2, "euclidean", "full")), 4)
    0.5

    Reference:
        Liu et al., Learning towards Minimum Hyperspherical Energy, NeurIPS 2018
        ([arXiv:1805.09298](https://arxiv.org/abs/1805.09298)), equations 1-3 and section 3.3.
    """
    points = weights * ops.rsqrt(ops.sum(ops.square(weights), axis=0, keepdims=True))
    if space == "half":
        points = ops.concatenate([points, -points], axis=1)
    cosines = ops.matmul(ops.transpose(points), points)
    count = int(points.shape[1])
    diagonal = ops.eye(count, dtype=cosines.dtype)
    if distance == "euclidean":
        potential = _of_squared_distance(2.0 - 2.0 * cosines + diagonal, s)
    else:
        # The slope of the arc cosine is infinite at the ends.
        potential = _of_angle(ops.arccos(ops.clip(cosines, -1.0 + 1e-6, 1.0 - 1e-6)), s)
    return ops.sum(potential * (1.0 - diagonal)) / (count * (count - 1))


def _of_squared_distance(squared: Tensor, s: float) -> Tensor:
    if s == 0:
        return -0.5 * ops.log(squared)
    if s == 1:
        return ops.rsqrt(squared)
    return 1.0 / squared if s == 2 else ops.power(squared, -s / 2)


def _of_angle(angle: Tensor, s: float) -> Tensor:
    if s == 0:
        return -ops.log(angle)
    if s in (1, 2):
        return 1.0 / (angle if s == 1 else ops.square(angle))
    return ops.power(angle, -s)


def two_products(weights: Tensor) -> Tensor:
    """The floor: the Gram matrix and one product with it, 4N²D operations."""
    return ops.matmul(weights, ops.matmul(ops.transpose(weights), weights))


def functions(variant: Mapping[str, Any]) -> dict[str, tuple[Callable[[Tensor], Tensor], bool]]:
    """Returns the methods for one energy, by name: a function, and whether to differentiate it."""
    options = {name: variant[name] for name in ("s", "distance", "space")}
    return {
        "kernel": (lambda w: mhe.hyperspherical_energy(w, **options), True),
        "published": (lambda w: published_energy(w, **options), True),
        "floor": (two_products, False),
    }


def sampled(variant: Mapping[str, Any]) -> Callable[[Tensor], Tensor]:
    """Returns the energy of `variant["sample"]` sampled neurons, as `MHE(sample=...)` has it."""
    options = {name: variant[name] for name in ("sample", "s", "distance", "space")}
    return lambda w: sampled_energy(w, **options)


def plain_sampled_energy(
    weights: Tensor, sample: int, seed: int, s: float, distance: str, space: str
) -> Tensor:
    """The published estimate: the mean over pairs of neurons that are drawn, and of no others.

    In half space, the pairs of a neuron and its opposite, all at the same distance, are exact.

    Args:
        weights: `(D, N)`, the neurons in columns.
        sample: Number of neurons to draw, at most N.
        seed: Of the draw.
        s: Power of the potential.
        distance: `"euclidean"` or `"angle"`.
        space: `"full"` or `"half"`.

    Example:

    >>> round(float(plain_sampled_energy(ops.eye(5), 3, 0, 2, "euclidean", "full")), 4)
    0.5

    Reference:
        Liu et al., Learning towards Minimum Hyperspherical Energy, NeurIPS 2018
        ([arXiv:1805.09298](https://arxiv.org/abs/1805.09298)), section 3.6.
    """
    count = int(weights.shape[1])
    drawn = np.random.default_rng(seed).choice(count, sample, replace=False)
    some = ops.take(weights, drawn.astype("int32"), axis=1)
    energy = mhe.hyperspherical_energy(some, s, distance, space)
    if space == "full":
        return energy
    # The mean over a sample's pairs has more of those in it than the mean over all pairs.
    opposite = mhe.hyperspherical_energy(some[:, :1], s, distance, space)
    others = (energy * (2 * sample - 1) - opposite) / (2 * sample - 2)
    return (others * (2 * count - 2) + opposite) / (2 * count - 1)


def family() -> dict[str, keras.Regularizer]:
    """Returns MHE and its relatives, by the names of `benchmarks/train.py`.

    Example:

    >>> list(family())[:2]
    ['mhe', 'comhe']
    """
    own = mhe.regularizers
    kinds = {"so": "single", "dso": "double", "mc": "coherence", "srip": "spectral"}
    return {
        "mhe": mhe.MHE(),
        "comhe": own.CoMHE(),
        "mhs": own.Separation(),
        "mhp": own.Polarization(),
        "mhc": own.Covering(),
        "mgd": own.GramDeterminant(),
        "mma": own.MinimalAngle(),
        "uniformity": own.Uniformity(),
        **{name: own.Orthogonality(kind=kind) for name, kind in kinds.items()},
    }


def published_bytes(neurons: int, space: str, distance: str, mode: str) -> int:
    """Estimates the bytes of memory that the published formula takes.

    Example:

    >>> full, half = (published_bytes(1000, each, "angle", "XLA") for each in ("full", "half"))
    >>> half // full
    4
    """
    fused = backend.BACKEND == "jax" or mode == "XLA"
    points = 2 * neurons if space == "half" else neurons
    return 4 * PUBLISHED_ARRAYS[distance][fused] * points * points


class Published(keras.regularizers.Regularizer):
    """The published formula as a regularizer, neurons along the last axis.

    Args:
        space: `"full"` or `"half"`.
    """

    def __init__(self, space: str) -> None:
        self.space = space

    def __call__(self, x: Tensor) -> Tensor:
        """The mean Euclidean energy with s = 2."""
        columns = ops.reshape(x, (-1, x.shape[-1]))
        return published_energy(columns, 2, "euclidean", self.space)

    def get_config(self) -> dict[str, Any]:
        return {"space": self.space}


def normal_layer(dims: int, neurons: int, seed: int) -> np.ndarray:
    """Returns a layer `(dims, neurons)` as it is initialized."""
    rng = np.random.default_rng(seed)
    return rng.standard_normal((dims, neurons), dtype=np.float32)


def clustered_layer(dims: int, neurons: int, seed: int, clusters: int = 100) -> np.ndarray:
    """Returns a layer like the head of a trained network with clusters of classes.

    Neurons of one cluster have cosines of about 0.3, others of about 0.
    """
    rng = np.random.default_rng([seed, 1])
    centers = rng.standard_normal((dims, clusters), dtype=np.float32)
    mine = rng.integers(clusters, size=neurons)
    return normal_layer(dims, neurons, seed) + math.sqrt(0.3 / 0.7) * centers[:, mine]


LAYERS = {"random": normal_layer, "clustered": clustered_layer}
