"""Prototypes that are placed once, which may take minutes, and then kept in the run's folder."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from mhe.arrays import read_array
from mhe.harness.checksums import replacing_with_checksum, require_own
from mhe.harness.errors import BadInput
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
        return read_array(path)
    except (OSError, ValueError) as error:
        raise BadInput(f"{path} cannot be read as a .npy of prototypes: {error}") from error


def read_or_place(run: Run | None, place: Callable[[], np.ndarray | None]) -> np.ndarray | None:
    """Returns the prototypes that a run keeps, or places them.

    Args:
        run: The run to resume, or None.
        place: Returns prototypes, or None if the run has none.

    Raises:
        BadInput: If the run's prototypes cannot be read, or have changed.
    """
    if run is None or not (run.folder / _FILE).exists():
        return place()
    path = run.folder / _FILE
    try:
        require_own(path)
    except (OSError, ValueError) as error:
        raise BadInput(
            f"{path} cannot be used: {error}. Put it back, or delete it to place them anew"
        ) from error
    return read(path)


def keep(run: Run, prototypes: np.ndarray | None) -> None:
    """Writes the prototypes to the run's folder, unless they are there.

    Args:
        run: The run.
        prototypes: The prototypes, or None if the run has none.

    Example:

    >>> import tempfile
    >>> run = Run(Path(tempfile.mkdtemp()), {}, resumed=False)
    >>> keep(run, np.eye(2))
    >>> read_or_place(run, lambda: None).tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    path = run.folder / _FILE
    if prototypes is not None and not path.exists():
        with replacing_with_checksum(path) as partial, open(partial, "wb") as file:
            np.save(file, prototypes, allow_pickle=False)
