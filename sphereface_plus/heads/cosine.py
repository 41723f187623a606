"""What heads over scaled cosines share: s·cos θ_j with features of length s."""

from typing import Any

from mhe.layers import unit_vectors
from mhe.types import Tensor
from sphereface_plus.heads.softmax import SoftmaxHead, check_scale


class CosineHead(SoftmaxHead):
    """Base class of softmax heads over s·cos θ_j.

    The features are scaled, not the `(B, classes)` cosines: `logits` gets products s·cos θ_j.

    Args:
        classes: Number of classes, at least 2.
        scale: s > 0, or `"auto"` for √2·log(classes - 1), which needs at least 3 classes.
        **kwargs: As in `SoftmaxHead`.

    Raises:
        ValueError: If an argument is out of range.
    """

    def __init__(self, classes: int, scale: float | str, **kwargs: Any) -> None:
        super().__init__(classes, **kwargs)
        self.scale = check_scale(scale, self.classes)

    def directions(self, features: Tensor) -> Tensor:
        """Features of length s."""
        return self.scale * unit_vectors(features)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "scale": self.scale}
