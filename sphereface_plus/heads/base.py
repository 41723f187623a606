"""What the heads share: one vector per class, checks of labels, the softmax loss."""

from typing import Any

import keras
import numpy as np
from keras import ops

import mhe
from mhe import checks
from mhe.labels import is_readable
from mhe.layers import unit_vectors
from mhe.layers.head import Head
from mhe.types import Tensor
from sphereface_plus.heads.energies import (
    check_energy,
    class_energies,
    with_energy,
    without_energy,
)
from sphereface_plus.heads.logits import (
    add_angle,
    class_losses,
    cosines_of,
    lengths,
    sine,
    softmax_loss_of,
    softmax_losses,
    true_class,
    turn,
    with_margin,
    with_scaled_margin,
)
from sphereface_plus.heads.products import class_products

__all__ = [
    "MarginHead",
    "add_angle",
    "class_losses",
    "class_products",
    "cosines_of",
    "lengths",
    "sine",
    "softmax_loss_of",
    "softmax_losses",
    "true_class",
    "turn",
    "with_margin",
    "with_scaled_margin",
]

_MOST_SUBCENTERS = 100


class MarginHead(Head):
    """Base class of layers from features to logits, with a margin on the true class given labels.

    Subclasses define `call(features, labels=None, training=None)`. The head owns one vector per
    class, the columns of `kernel`, of which only the directions matter. `head(features)` gives
    logits without a margin, `head(features, labels)` with it, and `head.loss(labels, logits)` the
    per-sample losses; `sphereface_plus.FaceModel` calls them all. Everything is computed in float32
    under `mixed_float16` and `mixed_bfloat16`, too.

    With `energy`, any head becomes its "+" version, whose class vectors keep apart. Either it is
    the energy of all class vectors, exact or sampled with `mhe.MHE(sample=k)`: then it is a
    regularizer of the kernel and appears in `losses`. Or it is that of each sample's true class
    among all classes, as published for SphereFace+: then it is part of the per-sample losses
    `head.loss(labels, logits)`; see `class_energies`.

    With `subcenters=K` a class has K vectors, the columns K·c to K·c + K - 1 of the kernel for
    class c, and the cosine with a class is the largest of theirs: images of a person that differ
    much, and wrong labels, find sub-centers of their own. Each sub-center is a neuron of the
    energy, which therefore also keeps those of one class from becoming equal.

    Args:
        classes: Number of classes, at least 2.
        kernel_initializer: Initializer of the class vectors. By default their length is about 1
            for any number of classes: how far a gradient step turns them depends on it.
        kernel_regularizer: A Keras regularizer of the kernel besides the energy.
        energy: A `mhe.MHE` with its strength, or None.
        energy_over: `"all"` for all class vectors, `"batch"` for those of the batch among all.
        subcenters: K, vectors per class, from 1 to 100.
        **kwargs: Keras's own: `name`, `dtype`, `trainable`.

    Raises:
        ValueError: If `classes` is not an integer of at least 2, the energy's neurons are not the
            columns of the kernel, `energy_over="batch"` is combined with an energy that samples or
            with sub-centers, or `subcenters` is out of range.

    Reference:
        Liu et al., Learning towards Minimum Hyperspherical Energy, NeurIPS 2018
        ([arXiv:1805.09298](https://arxiv.org/abs/1805.09298)), section 5.2, for the energy; Deng et
        al., Sub-center ArcFace: boosting face recognition by large-scale noisy web faces, ECCV
        2020, for sub-centers.
    """

    def __init__(
        self,
        classes: int,
        kernel_initializer: Any = "lecun_normal",
        kernel_regularizer: Any = None,
        energy: mhe.MHE | None = None,
        energy_over: str = "all",
        subcenters: int = 1,
        **kwargs: Any,
    ) -> None:
        checks.check_count("classes", classes, 2)
        checks.check_count("subcenters", subcenters, 1, _MOST_SUBCENTERS)
        check_energy(energy, energy_over, subcenters)
        super().__init__(dims=None, units=int(classes), **kwargs)
        self.classes = int(classes)
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.kernel_regularizer = keras.regularizers.get(kernel_regularizer)
        if energy_over == "all":
            self.kernel_regularizer = with_energy(self.kernel_regularizer, energy)
        self.energy = energy
        self.energy_over = energy_over
        self.subcenters = int(subcenters)
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
            shape=(dims, self.classes * self.subcenters),
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

    def products(self, vectors: Tensor, kernel: Tensor) -> Tensor:
        """Inner products of vectors with unit class vectors, the largest of each class.

        Args:
            vectors: Tensor `(B, dims)` of at least float32.
            kernel: Class vectors `(dims, n·subcenters)`: the kernel, or some classes of it.

        Returns:
            A tensor `(B, n)`.
        """
        products = class_products(vectors, kernel)
        if self.subcenters == 1:
            return products
        batch, columns = ops.shape(products)
        shape = (batch, columns // self.subcenters, self.subcenters)
        return ops.max(ops.reshape(products, shape), axis=-1)

    def cosines(self, features: Tensor) -> Tensor:
        """Cosines `(B, classes)` of features `(B, dims)` with the class vectors."""
        return self.products(unit_vectors(ops.cast(features, self.output_dtype)), self.kernel)

    def loss_of(self, index: Tensor, logits: Tensor) -> Tensor:
        """Losses `(B,)` of labels known to be classes, int32 `(B,)`: the softmax's, or another."""
        return softmax_loss_of(index, logits)

    def loss(self, labels: Tensor, logits: Tensor) -> Tensor:
        """Labels `(B,)` and logits `(B, classes)` → per-sample losses `(B,)`."""
        energy = self.energy
        if energy is None or self.energy_over == "all":
            return class_losses(labels, logits, self.loss_of)

        def with_energies(index: Tensor, logits: Tensor) -> Tensor:
            energies = class_energies(index, self.kernel, energy.s, energy.distance, energy.space)
            return self.loss_of(index, logits) + energy.strength * energies

        return class_losses(labels, logits, with_energies)

    def training_losses(self, features: Tensor, labels: Tensor) -> Tensor:
        """Features `(B, dims)` and labels `(B,)` of a training step → per-sample losses `(B,)`.

        They are those of `loss` for the logits of `head(features, labels, training=True)`. Where a
        head has a faster way to both at once, this is it; `mhe.HeadModel` takes it.
        """
        return self.loss(labels, self(features, labels=labels, training=True))

    def compute_output_spec(
        self, features: Tensor, labels: Tensor | None = None, training: bool | None = None
    ) -> keras.KerasTensor:
        return super().compute_output_spec(features)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "classes": self.classes,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "kernel_regularizer": keras.regularizers.serialize(
                without_energy(self.kernel_regularizer, self.energy)
            ),
            "energy": self.energy and keras.saving.serialize_keras_object(self.energy),
            "energy_over": self.energy_over,
            "subcenters": self.subcenters,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Any:
        energy = config.get("energy")
        return cls(**{**config, "energy": energy and keras.saving.deserialize_keras_object(energy)})
