"""From image files to one uint8 array, which each image is copied into as soon as it is decoded."""

import io
import math
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np

from mhe.harness.errors import BadInput

if TYPE_CHECKING:
    from PIL import Image

SUFFIXES = (
    *(".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff"),
    *(".pgm", ".ppm", ".pbm", ".pnm"),
)
GREY_MODES = ("1", "L", "LA")
CHUNK = 256  # images that a thread decodes at a time
_NAMED = 3  # files that an error names; the others are counted


def is_image(name: str) -> bool:
    """Whether a file is an image by its suffix; others, such as notes, are passed over.

    Example:

    >>> is_image("train/cat/1.JPG"), is_image("train/cat/notes.txt")
    (True, False)
    """
    return name.lower().endswith(SUFFIXES)


def decode(
    dataset: str, names: Sequence[str], read: Callable[[str], bytes], size: int | None = None
) -> np.ndarray:
    """Decodes image files into one array.

    Args:
        dataset: The name of the dataset, for error messages.
        names: The files.
        read: Returns the bytes of a file by its name; called by several threads.
        size: Height and width that `fit` brings the images to; `None` requires one common size.

    Returns:
        uint8 `(N, H, W, 3)`, or `(N, H, W, 1)` if all images are grayscale.

    Raises:
        BadInput: If a file cannot be read as an image, sizes differ and `size` is `None`, or the
            images do not fit into memory.

    Example:

    >>> from PIL import Image
    >>> stream = io.BytesIO()
    >>> Image.new("L", (6, 4), 200).save(stream, "PNG")
    >>> decode("mine", ["a.png"], lambda name: stream.getvalue()).shape
    (1, 4, 6, 1)
    """
    pillow()

    def pixels_of(name: str) -> np.ndarray | str:
        """Returns the pixels, or what is wrong with the file."""
        try:
            return pixels(read(name), size)
        except (OSError, ValueError) as error:
            return str(error)

    wrong: list[tuple[str, str]] = []
    first = None
    for name in names:
        found = pixels_of(name)
        if not isinstance(found, str):
            first = name, found.shape[:2]
            break
        wrong.append((name, found))
    if first is None:
        raise BadInput(f"{dataset}: {unreadable(wrong)}")
    (_, shape), start = first, len(wrong)
    with loading_images(dataset, (len(names), *shape, 3)):
        images = np.empty((len(names), *shape, 3), np.uint8)

    def fill(begin: int) -> tuple[bool, list[tuple[str, str]], list[tuple[str, tuple[int, int]]]]:
        grey, wrong, others = True, [], []
        for index in range(begin, min(begin + CHUNK, len(names))):
            found = pixels_of(names[index])
            if isinstance(found, str):
                wrong.append((names[index], found))
            elif found.shape[:2] != shape:
                others.append((names[index], found.shape[:2]))
            else:
                grey = grey and found.ndim == 2
                images[index] = found[..., None] if found.ndim == 2 else found
        return grey, wrong, others

    with loading_images(dataset, images.shape), ThreadPoolExecutor(os.cpu_count()) as threads:
        chunks = list(threads.map(fill, range(start, len(names), CHUNK)))
    for _, more, _ in chunks:
        wrong += more
    if wrong:
        raise BadInput(f"{dataset}: {unreadable(wrong)}")
    refuse_other_sizes(dataset, first, [other for _, _, chunk in chunks for other in chunk])
    with loading_images(dataset, images.shape):
        return images[..., :1].copy() if all(grey for grey, _, _ in chunks) else images


def pixels(data: bytes, size: int | None) -> np.ndarray:
    """Decodes an image file.

    Args:
        data: The bytes of the file.
        size: Height and width that `fit` brings the image to, or `None`.

    Returns:
        uint8 `(H, W)` of a grayscale image, else `(H, W, 3)`.

    Raises:
        ValueError: If the bytes are no image that can be decoded, or have more than 8 bits per
            channel.

    Example:

    >>> from PIL import Image
    >>> stream = io.BytesIO()
    >>> Image.new("L", (6, 4), 200).save(stream, "PNG")
    >>> pixels(stream.getvalue(), None).shape, pixels(stream.getvalue(), 2).tolist()
    ((4, 6), [[200, 200], [200, 200]])
    """
    try:
        with open_image(data) as image:
            image = grey_or_rgb(image)
            return np.asarray(image if size is None else fit(image, size))
    except MemoryError:
        raise
    # Decoders raise many kinds of errors on a damaged file (OSError, SyntaxError, ValueError,
    # zlib.error, struct.error...), which depend on the version of Pillow.
    except Exception as error:
        raise ValueError(str(error)) from error


