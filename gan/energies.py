"""The published hyperspherical energy of a discriminator, as `mhe.MHE` regularizers."""

import keras

import mhe
from mhe.attach import Attachments
from mhe.attach.neurons import neuron_weights
from mhe.checks import check_number

# The published λ of each kernel's energy, without and with spectral norm.
PUBLISHED_MAGNITUDES = {False: 1e-6, True: 1e-7}


def published_strength(magnitude: float, neurons: int) -> float:
    """The strength of `mhe.MHE(strength, s=0, space="full")` for a published magnitude.

    The published term is λ times the mean of −log(2 − 2 cos θ_ij + 1e-4) over the N×N entries for N
    neurons, where entries on and below the diagonal are constant, so that every pair counts once.
    As 2 − 2 cos θ_ij = ρ_ij², a pair contributes −2 log ρ_ij, and

        λ/N² · Σ_{i<j} −2 log ρ_ij = λ/N² · Σ_{i≠j} −log ρ_ij = λ · (N − 1)/N · E

    where E is the mean of −log ρ_ij over the N(N − 1) ordered pairs. This omits the constant, and
    the 1e-4, which only limits the energy of neurons closer than 0.01.

    Args:
        magnitude: The published λ.
        neurons: N, at least 1.

    Returns:
        The strength.

    Raises:
        ValueError: If the magnitude is negative or not finite, or there is no neuron.

    Example:

    >>> published_strength(1e-6, 64)
    9.84375e-07

    Reference:
        Liu et al., Learning towards Minimum Hyperspherical Energy, NeurIPS 2018
        (arXiv 1805.09298), section 4.4, and its published code.
    """
    check_number("magnitude", magnitude, least=0)
    if neurons < 1:
        raise ValueError(f"There must be at least one neuron. Received: {neurons}")
    return magnitude * (neurons - 1) / neurons


def attach_published(discriminator: keras.Model, magnitude: float) -> Attachments:
    """Attaches the published energy to every kernel of a discriminator with at least two neurons.

    The dense layer to the logit has a single neuron, and so no energy.

    Args:
        discriminator: A built model.
        magnitude: The published λ, see `PUBLISHED_MAGNITUDES`.

    Returns:
        The table of attached regularizers, as `mhe.attached` returns it.

    Raises:
        ValueError: If the model is not built or has no kernel with at least two neurons, or the
            magnitude is negative or not finite.

    Example:

    >>> import keras
    >>> layers = [keras.layers.Dense(5), keras.layers.Dense(4), keras.layers.Dense(1)]
    >>> network = keras.Sequential([keras.Input((3,)), *layers], name="network")
    >>> table = attach_published(network, PUBLISHED_MAGNITUDES[False])
    >>> for row in table:
    ...     print(row.weight.count, row.regularizer)
    5 MHE(8e-07, s=0, euclidean, full)
    4 MHE(7.5e-07, s=0, euclidean, full)

    Reference:
        Liu et al., Learning towards Minimum Hyperspherical Energy, NeurIPS 2018
        (arXiv 1805.09298), section 4.4, and its published code.
    """
    counts = {weight.path: weight.count for weight in neuron_weights(discriminator)}
    for count in sorted(set(counts.values()) - {1}):
        strength = published_strength(magnitude, count)
        paths = [path for path, each in counts.items() if each == count]
        mhe.attach(discriminator, mhe.MHE(strength, s=0, space="full"), layers=paths)
    if set(counts.values()) <= {1}:
        raise ValueError(
            "The discriminator must have a kernel with at least two neurons. "
            f"Received: {discriminator.name!r}"
        )
    return mhe.attached(discriminator)
