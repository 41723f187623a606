"""MagFace: an angular margin that grows with the norm of the feature, which becomes its quality."""

import math
from typing import Any

import keras
from keras import ops

from mhe import checks
from mhe.precision import at_least_float32
from mhe.types import Tensor
from sphereface_plus.heads.base import add_angle, lengths, with_scaled_margin
from sphereface_plus.heads.cosine import CosineHead


def magface_logits(
    cosines: Tensor,
    norms: Tensor,
    labels: Tensor | None = None,
    scale: float = 64,
    l_a: float = 10,
    u_a: float = 110,
    l_m: float = 0.45,
    u_m: float = 0.8,
) -> Tensor:
    """s·cos(θ_y + m(a)) for the true class y, s·cos θ_j for the others.

    The margin m(a) is linear in the norm a of the feature, clipped to [l_a, u_a]:

        m(a) = l_m + (u_m - l_m)·(a - l_a) / (u_a - l_a)

    Beyond θ_y = π - m(a) the logit is s·(cos θ_y - m·sin m), as in `arcface_logits`.

    Args:
        cosines: Tensor `(B, classes)`.
        norms: ‖x‖ `(B,)`. The margin passes gradient on to norms within [l_a, u_a].
        labels: Integers `(B,)` or `(B, 1)`, or None for no margin.
        scale: s.
        l_a: The norm up to which the margin is `l_m`.
        u_a: The norm from which it is `u_m`.
        l_m: The smallest margin, in radians.
        u_m: The largest margin, in radians, at most π/2.

    Returns:
        A tensor `(B, classes)`, float64 for float64 cosines where Keras computes in it, else
        float32.

    Raises:
        ValueError: If there is not one label per sample, or a label in an array or list is not a
            class.

    Example:

    >>> import math
    >>> import numpy as np
    >>> cosines, norms = np.array([[0.5, 0.25]], "float32"), np.array([30.0], "float32")
    >>> margins = {"l_a": 20, "u_a": 40, "l_m": 0.0, "u_m": math.pi / 3}
    >>> np.asarray(magface_logits(cosines, norms, [0], scale=4, **margins)).round(5)
    array([[0., 1.]], dtype=float32)

    Reference:
        Meng et al., MagFace: a universal representation for face recognition and quality
        assessment, CVPR 2021 ([arXiv:2103.06627](https://arxiv.org/abs/2103.06627)), equation 2,
        with the linear m(a) of section 4.1.
    """
    products = scale * at_least_float32(cosines)
    return _with_margin(products, norms, labels, scale, l_a, u_a, l_m, u_m)


def _with_margin(
    products: Tensor,
    norms: Tensor,
    labels: Tensor | None,
    scale: float,
    l_a: float,
    u_a: float,
    l_m: float,
    u_m: float,
) -> Tensor:
    """`magface_logits` of s·cos θ_j."""
    clipped = ops.clip(at_least_float32(norms), l_a, u_a)
    margins = l_m + (u_m - l_m) * (clipped - l_a) / (u_a - l_a)
    return with_scaled_margin(products, labels, scale, lambda cosine: add_angle(cosine, margins))


def norm_penalties(norms: Tensor, l_a: float = 10, u_a: float = 110) -> Tensor:
    """g(a) = a/u_a² + 1/a of each norm a clipped to [l_a, u_a], where it falls with a.

    The paper does not clip; the authors' code does, so that norms out of the range get no gradient.

    Args:
        norms: ‖x‖ `(B,)`.
        l_a: The shortest norm.
        u_a: The longest norm.

    Returns:
        A tensor `(B,)` of at least float32.

    Example:

    >>> import numpy as np
    >>> np.asarray(norm_penalties(np.array([0.0, 4.0, 99.0], "float32"), l_a=2, u_a=8))
    array([0.53125, 0.3125 , 0.25   ], dtype=float32)

    Reference:
        Meng et al., MagFace, CVPR 2021 ([arXiv:2103.06627](https://arxiv.org/abs/2103.06627)),
        section 4.1.
    """
    clipped = ops.clip(at_least_float32(norms), l_a, u_a)
    return clipped / u_a**2 + 1.0 / clipped


