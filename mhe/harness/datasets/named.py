"""Image datasets by their name in TensorFlow Datasets."""

import os
import re
import socket
import sys
from contextlib import suppress
from typing import Any

import keras
import numpy as np

from mhe.harness.datasets.dataset import Dataset, Split
from mhe.harness.datasets.images import fit, loading_images, pillow
from mhe.harness.errors import BadInput

# A name, a configuration and a version, as TensorFlow Datasets has them.
_NAME = re.compile(
    r"[a-z]\w{0,254}(/[\w.+-]+)?(:(\d+|\*)(\.(\d+|\*)){2})?", re.ASCII | re.IGNORECASE
)


def load_named(name: str, data_dir: str | os.PathLike | None, size: int | None) -> Dataset:
    """Loads a dataset by its name in TensorFlow Datasets.

    Args:
        name: The name.
        data_dir: See `mhe.harness.datasets.load`.
        size: See `mhe.harness.datasets.load`.

    Raises:
        BadInput: If there is no such dataset or it cannot be used.

    Example:

    >>> load_named("no such name", None, None)
    Traceback (most recent call last):
        ...
    mhe.harness.errors.BadInput: no such name is neither a folder, nor a .zip file, nor the name of
    a dataset that TensorFlow Datasets knows. Received: no such name
    """
    unknown = (
        f"{name} is neither a folder, nor a .zip file, nor the name of a dataset that TensorFlow "
        f"Datasets knows. Received: {name}"
    )
    if not _NAME.fullmatch(name):
        raise BadInput(unknown)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        # It imports TensorFlow, which writes to stderr, only once the name is found.
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise BadInput(
            f"{name} is neither a folder nor a .zip file; to load it by name, install TensorFlow "
            f'Datasets: pip install ".[train]" from the checkout ({error})'
        ) from error
    if not sys.stderr.isatty():
        tfds.disable_progress_bar()

    try:
        builder = tfds.builder(name, data_dir=data_dir)
        import tensorflow as tf
    except tfds.core.DatasetNotFoundError as error:
        raise BadInput(unknown) from error
    except (ImportError, OSError, ValueError, AssertionError) as error:
        raise BadInput(f"The dataset {name} cannot be loaded: {_first_line(error)}") from error
    if keras.backend.backend() != "tensorflow":
        # TensorFlow only reads files here; on a GPU it would take the memory that the backend
        # needs. It refuses if it is using the GPU already, and then it is too late anyway.
        with suppress(RuntimeError):
            tf.config.set_visible_devices([], "GPU")
    keys = builder.info.supervised_keys
    features = builder.info.features
    if (
        not keys
        or len(keys) != 2
        or not isinstance(features[keys[0]], tfds.features.Image)
        or not isinstance(features[keys[1]], tfds.features.ClassLabel)
    ):
        raise BadInput(f"The dataset {name} does not consist of images with class labels")
    shape, dtype = features[keys[0]].shape, features[keys[0]].np_dtype
    if (None in shape and size is None) or shape[-1] is None or dtype != np.uint8:
        raise BadInput(
            f"The images of {name} must have 8 bits per channel and one size, or be brought to one "
            f"size by --image_size. Received: shape {shape}, {np.dtype(dtype).name}"
        )
    if not builder.is_prepared():
        _prepare(builder, name)

    held_out = "test" if "test" in builder.info.splits else "validation"
    for split in ("train", held_out):
        if split not in builder.info.splits:
            raise BadInput(
                f"The dataset {name} must have the splits train and test (or validation). "
                f"Received: {', '.join(builder.info.splits) or 'none'}"
            )

    def read(split: str) -> Split:
        side = shape[:2] if size is None else (size, size)
        with loading_images(name, (builder.info.splits[split].num_examples, *side, shape[-1])):
            return read_images(split)

    def read_images(split: str) -> Split:
        if size is None:
            whole = builder.as_dataset(split=split, batch_size=-1, as_supervised=True)
            images, labels = tfds.as_numpy(whole)
            return images, labels.astype(np.int64)
        Image = pillow()
        count = builder.info.splits[split].num_examples
        images = np.empty((count, size, size, shape[-1]), np.uint8)
        labels = np.empty(count, np.int64)
        examples = builder.as_dataset(split=split, as_supervised=True)
        for index, (pixels, label) in enumerate(tfds.as_numpy(examples)):
            image = Image.fromarray(pixels[..., 0] if shape[-1] == 1 else pixels)
            images[index] = np.asarray(fit(image, size)).reshape(size, size, -1)
            labels[index] = label
        return images, labels

    return Dataset(name, read("train"), read(held_out), tuple(features[keys[1]].names))


def _prepare(builder: Any, name: str) -> None:
    """Downloads and prepares a dataset; raises a one-line error if that fails."""
    # It loads HTTP, TLS and e-mail, which no program should wait for to show its flags.
    import urllib.parse
    import urllib.request

    where = f"{name} is not prepared in {builder.data_path.parent.parent} and cannot be downloaded"
    # TensorFlow Datasets retries for minutes before it gives up; a failed name lookup tells at
    # once. Behind a proxy, names need not resolve here.
    if not urllib.request.getproxies():
        for url in builder.url_infos:
            host = urllib.parse.urlparse(url).hostname
            try:
                socket.getaddrinfo(host, None)
            except OSError as error:
                raise BadInput(f"{where}: no network, {host} was not found") from error
    # A third party's script can fail in any way: no connection, a file that moved, a full disk, a
    # missing package.
    try:
        builder.download_and_prepare()
    except Exception as error:
        raise BadInput(f"{where}: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:300]
