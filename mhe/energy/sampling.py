"""The energy of a random sample of the neurons in a weight."""

import keras
from keras import ops

from mhe.checks import check_count
from mhe.energy.hyperspherical import hyperspherical_energy
from mhe.energy.layout import Layout, as_matrix
from mhe.energy.options import check_options
from mhe.energy.potential import Variant
from mhe.seeds import fresh_seed
from mhe.types import Tensor


def sampled_energy(
    weights: Tensor,
    sample: int,
    seed: int = 0,
    s: float = 2,
    distance: str = "euclidean",
    space: str = "full",
    axis: int | tuple[int, ...] = -1,
    block: int | None = None,
) -> Tensor:
    """Unbiased estimate of the mean energy from `sample` neurons drawn without replacement.

    In half space the antipodal pairs (û, -û), the same for every neuron, get the weight that they
    have among all neurons, so the estimate is unbiased there, too.

    The draw is a function of `seed` and of the weights, so that it differs from step to step of a
    compiled training loop, which runs the same `seed` over changing weights.

    To choose `sample`: the standard deviation about the exact energy falls roughly as 1/`sample`,
    while time grows as its square. For 10,575 neurons of 512 numbers and s = 2 it was measured at
    most 0.16 % in full space for 64, 0.05 % for 256 and 0.02 % for 1,024, and a sixth of that or
    less in half space.

    Args:
        weights: As in `hyperspherical_energy`.
        sample: Number of neurons to draw, at least 2. If there are no more than that, all are used
            and the mean is exact.
        seed: Integer ≥ 0.
        s: As in `hyperspherical_energy`.
        distance: As in `hyperspherical_energy`.
        space: As in `hyperspherical_energy`.
        axis: As in `hyperspherical_energy`.
        block: As in `hyperspherical_energy`.

    Returns:
        A scalar tensor: float64 for float64 weights where Keras computes in it, else float32.

    Raises:
        ValueError: As `hyperspherical_energy`.

    Example:

    >>> import numpy as np
    >>> weights = np.random.default_rng(0).normal(size=(16, 1000)).astype("float32")
    >>> draws = [float(sampled_energy(weights, 100, seed=i)) for i in range(20)]
    >>> round(np.mean(draws) / float(hyperspherical_energy(weights)), 1).item()
    1.0

    Reference:
        Liu et al., Learning towards Minimum Hyperspherical Energy, NeurIPS 2018
        ([arXiv:1805.09298](https://arxiv.org/abs/1805.09298)), section 3.6.
    """
    check_options(s, distance, space)
    check_count("sample", sample, 2)
    vectors, layout = as_matrix(weights, axis)
    count, _ = layout.count_and_dims(vectors)
    if sample >= count:
        return hyperspherical_energy(vectors, s, distance, space, layout.axis, block=block)
    drawn = ops.take(vectors, _draw(vectors, layout, sample, seed), axis=layout.axis)
    mean = hyperspherical_energy(drawn, s, distance, space, layout.axis, block=block)
    if space == "full":
        return mean
    antipodal = Variant.of(s, distance, space).antipodal
    # One in 2k - 1 pairs of the sample is antipodal, one in 2N - 1 of all.
    other_pairs = (mean * (2 * sample - 1) - antipodal) / (2 * sample - 2)
    return (other_pairs * (2 * count - 2) + antipodal) / (2 * count - 1)


def _draw(vectors: Tensor, layout: Layout, sample: int, seed: int) -> Tensor:
    """Indices of `sample` different neurons, `(sample,)`."""
    count, _ = layout.count_and_dims(vectors)
    # One number per neuron is enough to notice that a step has moved the weights.
    source = fresh_seed(layout.component(vectors, 0), seed)
    return ops.top_k(keras.random.uniform((count,), seed=source), sample, sorted=False)[1]
