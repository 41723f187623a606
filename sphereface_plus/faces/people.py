"""People and their images in a folder, a zip or a .rec file.

A zip is read in place by several threads, without unpacking: face datasets have hundreds of
thousands of small files, and nothing can be written outside a target folder.
"""

import os
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Protocol

import numpy as np

from mhe.harness.datasets.images import (
    SUFFIXES,
    grey_or_rgb,
    is_image,
    open_image,
    pillow,
    unreadable,
)
from mhe.harness.datasets.tree import Tree
from mhe.harness.errors import BadInput
from sphereface_plus.faces import records
from sphereface_plus.faces.records import RecordNames, read_records

_CHUNK = 256  # images that a thread checks at a time
_NAMED = 3  # people or files that an error names, before it only counts


class Files(Protocol):
    """Where images are read from, by several threads."""

    def read(self, name: str) -> bytes:
        """Returns the bytes of an image file."""


@dataclass(frozen=True, eq=False)
class People:
    """People and their images, as `find_people` returns them.

    It holds names, not pixels, and may be used by several threads.

    Attributes:
        source: The path of the folder or file, as given.
        names: The names of the people, in natural order: s2 before s10.
        images: The names of the images, `<person>/<image>`, by person and then in natural order.
        labels: The person of each image, int64 `(N,)`: indices of `names`.
        known: The names of all images in the source, including those of people left out.
        sizes: The height and width of each image, integers `(N, 2)`, or None where they are not
            known before an image is decoded.
    """

    source: str
    names: tuple[str, ...]
    images: Sequence[str] = field(repr=False)
    labels: np.ndarray
    known: Collection[str] = field(repr=False)
    _tree: Files = field(repr=False)
    _wrapper: str = field(repr=False)
    sizes: np.ndarray | None = field(default=None, repr=False)

    def __len__(self) -> int:
        """The number of images."""
        return len(self.images)

    def subset(self, names: Iterable[str]) -> "People":
        """Selects people, in the same order; labels start at 0 again.

        Args:
            names: Their names.

        Returns:
            The people with these names and all their images.

        Raises:
            BadInput: If a name is unknown, or there are no names.
        """
        chosen = set(names)
        strangers = sorted(chosen.difference(self.names), key=natural)
        if strangers or not chosen:
            raise BadInput(
                f"{self.source}: a subset needs names of people in it. "
                f"Received: {some(strangers) or 'no names'}"
            )
        places = [place for place, name in enumerate(self.names) if name in chosen]
        number = np.full(len(self.names), -1)
        number[places] = np.arange(len(places))
        labels = number[self.labels]
        rows = np.flatnonzero(labels >= 0).tolist()
        images = self.images
        return People(
            self.source,
            tuple(self.names[place] for place in places),
            images.take(rows)
            if isinstance(images, RecordNames)
            else tuple(images[r] for r in rows),
            labels[labels >= 0],
            self.known,
            self._tree,
            self._wrapper,
            None if self.sizes is None else self.sizes[rows],
        )

    def read(self, index: int) -> np.ndarray:
        """Reads and decodes an image.

        Args:
            index: Its index in `images`.

        Returns:
            uint8 `(H, W, 3)`, or `(H, W, 1)` for a gray image. EXIF orientation is ignored.

        Raises:
            BadInput: If the file can no longer be read.
        """
        name = self.images[index]
        # As in `mhe.harness.datasets.images.decode`: decoders raise many kinds of errors.
        try:
            with open_image(self._tree.read(self._wrapper + name)) as image:
                pixels = np.asarray(grey_or_rgb(image))
        except Exception as error:
            raise BadInput(f"{self.source}: {unreadable([(name, str(error))])}") from error
        return pixels if pixels.ndim == 3 else pixels[..., None]


