"""What scores images: InceptionV3 with ImageNet weights, or any saved Keras classifier.

Scores by different classifiers do not compare, so every classifier has a name for the reports.
Published scores are by the InceptionV3 of 2015, with 1008 outputs; that of Keras Applications has
other weights and 1000, so its scores do not compare with them either.
"""

import hashlib
import os
import warnings
import zipfile
from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np
from keras import layers

# Registers the shortcuts of its ResNets, which a classifier may have been saved with.
import mhe.harness.models  # noqa: F401
from gan.scores.inception import TOLERANCE
from mhe.harness.errors import BadInput

# What `gan/train_classifier.py` leaves in its run's folder.
SAVED = "classifier.keras"

_INCEPTION_SIZE = 299
_INCEPTION_CLASSES = 1000


class Classifier:
    """A network that tells what is on images, with its class probabilities and its features.

    The features are what goes into the last layer with a kernel, averaged over places if they
    still have any. Outputs are probabilities if the model ends in a softmax, or in something
    unknown that gives distributions; a sigmoid is refused; everything else gives logits, and
    softmax is applied to them.

    Args:
        model: A functional or sequential model with one input and one output `(B, classes)`. It
            takes pixels from 0 to 255, `(B, *image_shape)`.
        name: What stands in reports; the beginning of the digest is added.
        digest: Hexadecimal digits that tell its weights from others.
        image_shape: `(H, W, C)` of the images to score.

    Attributes:
        name: Which classifier this is.
        digest: As given.
        image_shape: As given.
        classes: The number of classes.
        dims: The number of features.

    Raises:
        BadInput: If the model is no such classifier, or does not take such images.

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
        """Classifies images, a batch at a time.

        Args:
            images: uint8 `(N, *image_shape)`.
            batch_size: Images at once; it bounds the memory.

        Returns:
            Class probabilities float32 `(N, classes)` and features float32 `(N, dims)`.

        Raises:
            ValueError: If the images are others.
            BadInput: If what the classifier gives is neither logits nor probabilities.
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
            # One shape, which is compiled once.
            short = batch_size - len(batch)
            padded = np.pad(batch, ((0, short), (0, 0), (0, 0), (0, 0)))
            found = self._model.predict_on_batch(padded)
            part = slice(begin, begin + len(batch))
            features[part], outputs[part] = (each[: len(batch)] for each in found)
        return self._probabilities(outputs), features

    def _probabilities(self, outputs: np.ndarray) -> np.ndarray:
        if not np.isfinite(outputs).all():
            raise BadInput(f"The classifier {self.name} gives outputs that are NaN or infinite")
        apart = np.abs(outputs.sum(axis=1) - 1)
        if (outputs >= 0).all() and (apart <= TOLERANCE).all():
            return outputs
        if self._has_softmax:
            raise BadInput(
                f"The classifier {self.name} must end in its softmax, or before it. "
                f"Received: outputs after a softmax that sum to 1 ± {apart.max():g}"
            )
        powers = np.exp(outputs - outputs.max(axis=1, keepdims=True))
        return powers / powers.sum(axis=1, keepdims=True)


def load(
    inception_weights: str | os.PathLike | None = None,
    classifier: str | os.PathLike | None = None,
    image_shape: Sequence[int] = (32, 32, 3),
) -> Classifier:
    """Loads what is to score images.

    By default this is InceptionV3 of Keras Applications with its ImageNet weights, which are
    downloaded when they are first used. Images are brought to 299×299 pixels (bilinear) and to
    −1…1, and grey ones to three equal channels. Any other classifier takes images as they are,
    pixels from 0 to 255.

    Args:
        inception_weights: A file of weights for InceptionV3 as Keras Applications builds it, with
            its output layer of 1000 classes: `.h5` or `.weights.h5`.
        classifier: Instead of InceptionV3, a classifier that Keras has saved, `.keras`; or a
            complete run of `gan/train_classifier.py`.
        image_shape: `(H, W, C)` of the images to score.

    Returns:
        The classifier.

    Raises:
        BadInput: If both are given, a file cannot be used, the weights cannot be downloaded, or the
            classifier does not take such images.
    """
    if classifier is not None and inception_weights is not None:
        raise BadInput("--classifier and --inception_weights exclude each other")
    if classifier is not None:
        return _saved(Path(classifier), image_shape)
    return _inception(inception_weights, image_shape)


def _saved(path: Path, image_shape: Sequence[int]) -> Classifier:
    file = path / SAVED if path.is_dir() else path
    if not file.is_file() or file.suffix != ".keras":
        raise BadInput(
            "--classifier must be a .keras file, or the folder of a complete run of "
            f"gan/train_classifier.py, which holds {SAVED}. Received: {path}"
        )
    try:
        model = keras.saving.load_model(file, compile=False, safe_mode=True)
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
    # What Keras raises on a damaged file, or one of layers that it does not know.
    except (OSError, ValueError, TypeError, KeyError, zipfile.BadZipFile) as error:
        raise BadInput(f"--classifier {file} cannot be read: {_brief(error)}") from error
    return Classifier(model, path.resolve().name, digest, image_shape)


