"""Image datasets by name, from a folder, zip or tar shards, or embedded, as uint8 arrays.

They are in memory, but for those from files that would take too much of it: these are decoded when
they are indexed (see `streamed`).

The loader is the project's own because a name, a folder, and a zip or shards that are read in place
(see `tree` and `shards`) have to give the same arrays, in the same order, on every backend: what a
run is trained on is then a function of its flags, which is what resuming it relies on.
"""

import os

import numpy as np

from mhe.harness.datasets.dataset import Dataset, images_in_words
from mhe.harness.datasets.few_shot import (
    ClassSplit,
    split_classes,
    with_mirror_images,
    with_quarter_turns,
)
from mhe.harness.datasets.layouts import load_trees
from mhe.harness.datasets.named import load_named
from mhe.harness.datasets.one_shot import OneShotRun, load_one_shot_runs
from mhe.harness.datasets.shards import expand
from mhe.harness.datasets.streamed import StreamedImages, take
from mhe.harness.datasets.subsets import balanced_subset, halves, held_out, long_tailed
from mhe.harness.datasets.turned import turned
from mhe.harness.errors import BadInput

__all__ = [
    "ClassSplit",
    "Dataset",
    "OneShotRun",
    "StreamedImages",
    "balanced_subset",
    "halves",
    "held_out",
    "images_in_words",
    "load",
    "load_one_shot_runs",
    "long_tailed",
    "names_path",
    "split_classes",
    "take",
    "turned",
    "with_mirror_images",
    "with_quarter_turns",
]

_DIGITS_SEED = 0
_DIGITS_TEST = 0.2


def load(
    dataset: str,
    data_dir: str | os.PathLike | None = None,
    size: int | None = None,
    label: str = "school",
    memory: float | None = None,
) -> Dataset:
    """Loads a dataset of images.

    The layout of a folder or .zip file is recognized from its files:

    - `train/<class>/<image>` and `test/<class>/<image>`, in any format that Pillow reads, with
      classes and images in alphabetical order;
    - Tiny ImageNet as published: `wnids.txt`, `words.txt`, `train/<wnid>/images/`, `val/images/`
      and `val/val_annotations.txt`. Its test images have no labels, so the validation set serves as
      test set;
    - OmniArt: `train.csv` and `test.csv` with the columns `omni_id`, `creation_year` (which becomes
      `values`), `century` and `school`, and the images `train/<omni_id>.jpg` and
      `test/<omni_id>.jpg`;
    - Omniglot: `<Alphabet>/characterNN/<drawing>.png`, at any depth. Several comma-separated paths
      are one dataset, in which a drawing that several of them have counts once. A fixed quarter of
      each character's drawings is the test set;
    - tar shards as WebDataset has them, `{prefix}-train-000000.tar` and `{prefix}-test-000000.tar`
      (or `-validation-`, or `-val-`), of samples `key.jpg` with `key.cls` or `key.json`. Ranges
      such as `train-{000000..000012}.tar`, comma-separated, name the shards one by one.

    Hidden files are skipped. Images have one channel only if all of them are grayscale. Their EXIF
    orientation is ignored, as it is for faces.

    Args:
        dataset: `"digits"`, scikit-learn's embedded 8×8 digits, which need no network (a fixed
            fifth of each class is the test set); or a path as above; or, if no such path exists, a
            TensorFlow Datasets name such as `"cifar100"` or `"caltech_birds2011"`, whose
            `validation` split is used if there is no `test` split.
        data_dir: Folder of TensorFlow Datasets; `None` is its own default.
        size: Height and width to bring every image to: it is scaled so that its shorter side has
            this length, then center-cropped. `None` requires images that all have one size.
        label: The column of OmniArt's files that holds the class, `"school"` or `"century"`.
        memory: The bytes that the decoded images of files may take; more stay on disk, as
            `StreamedImages`. `None` for any number.

    Returns:
        The dataset.

    Raises:
        BadInput: If there is no such dataset or it cannot be used.

    Example:

    >>> digits = load("digits")
    >>> digits.train[0].shape, digits.test[0].shape, digits.class_names[:3]
    ((1438, 8, 8, 1), (359, 8, 8, 1), ('0', '1', '2'))
    """
    dataset = os.fspath(dataset)
    if not dataset.strip():
        # An empty path would mean the working directory.
        raise BadInput(
            "--dataset must be a folder, a .zip file, or the name of a dataset. "
            f"Received: {dataset!r}"
        )
    if dataset == "digits":
        if size is not None:
            raise BadInput(f"The digits are always 8 pixels wide. Received: --image_size {size}")
        return _load_digits()
    paths = [dataset]
    if not _exists(dataset):
        paths = [path for part in dataset.split(",") for path in expand(part)]
    if all(map(_exists, paths)):
        return load_trees(paths, size, label, memory)
    for path in paths:
        if len(paths) > 1 and not _exists(path):
            raise BadInput(
                f"--dataset {dataset}: one of the paths does not exist. Received: {path}"
            )
    return load_named(dataset, data_dir, size)


def _exists(path: str) -> bool:
    # Unlike those of `Path`, these know no errors: not of a name that is too long either.
    return bool(path.strip()) and os.path.exists(os.path.expanduser(path))


def names_path(dataset: str) -> bool:
    """Tells whether a dataset is given by its path, even if the path no longer exists.

    Args:
        dataset: As for `load`.

    Example:

    >>> names_path("flowers/photos.zip"), names_path("cifar100"), names_path("digits")
    (True, False, False)
    """
    separated = "/" in dataset or os.sep in dataset
    return dataset != "digits" and (separated or _exists(dataset))


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
    test = held_out(labels, _DIGITS_TEST, _DIGITS_SEED)
    return Dataset(
        "digits",
        (images[~test], labels[~test]),
        (images[test], labels[test]),
        tuple(map(str, range(10))),
    )
