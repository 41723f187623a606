"""SphereFace-R: multiplicative margins of any size, with and without feature normalization."""

import math
from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from mhe import checks
from mhe.layers import unit_vectors
from mhe.precision import at_least_float32
from mhe.types import Tensor
from sphereface_plus.heads.base import (
    cosines_of,
    lengths,
    sine,
    true_class,
    with_margin,
)
from sphereface_plus.heads.softmax import SoftmaxHead, check_scale

VERSIONS = (0, 1, 2)
NORMALIZATIONS = ("hard", "soft", "none")


def cosine_of_multiple(cosines: Tensor, multiple: float, unfolded: bool = False) -> Tensor:
    """Cosine of a multiple of the angle, constant at -1 once the multiple reaches π, or unfolded.

    Args:
        cosines: cos θ, a tensor of any shape; may exceed ±1 by a rounding error.
        multiple: a > 0.
        unfolded: Whether to keep falling beyond π: (-1)^k cos(aθ) - 2k for aθ in [kπ, (k + 1)π],
            instead of cos(min(aθ, π)).

    Returns:
        A tensor of the same shape. The derivative along cos θ is a·sin(aθ)/sin θ, which tends to a²
        at θ = 0. At θ = π, where it may be infinite and the angle has no direction in which to
        grow, it is taken as 0.

    Example:

    >>> import numpy as np
    >>> cosines = np.array([0.5, -0.5], "float32")  # 60 and 120 degrees
    >>> np.asarray(cosine_of_multiple(cosines, 2)).round(6)
    array([-0.5, -1. ], dtype=float32)
    >>> np.asarray(cosine_of_multiple(cosines, 2, unfolded=True)).round(6)
    array([-0.5, -1.5], dtype=float32)

    Reference:
        Liu et al., SphereFace revived: unifying hyperspherical face recognition, TPAMI 2022
        ([arXiv:2109.05565](https://arxiv.org/abs/2109.05565)).
    """
    if multiple == 1:
        return cosines

    @ops.custom_gradient
    def value(cosines: Tensor) -> tuple[Tensor, Callable[..., Tensor]]:
        angle = multiple * ops.arccos(ops.clip(cosines, -1.0, 1.0))
        if unfolded:
            k = ops.floor(angle / math.pi)
            sign = 1.0 - 2.0 * (k - 2.0 * ops.floor(k / 2.0))
        else:
            k, sign = 0.0, 1.0
            angle = ops.minimum(angle, math.pi)
        sines = sine(cosines)
        slope = sign * multiple * ops.sin(angle) / ops.where(sines > 0, sines, 1.0)
        slope = ops.where(cosines >= 1.0, multiple**2, ops.where(sines > 0, slope, 0.0))

        def backward(*args: Any, upstream: Tensor | None = None) -> Tensor:
            # TensorFlow and JAX pass just the upstream gradient, PyTorch passes it by name.
            (upstream,) = args if upstream is None else (upstream,)
            return upstream * slope

        return sign * ops.cos(angle) - 2.0 * k, backward

    return value(at_least_float32(cosines))


def sphereface_r_logits(
    products: Tensor,
    norms: Tensor,
    labels: Tensor | None = None,
    m: float = 1.7,
    version: int = 1,
    detach: bool = True,
) -> Tensor:
    """ρ·ψ(θ_y) for the true class y, ρ·η(θ_j) for the others; one of ψ and η is a plain cosine.

        version=0    ψ = (-1)^k cos(mθ) - 2k     η = cos θ         SphereFace's, for real m
        version=1    ψ = cos(min(mθ, π))         η = cos θ
        version=2    ψ = cos θ                   η = cos(θ/m)

    Args:
        products: ρ cos θ_j `(B, classes)`.
        norms: ρ `(B,)`, ‖x‖ or the length that features were scaled to.
        labels: Integers `(B,)` or `(B, 1)`, or None for no margin.
        m: The margin, at least 1.
        version: 0, 1 or 2.
        detach: Whether ψ(θ) - cos θ and η(θ) - cos θ get no gradient ("characteristic gradient
            detachment").

    Returns:
        A tensor `(B, classes)`, float64 for float64 products where Keras computes in it, else
        float32.

    Raises:
        ValueError: If there is not one label per sample, or a label in an array or list is not a
            class.

    Example:

    >>> import numpy as np
    >>> products, norms = np.array([[1.0, -1.0]], "float32"), np.array([2.0], "float32")
    >>> np.asarray(sphereface_r_logits(products, norms, [0], m=2, version=1)).round(6)
    array([[-1., -1.]], dtype=float32)
    >>> np.asarray(sphereface_r_logits(products, norms, [0], m=2, version=2)).round(6)
    array([[1., 1.]], dtype=float32)

    Reference:
        Liu et al., SphereFace revived: unifying hyperspherical face recognition, TPAMI 2022
        ([arXiv:2109.05565](https://arxiv.org/abs/2109.05565)).
    """
    products, norms = at_least_float32(products), at_least_float32(norms)
    if labels is None:
        return products

    def moved(products: Tensor, norms: Tensor, multiple: float) -> Tensor:
        cosines = cosines_of(products, norms)
        difference = cosine_of_multiple(cosines, multiple, unfolded=version == 0) - cosines
        return products + norms * (ops.stop_gradient(difference) if detach else difference)

    if version < 2:
        return with_margin(products, labels, lambda product: moved(product, norms, m))
    _, is_true = true_class(labels, products)
    return ops.where(is_true, products, moved(products, norms[:, None], 1.0 / m))


