"""The losses of both sides of the game, from the discriminator's logits."""

from keras import ops

from mhe.precision import at_least_float32
from mhe.types import Tensor

LOSSES = ("softplus", "hinge")


def discriminator_loss(real: Tensor, fake: Tensor, kind: str = "softplus") -> Tensor:
    """The discriminator's loss, low if real images get high logits and fakes low ones.

    With logits D and means over each batch,

        softplus: mean log(1 + exp(−D(real))) + mean log(1 + exp(D(fake)))
        hinge:    mean max(0, 1 − D(real)) + mean max(0, 1 + D(fake))

    Args:
        real: Logits of real images, of any shape.
        fake: Logits of generated images, of any shape.
        kind: `"softplus"` or `"hinge"`.

    Returns:
        A scalar tensor, float64 for float64 logits, else float32.

    Raises:
        ValueError: If `kind` is unknown.

    Example:

    >>> real, fake = ops.array([2.0, 0.5]), ops.array([-3.0, -1.0])
    >>> float(discriminator_loss(real, fake, "hinge"))
    0.25

    Reference:
        Goodfellow et al., Generative Adversarial Networks, NeurIPS 2014 (arXiv 1406.2661); Miyato
        et al., Spectral Normalization for Generative Adversarial Networks, ICLR 2018
        (arXiv 1802.05957), equation 16.
    """
    check_kind(kind)
    real, fake = at_least_float32(real), at_least_float32(fake)
    if kind == "hinge":
        return ops.mean(ops.relu(1.0 - real)) + ops.mean(ops.relu(1.0 + fake))
    return ops.mean(ops.softplus(-real)) + ops.mean(ops.softplus(fake))


def generator_loss(fake: Tensor, kind: str = "softplus") -> Tensor:
    """The generator's loss, low if generated images get high logits.

    It does not saturate if the discriminator is confident. With logits D,

        softplus: mean log(1 + exp(−D(fake)))
        hinge:    −mean D(fake)

    Args:
        fake: Logits of generated images, of any shape.
        kind: `"softplus"` or `"hinge"`.

    Returns:
        A scalar tensor, float64 for float64 logits, else float32.

    Raises:
        ValueError: If `kind` is unknown.

    Example:

    >>> float(generator_loss(ops.array([-3.0, -1.0]), "hinge"))
    2.0

    Reference:
        Goodfellow et al., Generative Adversarial Networks, NeurIPS 2014 (arXiv 1406.2661), section
        3; Miyato et al., Spectral Normalization for Generative Adversarial Networks, ICLR 2018
        (arXiv 1802.05957), equation 17.
    """
    check_kind(kind)
    fake = at_least_float32(fake)
    return -ops.mean(fake) if kind == "hinge" else ops.mean(ops.softplus(-fake))


def check_kind(kind: str) -> None:
    """Raises a `ValueError` if the kind of loss is unknown.

    Example:

    >>> check_kind("wasserstein")
    Traceback (most recent call last):
    ValueError: The loss must be one of softplus, hinge. Received: 'wasserstein'
    """
    if kind not in LOSSES:
        raise ValueError(f"The loss must be one of {', '.join(LOSSES)}. Received: {kind!r}")
