"""The classifier that the flags name: InceptionV3 with ImageNet weights, or any saved classifier.

Published scores are by the InceptionV3 of 2015 with 1008 outputs. That of Keras Applications has
other weights and 1000 outputs, so its scores are not comparable with published ones.
"""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np
from keras import layers

# Registers the shortcuts of its ResNets, which a saved classifier may have.
import mhe.harness.models  # noqa: F401
from gan.classifiers import Classifier
from mhe.harness.errors import BadInput, as_bad_input
from mhe.harness.saved import QUOTED, load_model, load_weights
from mhe.text import brief

# The file in the folder of a run of `gan/train_classifier.py`.
SAVED = "classifier.keras"

_INCEPTION_SIZE = 299
_INCEPTION_CLASSES = 1000


def load(
    inception_weights: str | os.PathLike | None = None,
    classifier: str | os.PathLike | None = None,
    image_shape: Sequence[int] = (32, 32, 3),
) -> Classifier:
    """Loads the classifier that scores images.

    The default is InceptionV3 of Keras Applications with ImageNet weights, which are downloaded on
    first use. Images are resized to 299×299 pixels (bilinear) and scaled to −1…1, and gray ones
    repeated to three channels. Any other classifier gets images unchanged, pixels from 0 to 255.

    Args:
        inception_weights: A file of weights for InceptionV3 of Keras Applications, with its output
            layer of 1000 classes: `.h5` or `.weights.h5`.
        classifier: Instead of InceptionV3, a saved Keras classifier, `.keras`; or a complete run of
            `gan/train_classifier.py`.
        image_shape: `(H, W, C)` of the images to score.

    Returns:
        The classifier.

    Raises:
        BadInput: If both are passed, a file cannot be used, the weights cannot be downloaded, or
            the classifier does not take such images.
    """
    if classifier is not None and inception_weights is not None:
        raise BadInput("--classifier and --inception_weights exclude each other")
    if classifier is not None:
        model, name, digest = _saved(Path(classifier))
    else:
        model, name, digest = _inception(inception_weights, image_shape)
    with as_bad_input():
        return Classifier(model, name, digest, image_shape)


def _saved(path: Path) -> tuple[keras.Model, str, str]:
    file = path / SAVED if path.is_dir() else path
    if not file.is_file() or file.suffix != ".keras":
        raise BadInput(
            "--classifier must be a .keras file, or the folder of a complete run of "
            f"gan/train_classifier.py, which holds {SAVED}. Received: {path}"
        )
    with as_bad_input("--classifier"):
        model = load_model(file)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    return model, path.resolve().name, digest


def _inception(
    weights: str | os.PathLike | None, image_shape: Sequence[int]
) -> tuple[keras.Model, str, str]:
    height, width, channels = image_shape
    if channels not in (1, 3):
        raise BadInput(
            f"InceptionV3 needs images of 1 or 3 channels. Received: {channels} channels"
        )
    if weights is not None and not Path(weights).is_file():
        raise BadInput(f"--inception_weights must be a file. Received: {weights}")
    network = _inception_network(weights)
    digest = hashlib.sha256()
    for weight in network.get_weights():
        digest.update(np.ascontiguousarray(weight).data)
    inputs = hidden = layers.Input((height, width, channels))
    if channels == 1:
        hidden = layers.Concatenate()([hidden] * 3)
    hidden = layers.Resizing(
        _INCEPTION_SIZE, _INCEPTION_SIZE, interpolation="bilinear", data_format="channels_last"
    )(hidden)
    hidden = layers.Rescaling(1 / 127.5, offset=-1)(hidden)
    return keras.Model(inputs, network(hidden)), "InceptionV3", digest.hexdigest()


def _inception_network(weights: str | os.PathLike | None) -> keras.Model:
    if weights is None:
        try:
            return keras.applications.InceptionV3(weights="imagenet")
        # Keras raises a bare `Exception` when a download fails.
        except Exception as error:
            raise BadInput(
                "InceptionV3's ImageNet weights cannot be downloaded: pass a file of them with "
                "--inception_weights, or another classifier with --classifier, such as a run of "
                f"gan/train_classifier.py ({brief(error, QUOTED)})"
            ) from error
    network = keras.applications.InceptionV3(weights=None)
    with as_bad_input(
        f"--inception_weights must be weights of InceptionV3 with its {_INCEPTION_CLASSES} classes"
    ):
        load_weights(network, weights)
    return network
