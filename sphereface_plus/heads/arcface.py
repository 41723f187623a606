"""ArcFace: the angle to the true class and a margin on top."""

import math
from typing import Any

import keras
from keras import ops

from mhe import checks
from mhe.precision import at_least_float32
from sphereface_plus.heads.base import MarginHead, sine, with_margin


def arcface_logits(
    cosines: Any,
    labels: Any = None,
    scale: float = 64,
    m: float = 0.5,
    easy_margin: bool = False,
) -> Any:
    """s·cos(θ_y + m) for the true class y, s·cos θ_j for the others.

    Where θ_y + m would leave [0, π], a cosine would grow with the angle again. As in its authors'
    code, what takes its place there is

        easy_margin=False    cos θ_y - m·sin m    for θ_y > π - m
        easy_margin=True     cos θ_y              for θ_y > π/2

    Without the easy margin the logit falls with the angle all the way, with a step down at π - m;
    with it, there is a step up at π/2.

    Args:
        cosines: Tensor `(B, classes)`.
        labels: Integers `(B,)` or `(B, 1)`; None for no margin.
        scale: s.
        m: The margin in radians, in [0, π/2].
        easy_margin: Whether only features within a right angle of their class have a margin.

    Returns:
        A tensor `(B, classes)`: float64 for float64 cosines, else float32. Its gradient is finite
        at θ = 0 and π too; see `sine`.

    Raises:
        ValueError: If there is not one label a sample, or one in an array or a list is no class.

    Example:

    >>> import math
    >>> import numpy as np
    >>> cosines = np.array([[0.5, 0.25]], "float32")
    >>> np.asarray(arcface_logits(cosines, [0], scale=4, m=math.pi / 6)).round(6)
    array([[0., 1.]], dtype=float32)

    Reference:
        Deng et al., ArcFace: additive angular margin loss for deep face recognition, CVPR 2019
        ([arXiv:1801.07698](https://arxiv.org/abs/1801.07698)), equation 3.
    """

    def turned(cosine: Any) -> Any:
        further = cosine * math.cos(m) - sine(cosine) * math.sin(m)
        if easy_margin:
            return ops.where(cosine > 0, further, cosine)
        return ops.where(cosine > math.cos(math.pi - m), further, cosine - m * math.sin(m))

    return scale * with_margin(at_least_float32(cosines), labels, turned)


@keras.saving.register_keras_serializable(package="sphereface_plus")
class ArcFace(MarginHead):
    """Logits s·cos θ_j, with s·cos(θ_y + m) for the true class y; see `arcface_logits`.

    Args:
        classes: How many, at least 2.
        scale: s > 0.
        m: The margin in radians, in [0, π/2].
        easy_margin: Whether only features within a right angle of their class have a margin; see
            `arcface_logits` for what either choice does beyond π.
        **kwargs: `kernel_initializer` and `kernel_regularizer`, see `MarginHead`; Keras's own.

    Raises:
        ValueError: If an argument is not one of the above, or the labels do not fit.

    Example:

    >>> import keras, sphereface_plus
    >>> head = sphereface_plus.heads.ArcFace(2, scale=1, kernel_initializer="identity")
    >>> features = keras.ops.convert_to_tensor([[1.0, 0.0]])
    >>> logits = keras.ops.convert_to_numpy(head(features, labels=[0]))
    >>> round(float(logits[0, 0]), 4)  # cos 0.5
    0.8776

    Reference:
        Deng et al., ArcFace: additive angular margin loss for deep face recognition, CVPR 2019
        ([arXiv:1801.07698](https://arxiv.org/abs/1801.07698)).
    """

    def __init__(
        self,
        classes: int,
        scale: float = 64,
        m: float = 0.5,
        easy_margin: bool = False,
        **kwargs: Any,
    ) -> None:
        checks.check_number("scale", scale, above=0)
        checks.check_number("m", m, least=0)
        if m > math.pi / 2:
            raise ValueError(f"`m` must be at most π/2, in radians. Received: m={m!r}")
        super().__init__(classes, **kwargs)
        self.scale = float(scale)
        self.m = float(m)
        self.easy_margin = bool(easy_margin)

    def call(self, features: Any, labels: Any = None, training: bool | None = None) -> Any:
        """Features `(B, dims)`, with labels `(B,)` for the margin → logits `(B, classes)`."""
        cosines = self.cosines(features)
        return arcface_logits(cosines, labels, self.scale, self.m, self.easy_margin)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "scale": self.scale,
            "m": self.m,
            "easy_margin": self.easy_margin,
        }
