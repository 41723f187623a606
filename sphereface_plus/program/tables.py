"""Tables of embeddings: the faces, whose they are, and which network they were embedded by."""

import csv
import io
import json
import os
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np

from mhe.arrays import read_arrays
from mhe.harness.errors import BadInput
from mhe.harness.files import replacing
from mhe.reading import regular_size
from mhe.text import brief, read_text

SUFFIXES = (".npz", ".csv", ".safetensors")
_COLUMNS = ["image", "person", "model"]


@dataclass(frozen=True)
class Table:
    """Embeddings of faces.

    Attributes:
        source: What they are of or were read from, for errors.
        images: The name of each face, `(N,)`.
        people: The person of each, empty where that is not known, `(N,)`.
        embeddings: float32 `(N, dims)`, of any length.
        model: The digest of what embedded them; see `embedders.digest`. Only embeddings of equal
            digests can be compared.
    """

    source: str
    images: np.ndarray
    people: np.ndarray
    embeddings: np.ndarray
    model: str

    def __len__(self) -> int:
        """The number of faces."""
        return len(self.embeddings)


def is_table(path: str | os.PathLike) -> bool:
    """Whether a path names a table of embeddings, by its suffix; folders may have any name.

    Example:

    >>> is_table("gallery.npz"), is_table("gallery.zip")
    (True, False)
    """
    place = os.path.expanduser(os.fspath(path))
    return place.lower().endswith(SUFFIXES) and not os.path.isdir(place)


def require_writable(path: str | os.PathLike) -> None:
    """Refuses a path that no table can be written to, before any work is done.

    Args:
        path: The file.

    Raises:
        BadInput: If its suffix is of no table, or safetensors is needed and not installed.

    Example:

    >>> require_writable("faces.txt")
    Traceback (most recent call last):
        ...
    mhe.harness.errors.BadInput: faces.txt must end in .npz, .csv or .safetensors
    """
    if not is_table(path):
        raise BadInput(f"{os.fspath(path)} must end in .npz, .csv or .safetensors")
    if _suffix(path) == ".safetensors":
        _safetensors("numpy")


def write_table(path: Path, table: Table) -> None:
    """Writes a table in one step, in the format of the path's suffix.

    - `.npz`: the arrays `images`, `people`, `embeddings` and `model`; nothing is pickled.
    - `.csv`: the columns `image`, `person`, `model`, and `e1` to `e<dims>`, each number with the
      nine digits by which a float32 is read back as it was.
    - `.safetensors`: the tensor `embeddings`, and the rest as JSON in the metadata.

    Args:
        path: The file.
        table: The table.

    Example:

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp(), "faces.csv")
    >>> vectors = np.array([[0.5, -1.0]], "float32")
    >>> write_table(path, Table("ann.png", np.array(["ann/1"]), np.array(["ann"]), vectors, "7f"))
    >>> path.read_text().splitlines()
    ['image,person,model,e1,e2', 'ann/1,ann,7f,0.5,-1']
    >>> read_table(path).embeddings.tolist()
    [[0.5, -1.0]]
    """
    with replacing(path) as partial:
        if _suffix(path) == ".npz":
            with open(partial, "wb") as file:
                np.savez(
                    file,
                    images=np.asarray(table.images, str),
                    people=np.asarray(table.people, str),
                    embeddings=table.embeddings,
                    model=np.array(table.model),
                )
        elif _suffix(path) == ".csv":
            dims = table.embeddings.shape[1]
            with open(partial, "w", newline="", encoding="utf-8") as text:
                writer = csv.writer(text)
                writer.writerow([*_COLUMNS, *(f"e{place}" for place in range(1, dims + 1))])
                rows = zip(table.images, table.people, table.embeddings, strict=True)
                for image, person, row in rows:
                    numbers = (f"{number:.9g}" for number in row.tolist())
                    writer.writerow([image, person, table.model, *numbers])
        else:
            described = {
                "images": json.dumps([str(each) for each in table.images]),
                "people": json.dumps([str(each) for each in table.people]),
                "model": table.model,
            }
            _safetensors("numpy").save_file(
                {"embeddings": np.ascontiguousarray(table.embeddings)}, partial, described
            )


