"""Prototypes that are placed once: read from a file, and kept in the folder of a run.

Placing them may take minutes, and one run keeps to one set of them.
"""

from pathlib import Path

import numpy as np

from mhe.harness.errors import BadInput
from mhe.harness.files import replacing
from mhe.harness.run import Run

_FILE = "prototypes.npy"


def read(path: str | Path) -> np.ndarray:
    """Reads an array of prototypes.

    Args:
        path: A .npy, as `python -m mhe.prototypes` writes it.

    Raises:
        BadInput: If it cannot be read.

    Example:

    >>> read("prototypes.txt")
    Traceback (most recent call last):
        ...
    mhe.harness.errors.BadInput: prototypes.txt cannot be read as a .npy of prototypes: ...
    """
    try:
        return np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise BadInput(f"{path} cannot be read as a .npy of prototypes: {error}") from error


def kept(run: Run | None) -> np.ndarray | None:
    """Returns the prototypes that a run has kept.

    Args:
        run: The run that is resumed, or None.

    Returns:
        Rows, or None where it has kept none.

    Raises:
        BadInput: If they cannot be read.

    Example:

    >>> kept(None) is None
    True
    """
    if run is None or not (run.folder / _FILE).exists():
        return None
    return read(run.folder / _FILE)


def keep(run: Run, rows: np.ndarray | None) -> None:
    """Keeps the prototypes of a run, unless it has some.

    Args:
        run: The run.
        rows: Its prototypes, or None where it has no use for them.

    Example:

    >>> import tempfile
    >>> run = Run(Path(tempfile.mkdtemp()), {}, resumed=False)
    >>> keep(run, np.eye(2))
    >>> kept(run).tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    path = run.folder / _FILE
    if rows is not None and not path.exists():
        with replacing(path) as partial, open(partial, "wb") as file:
            np.save(file, rows, allow_pickle=False)
