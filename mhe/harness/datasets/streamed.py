"""Images that stay on disk: each is decoded when it is needed, off the training thread.

Neither `tf.data` nor WebDataset: what their shuffle buffers draw depends on how much was drawn
before, so a run could not resume with the batches of an unbroken one. Here images are read in place
by their index, so the batches are those that the same images in memory would give.
"""

import functools
import math
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NoReturn, Protocol

import numpy as np

from mhe.harness.datasets.images import (
    CHUNK,
    GREY_MODES,
    decode,
    in_words,
    open_image,
    pillow,
    pixels,
    refuse_other_sizes,
    unreadable,
)
from mhe.harness.errors import BadInput
from mhe.types import Tensor

_HEAD = 2**12  # bytes of a file that are read for its size and mode; more where they do not do
_AT_ONCE = 8  # images of a batch that a thread decodes at a time


class Read(Protocol):
    """Reads files, or their beginnings; called by several threads."""

    def __call__(self, name: str, /, most: int | None = None) -> bytes:
        """Returns the bytes of a file, from its beginning at most `most`."""


def images_of(
    dataset: str,
    names: Sequence[str],
    read: Read,
    size: int | None = None,
    memory: float | None = None,
) -> Tensor:
    """Decodes image files into one array, or leaves them on disk if they would take too much.

    Args:
        dataset: The name of the dataset, for error messages.
        names: The files.
        read: Returns the bytes of a file.
        size: Height and width that every image is brought to; `None` requires one common size.
        memory: The bytes that decoded images may take, or `None` for any number.

    Returns:
        uint8 `(N, H, W, C)`: an array, or `StreamedImages`.

    Raises:
        BadInput: As `mhe.harness.datasets.images.decode`.
    """
    if memory is None:
        return decode(dataset, names, read, size)
    if 3 * len(names) * _area(names, read, size) <= memory:
        return decode(dataset, names, read, size)
    return StreamedImages(dataset, names, read, size)


def _area(names: Sequence[str], read: Read, size: int | None) -> int:
    """The pixels of an image. Of one: the others have its size or are refused."""
    if size is not None:
        return size * size
    pillow()
    headers = (_header(name, read) for name in names)
    return next((math.prod(header[1]) for header in headers if not isinstance(header, str)), 0)


