"""A backbone and a head as one model, whose head sees the labels in training."""

import inspect
from collections.abc import Callable
from typing import Any

import keras

from mhe import keras_internals
from mhe.types import Tensor


@keras.saving.register_keras_serializable(package="mhe")
class HeadModel(keras.Model):
    """A backbone and a head over its output, fit on images and labels.

    Some heads need the labels in training: class means are updated by class, margins apply to the
    true class. Labels are never model inputs here, so the model is the same in training and in use:
    `fit`, `evaluate` and `predict` take the arguments that every model takes, and `model(images)`
    returns logits. In training a head that needs labels is called once more, with them, for the
    loss; metrics see its logits without labels, as in use.

    Args:
        backbone: A model or layer from inputs to features, one tensor.
        head: A layer from features to logits. If its `call` has an argument `labels`, it is called
            as `head(features, labels=labels, training=True)` for the loss of a training step. If
            it has a method `loss(labels, logits)` that returns a loss per sample, that is the
            default loss of `compile`. If it also has a method `training_losses(features, labels)`
            that returns these losses for a training step, that is called in place of both.
        **kwargs: `name`, `dtype` and `trainable`, as for every Keras model.

    Raises:
        ValueError: If an argument is not a layer, or the backbone's output is not one tensor that
            fits the head.

    Example:

    >>> import keras, mhe
    >>> import numpy as np
    >>> backbone = keras.Sequential([keras.Input((4,)), keras.layers.Dense(8)])
    >>> model = mhe.HeadModel(backbone, mhe.layers.NearestClassMean(3, 8))
    >>> loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    >>> model.compile("sgd", loss, metrics=["accuracy"])
    >>> images, labels = np.ones((6, 4), "float32"), np.array([0, 1, 2, 0, 1, 2])
    >>> _ = model.fit(images, labels, verbose=0)
    >>> int(keras.ops.sum(model.head.counts)), tuple(model(images).shape)
    (6, (6, 3))
    """

    def __init__(self, backbone: Any, head: Any, **kwargs: Any) -> None:
        for name, each in (("backbone", backbone), ("head", head)):
            if not isinstance(each, keras.layers.Layer):
                raise ValueError(f"`{name}` must be a Keras layer or model. Received: {each!r}")
        _check_fit(backbone, head)
        super().__init__(**kwargs)
        self.backbone = backbone
        self.head = head
        self._in_train_step = False
        self._sees_labels = "labels" in inspect.signature(head.call).parameters
        self._head_loss = _HeadLoss(head) if callable(getattr(head, "loss", None)) else None

        if backbone.built and _is_shape(getattr(backbone, "output_shape", None)):
            # So that weights can be loaded, counted and attached to before the first fit.
            self.build(backbone.input_shape)
            keras_internals.unlock(self)  # a subclass may add more layers

    def build(self, input_shape: Any) -> None:
        """Builds the backbone, then the head on its output."""
        if not self.backbone.built:
            self.backbone.build(input_shape)
        if not self.head.built:
            self.head.build(self.backbone.compute_output_shape(input_shape))

    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor | tuple[Tensor, ...]:
        """Inputs → logits, or features and logits in training.

        A training step of `fit` leaves out the logits if only the loss would need them, which has
        its own, with labels: over very many classes they are much of its work.
        """
        features = self.backbone(inputs, training=training)
        if training and self._in_train_step and not self._needs_plain_logits():
            return (features,)
        # Explicit, as JAX's training step bypasses what would propagate it. A head that sees
        # labels trains when it is called with them: its batch norms must not move twice.
        logits = self.head(features, training=training and not self._sees_labels)
        return (features, logits) if training else logits

    def train_step(self, *args: Any, **kwargs: Any) -> Any:
        """One step of `fit`, as of every Keras model."""
        with keras_internals.replaced_attribute(self, "_in_train_step", True):
            return super().train_step(*args, **kwargs)

    def _needs_plain_logits(self) -> bool:
        """Whether a training step needs the logits without labels: for metrics, or its loss."""
        kind = type(self)
        overridden = any(
            getattr(kind, name) is not getattr(HeadModel, name)
            for name in ("compute_loss", "compute_metrics")
        )
        return (
            overridden
            or not self._sees_labels
            or keras_internals.has_compiled_loss(self)
            or keras_internals.has_compiled_metrics(self)
        )

    def _training_losses(self) -> Callable[[Tensor, Tensor], Tensor] | None:
        """The head's way from features and labels to losses, if its own loss is the model's."""
        if keras_internals.has_compiled_loss(self) or not self._sees_labels:
            return None
        return getattr(self.head, "training_losses", None)

    def export(self, *args: Any, **kwargs: Any) -> None:
        """Exports the program from inputs to logits, as `keras.Model.export` does."""
        keras_internals.call_on_zeros(self)
        super().export(*args, **kwargs)

    def compute_loss(
        self,
        x: Tensor = None,
        y: Tensor = None,
        y_pred: Tensor = None,
        sample_weight: Tensor = None,
        training: bool = True,
    ) -> Tensor:
        """The total loss of a batch; in training, with the head's logits given the labels."""
        added: list[Tensor] = []
        losses = None
        if training:
            features, *logits = y_pred
            if logits:
                (y_pred,) = logits
            at_once = self._training_losses()
            if at_once is not None:
                losses, added = keras_internals.call_in_compute_loss(at_once, features, y)
            elif self._sees_labels:
                outputs = y_pred.shape[-1] if logits else None
                y_pred, added = keras_internals.call_in_compute_loss(
                    self.head, features, labels=y, training=True
                )
                if keras_internals.has_compiled_loss(self) and y_pred.shape[-1] != outputs:
                    raise ValueError(
                        "The head samples classes in training, which only its own loss "
                        "understands: compile without a loss. "
                        f"Received: {y_pred.shape[-1]} of {outputs} outputs"
                    )
        if keras_internals.has_compiled_loss(self) or self._head_loss is None:
            return sum(added, super().compute_loss(x, y, y_pred, sample_weight, training))
        if losses is None:
            losses = self._head_loss(y, y_pred, sample_weight)
        else:
            losses = _GivenLosses()(y, losses, sample_weight)
        loss = sum(added, losses)
        # Keras assigns each of TensorFlow's replicas its share of the regularizers.
        return loss + super().compute_loss(x, y, y_pred, training=training) if self.losses else loss

    def compute_metrics(
        self, x: Tensor, y: Tensor, y_pred: Tensor, sample_weight: Tensor = None
    ) -> dict[str, Any]:
        """The results of the metrics on the logits without labels."""
        logits = y_pred[-1] if isinstance(y_pred, tuple) else y_pred
        return super().compute_metrics(x, y, logits, sample_weight)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "backbone": keras.saving.serialize_keras_object(self.backbone),
            "head": keras.saving.serialize_keras_object(self.head),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> "HeadModel":
        parts = {
            name: keras.saving.deserialize_keras_object(config[name], custom_objects)
            for name in ("backbone", "head")
        }
        return cls(**{**config, **parts})


