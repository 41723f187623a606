"""The files of a folder, or of a zip that is read in place.

Published archives hold up to millions of small images. Unpacking them takes longer than a short
run, doubles the space on disk and leaves files behind, so members are read straight from the zip,
which also means that nothing is ever written outside of a target folder.
"""

import os
import zipfile
from collections.abc import Iterable
from pathlib import Path

from mhe.harness.errors import BadInput

# A single top folder of a zip that holds one of these is a wrapper and not part of the layout.
_MARKS = ("wnids.txt", "train.csv", "train/")


class Tree:
    """The files of a folder or a zip, by their paths within it.

    Args:
        path: The folder or the .zip. A single folder that holds everything in a zip is not part of
            the paths.

    Attributes:
        name: The path as it was given.
        names: The paths in alphabetical order, without hidden files; those of folders end in /.

    Raises:
        BadInput: If it is neither.

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
        """Return the bytes of a file."""
        if self._archive is None:
            return (self._root / name).read_bytes()
        return self._archive.read(self._prefix + name)

    def text(self, name: str) -> str:
        """Return the text of a file in UTF-8.

        Raises:
            BadInput: If it is not.
        """
        try:
            return self.read(name).decode("utf-8-sig")
        except (OSError, UnicodeDecodeError, zipfile.BadZipFile) as error:
            raise BadInput(f"{self.name}: {name} cannot be read: {error}") from error

    def __enter__(self) -> "Tree":
        """Begin to read."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the zip."""
        if self._archive is not None:
            self._archive.close()

    def _walk(self) -> Iterable[str]:
        for folder, subfolders, files in os.walk(self._root, followlinks=True):
            # What the folder of a user's project holds beside the images is not looked into.
            subfolders[:] = [name for name in subfolders if not _hidden(name)]
            inside = Path(folder).relative_to(self._root)
            yield from (f"{(inside / name).as_posix()}/" for name in subfolders)
            yield from ((inside / name).as_posix() for name in files)


def _hidden(name: str) -> bool:
    return name.startswith((".", "__MACOSX")) or name in ("Thumbs.db", "desktop.ini")