def find_people(
    path: str | os.PathLike,
    *,
    least: int = 2,
    skip_small: bool = False,
    pattern: str = "*",
    decode: bool = True,
) -> People:
    """Finds people and their images, and checks them all at once.

    Every person is a folder of images, `<person>/<image>`, as in ORL (`s1/1.pgm`), LFW
    (`<Name>/<Name>_0001.jpg`) and CASIA-WebFace (`<id>/<number>.jpg`). Folders around them all,
    such as the top folder of many zips, are not part of the names. A zip is read in place.

    Images are recognized by their suffix, in upper or lower case: .jpg .jpeg .png .bmp .gif .webp
    .tif .tiff .pgm .ppm .pbm .pnm; other files, hidden ones and `__MACOSX` are ignored. Images may
    differ in size, with 8 bits per channel.

    A file that ends in `.rec` is a training set of InsightFace, with its `.idx` beside it; see
    `read_records`. People have the numbers of their labels as names, images those of their records.

    Args:
        path: The folder, zip or .rec file.
        least: The minimum number of images per person.
        skip_small: Whether to leave out people with fewer images instead of raising an error.
        pattern: A pattern for the file names of the images, such as `*.pgm`: some copies of ORL
            contain a stray `s10/target.jpg` of somebody else.
        decode: Whether to check every image by decoding it, which finds truncated files at once.
            `False` reads only the headers: a truncated file is found when it is needed, as it is in
            a .rec.

    Returns:
        The people.

    Raises:
        BadInput: With all that is wrong, by name: people with too few images, unreadable or
            misplaced images; or if there are no images at all.

    Example:

    >>> import pathlib, tempfile
    >>> from PIL import Image
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> for name in ("s10/1.png", "s2/2.png", "s2/1.png", "s10/3.png"):
    ...     (folder / name).parent.mkdir(exist_ok=True)
    ...     Image.new("L", (6, 7)).save(folder / name)
    >>> people = find_people(folder)
    >>> people.names, people.images, people.labels.tolist()
    (('s2', 's10'), ('s2/1.png', 's2/2.png', 's10/1.png', 's10/3.png'), [0, 0, 1, 1])
    >>> people.read(0).shape, people.subset(["s10"]).labels.tolist()
    ((7, 6, 1), [0, 0])
    """
    pillow()
    source = os.fspath(path)
    if not os.path.exists(os.path.expanduser(path)):
        raise BadInput(
            f"{source} does not exist: expected a folder or zip of <person>/<image>, or a .rec"
        )
    if records.is_record_file(path):
        return _people_of_records(source, least, skip_small, pattern)
    tree = Tree(path)
    every = [name for name in tree.names if is_image(name)]
    images = [name for name in every if fnmatchcase(name.rsplit("/", 1)[-1], pattern)]
    if not images:
        raise BadInput(
            f"{source} has no images: expected <person>/<image> with names like {pattern} and a "
            f"suffix of {' '.join(SUFFIXES)}"
        )
    wrapper = _wrapper(images)
    members, misplaced = _members(tree.names, images, wrapper)
    faults = []
    if misplaced:
        faults.append(f"images must be in <person>/<image>. Received: {some(misplaced)}")
    small = too_few({name: len(own) for name, own in members.items()}, least)
    if skip_small:
        members = {name: own for name, own in members.items() if len(own) >= least}
        if not members:
            faults.append(f"nobody has {least} images or more")
    elif small:
        faults.append(small)

    names = tuple(sorted(members, key=natural))
    ordered = tuple(image for name in names for image in sorted(members[name], key=natural))
    wrong, sizes = _wrong_and_sizes(tree, wrapper, ordered, decode)
    if wrong:
        faults.append(unreadable(wrong))
    if faults:
        raise BadInput(f"{source}: {'; '.join(faults)}")
    labels = np.repeat(np.arange(len(names)), [len(members[name]) for name in names])
    known = frozenset(name.removeprefix(wrapper) for name in every)
    return People(source, names, ordered, labels, known, tree, wrapper, sizes)


def find_faces(path: str | os.PathLike, *, pattern: str = "*", decode: bool = True) -> People:
    """Finds images of faces of whom nothing is known, in folders of any depth.

    Images are recognized as by `find_people`. Nothing says who anybody is, so each image counts as
    a person of its own, with its path as name.

    Args:
        path: The folder or zip.
        pattern: A pattern for the file names of the images.
        decode: Whether to check every image by decoding it; see `find_people`.

    Returns:
        The images, in natural order.

    Raises:
        BadInput: If there are no images, or some cannot be read, by name.

    Example:

    >>> import pathlib, tempfile
    >>> from PIL import Image
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> for name in ("10.png", "9.png"):
    ...     Image.new("L", (6, 7)).save(folder / name)
    >>> faces = find_faces(folder)
    >>> faces.images, faces.labels.tolist()
    (('9.png', '10.png'), [0, 1])
    """
    pillow()
    source = os.fspath(path)
    if not os.path.exists(os.path.expanduser(path)):
        raise BadInput(f"{source} does not exist: expected a folder or zip of images")
    tree = Tree(path)
    every = [name for name in tree.names if is_image(name)]
    images = tuple(
        sorted(
            (each for each in every if fnmatchcase(each.rsplit("/", 1)[-1], pattern)), key=natural
        )
    )
    if not images:
        raise BadInput(
            f"{source} has no images: expected names like {pattern} and a suffix of "
            f"{' '.join(SUFFIXES)}"
        )
    wrong, sizes = _wrong_and_sizes(tree, "", images, decode)
    if wrong:
        raise BadInput(f"{source}: {unreadable(wrong)}")
    labels = np.arange(len(images))
    return People(source, images, images, labels, frozenset(every), tree, "", sizes)


