"""Batches for training and evaluation: shuffled, augmented and normalized off the training thread.

Neither `tf.data` nor Keras's preprocessing layers can resume here: what they draw depends on how
much was drawn before. Here the seed, the epoch and the index of a batch decide its images and their
augmentation, so a resumed run trains on exactly the batches of an unbroken one, on every backend.
"""

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor

import keras
import numpy as np

from mhe.harness.errors import BadInput
from mhe.types import Tensor

Augmentation = Callable[[np.ndarray, np.random.Generator], np.ndarray]
Batch = tuple[np.ndarray, np.ndarray | dict[str, np.ndarray]]


class Batches(keras.utils.PyDataset):
    """Batches of normalized images and labels that can be reproduced exactly.

    Which images a batch holds and how they are augmented depends only on the seed, the epoch and
    the index of the batch in its epoch. So a run resumed at epoch `e` with `Batches(..., epoch=e)`
    sees exactly the batches that an unbroken run would have seen.

    Two habits of Keras would break that. Its worker threads (`OrderedEnqueuer`) carry batches over
    from one epoch to the next, so some images come twice and others not at all. This class
    therefore declares a single worker and uses threads of its own, which prepare the next batches
    while the current one is trained on. And `fit` requests batches in an order drawn from Python's
    global random state. Here the k-th batch requested in an epoch is batch k, whatever its index.

    An epoch ends when `fit` says so, not counting the batch that `fit` takes before its first epoch
    to build the model. So use one object per `fit` (its epochs are `epoch`, `epoch + 1`, ...), and
    do not pass `steps_per_epoch` unless the `fit` has a single epoch. In a hand-written loop,
    `for images, labels in batches` is one pass over the epoch `batches.epoch`, which the loop sets.

    Args:
        images: uint8 array `(N, H, W, C)`, or any array that `augment` and `normalize` accept; or
            `mhe.harness.datasets.StreamedImages`.
        labels: Array of numbers `(N,)`: classes or regression targets; or a dict of such arrays by
            output name, for a model with named outputs.
        batch_size: Number of images per batch.
        seed: Non-negative integer.
        shuffle: Whether every epoch draws its batches from a new permutation of all images.
            `False` keeps the order of the images, as evaluation needs.
        augment: `None`, or a callable `(images, rng) -> images` that is applied to a batch before
            normalization, such as `pad_crop_flip`.
        drop_remainder: Whether to drop the last batch of an epoch if it is smaller.
        epoch: The epoch to start with.
        workers: Number of threads that prepare batches ahead; 0 prepares each when it is requested.

    Raises:
        BadInput: If there are too few images for a batch.
        ValueError: If the images and labels do not match, or a number is out of range.

    Example:

    >>> import numpy as np
    >>> images = np.zeros((10, 8, 8, 1), "uint8")
    >>> batches = Batches(images, np.arange(10), batch_size=4, augment=pad_crop_flip)
    >>> [(x.shape, str(x.dtype)) for x, y in batches]
    [((4, 8, 8, 1), 'float32'), ((4, 8, 8, 1), 'float32'), ((2, 8, 8, 1), 'float32')]
    >>> sorted(int(label) for _, y in batches for label in y)
    [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
    """

    def __init__(
        self,
        images: Tensor,
        labels: np.ndarray | Mapping[str, np.ndarray],
        batch_size: int,
        *,
        seed: int = 0,
        shuffle: bool = True,
        augment: Augmentation | None = None,
        drop_remainder: bool = False,
        epoch: int = 0,
        workers: int = 2,
    ):
        super().__init__(workers=1, use_multiprocessing=False)
        for each in labels.values() if isinstance(labels, Mapping) else [labels]:
            if images.ndim != 4 or each.shape != images.shape[:1]:
                raise ValueError(
                    "`images` must have shape (N, H, W, C) and `labels` shape (N,). "
                    f"Received: images of shape {images.shape}, labels of shape {each.shape}"
                )
            if not np.issubdtype(each.dtype, np.number):
                raise ValueError(f"`labels` must be numbers. Received: dtype {each.dtype}")
        if batch_size < 1 or seed < 0 or epoch < 0 or workers < 0:
            raise ValueError(
                "`batch_size` must be positive, `seed`, `epoch` and `workers` not negative. "
                f"Received: batch_size={batch_size}, seed={seed}, epoch={epoch}, workers={workers}"
            )
        self.images, self.labels = images, labels
        self.batch_size, self.seed, self.epoch = int(batch_size), int(seed), int(epoch)
        self.shuffle, self.augment = shuffle, augment
        count = len(images)
        self._batches = count // batch_size if drop_remainder else -(-count // batch_size)
        if self._batches == 0:
            wanted = f"at least {batch_size}" if drop_remainder else "at least 1"
            raise BadInput(f"A batch needs {wanted} images. Received: {count} images")

        # The index of the next batch while Keras draws an epoch, None between epochs.
        self._next: int | None = None
        self._fitting = False
        self._order: tuple[int, np.ndarray] | None = None
        self._ahead: dict[tuple[int, int], Future] = {}
        self._window = 4 * workers
        self._lock = threading.Lock()
        self._threads = ThreadPoolExecutor(workers, "batches") if workers else None

    def __len__(self) -> int:
        """The number of batches in an epoch."""
        return self._batches

    @property
    def sizes(self) -> list[int]:
        """The numbers of images that batches have: full ones, and the last if it is smaller."""
        whole, rest = divmod(len(self.images), self.batch_size)
        return [self.batch_size] * (whole > 0) + [rest] * (whole < len(self))

    def __getitem__(self, index: int) -> Batch:
        """The batch at `index` of the current epoch; the next one while Keras draws an epoch."""
        if not 0 <= index < len(self):
            raise IndexError(f"There are {len(self)} batches. Received: index={index}")
        with self._lock:
            if self._next is not None:
                index = self._next % len(self)
                self._next += 1
            epoch = self.epoch
            future = self._ahead.pop((epoch, index), None)
            self._look_ahead(epoch, index)
        return self._batch(epoch, index) if future is None else future.result()

    def on_epoch_begin(self) -> None:
        """Called by Keras before it draws the batches of an epoch, or one to build the model."""
        with self._lock:
            self._next = 0

    def on_epoch_end(self) -> None:
        """Called by Keras after an epoch, and once before the first epoch of every `fit`."""
        with self._lock:
            if self._fitting and self._next is not None:
                self.epoch += 1
            self._fitting = True
            self._next = None

    def _look_ahead(self, epoch: int, index: int) -> None:
        """Submits the batches that follow to the threads, and cancels those that do not."""
        if self._threads is None:
            return
        first = epoch * len(self) + index + 1
        wanted = [divmod(number, len(self)) for number in range(first, first + self._window)]
        for key in set(self._ahead).difference(wanted):
            self._ahead.pop(key).cancel()
        for key in wanted:
            if key not in self._ahead:
                self._ahead[key] = self._threads.submit(self._batch, *key)

    def _batch(self, epoch: int, index: int) -> Batch:
        chosen = self._chosen(epoch, index)
        images = self.images[chosen]
        if self.augment is not None:
            images = self.augment(images, self._generator(epoch, index))
        if isinstance(self.labels, Mapping):
            return normalize(images), {name: each[chosen] for name, each in self.labels.items()}
        return normalize(images), self.labels[chosen]

    def _chosen(self, epoch: int, index: int) -> slice | np.ndarray:
        """The images of a batch; subclasses may choose others."""
        chosen = slice(index * self.batch_size, (index + 1) * self.batch_size)
        return self._permutation(epoch)[chosen] if self.shuffle else chosen

    def _permutation(self, epoch: int) -> np.ndarray:
        # Two threads may both compute it, with the same result; neither waits for the other.
        order = self._order
        if order is None or order[0] != epoch:
            order = epoch, self._generator(epoch).permutation(len(self.images))
            self._order = order
        return order[1]

    def _generator(self, *key: int) -> np.random.Generator:
        return np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=key))