def _inception(weights: str | os.PathLike | None, image_shape: Sequence[int]) -> Classifier:
    height, width, channels = image_shape
    if channels not in (1, 3):
        raise BadInput(
            f"InceptionV3 must be given images of 1 or 3 channels. Received: {channels} channels"
        )
    if weights is not None and not Path(weights).is_file():
        raise BadInput(f"--inception_weights must be a file. Received: {weights}")
    if weights is None:
        try:
            network = keras.applications.InceptionV3(weights="imagenet")
        # Keras raises a bare `Exception` when a download fails.
        except Exception as error:
            raise BadInput(
                "InceptionV3's ImageNet weights cannot be downloaded: give a file of them by "
                "--inception_weights, or another classifier by --classifier, such as a run of "
                f"gan/train_classifier.py ({_brief(error)})"
            ) from error
    else:
        network = keras.applications.InceptionV3(weights=None)
        try:
            with warnings.catch_warnings():
                # Keras only warns where it leaves a layer as it was drawn.
                warnings.simplefilter("error", UserWarning)
                network.load_weights(weights)
        except (OSError, ValueError, TypeError, KeyError, AttributeError, UserWarning) as error:
            raise BadInput(
                f"--inception_weights must be weights of InceptionV3 with its {_INCEPTION_CLASSES} "
                f"classes. Received: {weights}: {_brief(error)}"
            ) from error
    digest = hashlib.sha256()
    for weight in network.get_weights():
        digest.update(np.ascontiguousarray(weight))
    inputs = hidden = layers.Input((height, width, channels))
    if channels == 1:
        hidden = layers.Concatenate()([hidden] * 3)
    hidden = layers.Resizing(
        _INCEPTION_SIZE, _INCEPTION_SIZE, interpolation="bilinear", data_format="channels_last"
    )(hidden)
    hidden = layers.Rescaling(1 / 127.5, offset=-1)(hidden)
    model = keras.Model(inputs, network(hidden))
    return Classifier(model, "InceptionV3", digest.hexdigest(), image_shape)


def _with_features(
    model: keras.Model, name: str, image_shape: tuple[int, ...]
) -> tuple[keras.Model, list[keras.Operation]]:
    """A model of the features `(B, dims)` and the outputs `(B, classes)`, and what it ends in."""
    if not _is_graph(model):
        raise BadInput(
            f"The classifier {name} must be a functional or sequential model, which is built"
        )
    shapes = [tensor.shape[1:] for tensor in model.inputs]
    fits = len(shapes) == 1 and len(shapes[0]) == 3
    if not fits or any(
        wanted not in (None, given) for wanted, given in zip(shapes[0], image_shape, strict=True)
    ):
        raise BadInput(
            f"The classifier {name} must take the images that are scored, of shape {image_shape}. "
            f"Received: a classifier of inputs of shape {', '.join(map(str, shapes))}"
        )
    outputs = [tensor.shape[1:] for tensor in model.outputs]
    if len(outputs) != 1 or len(outputs[0]) != 1 or (outputs[0][0] or 0) < 2:
        raise BadInput(
            f"The classifier {name} must give one number for each of two classes or more. "
            f"Received: a model of outputs of shape {', '.join(map(str, outputs))}"
        )
    split, ending = _split(model, name)
    images = layers.Input(image_shape)
    features, outputs = split(images)
    if len(features.shape) > 2:
        features = keras.ops.mean(features, axis=tuple(range(1, len(features.shape) - 1)))
    return keras.Model(images, [features, outputs]), ending


def _split(model: keras.Model, name: str) -> tuple[keras.Model, list[keras.Operation]]:
    """A model of what goes into the last layer with a kernel and of the outputs, and the chain of
    that layer and all after it.
    """
    tensor, after = model.outputs[0], []
    while True:
        layer, call, _ = tensor._keras_history
        given = layer._inbound_nodes[call].input_tensors
        if len(given) != 1:
            raise BadInput(
                f"The classifier {name} must end in one layer with a kernel, and what follows it "
                f"in a chain. Received: a model that ends otherwise, in {layer.name}"
            )
        if _is_graph(layer):
            inner, ending = _split(layer, name)
            features, tensor = inner(given[0])
            break
        # A norm or a scale that follows the kernel has vectors alone.
        if any(len(weight.shape) > 1 for weight in getattr(layer, "weights", [])):
            features, ending = given[0], [layer]
            break
        after.insert(0, layer)
        tensor = given[0]
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
            raise BadInput(
                f"The classifier {name} must give logits, or the probabilities of a softmax. "
                f"Received: the sigmoid of {layer.name}"
            )
    return False


def _is_graph(layer: keras.layers.Layer) -> bool:
    """Whether a layer is a model whose graph is known."""
    if not isinstance(layer, keras.Model) or not layer.built:
        return False
    try:
        return all(hasattr(tensor, "_keras_history") for tensor in layer.outputs)
    except AttributeError:
        return False


def _brief(error: Exception) -> str:
    """What Keras says, without its lists of hundreds of layers."""
    return str(error).strip()[:300]
