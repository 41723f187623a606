"""What the heads share: one vector per class, checks of labels, the softmax loss."""

from typing import Any

import keras
import numpy as np
from keras import ops

from mhe import checks
from mhe.labels import is_readable
from mhe.layers import unit_vectors
from mhe.layers.head import Head
from mhe.types import Tensor
from sphereface_plus.heads.logits import (
    add_angle,
    class_products,
    cosines_of,
    lengths,
    sine,
    softmax_loss_of,
    softmax_losses,
    true_class,
    turn,
    with_margin,
)

__all__ = [
    "MarginHead",
    "add_angle",
    "class_products",
    "cosines_of",
    "lengths",
    "sine",
    "softmax_loss_of",
    "softmax_losses",
    "true_class",
    "turn",
    "with_margin",
]


class MarginHead(Head):
    """Base class of layers from features to logits, with a margin on the true class given labels.

    Subclasses define `call(features, labels=None, training=None)`. The head owns one vector per
    class, the columns of `kernel`, of which only the directions matter. `head(features)` gives
    logits without a margin, `head(features, labels)` with it, and `head.loss(labels, logits)` the
    per-sample losses; `sphereface_plus.FaceModel` calls them all. Everything is computed in float32
    under `mixed_float16` and `mixed_bfloat16`, too.

    Args:
        classes: Number of classes, at least 2.
        kernel_initializer: Initializer of the class vectors. By default their length is about 1
            for any number of classes: how far a gradient step turns them depends on it.
        kernel_regularizer: A Keras regularizer of the kernel, such as `mhe.MHE()`.
        **kwargs: Keras's own: `name`, `dtype`, `trainable`.

    Raises:
        ValueError: If `classes` is not an integer of at least 2.
    """

    def __init__(
        self,
        classes: int,
        kernel_initializer: Any = "lecun_normal",
        kernel_regularizer: Any = None,
        **kwargs: Any,
    ) -> None:
        checks.check_count("classes", classes, 2)
        super().__init__(dims=None, units=int(classes), **kwargs)
        self.classes = int(classes)
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.kernel_regularizer = keras.regularizers.get(kernel_regularizer)
        self.input_spec = keras.layers.InputSpec(ndim=2)

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        dims = input_shape[-1]
        if dims is None:
            raise ValueError(
                "The features must be (B, dims) with known dims. "
                f"Received: shape {tuple(input_shape)}"
            )
        self.kernel = self.add_weight(
            name="kernel",
            shape=(dims, self.classes),
            dtype=self.output_dtype,
            initializer=self.kernel_initializer,
            regularizer=self.kernel_regularizer,
            autocast=False,
        )
        self.input_spec = keras.layers.InputSpec(ndim=2, axes={-1: dims})

    def __call__(
        self,
        features: Tensor,
        labels: Tensor | None = None,
        training: bool | None = None,
        **kwargs: Any,
    ) -> Tensor:
        # Keras turns arrays into tensors, which cannot be read while a step is traced.
        if is_readable(labels):
            checks.check_labels(labels, self.classes)
            labels = np.asarray(labels)
        return super().__call__(features, labels=labels, training=training, **kwargs)

    def cosines(self, features: Tensor) -> Tensor:
        """Cosines `(B, classes)` of features `(B, dims)` with the class vectors."""
        return class_products(unit_vectors(ops.cast(features, self.output_dtype)), self.kernel)

    def loss(self, labels: Tensor, logits: Tensor) -> Tensor:
        """Labels `(B,)` and logits `(B, classes)` → per-sample losses `(B,)`."""
        return softmax_losses(labels, logits)

    def compute_output_spec(
        self, features: Tensor, labels: Tensor | None = None, training: bool | None = None
    ) -> keras.KerasTensor:
        return super().compute_output_spec(features)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "classes": self.classes,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "kernel_regularizer": keras.regularizers.serialize(self.kernel_regularizer),
        }