@keras.saving.register_keras_serializable(package="sphereface_plus")
class SphereFaceR(SoftmaxHead):
    """Logits ρ·cos θ_j with a multiplicative margin of any size; see `sphereface_r_logits`.

    ρ depends on the normalization of the features x:

        normalization="hard"    ρ = scale
        normalization="soft"    ρ = ‖x‖, and training adds the batch mean of penalty·|‖x‖ - scale|
                                to `losses`
        normalization="none"    ρ = ‖x‖

    The penalty is that of the authors' code. If a label in a tensor is not a class, no class gets a
    margin in versions 0 and 1, and all do in version 2; the loss is NaN in every version.

    Args:
        classes: Number of classes, at least 2.
        scale: s > 0, the length of the features, or the target of their length; or `"auto"` for
            √2·log(classes - 1), which needs at least 3 classes.
        m: The margin, at least 1.
        version: 1 or 2 for the paper's two margins, 0 for that of SphereFace.
        normalization: `"hard"`, `"soft"` or `"none"`.
        detach: Whether the term that the margin adds to a cosine gets no gradient ("characteristic
            gradient detachment").
        penalty: Weight of the soft normalization, at least 0.
        **kwargs: As in `SoftmaxHead`.

    Raises:
        ValueError: If an argument is out of range, or the labels do not match the features.

    Example:

    >>> import keras, sphereface_plus
    >>> head = sphereface_plus.heads.SphereFaceR(10, normalization="soft")
    >>> logits = head(keras.ops.ones((4, 16)), training=True)  # features of length 4
    >>> round(float(keras.ops.convert_to_numpy(head.losses[0])), 3)
    0.26
    >>> backbone = keras.Sequential([keras.Input((4,)), keras.layers.Dense(16)])
    >>> model = sphereface_plus.FaceModel(backbone, head)
    >>> model.compile("sgd")  # its loss is the head's own

    Reference:
        Liu et al., SphereFace revived: unifying hyperspherical face recognition, TPAMI 2022
        ([arXiv:2109.05565](https://arxiv.org/abs/2109.05565)).
    """

    def __init__(
        self,
        classes: int,
        scale: float | str = 30,
        m: float = 1.7,
        version: int = 1,
        normalization: str = "hard",
        detach: bool = True,
        penalty: float = 0.01,
        **kwargs: Any,
    ) -> None:
        checks.check_number("m", m, least=1)
        checks.check_number("penalty", penalty, least=0)
        if isinstance(version, bool) or version not in VERSIONS:
            raise ValueError(f"`version` must be 0, 1 or 2. Received: version={version!r}")
        if normalization not in NORMALIZATIONS:
            raise ValueError(
                '`normalization` must be "hard", "soft" or "none". '
                f"Received: normalization={normalization!r}"
            )
        super().__init__(classes, **kwargs)
        self.scale = check_scale(scale, classes)
        self.m = float(m)
        self.version = int(version)
        self.normalization = normalization
        self.detach = bool(detach)
        self.penalty = float(penalty)

    def directions(self, features: Tensor) -> Tensor:
        """Features of length s with hard normalization, else the features."""
        is_hard = self.normalization == "hard"
        return self.scale * unit_vectors(features) if is_hard else features

    def logits(
        self, products: Tensor, features: Tensor, labels: Tensor | None, training: bool | None
    ) -> Tensor:
        """Products, features and labels → `sphereface_r_logits`; may add a penalty in training."""
        norms = lengths(features)
        if self.normalization == "soft" and training:
            self.add_loss(self.penalty * ops.mean(ops.absolute(norms - self.scale)))
        if self.normalization == "hard":
            norms = ops.full_like(norms, self.scale)
        return sphereface_r_logits(products, norms, labels, self.m, self.version, self.detach)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "scale": self.scale,
            "m": self.m,
            "version": self.version,
            "normalization": self.normalization,
            "detach": self.detach,
            "penalty": self.penalty,
        }
