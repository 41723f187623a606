"""The energy of all neurons in a weight."""

from keras import ops

from mhe.checks import check_count
from mhe.energy.layout import as_matrix
from mhe.energy.options import check_options
from mhe.energy.pairs import block_size, sum_of_excesses
from mhe.energy.potential import Variant
from mhe.precision import at_least_float32
from mhe.types import Tensor


def hyperspherical_energy(
    weights: Tensor,
    s: float = 2,
    distance: str = "euclidean",
    space: str = "full",
    axis: int | tuple[int, ...] = -1,
    reduction: str = "mean",
    block: int | None = None,
) -> Tensor:
    """Hyperspherical energy of the neurons in a weight.

    The neurons are the slices of `weights` along `axis`, flattened to vectors and scaled to unit
    length. The energy is

        E = Σ_{i≠j} f_s(ρ(û_i, û_j)),    f_s(z) = z^(-s) for s > 0,    f_0(z) = log(1/z)

    over ordered pairs, where ρ is the Euclidean distance or the angle in radians. In half space
    the same sum runs over the 2N points ±û_i, antipodal pairs included.

    Value and gradient come from one pass over the Gram matrix of the neurons: about two matrix
    products, 4N²D flops, in half space as in full space. Above `block` neurons the pass goes block
    by block, so that memory is O(N·D + N·block).

    Pairs at a distance below 0.2, of which a cosine in float32 tells little, are evaluated from
    differences of their vectors: up to eight neighbors of each neuron, per block. So the value is
    within 1e-5 and the gradient within 1e-4 of float64 down to distances of 0.001.

    Degenerate neurons have finite values and gradients: pairs closer than a distance of 1e-3 (for
    s > 6 somewhat more, so that nothing overflows) count as being at that distance and do not move
    each other, and a zero vector counts as orthogonal to every other. Fewer than two neurons have
    no pair and no energy in full space; in half space one neuron still has its own opposite. Norms
    are computed in float32: they may be as large as 1e19, and below 1e-19 they count as zero.

    The gradient can be differentiated again; PyTorch then computes the energy once more.

    Args:
        weights: Tensor or variable of any shape and floating dtype.
        s: Real number ≥ 0, the power of the potential.
        distance: `"euclidean"` or `"angle"`.
        space: `"full"` or `"half"`.
        axis: The axis, or axes, that count the neurons. All others hold a neuron's numbers.
        reduction: `"mean"` over the ordered pairs, or `"sum"`.
        block: Neurons per block. Defaults to `block_size(N)`. Where N is the size of a batch, not
            known when a model is traced, all are in one.

    Returns:
        A scalar tensor: float64 for float64 weights where Keras computes in it, else float32.

    Raises:
        ValueError: If an argument is not one of the above, or an axis is out of range or given
            twice.

    Example:

    >>> import math, mhe
    >>> energy = mhe.hyperspherical_energy([[1.0, 0.0], [0.0, 1.0]], s=2)  # two at a distance of √2
    >>> round(float(energy), 6)
    0.5
    >>> energy = mhe.hyperspherical_energy([[1.0, 0.0], [0.0, 1.0]], s=1, distance="angle")
    >>> round(float(energy) * math.pi / 2, 6)
    1.0

    Reference:
        Liu et al., Learning towards Minimum Hyperspherical Energy, NeurIPS 2018
        ([arXiv:1805.09298](https://arxiv.org/abs/1805.09298)), equations 1-3 and section 3.3.
    """
    check_options(s, distance, space, reduction)
    vectors, layout = as_matrix(weights, axis)
    check_count("block", block, 1, optional=True)
    variant = Variant.of(s, distance, space)
    if not layout.is_counted(vectors):
        excess = sum_of_excesses(vectors, layout, variant, block=1)
        batch = ops.cast(ops.shape(vectors)[layout.axis], excess.dtype)
        return energy_of_excess(excess, batch, variant, reduction)
    count, dims = layout.count_and_dims(vectors)
    block = block_size(count) if block is None else min(block, max(count, 1))

    if count < 2 or dims == 0:
        # No pair whose energy could change; the zero keeps the gradient defined.
        excess = ops.sum(at_least_float32(vectors) * 0.0)
        return excess + _energy_of_orthogonal(count, variant, reduction)
    excess = sum_of_excesses(vectors, layout, variant, block)
    return energy_of_excess(excess, count, variant, reduction)


def energy_of_excess(
    excess: Tensor, count: int | Tensor, variant: Variant, reduction: str
) -> Tensor:
    """The energy of `count` neurons, of which `excess` is the sum of their excesses.

    Args:
        excess: A scalar.
        count: A number, or a float scalar.
        variant: Which energy.
        reduction: As in `hyperspherical_energy`.
    """
    scale = (2.0 if variant.half else 1.0) / (_pairs(count, variant) if reduction == "mean" else 1)
    return excess * scale + _energy_of_orthogonal(count, variant, reduction)


def _pairs(count: int | Tensor, variant: Variant) -> int | Tensor:
    """The number of ordered pairs, or 1 if there is none."""
    points = 2 * count if variant.half else count
    pairs = points * (points - 1)
    return max(pairs, 1) if isinstance(pairs, int) else ops.maximum(pairs, 1.0)


def _energy_of_orthogonal(count: int | Tensor, variant: Variant, reduction: str) -> float | Tensor:
    """The energy if all cosines were 0: what excesses are added to."""
    right = variant.orthogonal
    if not variant.half:
        total = count * (count - 1) * right
    else:
        total = 4 * count * (count - 1) * right + 2 * count * variant.antipodal
    return total / _pairs(count, variant) if reduction == "mean" else total
