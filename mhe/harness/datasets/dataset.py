"""A dataset: its images, in memory or on disk, and their labels."""

import math
from dataclasses import dataclass

import numpy as np

from mhe.harness.datasets.images import in_words
from mhe.harness.datasets.streamed import StreamedImages
from mhe.harness.errors import BadInput
from mhe.types import Tensor

Split = tuple[Tensor, np.ndarray]


@dataclass(frozen=True)
class Dataset:
    """A training and a test set of images with class labels and, optionally, values to regress.

    Attributes:
        name: The name or path it was loaded from.
        train: Images, uint8 `(N, H, W, C)`, and labels, int64 `(N,)`. Images are an array, or
            `StreamedImages`.
        test: The same for the test set.
        class_names: The names of the classes; label i is `class_names[i]`.
        values: Regression targets, float32 `(N,)`, of the training and of the test set, or `None`.
    """

    name: str
    train: Split
    test: Split
    class_names: tuple[str, ...]
    values: tuple[np.ndarray, np.ndarray] | None = None

    def in_words(self) -> str:
        """Says how many images there are, and whether they are in memory.

        Example:

        >>> images, labels = np.zeros((4, 8, 8, 1), "uint8"), np.arange(4)
        >>> Dataset("mine", (images, labels), (images[:2], labels[:2]), ("a", "b")).in_words()
        '4 training and 2 test images of 8x8 pixels, in memory (0.00 GiB)'
        """
        return images_in_words(self.train[0], self.test[0])

    def require_classes(self) -> None:
        """Refuses a dataset on which classification makes no sense.

        Raises:
            BadInput: If it has fewer than two classes, or if no class of the test set is in the
                training set, as in TensorFlow Datasets' `omniglot`.
        """
        if len(self.class_names) < 2:
            raise BadInput(
                f"{self.name} must have at least two classes. "
                f"Received: {', '.join(self.class_names)}"
            )
        if not np.isin(self.test[1], self.train[1]).any():
            raise BadInput(
                f"{self.name} must have test images of the classes to train on; only "
                "benchmarks/fewshot.py does without. Received: "
                f"{np.unique(self.train[1]).size} classes to train on, "
                f"{np.unique(self.test[1]).size} others to test on"
            )


def images_in_words(images: Tensor, tested: Tensor | None = None) -> str:
    """Says how many images there are to train and to test on, and whether they are in memory.

    Args:
        images: The training images `(N, H, W, C)`.
        tested: The test images, if any.

    Example:

    >>> images_in_words(np.zeros((4, 8, 8, 1), "uint8"))
    '4 training images of 8x8 pixels, in memory (0.00 GiB)'
    """
    size = sum(math.prod(each.shape) for each in (images, tested) if each is not None) / 2**30
    where = f"in memory ({size:.2f} GiB)"
    if isinstance(images, StreamedImages):
        where = f"streamed from disk ({size:.2f} GiB decoded)"
    count = f"{len(images):,} training" + ("" if tested is None else f" and {len(tested):,} test")
    return f"{count} images of {in_words(images.shape[1:3])}, {where}"