def read_table(path: str | os.PathLike) -> Table:
    """Reads a table that `write_table` wrote. Nothing in it is executed.

    Args:
        path: The file.

    Returns:
        The table.

    Raises:
        BadInput: If the file cannot be read, is damaged, or holds something else; or if an
            embedding is not finite.
    """
    source = os.fspath(path)
    place = os.path.expanduser(source)
    try:
        regular_size(place)
        read = {".npz": _read_npz, ".csv": _read_csv, ".safetensors": _read_safetensors}
        images, people, embeddings, model = read[_suffix(path)](place)
    except BadInput:
        raise
    except (OSError, ValueError) as error:
        raise BadInput(
            f"{source} cannot be read as a table of embeddings: {brief(error, 300)}"
        ) from error
    shape = embeddings.shape
    is_whole = len(shape) == 2 and 0 not in shape and embeddings.dtype.kind == "f"
    if not is_whole or images.shape != shape[:1] or people.shape != shape[:1]:
        raise BadInput(
            f"{source} must hold floating-point embeddings (N, dims) with an image and a person "
            f"each. Received: embeddings {brief(shape)} of {embeddings.dtype}, images "
            f"{brief(images.shape)}, people {brief(people.shape)}"
        )
    with np.errstate(over="ignore"):
        embeddings = embeddings.astype(np.float32)
    wrong = ~np.isfinite(embeddings).all(axis=1)
    if wrong.any():
        raise BadInput(
            f"{source}: embeddings must be finite. Received: that of {brief(images[wrong][0])}"
        )
    return Table(source, images, people, embeddings, model)


_Parts = tuple[np.ndarray, np.ndarray, np.ndarray, str]


def _read_npz(path: str) -> _Parts:
    arrays = read_arrays(path, ["embeddings"], ["images", "people", "model"])
    if arrays["model"].shape != ():
        raise ValueError(f"its model must be one text. Received: shape {arrays['model'].shape}")
    return arrays["images"], arrays["people"], arrays["embeddings"], str(arrays["model"])


def _read_csv(path: str) -> _Parts:
    reader = csv.reader(io.StringIO(read_text(path), newline=""))
    try:
        header = next(reader, [])
        dims = len(header) - len(_COLUMNS)
        if dims < 1 or header != [*_COLUMNS, *(f"e{place}" for place in range(1, dims + 1))]:
            raise ValueError(
                "it must have the columns image, person, model, e1, e2, … "
                f"Received: {brief(', '.join(header)) or 'an empty file'}"
            )
        texts, rows, model = [], [], None
        for row in reader:
            if len(row) != len(header):
                raise ValueError(
                    f"line {reader.line_num} must have {len(header)} cells. Received: {len(row)}"
                )
            try:
                rows.append(np.array([float(cell) for cell in row[3:]], np.float64))
            except ValueError as error:
                raise ValueError(f"line {reader.line_num}: {brief(error)}") from error
            texts.append(row[:2])
            if model is not None and row[2] != model:
                raise ValueError(
                    f"all embeddings must be of one model. Received: {brief(model)} and "
                    f"{brief(row[2])}, in line {reader.line_num}"
                )
            model = row[2]
    except csv.Error as error:
        raise ValueError(f"line {reader.line_num}: {error}") from error
    if model is None:
        raise ValueError("it must hold at least one embedding. Received: none")
    images, people = np.array(texts, str).T
    return images, people, np.stack(rows), model


def _read_safetensors(path: str) -> _Parts:
    opened = _safetensors().safe_open
    # Its own errors derive from `Exception`, and those of other types from others.
    try:
        with opened(path, framework="np") as file:
            described = file.metadata() or {}
            embeddings = file.get_tensor("embeddings")
        lists = [json.loads(described[name]) for name in ("images", "people")]
        model = described["model"]
    except KeyError as error:
        raise ValueError(f"its metadata must have the entry {error}") from error
    except Exception as error:
        raise ValueError(str(error)) from error
    for each in lists:
        if not (isinstance(each, list) and all(isinstance(name, str) for name in each)):
            raise ValueError("its images and people must be lists of text")
    return np.array(lists[0], str), np.array(lists[1], str), embeddings, model


def _suffix(path: str | os.PathLike) -> str:
    return Path(path).suffix.lower()


def _safetensors(part: str = "") -> ModuleType:
    """Returns `safetensors`, or a part of it, or raises a `BadInput`."""
    try:
        import safetensors
        import safetensors.numpy
    except ImportError as error:
        raise BadInput(
            'Files in .safetensors need safetensors: pip install ".[safetensors]" from the checkout'
        ) from error
    return safetensors.numpy if part == "numpy" else safetensors