class _HeadLoss(keras.losses.Loss):
    """A head's own loss, with Keras's reduction and sample weights."""

    def __init__(self, head: Any) -> None:
        super().__init__(name="head_loss", dtype="float32")
        self.head = head

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        return self.head.loss(y_true, y_pred)


class _GivenLosses(keras.losses.Loss):
    """Keras's reduction and sample weights for losses that are known already."""

    def __init__(self) -> None:
        super().__init__(name="head_loss", dtype="float32")

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        return y_pred


def _is_shape(shape: Any) -> bool:
    """Whether this is the shape of one tensor."""
    return isinstance(shape, tuple) and not isinstance(shape[0], tuple)


def _check_fit(backbone: Any, head: Any) -> None:
    """Raises a `ValueError` if the backbone's known output shape does not fit the head.

    Otherwise Keras raises when the model is first called.
    """
    shape = getattr(backbone, "output_shape", None)
    if shape is None:
        return
    if not _is_shape(shape):
        raise ValueError(f"The backbone must have one output. Received: outputs {shape}")
    for axis, size in getattr(head.input_spec, "axes", {}).items():
        if shape[axis] not in (size, None):
            raise ValueError(
                f"The head takes features with {size} numbers along axis {axis}. "
                f"Received: a backbone with outputs {shape}"
            )
