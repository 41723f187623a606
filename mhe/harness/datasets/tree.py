"""The files of a folder, or of a zip that is read in place.

No library is used because those that read archives unpack them first, which takes longer than a
short run and twice the space. Reading members in place also means that no archive can write
anywhere.
"""

import lzma
import os
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path

from mhe.harness.errors import BadInput
from mhe.text import LARGEST, decode_text, read_text

# A single top folder of a zip that holds one of these is a wrapper and not part of the layout.
_MARKS = ("wnids.txt", "train.csv", "train/")


class Tree:
    """The files of a folder or a zip, by their paths within it.

    Args:
        path: The folder or the .zip file. A single top folder of a zip is not part of the paths.

    Attributes:
        name: `path` as it was given.
        names: The paths in alphabetical order, without hidden files; folders end in `/`.

    Raises:
        BadInput: If `path` is neither a folder nor a readable zip.

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
        path = Path(path).expanduser()
        if path.is_dir():
            self._root = path
            names = self._walk()
        else:
            try:
                self._archive = zipfile.ZipFile(path)
            except (OSError, zipfile.BadZipFile) as error:
                raise BadInput(f"{path} is not a readable zip: {error}") from error
            names = self._archive.namelist()
            tops = {name.split("/")[0] for name in names if not _hidden(name.split("/")[0])}
            marks = tuple(f"{top}/{mark}" for top in tops for mark in _MARKS)
            if len(tops) == 1 and any(name.startswith(marks) for name in names):
                self._prefix = tops.pop() + "/"
        inside = {name.removeprefix(self._prefix) for name in names}
        self.names = sorted(
            name for name in inside if name and not any(map(_hidden, name.split("/")))
        )

    def read(self, name: str) -> bytes:
        """Returns the bytes of a file."""
        if self._archive is None:
            return (self._root / name).read_bytes()
        return self._archive.read(self._prefix + name)

    def text(self, name: str) -> str:
        """Returns the text of a file, see `mhe.text.read_text`.

        Raises:
            BadInput: If the file cannot be read: it is damaged, encrypted, compressed by an unknown
                method, too large, or no text.
        """
        try:
            if self._archive is None:
                return read_text(self._root / name)
            with self._archive.open(self._prefix + name) as file:
                return decode_text(file.read(LARGEST + 1), name)
        except _UNREADABLE as error:
            raise BadInput(f"{self.name}: {name} cannot be read: {error}") from error

    def __enter__(self) -> "Tree":
        """Returns itself; leaving the block closes the zip."""
        return self

    def __exit__(self, *_: object) -> None:
        """Closes the zip."""
        if self._archive is not None:
            self._archive.close()

    def _walk(self) -> Iterable[str]:
        for folder, subfolders, files in os.walk(self._root, followlinks=True):
            # A user's project may hold large hidden folders beside the images.
            subfolders[:] = [name for name in subfolders if not _hidden(name)]
            inside = Path(folder).relative_to(self._root)
            yield from (f"{(inside / name).as_posix()}/" for name in subfolders)
            yield from ((inside / name).as_posix() for name in files)


# What reading a member of a zip raises: for one that is encrypted it is a RuntimeError, for unknown
# methods of compression a NotImplementedError, which is one.
_UNREADABLE = (
    *(OSError, ValueError, RuntimeError, EOFError),
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError),
)
# What Windows leaves in folders, in any case.
_SYSTEM = ("thumbs.db", "ehthumbs.db", "desktop.ini")


def _hidden(name: str) -> bool:
    return name.startswith((".", "__MACOSX")) or name.lower() in _SYSTEM
