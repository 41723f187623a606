"""The report that a program writes when it tests a run."""

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mhe.harness.errors import BadInput
from mhe.harness.files import write_json
from mhe.harness.run import Run


def make_folder(folder: str | os.PathLike) -> Path:
    """Makes the folder that `--out` names, unless it is there.

    Args:
        folder: The folder.

    Returns:
        The folder.

    Raises:
        BadInput: If it cannot be made.

    Example:

    >>> make_folder(os.devnull)
    Traceback (most recent call last):
        ...
    mhe.harness.errors.BadInput: --out /dev/null cannot be written to: File exists
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"--out {folder} cannot be written to: {error.strerror}") from error
    return folder


def write_report(
    folder: Path, run: Run, metrics: Mapping[str, float], *, started: float, **described: Any
) -> dict[str, Any]:
    """Writes `result.json` of a test, and prints where it is.

    Args:
        folder: The report's folder, which exists.
        run: The run that was tested.
        metrics: The metrics by name.
        started: `time.monotonic()` at the start.
        **described: Further entries; they replace those taken from the run's config.

    Returns:
        The content of the file.
    """
    result = {
        **{name: run.config[name] for name in ("model_name", "power_s", "dataset", "seed")},
        "run": str(run.folder),
        **described,
        "metrics": metrics,
        "seconds": round(time.monotonic() - started, 3),
    }
    write_json(folder / "result.json", result)
    print(f"Report in {folder}")
    return result
