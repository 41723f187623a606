"""A dataset by name, by folder or zip of images, or embedded: whole, in memory, as uint8 arrays."""

import io
import os
import re
import socket
import sys
import urllib.parse
import urllib.request
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np

from mhe.harness.errors import BadInput

Split = tuple[np.ndarray, np.ndarray]

_DIGITS_SEED = 0
_DIGITS_TEST = 0.2
_CHUNK = 256  # images a thread decodes at a time
_NAMED = 3  # files an error names before it only counts


@dataclass(frozen=True)
class Dataset:
    """Images with class labels, in a train and a test set.

    Attributes:
        name: What it was asked for by.
        train: Images uint8 `(N, H, W, C)` and labels int64 `(N,)`.
        test: The same for the test set.
        class_names: The name of class i at place i.
    """

    name: str
    train: Split
    test: Split
    class_names: tuple[str, ...]


def load(dataset: str, data_dir: str | os.PathLike | None = None) -> Dataset:
    """Load a dataset of images.

    Args:
        dataset: `"digits"`, scikit-learn's embedded 8×8 digits, which needs no network (a fifth of
            each class, drawn once and for all, is the test set); or the path of a folder or a .zip
            of `train/<class>/<image>` and `test/<class>/<image>`, in any format Pillow reads, all
            of one size; or, if nothing stands at that path, a TensorFlow Datasets name such as
            `"cifar100"`, whose `validation` split stands in where there is no `test`.
            A zip is read in place. Hidden files are skipped. Classes and images are in
            alphabetical order. Images keep one channel only if all of them are grey.
        data_dir: Where TensorFlow Datasets keeps its datasets; `None` is its own default.

    Returns:
        The dataset.

    Raises:
        BadInput: If there is no such dataset, or it cannot be used as it is.

    Example:

    >>> digits = load("digits")
    >>> digits.train[0].shape, digits.test[0].shape, digits.class_names[:3]
    ((1438, 8, 8, 1), (359, 8, 8, 1), ('0', '1', '2'))
    """
    dataset = os.fspath(dataset)
    if not dataset.strip():
        # The path of nothing would be the folder the program runs in.
        raise BadInput(
            "--dataset must be a folder, a .zip file, or the name of a dataset. "
            f"Received: {dataset!r}"
        )
    if dataset == "digits":
        return _load_digits()
    path = Path(dataset).expanduser()
    if path.is_dir():
        return _load_tree(dataset, _list_folder(path), lambda name: (path / name).read_bytes())
    if path.is_file():
        try:
            archive = zipfile.ZipFile(path)
        except (OSError, zipfile.BadZipFile) as error:
            raise BadInput(f"{path} is not a readable zip: {error}") from error
        with archive:
            return _load_tree(dataset, archive.namelist(), archive.read)
    return _load_tfds(dataset, data_dir)


def names_path(dataset: str) -> bool:
    """Tell whether a dataset is asked for by a path, even one where nothing stands any more.

    Args:
        dataset: What `load` takes.

    Example:

    >>> names_path("flowers/photos.zip"), names_path("cifar100"), names_path("digits")
    (True, False, False)
    """
    separated = "/" in dataset or os.sep in dataset
    return dataset != "digits" and (separated or os.path.exists(os.path.expanduser(dataset)))


def balanced_subset(images: np.ndarray, labels: np.ndarray, count: int, seed: int) -> Split:
    """Draw a subset with the same number of images of every class.

    Where `count` is not a multiple of the number of classes, some classes, drawn too, have one
    image more. The images keep their order. The smaller of two subsets of one seed lies within the
    larger if both counts are multiples of the number of classes.

    Args:
        images: Array `(N, ...)`.
        labels: Integer array `(N,)`.
        count: Images to draw, at least one a class.
        seed: Non-negative integer that decides which.

    Returns:
        Images `(count, ...)` and labels `(count,)`.

    Raises:
        BadInput: If a class has too few images, or `count` is smaller than the number of classes.

    Example:

    >>> import numpy as np
    >>> _, labels = balanced_subset(np.zeros((9, 2)), np.arange(9) % 3, count=6, seed=0)
    >>> np.bincount(labels).tolist()
    [2, 2, 2]
    """
    classes = np.unique(labels)
    if count < len(classes):
        raise BadInput(
            f"A balanced subset of {len(classes)} classes needs at least as many images. "
            f"Received: {count}"
        )
    rng = np.random.default_rng(seed)
    orders = [rng.permutation(np.flatnonzero(labels == each)) for each in classes]
    each, left_over = divmod(count, len(classes))
    wanted = np.full(len(classes), each)
    wanted[rng.permutation(len(classes))[:left_over]] += 1
    for label, order, number in zip(classes, orders, wanted, strict=True):
        if len(order) < number:
            raise BadInput(
                f"A balanced subset of {count} images needs {number} of class {label}, "
                f"which has {len(order)}. Received: {count}"
            )
    chosen = [order[:number] for order, number in zip(orders, wanted, strict=True)]
    chosen = np.sort(np.concatenate(chosen))
    return images[chosen], labels[chosen]