class StreamedImages:
    """Images on disk, as an array `(N, H, W, C)` whose elements are decoded when they are indexed.

    Indexing by a slice, an array of indices or a mask decodes images into an array; `take` selects
    images without decoding them. All headers are read at once, so that a file that is no image, or
    of another size, is refused before anything is trained. Memory does not depend on the number of
    images but for their names.

    Args:
        dataset: The name of the dataset, for error messages.
        names: The files.
        read: Returns the bytes of a file.
        size: Height and width that every image is brought to; `None` requires one common size.

    Attributes:
        shape: `(N, H, W, 3)`, or `(N, H, W, 1)` if all images are grayscale.

    Raises:
        BadInput: If a file cannot be read as an image or the sizes differ; when images are
            indexed, if one is damaged behind its header, or has changed.

    Example:

    >>> import io
    >>> from PIL import Image
    >>> stream = io.BytesIO()
    >>> Image.new("L", (6, 4), 200).save(stream, "PNG")
    >>> read = lambda name, most=None: stream.getvalue()[:most]
    >>> images = StreamedImages("mine", ["a.png", "b.png", "c.png"], read)
    >>> images.shape, images[1:].shape, images.take([2, 0]).shape
    ((3, 4, 6, 1), (2, 4, 6, 1), (2, 4, 6, 1))
    """

    ndim = 4
    dtype = np.dtype(np.uint8)

    def __init__(self, dataset: str, names: Sequence[str], read: Read, size: int | None = None):
        pillow()
        self._dataset, self._names, self._read, self._size = dataset, names, read, size
        self._rows = np.arange(len(names))
        self._threads = ThreadPoolExecutor(os.cpu_count(), "images")
        self.shape = (len(names), *self._common_shape())

    def __len__(self) -> int:
        """The number of images."""
        return self.shape[0]

    def __getitem__(self, chosen: Any) -> np.ndarray:
        """Decodes images: uint8 `(n, H, W, C)`, or `(H, W, C)` for the index of a single one."""
        rows = self._rows[chosen]
        many = np.atleast_1d(rows)
        images = np.empty((len(many), *self.shape[1:]), np.uint8)
        fill = functools.partial(self._fill, images, many)
        for _ in self._threads.map(fill, range(0, len(many), _AT_ONCE)):
            pass
        return images if np.ndim(rows) else images[0]

    def take(self, rows: Any) -> "StreamedImages":
        """Selects images, which stay on disk.

        Args:
            rows: A slice, an array of indices or a mask.
        """
        taken = object.__new__(StreamedImages)
        taken.__dict__.update(self.__dict__)
        taken._rows = self._rows[rows]
        taken.shape = (len(taken._rows), *self.shape[1:])
        return taken

    def __array__(self, *_: Any, **__: Any) -> NoReturn:
        """Refuses to become an array, which memory may have no room for."""
        raise TypeError("Images on disk must be indexed: they may not all fit into memory")

    def _fill(self, images: np.ndarray, rows: np.ndarray, begin: int) -> None:
        for place in range(begin, min(begin + _AT_ONCE, len(rows))):
            name = self._names[rows[place]]
            try:
                found = pixels(self._read(name), self._size)
            except (OSError, ValueError) as error:
                raise BadInput(f"{self._dataset}: {unreadable([(name, str(error))])}") from error
            if found.shape[:2] != images.shape[1:3] or (found.ndim, images.shape[3]) == (3, 1):
                expected = in_words(images.shape[1:3])
                raise BadInput(
                    f"{self._dataset}: {name} has changed: it must be of {expected} and "
                    f"{images.shape[3]} channels. Received: {in_words(found.shape)}, "
                    f"{1 if found.ndim == 2 else 3} channels"
                )
            images[place] = found[..., None] if found.ndim == 2 else found

    def _common_shape(self) -> tuple[int, int, int]:
        def headers(begin: int) -> list[tuple[bool, tuple[int, int]] | str]:
            return [_header(name, self._read) for name in self._names[begin : begin + CHUNK]]

        grey, wrong, first = True, [], None
        others: list[tuple[str, tuple[int, int]]] = []
        starts = range(0, len(self._names), CHUNK)
        for begin, chunk in zip(starts, self._threads.map(headers, starts), strict=True):
            for name, header in zip(self._names[begin:], chunk, strict=False):
                if isinstance(header, str):
                    wrong.append((name, header))
                    continue
                grey = grey and header[0]
                first = first or (name, header[1])
                if header[1] != first[1] and not others:
                    others.append((name, header[1]))
        if wrong or first is None:
            raise BadInput(f"{self._dataset}: {unreadable(wrong)}")
        if self._size is None:
            refuse_other_sizes(self._dataset, first, others)
        height, width = first[1] if self._size is None else (self._size, self._size)
        return height, width, 1 if grey else 3


def take(images: Tensor, rows: Any) -> Tensor:
    """Selects images of an array, or of `StreamedImages` without decoding them.

    Args:
        images: uint8 `(N, H, W, C)`.
        rows: A slice, an array of indices or a mask.

    Example:

    >>> take(np.zeros((3, 2, 2, 1), "uint8"), [0, 2]).shape
    (2, 2, 2, 1)
    """
    return images.take(rows) if isinstance(images, StreamedImages) else images[rows]


def _header(name: str, read: Read) -> tuple[bool, tuple[int, int]] | str:
    """Whether an image is grayscale, and its height and width; or what is wrong with it."""
    for most in (_HEAD, None):
        # As in `mhe.harness.datasets.images.pixels`: decoders raise many kinds of errors.
        try:
            with open_image(read(name, most)) as image:
                return image.mode in GREY_MODES, (image.height, image.width)
        except MemoryError:
            raise
        except Exception as error:
            # The header of some files is longer, or at their end.
            if most is None:
                return str(error)
    raise AssertionError