def refuse_other_sizes(
    dataset: str,
    reference: tuple[str, tuple[int, int]],
    others: Sequence[tuple[str, tuple[int, int]]],
) -> None:
    """Refuses images of several sizes.

    Args:
        dataset: The name of the dataset.
        reference: An image, with its height and width.
        others: The images with others.

    Raises:
        BadInput: If there are any.

    Example:

    >>> refuse_other_sizes("mine", ("a.png", (4, 6)), [])
    """
    if others:
        other, shape = others[0]
        raise BadInput(
            f"{dataset}: images must all have one size, or be brought to one by --image_size. "
            f"Received: {reference[0]} of {in_words(reference[1])} and {other} of {in_words(shape)}"
        )


@contextmanager
def loading_images(dataset: str, shape: Sequence[int]) -> Iterator[None]:
    """Says which images were loaded if there is too little memory for them.

    Args:
        dataset: The name of the dataset.
        shape: `(N, H, W, C)` of the images, of one byte per number.

    Raises:
        BadInput: If the block runs out of memory, or cannot start a thread, which takes some.

    Example:

    >>> with loading_images("cifar100", (60000, 32, 32, 3)):
    ...     raise MemoryError
    Traceback (most recent call last):
        ...
    mhe.harness.errors.BadInput: cifar100: out of memory while loading 60,000 images of 32x32
    pixels, which take 0.17 GiB: use fewer, or smaller ones by --image_size
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "start new thread" not in str(error):
            raise
        count, height, width, _ = shape
        raise BadInput(
            f"{dataset}: out of memory while loading {count:,} images of "
            f"{in_words((height, width))}, which take {math.prod(shape) / 2**30:.2f} GiB: use "
            "fewer, or smaller ones by --image_size"
        ) from error


def open_image(data: bytes) -> "Image.Image":
    """Opens an image file; its pixels are decoded when they are first used.

    Args:
        data: The bytes of the file.

    Returns:
        The image, in any mode with at most 8 bits per channel.

    Raises:
        ValueError: If the bytes are not an image, or have more bits per channel. Decoders may raise
            other errors.

    Example:

    >>> open_image(b"words")
    Traceback (most recent call last):
        ...
    ValueError: not an image
    """
    from PIL import Image, UnidentifiedImageError

    try:
        image = Image.open(io.BytesIO(data))
    except UnidentifiedImageError as error:
        raise ValueError("not an image") from error
    if image.mode.startswith(("I", "F")):
        raise ValueError(f"pixels of mode {image.mode}, expected 8 bits per channel")
    return image


def grey_or_rgb(image: "Image.Image") -> "Image.Image":
    """Converts an image to mode L if its mode has no color, and to RGB otherwise.

    Args:
        image: In any mode with at most 8 bits per channel; transparency is dropped.

    Returns:
        The decoded image.

    Example:

    >>> from PIL import Image
    >>> grey_or_rgb(Image.new("LA", (6, 4))).mode, grey_or_rgb(Image.new("P", (6, 4))).mode
    ('L', 'RGB')
    """
    return image.convert("L" if image.mode in GREY_MODES else "RGB")


def unreadable(wrong: Sequence[tuple[str, str]]) -> str:
    """Describes which files cannot be read as images, naming the first few.

    Args:
        wrong: The files, each with what is wrong with it.

    Returns:
        Text for an error message.

    Example:

    >>> unreadable([("a.png", "not an image")])
    '1 file cannot be read as an image: a.png (not an image)'
    """
    named = "; ".join(f"{name} ({why})" for name, why in wrong[:_NAMED])
    more = f"; and {len(wrong) - _NAMED} more" if len(wrong) > _NAMED else ""
    subject = "1 file cannot be read as an image"
    if len(wrong) > 1:
        subject = f"{len(wrong)} files cannot be read as images"
    return f"{subject}: {named}{more}"


def fit(image: "Image.Image", size: int) -> "Image.Image":
    """Scales an image so that its shorter side is `size` pixels long, and center-crops it.

    Args:
        image: Grayscale or RGB.
        size: Height and width of the result.

    Returns:
        The square image; where it shrinks, areas are averaged.

    Example:

    >>> from PIL import Image
    >>> fit(Image.new("L", (60, 40)), 8).size
    (8, 8)
    """
    from PIL import Image, ImageOps

    return ImageOps.fit(image, (size, size), Image.Resampling.BILINEAR)


def pillow() -> ModuleType:
    """Returns Pillow's module `Image`.

    Raises:
        BadInput: If Pillow is not installed.

    Example:

    >>> pillow().new("L", (6, 4)).size
    (6, 4)
    """
    try:
        from PIL import Image
    except ImportError as error:
        raise BadInput(
            'Images are read with Pillow: pip install ".[train]" from the checkout'
        ) from error
    return Image


def in_words(shape: Sequence[int]) -> str:
    """Returns a height and a width as text.

    Example:

    >>> in_words((4, 6))
    '6x4 pixels'
    """
    return f"{shape[1]}x{shape[0]} pixels"