def pad_crop_flip(
    images: np.ndarray, rng: np.random.Generator, padding: int = 4, flip: bool = True
) -> np.ndarray:
    """The augmentation of the published CIFAR recipe: pads, crops at random and flips half of them.

    The padding is symmetric, as in the reference implementation: the border is mirrored, edge
    pixels included, instead of filled with zeros. Each image is cropped back to its size at its own
    offset, all (2·padding + 1)² of them equally likely, and flipped left to right with probability
    1/2.

    Args:
        images: uint8 array `(B, H, W, C)`.
        rng: Generator of the offsets and flips.
        padding: Number of pixels added on each side.
        flip: Whether to flip. Letters and digits change their meaning when flipped.

    Returns:
        A new uint8 array `(B, H, W, C)`.

    Raises:
        ValueError: If the images are not a uint8 array with four axes.

    Example:

    >>> import numpy as np
    >>> images = np.arange(2 * 8 * 8 * 3, dtype="uint8").reshape(2, 8, 8, 3)
    >>> pad_crop_flip(images, np.random.default_rng(0)).shape
    (2, 8, 8, 3)

    Reference:
        Liu et al., Learning towards Minimum Hyperspherical Energy, NeurIPS 2018
        (arXiv 1805.09298), and its published code.
    """
    if images.dtype != np.uint8 or images.ndim != 4:
        raise ValueError(
            "`images` must be a uint8 array of shape (B, H, W, C). "
            f"Received: shape {images.shape}, dtype {images.dtype}"
        )
    count, height, width, channels = images.shape
    top, left = rng.integers(2 * padding + 1, size=(2, count))
    flipped = rng.random(count) < (0.5 if flip else 0)

    # Padding, crop and flip only move pixels, so one gather of whole pixels does all three.
    mirrored_rows = np.pad(np.arange(height), padding, mode="symmetric")
    mirrored_columns = np.pad(np.arange(width), padding, mode="symmetric")
    rows = mirrored_rows[top[:, None] + np.arange(height)]  # (B, H)
    columns = mirrored_columns[left[:, None] + np.arange(width)]  # (B, W)
    columns[flipped] = columns[flipped, ::-1]
    first_pixels = (np.arange(count)[:, None] * height + rows) * width  # (B, H)
    pixels = np.ascontiguousarray(images).view(f"V{channels}").reshape(-1)
    moved = np.take(pixels, first_pixels[:, :, None] + columns[:, None, :])
    return moved.view(np.uint8).reshape(images.shape)


def normalize(images: np.ndarray) -> np.ndarray:
    """Scales pixels from 0…255 to about −1…1 as in the published recipe: (x − 127.5)/128.

    Args:
        images: Array of any shape and numeric dtype.

    Returns:
        float32 array of the same shape.

    Example:

    >>> import numpy as np
    >>> normalize(np.array([0, 255], "uint8")).tolist()
    [-0.99609375, 0.99609375]
    """
    normalized = images.astype(np.float32)
    normalized -= np.float32(127.5)
    normalized *= np.float32(1 / 128)
    return normalized