def _load_digits() -> Dataset:
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise BadInput(
            'The digits come with scikit-learn: pip install ".[train]" from the checkout'
        ) from error
    digits = load_digits()
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)[..., None]
    labels = digits.target.astype(np.int64)
    rng = np.random.default_rng(_DIGITS_SEED)
    held_out = np.zeros(len(labels), bool)
    for label in range(10):
        members = rng.permutation(np.flatnonzero(labels == label))
        held_out[members[: round(_DIGITS_TEST * len(members))]] = True
    return Dataset(
        "digits",
        (images[~held_out], labels[~held_out]),
        (images[held_out], labels[held_out]),
        tuple(map(str, range(10))),
    )


def _list_folder(root: Path) -> list[str]:
    """The paths in `train` and `test` below a folder, as a zip lists them: directories end in /."""
    names = []
    for split in ("train", "test"):
        for folder, subfolders, files in os.walk(root / split, followlinks=True):
            inside = Path(folder).relative_to(root)
            names += [f"{(inside / name).as_posix()}/" for name in subfolders]
            names += [(inside / name).as_posix() for name in files]
    return names


def _load_tree(dataset: str, names: list[str], read: Callable[[str], bytes]) -> Dataset:
    """Load `train/<class>/<image>` and `test/<class>/<image>`, whatever holds them."""
    files: dict[str, dict[str, list[str]]] = {"train": {}, "test": {}}
    for name in sorted(set(names)):
        split, *inside = name.split("/")
        if split not in files or any(map(_hidden, inside)):
            continue
        if len(inside) == 2:
            members = files[split].setdefault(inside[0], [])
            if inside[1]:
                members.append(name)
        elif inside != [""] and not (len(inside) == 3 and inside[2] == ""):
            raise BadInput(f"{dataset}: images stand in {split}/<class>/. Received: {name}")

    for split, classes in files.items():
        if not classes:
            raise BadInput(f"{dataset} has no {split}/ folder with a folder for each class in it")
        for label, members in classes.items():
            if not members:
                raise BadInput(f"{dataset}: the class {split}/{label}/ has no images")
    class_names = tuple(sorted(files["train"]))
    for label in files["test"]:
        if label not in files["train"]:
            raise BadInput(f"{dataset}: the class {label} is in test/ but not in train/")

    listed = [
        (split, label, name)
        for split, classes in files.items()
        for label, members in classes.items()
        for name in members
    ]
    images = _decode(dataset, [name for _, _, name in listed], read)
    place = {label: number for number, label in enumerate(class_names)}
    labels = np.array([place[label] for _, label, _ in listed], np.int64)
    train = sum(split == "train" for split, _, _ in listed)
    return Dataset(
        dataset, (images[:train], labels[:train]), (images[train:], labels[train:]), class_names
    )


def _hidden(name: str) -> bool:
    return name.startswith((".", "__MACOSX")) or name in ("Thumbs.db", "desktop.ini")


def _decode(dataset: str, names: list[str], read: Callable[[str], bytes]) -> np.ndarray:
    """Decode images of one size: uint8 `(N, H, W, 3)`, or `(N, H, W, 1)` if all are grey."""
    try:
        from PIL import Image
    except ImportError as error:
        raise BadInput(
            'Images are read with Pillow: pip install ".[train]" from the checkout'
        ) from error

    def decode(name: str) -> np.ndarray | str:
        """Pixels, or what is wrong with the file."""
        # Whatever a decoder raises on a damaged file, the file is what is wrong; the kinds are
        # many (OSError, SyntaxError, ValueError, zlib.error, struct.error...) and depend on Pillow.
        try:
            with Image.open(io.BytesIO(read(name))) as image:
                if image.mode.startswith(("I", "F")):
                    return f"pixels of kind {image.mode}, expected 8 bits a channel"
                grey = image.mode in ("1", "L", "LA")
                return np.asarray(image.convert("L" if grey else "RGB"))
        except Exception as error:
            return (
                "not an image" if type(error).__name__ == "UnidentifiedImageError" else str(error)
            )

    wrong: list[tuple[str, str]] = []
    first = None
    for name in names:
        pixels = decode(name)
        if not isinstance(pixels, str):
            first = name, pixels.shape[:2]
            break
        wrong.append((name, pixels))
    if first is None:
        raise _unreadable(dataset, wrong)
    (reference, size), start = first, len(wrong)
    images = np.empty((len(names), *size, 3), np.uint8)

    def fill(begin: int) -> tuple[bool, list[tuple[str, str]], list[tuple[str, tuple[int, int]]]]:
        grey, wrong, others = True, [], []
        for index in range(begin, min(begin + _CHUNK, len(names))):
            pixels = decode(names[index])
            if isinstance(pixels, str):
                wrong.append((names[index], pixels))
            elif pixels.shape[:2] != size:
                others.append((names[index], pixels.shape[:2]))
            else:
                grey = grey and pixels.ndim == 2
                images[index] = pixels[..., None] if pixels.ndim == 2 else pixels
        return grey, wrong, others

    with ThreadPoolExecutor(os.cpu_count()) as threads:
        chunks = list(threads.map(fill, range(start, len(names), _CHUNK)))
    for _, more, _ in chunks:
        wrong += more
    if wrong:
        raise _unreadable(dataset, wrong)
    others = [other for _, _, chunk in chunks for other in chunk]
    if others:
        other, other_size = others[0]
        raise BadInput(
            f"{dataset}: images must all have one size. Received: {reference} of "
            f"{_pixels(size)} and {other} of {_pixels(other_size)}"
        )
    return images[..., :1].copy() if all(grey for grey, _, _ in chunks) else images


