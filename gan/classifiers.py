"""Classifiers that score images: class probabilities and features of any Keras model."""

from collections.abc import Sequence

import keras
import numpy as np
from keras import layers

from gan.scores.inception import TOLERANCE
from mhe import keras_internals


class Classifier:
    """A network that returns class probabilities and features of images.

    The features are the inputs of the last layer with a kernel, averaged over positions if they
    have any. The outputs are used as probabilities if the model ends in a softmax, or in an unknown
    operation that returns distributions; a sigmoid is refused; otherwise the outputs are logits, to
    which a softmax is applied.

    Scores by different classifiers are not comparable, so every classifier has a name for reports.

    Args:
        model: A functional or sequential model with one input and one output `(B, classes)`. It
            takes pixels from 0 to 255, `(B, *image_shape)`.
        name: Its name in reports, to which the start of the digest is added.
        digest: Hexadecimal digest of its weights.
        image_shape: `(H, W, C)` of the images to score.

    Attributes:
        name: The name with the start of the digest.
        digest: As passed.
        image_shape: As passed.
        classes: The number of classes.
        dims: The number of features.

    Raises:
        ValueError: If the model is not such a classifier, or does not take such images.

    Example:

    >>> inputs = keras.Input((8, 8, 1))
    >>> logits = keras.layers.Dense(10)(keras.layers.Flatten()(inputs))
    >>> classifier = Classifier(keras.Model(inputs, logits), "linear", "0" * 64, (8, 8, 1))
    >>> probabilities, features = classifier.score(np.zeros((3, 8, 8, 1), "uint8"))
    >>> classifier.name, probabilities.shape, features.shape
    ('linear (00000000)', (3, 10), (3, 64))
    """

    def __init__(self, model: keras.Model, name: str, digest: str, image_shape: Sequence[int]):
        self.name = f"{name} ({digest[:8]})"
        self.digest = digest
        self.image_shape = tuple(image_shape)
        self._model, ending = _with_features(model, name, self.image_shape)
        self._has_softmax = _has_softmax(ending, name)
        self.dims, self.classes = (output.shape[-1] for output in self._model.outputs)

    def score(self, images: np.ndarray, batch_size: int = 100) -> tuple[np.ndarray, np.ndarray]:
        """Classifies images, one batch at a time.

        Args:
            images: uint8 `(N, *image_shape)`.
            batch_size: Number of images per batch, which bounds the memory.

        Returns:
            Class probabilities float32 `(N, classes)` and features float32 `(N, dims)`.

        Raises:
            ValueError: If the images have another shape or dtype, or the outputs of the classifier
                are neither logits nor probabilities.
        """
        if images.dtype != np.uint8 or images.shape[1:] != self.image_shape or len(images) == 0:
            raise ValueError(
                f"`images` must be a uint8 array (N, {', '.join(map(str, self.image_shape))}). "
                f"Received: shape {images.shape}, dtype {images.dtype}"
            )
        features = np.empty((len(images), self.dims), np.float32)
        outputs = np.empty((len(images), self.classes), np.float32)
        for begin in range(0, len(images), batch_size):
            batch = images[begin : begin + batch_size].astype(np.float32)
            # With a single shape, the model is compiled once.
            short = batch_size - len(batch)
            padded = np.pad(batch, ((0, short), (0, 0), (0, 0), (0, 0)))
            predictions = self._model.predict_on_batch(padded)
            part = slice(begin, begin + len(batch))
            features[part], outputs[part] = (each[: len(batch)] for each in predictions)
        return self._probabilities(outputs), features

    def _probabilities(self, outputs: np.ndarray) -> np.ndarray:
        if not np.isfinite(outputs).all():
            raise ValueError(f"The classifier {self.name} gives outputs that are NaN or infinite")
        errors = np.abs(outputs.sum(axis=1) - 1)
        if (outputs >= 0).all() and (errors <= TOLERANCE).all():
            return outputs
        if self._has_softmax:
            raise ValueError(
                f"The classifier {self.name} must end in a softmax, or in logits. "
                f"Received: outputs after a softmax that sum to 1 ± {errors.max():g}"
            )
        powers = np.exp(outputs - outputs.max(axis=1, keepdims=True))
        return powers / powers.sum(axis=1, keepdims=True)


def _with_features(
    model: keras.Model, name: str, image_shape: tuple[int, ...]
) -> tuple[keras.Model, list[keras.Operation]]:
    """A model of the features `(B, dims)` and the outputs `(B, classes)`, and its last layers."""
    if not _is_graph(model):
        raise ValueError(f"The classifier {name} must be a built functional or sequential model")
    shapes = [tensor.shape[1:] for tensor in model.inputs]
    fits = len(shapes) == 1 and len(shapes[0]) == 3
    if not fits or any(
        wanted not in (None, given) for wanted, given in zip(shapes[0], image_shape, strict=True)
    ):
        raise ValueError(
            f"The classifier {name} must take the images to score, of shape {image_shape}. "
            f"Received: a classifier of inputs of shape {', '.join(map(str, shapes))}"
        )
    outputs = [tensor.shape[1:] for tensor in model.outputs]
    if len(outputs) != 1 or len(outputs[0]) != 1 or (outputs[0][0] or 0) < 2:
        raise ValueError(
            f"The classifier {name} must return one number for each of at least two classes. "
            f"Received: a model of outputs of shape {', '.join(map(str, outputs))}"
        )
    split, ending = _split(model, name)
    images = layers.Input(image_shape)
    features, outputs = split(images)
    if len(features.shape) > 2:
        features = keras.ops.mean(features, axis=tuple(range(1, len(features.shape) - 1)))
    return keras.Model(images, [features, outputs]), ending


def _split(model: keras.Model, name: str) -> tuple[keras.Model, list[keras.Operation]]:
    """A model of the inputs of the last layer with a kernel and of the outputs, and the chain from
    that layer to the end.
    """
    tensor = model.outputs[0]
    after: list[keras.Operation] = []
    while True:
        layer, node, _ = keras_internals.origin(tensor)
        inputs = [] if node is None else node.input_tensors
        if layer is None or len(inputs) != 1:
            raise ValueError(
                f"The classifier {name} must end in one layer with a kernel and a chain of others "
                f"after it. Received: a model that ends in {layer and layer.name}"
            )
        if _is_graph(layer):
            inner, ending = _split(layer, name)
            features, tensor = inner(inputs[0])
            break
        # A norm or a scale after the kernel has only vectors.
        if any(len(weight.shape) > 1 for weight in getattr(layer, "weights", [])):
            features, ending = inputs[0], [layer]
            break
        after.insert(0, layer)
        tensor = inputs[0]
    for layer in after:
        tensor = layer(tensor)
    return keras.Model(model.inputs, [features, tensor]), [*ending, *after]


def _has_softmax(ending: list[keras.Operation], name: str) -> bool:
    """Whether the last nonlinearity is known to be a softmax."""
    for layer in reversed(ending):
        activation = getattr(layer, "activation", None)
        # The layers and the operations of `keras.ops` have the same names.
        kind = type(layer).__name__ if activation is None else activation.__name__
        if kind.lower() == "softmax":
            return True
        if kind.lower() == "sigmoid":
            raise ValueError(
                f"The classifier {name} must return logits, or the probabilities of a softmax. "
                f"Received: the sigmoid of {layer.name}"
            )
    return False


def _is_graph(layer: keras.Operation) -> bool:
    """Whether a layer is a built model with a known graph."""
    return keras_internals.graph(layer) is not None and layer.built
