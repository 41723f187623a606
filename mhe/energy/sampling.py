"""The energy of all neurons in a weight, estimated from a random sample of them."""

import keras
from keras import ops

from mhe.checks import check_count
from mhe.energy.hyperspherical import energy_of_excess, hyperspherical_energy
from mhe.energy.layout import Layout, as_matrix
from mhe.energy.options import check_options
from mhe.energy.pairs import block_size, sum_of_excesses
from mhe.energy.polynomial import nearest_polynomial, polynomial_sum
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

    For a quadratic polynomial p(c) = a₁c + a₂c² of the cosine c, the mean over all pairs is known
    in time proportional to N (Σ c = ‖Σ û‖² and Σ c² = ‖ÛᵀÛ‖²), so only the difference between the
    potential h and the polynomial has to be estimated:

        E ≈ mean of p over all pairs + mean of (h - p) over the pairs of the sample

    p is the least-squares fit to h at the cosines of up to 256 of the neurons, always the same
    ones. It does not depend on the draw, and counts as a constant in the gradient, so value and
    gradient are unbiased. In half space, where odd terms cancel, a₁ is 0. Where D > N, squares of
    all cosines would take as long as all energies: there a₂ is 0, and in half space the sample is
    all there is.

    Value and gradient take about 4ND² + 4k²D operations instead of 4N²D, and memory O(N·D + D²).

    The draw is a function of `seed` and of the weights, so that it differs from step to step of a
    compiled training loop, which runs the same `seed` over changing weights.

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
    >>> weights = np.random.default_rng(0).normal(size=(64, 1000)).astype("float32")
    >>> draws = [float(sampled_energy(weights, 100, seed=i)) for i in range(20)]
    >>> exact = float(hyperspherical_energy(weights))
    >>> [round(value / exact, 2) for value in (min(draws), max(draws))]
    [1.0, 1.0]

    Reference:
        Liu et al., Learning towards Minimum Hyperspherical Energy, NeurIPS 2018
        ([arXiv:1805.09298](https://arxiv.org/abs/1805.09298)), section 3.6, whose estimate is the
        mean of h over the pairs of the sample.
    """
    check_options(s, distance, space)
    check_count("sample", sample, 2)
    vectors, layout = as_matrix(weights, axis)
    if not layout.is_counted(vectors):
        raise ValueError(
            "`sample` needs weights, whose neurons can be counted: a batch of features is itself a "
            f"sample. Received: sample={sample}, a tensor of shape {tuple(vectors.shape)}"
        )
    count, dims = layout.count_and_dims(vectors)
    if sample >= count or dims == 0:
        return hyperspherical_energy(vectors, s, distance, space, layout.axis, block=block)
    variant = Variant.of(s, distance, space)
    drawn = _draw(vectors, layout, sample, seed)
    block = block_size(sample) if block is None else min(block, sample)
    mean = mean_excess(vectors, drawn, layout, variant, block)
    return energy_of_excess(mean * (count * (count - 1)), count, variant, "mean")


def mean_excess(
    vectors: Tensor, drawn: Tensor, layout: Layout, variant: Variant, block: int
) -> Tensor:
    """Estimate of the mean excess over all pairs of vectors, from those that were drawn.

    Args:
        vectors: The N vectors.
        drawn: Indices of different vectors, `(k,)`.
        layout: Where the vectors are.
        variant: Which energy.
        block: Vectors per block.
    """
    count, dims = layout.count_and_dims(vectors)
    sample = int(drawn.shape[0])
    pairs, sampled_pairs = count * (count - 1), sample * (sample - 1)
    some = ops.take(vectors, drawn, axis=layout.axis)
    mean = sum_of_excesses(some, layout, variant, block) / sampled_pairs
    # Squares of all cosines take as long as all pairs where D > N. Half space has no other term.
    squares = dims <= count
    if variant.half and not squares:
        return mean
    coefficients = nearest_polynomial(vectors, layout, variant, squares)
    known = polynomial_sum(vectors, coefficients, layout, squares) / pairs
    return mean + (known - polynomial_sum(some, coefficients, layout, squares) / sampled_pairs)


def _draw(vectors: Tensor, layout: Layout, sample: int, seed: int) -> Tensor:
    """Indices of `sample` different neurons, `(sample,)`."""
    count, _ = layout.count_and_dims(vectors)
    # One number per neuron is enough to notice that a step has moved the weights.
    source = fresh_seed(layout.component(vectors, 0), seed)
    return ops.top_k(keras.random.uniform((count,), seed=source), sample, sorted=False)[1]