def _people_of_records(source: str, least: int, skip_small: bool, pattern: str) -> People:
    """As `find_people`, for a .rec file."""
    if pattern != "*":
        raise BadInput(f"{source}: records have no file names to match. Received: {pattern}")
    found = read_records(source)
    numbers, labels, counts = np.unique(found.labels, return_inverse=True, return_counts=True)
    every = tuple(map(str, numbers.tolist()))
    images = RecordNames(every, labels, found.keys)
    order = np.argsort(labels, kind="stable")
    people = People(source, every, images.take(order), labels[order], images, found, "")
    small = too_few(dict(zip(every, counts.tolist(), strict=True)), least)
    if small and not skip_small:
        raise BadInput(f"{source}: {small}")
    if not small:
        return people
    kept = [name for name, count in zip(every, counts.tolist(), strict=True) if count >= least]
    if not kept:
        raise BadInput(f"{source}: nobody has {least} images or more")
    return people.subset(kept)


def natural(name: str) -> tuple[list[str | tuple[int, str]], str]:
    """Sort key by which numbers in names are compared as numbers.

    Args:
        name: Any string.

    Returns:
        A key for `sorted`.

    Example:

    >>> sorted(["s10", "s9", "a", "s010"], key=natural)
    ['a', 's9', 's010', 's10']
    """
    # Words are at even indices and numbers at odd ones, so only like is compared with like.
    parts: list[str | tuple[int, str]] = list(re.split(r"([0-9]+)", name))
    # The longer of two numbers is larger: Python converts none of thousands of digits.
    for place in range(1, len(parts), 2):
        digits = str(parts[place]).lstrip("0")
        parts[place] = len(digits), digits
    return parts, name


def some(items: Sequence[str]) -> str:
    """Names the first few items of an error and counts the rest.

    Args:
        items: Names.

    Returns:
        Text for an error, empty for no names.

    Example:

    >>> some(["a", "b", "c", "d", "e"])
    'a, b, c and 2 more'
    """
    more = f" and {len(items) - _NAMED} more" if len(items) > _NAMED else ""
    return ", ".join(items[:_NAMED]) + more


def too_few(counts: Mapping[str, int], least: int) -> str:
    """Names the people with too few images.

    Args:
        counts: The number of images of each person.
        least: The minimum number of images per person.

    Returns:
        Text for an error, empty if everyone has enough.

    Example:

    >>> too_few({"s1": 1, "s2": 3}, 2)
    'a person needs at least 2 images. Received: s1 (1)'
    """
    few = [name for name in sorted(counts, key=natural) if counts[name] < least]
    if not few:
        return ""
    received = some([f"{name} ({counts[name]})" for name in few])
    return f"a person needs at least {least} images. Received: {received}"


def _wrapper(images: Sequence[str]) -> str:
    """The folders around the people: a path that ends in /, or an empty string."""
    folders = [name.split("/")[:-2] for name in images]
    shared = os.path.commonprefix(folders)  # noqa: RUF071 - of lists: whole folders are compared
    return "".join(f"{folder}/" for folder in shared)


def _members(
    names: Iterable[str], images: Iterable[str], wrapper: str
) -> tuple[dict[str, list[str]], list[str]]:
    """The images of each person, and those of nobody."""
    inside = [name.removeprefix(wrapper) for name in names if name.startswith(wrapper)]
    folders = [name[:-1] for name in inside if name.endswith("/") and name.count("/") == 1]
    members: dict[str, list[str]] = {folder: [] for folder in folders}
    misplaced = []
    for name in images:
        own = name.removeprefix(wrapper)
        if own.count("/") == 1:
            members.setdefault(own.split("/")[0], []).append(own)
        else:
            misplaced.append(own)
    return members, misplaced


def _wrong_and_sizes(
    tree: Tree, wrapper: str, images: Sequence[str], decode: bool
) -> tuple[list[tuple[str, str]], np.ndarray]:
    """The unreadable images, each with the reason, and the heights and widths of the others."""
    sizes = np.zeros((len(images), 2), np.int32)

    def check(begin: int) -> list[tuple[str, str]]:
        wrong = []
        for place, name in enumerate(images[begin : begin + _CHUNK], begin):
            try:
                with open_image(tree.read(wrapper + name)) as image:
                    sizes[place] = image.height, image.width
                    if decode:
                        # For JPEG, reads the whole file but decodes an eighth of each side.
                        image.draft("L", (1, 1))
                        image.load()
            except Exception as error:
                wrong.append((name, str(error)))
        return wrong

    with ThreadPoolExecutor(os.cpu_count()) as threads:
        chunks = threads.map(check, range(0, len(images), _CHUNK))
        return [fault for chunk in chunks for fault in chunk], sizes
