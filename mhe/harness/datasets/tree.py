"""The files of a folder, or of a zip that is read in place.

No library is used because those that read archives unpack them first, which takes longer than a
short run and twice the space. Reading members in place also means that no archive can write
anywhere.
"""

import os
import zipfile
from collections.abc import Iterator
from pathlib import Path

from mhe.harness.datasets.images import is_image
from mhe.harness.errors import BadInput
from mhe.reading import ZIP_ERRORS, check_size, read_member, regular_size
from mhe.text import decode_text, is_utf8

# A single top folder of a zip that holds one of these is a wrapper and not part of the layout.
_MARKS = ("wnids.txt", "train.csv", "train/")
# A folder is not searched to its end if there are so many files, or so many other files besides ten
# per image: it is the root of a disk or somebody's home, which may take hours.
_MOST = 20_000_000
_MOST_OTHERS = 100_000


class Tree:
    """The files of a folder or a zip, by their paths within it.

    Args:
        path: The folder or the .zip file. A single top folder of a zip is not part of the paths.

    Attributes:
        name: `path` as it was given.
        is_folder: Whether it is a folder, not a zip.
        names: The paths in alphabetical order, without hidden files; folders end in `/`.

    Raises:
        BadInput: If `path` is neither a folder nor a readable zip, a name in it is not UTF-8, a
            link leads around in a circle, or the folder holds far more files than images.

    Example:

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> _ = (folder / "words.txt").write_text("a wnid and its words")
    >>> with Tree(folder) as tree:
    ...     tree.names, tree.read("words.txt")
    (['words.txt'], b'a wnid and its words')
    """

    def __init__(self, path: str | os.PathLike):
        self.name = os.fspath(path)
        self._archive = None
        self._prefix = ""
        path = Path(os.path.expanduser(path))
        self.is_folder = path.is_dir()
        if self.is_folder:
            self._root = path
            try:
                names = list(self._walk())
            except OSError as error:
                raise BadInput(f"{path} cannot be searched: {error}") from error
        else:
            try:
                regular_size(path)
                self._archive = zipfile.ZipFile(path)
            except ZIP_ERRORS as error:
                raise BadInput(f"{path} is not a readable zip: {error}") from error
            names = self._archive.namelist()
            odd = next((name for name in names if "\\" in name), None)
            if odd is not None:
                self._archive.close()
                raise BadInput(
                    f"{path}: folders in a zip must end in slashes; unpack and zip it anew. "
                    f"Received: {odd}"
                )
            tops = {name.split("/")[0] for name in names if not _hidden(name.split("/")[0])}
            marks = tuple(f"{top}/{mark}" for top in tops for mark in _MARKS)
            if len(tops) == 1 and any(name.startswith(marks) for name in names):
                self._prefix = tops.pop() + "/"
        inside = {name.removeprefix(self._prefix) for name in names}
        self.names = sorted(
            name for name in inside if name and not any(map(_hidden, name.split("/")))
        )
        for name in self.names:
            if not is_utf8(name):
                raise BadInput(f"{path}: the names of files must be UTF-8. Received: {name!a}")

    def read(self, name: str, most: int | None = None) -> bytes:
        """Returns the bytes of a file.

        Args:
            name: The file.
            most: How many bytes to read at most, from its beginning; None for all.

        Raises:
            BadInput: If the file cannot be read: it is missing, damaged, encrypted, compressed by
                an unknown method, too large, or a pipe or device. The message leaves out its name.
        """
        try:
            if self._archive is None:
                path = self._root / name
                check_size(regular_size(path), "a file")
                with open(path, "rb") as file:
                    return file.read(-1 if most is None else most)
            if most is not None:
                with self._archive.open(self._prefix + name) as member:
                    return member.read(most)
            return read_member(self._archive, self._prefix + name)
        except ZIP_ERRORS as error:
            raise BadInput(str(error)) from error

    def text(self, name: str) -> str:
        """Returns the text of a file, see `mhe.text.read_text`.

        Raises:
            BadInput: If the file cannot be read, see `read`, or is no text.
        """
        try:
            return decode_text(self.read(name), name)
        except ValueError as error:
            raise BadInput(f"{self.name}: {name} cannot be read: {error}") from error

    def __enter__(self) -> "Tree":
        """Returns itself; leaving the block closes the zip."""
        return self

    def __exit__(self, *_: object) -> None:
        """Closes the zip."""
        if self._archive is not None:
            self._archive.close()

    def _walk(self) -> Iterator[str]:
        images = others = 0
        around: dict[str, tuple[tuple[int, int], ...]] = {}
        for folder, subfolders, files in os.walk(self._root, onerror=_refuse, followlinks=True):
            # A user's project may hold large hidden folders beside the images.
            subfolders[:] = [name for name in subfolders if not _hidden(name)]
            status = os.stat(folder)
            identity = (status.st_dev, status.st_ino)
            outer = around.get(os.path.dirname(folder), ())
            if identity in outer:
                raise BadInput(f"{self.name}: the link {folder} leads to a folder around itself")
            around[folder] = (*outer, identity)
            pictures = sum(map(is_image, files))
            images, others = images + pictures, others + len(files) - pictures
            if others > _MOST_OTHERS + 10 * images or images + others + len(around) > _MOST:
                raise BadInput(
                    f"{self.name} must be a folder of images. Received: {images:,} images and "
                    f"{others:,} other files in the first {len(around):,} folders, up to {folder}"
                )
            inside = Path(folder).relative_to(self._root)
            yield from (f"{(inside / name).as_posix()}/" for name in subfolders)
            yield from ((inside / name).as_posix() for name in files)


def _refuse(error: OSError) -> None:
    raise error


# What systems leave in folders and on disks, in any case.
_SYSTEM = (
    *("thumbs.db", "ehthumbs.db", "desktop.ini"),
    *("$recycle.bin", "system volume information", "lost+found"),
)


def _hidden(name: str) -> bool:
    return name.startswith((".", "__MACOSX")) or name.lower() in _SYSTEM
