"""One way to load what Keras saved: models, of which nothing is executed, and weights."""

import json
import os
import warnings
import zipfile

import keras

from mhe.harness.errors import BadInput
from mhe.reading import read_member, regular_size
from mhe.text import brief

# Characters of an error of Keras, which may list hundreds of layers.
QUOTED = 300


def load_model(path: str | os.PathLike) -> keras.Model:
    """Loads a model, not compiled, for inference.

    Args:
        path: A .keras file.

    Raises:
        BadInput: If it cannot be read, is damaged, or has layers that are no known layers.

    Example:

    >>> import pathlib, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp(), "model.keras")
    >>> keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]).save(path)
    >>> load_model(path).count_params()
    3
    >>> load_model("model.txt")
    Traceback (most recent call last):
        ...
    mhe.harness.errors.BadInput: model.txt cannot be read as a model that Keras saved: [Errno 2] No
    such file or directory: 'model.txt'
    """
    try:
        regular_size(path)
        with zipfile.ZipFile(path) as archive:
            # Keras reads the weights piece by piece, and checks no sums.
            damaged = archive.testzip()
            if damaged is not None:
                raise ValueError(f"its {damaged} is damaged")
            json.loads(read_member(archive, "config.json"))
        model = keras.saving.load_model(path, compile=False, safe_mode=True)
        if not isinstance(model, keras.Model):
            raise ValueError(f"it is a {type(model).__name__}")
    # What is wrong with a file may surface anywhere in Keras, in layers or in HDF5.
    except Exception as error:
        raise BadInput(
            f"{path} cannot be read as a model that Keras saved: {brief(error, QUOTED)}"
        ) from error
    return model


def load_weights(model: keras.Model, path: str | os.PathLike) -> None:
    """Loads the weights of a model, all of them.

    Args:
        model: The model, built, and compiled if its optimizer was saved.
        path: A file of its weights.

    Raises:
        BadInput: If it cannot be read, is damaged, or belongs to another model.

    Example:

    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    >>> load_weights(model, "model.weights.h5")
    Traceback (most recent call last):
        ...
    mhe.harness.errors.BadInput: model.weights.h5 must hold the weights of this model. Received:
    [Errno 2] No such file or directory: 'model.weights.h5'
    """
    try:
        regular_size(path)
        with warnings.catch_warnings():
            # Keras only warns if it leaves something as it was.
            warnings.simplefilter("error", UserWarning)
            model.load_weights(path)
    # See `load_model`.
    except Exception as error:
        raise BadInput(
            f"{path} must hold the weights of this model. Received: {brief(error, QUOTED)}"
        ) from error