@keras.saving.register_keras_serializable(package="sphereface_plus")
class MagFace(CosineHead):
    """Logits s·cos θ_j, with s·cos(θ_y + m(‖x‖)) for the true class y; see `magface_logits`.

    Features of easy faces grow long and get a larger margin: the norm of an embedding is its
    quality. Training adds the batch mean of penalty·g(‖x‖) to `losses`; see `norm_penalties`.

    Args:
        classes: Number of classes, at least 2.
        scale: s > 0, or `"auto"` for √2·log(classes - 1), which needs at least 3 classes.
        l_a: The norm up to which the margin is `l_m`, above 0.
        u_a: The norm from which it is `u_m`, above `l_a`.
        l_m: The smallest margin, in radians, at least 0.
        u_m: The largest margin, in radians, from `l_m` to π/2.
        penalty: λ_g, the weight of g, at least 0.
        **kwargs: As in `SoftmaxHead`.

    Raises:
        ValueError: If an argument is out of range, or the labels do not match the features.

    Example:

    >>> import keras, sphereface_plus
    >>> head = sphereface_plus.heads.MagFace(10, l_a=2, u_a=8, penalty=1)
    >>> logits = head(keras.ops.ones((4, 16)), labels=[0, 1, 2, 3], training=True)  # of length 4
    >>> round(float(keras.ops.convert_to_numpy(head.losses[0])), 4)
    0.3125
    >>> backbone = keras.Sequential([keras.Input((4,)), keras.layers.Dense(16)])
    >>> model = sphereface_plus.FaceModel(backbone, head)
    >>> model.compile("sgd")  # its loss is the head's own

    Reference:
        Meng et al., MagFace: a universal representation for face recognition and quality
        assessment, CVPR 2021 ([arXiv:2103.06627](https://arxiv.org/abs/2103.06627)).
    """

    def __init__(
        self,
        classes: int,
        scale: float | str = 64,
        l_a: float = 10,
        u_a: float = 110,
        l_m: float = 0.45,
        u_m: float = 0.8,
        penalty: float = 35,
        **kwargs: Any,
    ) -> None:
        checks.check_number("l_a", l_a, above=0)
        checks.check_number("u_a", u_a, above=0)
        checks.check_number("l_m", l_m, least=0)
        checks.check_number("u_m", u_m, least=0)
        checks.check_number("penalty", penalty, least=0)
        if not l_a < u_a:
            raise ValueError(f"`l_a` must be below `u_a`. Received: l_a={l_a!r}, u_a={u_a!r}")
        if not l_m <= u_m <= math.pi / 2:
            raise ValueError(
                "`u_m` must be at least `l_m` and at most π/2, in radians. "
                f"Received: l_m={l_m!r}, u_m={u_m!r}"
            )
        super().__init__(classes, scale, **kwargs)
        self.l_a, self.u_a = float(l_a), float(u_a)
        self.l_m, self.u_m = float(l_m), float(u_m)
        self.penalty = float(penalty)

    def logits(
        self, products: Tensor, features: Tensor, labels: Tensor | None, training: bool | None
    ) -> Tensor:
        """Scaled cosines, features and labels → `magface_logits`; adds the penalty in training."""
        norms = lengths(features)
        if training:
            self.add_loss(self.penalty * ops.mean(norm_penalties(norms, self.l_a, self.u_a)))
        return _with_margin(
            products,
            norms,
            labels,
            self.scale,
            self.l_a,
            self.u_a,
            self.l_m,
            self.u_m,
        )

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "l_a": self.l_a,
            "u_a": self.u_a,
            "l_m": self.l_m,
            "u_m": self.u_m,
            "penalty": self.penalty,
        }