def _unreadable(dataset: str, wrong: list[tuple[str, str]]) -> BadInput:
    named = "; ".join(f"{name} ({why})" for name, why in wrong[:_NAMED])
    more = f"; and {len(wrong) - _NAMED} more" if len(wrong) > _NAMED else ""
    count = "1 file" if len(wrong) == 1 else f"{len(wrong)} files"
    return BadInput(f"{dataset}: {count} cannot be read as images: {named}{more}")


def _pixels(size: tuple[int, int]) -> str:
    return f"{size[1]}x{size[0]} pixels"


def _load_tfds(name: str, data_dir: str | os.PathLike | None) -> Dataset:
    unknown = (
        f"{name} is neither a folder, nor a .zip file, nor the name of a dataset that TensorFlow "
        f"Datasets knows. Received: {name}"
    )
    if not re.fullmatch(r"\w+(/[\w.-]+)?(:[\d.*]+)?", name):
        raise BadInput(unknown)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        import tensorflow as tf
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise BadInput(
            f"{name} is neither a folder nor a .zip file; to load it by name, install TensorFlow "
            f'Datasets: pip install ".[train]" from the checkout ({error})'
        ) from error
    if keras.backend.backend() != "tensorflow":
        # TensorFlow only reads files here; on a GPU it would take the memory the backend needs.
        # It refuses once it has started on one, and then there is nothing left to keep it from.
        with suppress(RuntimeError):
            tf.config.set_visible_devices([], "GPU")
    if not sys.stderr.isatty():
        tfds.disable_progress_bar()

    try:
        builder = tfds.builder(name, data_dir=data_dir)
    except tfds.core.DatasetNotFoundError as error:
        raise BadInput(unknown) from error
    except (ImportError, ValueError, AssertionError) as error:
        raise BadInput(f"The dataset {name} cannot be loaded: {_first_line(error)}") from error
    keys = builder.info.supervised_keys
    features = builder.info.features
    if (
        not keys
        or len(keys) != 2
        or not isinstance(features[keys[0]], tfds.features.Image)
        or not isinstance(features[keys[1]], tfds.features.ClassLabel)
    ):
        raise BadInput(f"The dataset {name} is not one of images with a class label each")
    shape = features[keys[0]].shape
    if None in shape or features[keys[0]].np_dtype != np.uint8:
        raise BadInput(
            f"The images of {name} must be of one size and 8 bits a channel. Received: shape "
            f"{shape}, {np.dtype(features[keys[0]].np_dtype).name}"
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
    train, test = (
        tfds.as_numpy(builder.as_dataset(split=split, batch_size=-1, as_supervised=True))
        for split in ("train", held_out)
    )
    class_names = tuple(features[keys[1]].names)
    return Dataset(name, _labelled(*train), _labelled(*test), class_names)


def _labelled(images: np.ndarray, labels: np.ndarray) -> Split:
    return images, labels.astype(np.int64)


def _prepare(builder, name: str) -> None:
    """Download and prepare a dataset, or say in one line that it cannot be."""
    where = f"{name} is not prepared in {builder.data_path.parent.parent} and cannot be downloaded"
    # TensorFlow Datasets repeats its attempts for minutes before it gives up; without a name
    # server it is known at once. Behind a proxy the names need not be known here.
    if not urllib.request.getproxies():
        for url in builder.url_infos:
            host = urllib.parse.urlparse(url).hostname
            try:
                socket.getaddrinfo(host, None)
            except OSError as error:
                raise BadInput(f"{where}: no network, {host} is not found") from error
    # Anything that stops a third party's script from making its dataset: no connection, a file
    # that moved, a full disk, a package it needs.
    try:
        builder.download_and_prepare()
    except Exception as error:
        raise BadInput(f"{where}: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:300]
