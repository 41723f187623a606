"""The folders of results, and measuring cases in processes of their own for them."""

import os
import platform
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import keras
import numpy as np
from tqdm import tqdm

import mhe
from mhe.harness.errors import BadInput
from mhe.harness.files import make_folder, write_csv, write_json
from timing.processes import Died, ask, on_backend

Row: TypeAlias = dict[str, Any]

WORKER: Sequence[str] = ("-m", "timing.worker")


def variant(row: Row) -> str:
    """Returns the short name of an energy: its space and power, with `a` for angles.

    Example:

    >>> variant({"space": "half", "distance": "angle", "s": 2})
    'half a2'
    """
    return f"{row['space']} {'a' if row['distance'] == 'angle' else ''}{row['s']:g}"


def describe(case: Row) -> str:
    """Describes a case in a few words.

    Example:

    >>> describe({"dims": 64, "neurons": 8, "space": "full", "distance": "angle", "s": 2})
    '64x8 full a2'
    """
    words = [case[name] for name in ("model", "kind") if name in case]
    if "dims" in case:
        words.append(f"{case['dims']}x{case['neurons']}")
    if "s" in case:
        words.append(variant(case))
    return " ".join([*words, *(str(case[name]) for name in ("name", "sample") if name in case)])


def new_folder(out: str) -> Path:
    """Returns the folder that `--out` names, created if needed.

    Raises:
        BadInput: If it is not empty, or cannot be written to.

    Example:

    >>> import tempfile
    >>> new_folder(tempfile.mkdtemp() + "/speed").name
    'speed'
    """
    folder = make_folder(Path(out))
    if any(folder.iterdir()):
        raise BadInput(f"--out {out} is not empty, and nothing in it is overwritten")
    return folder


def new_csv(out: str, name: str) -> Path:
    """Returns the path of a new CSV in the folder that `--out` names, created if needed.

    Raises:
        BadInput: If the file exists, or the folder cannot be written to.

    Example:

    >>> import tempfile
    >>> new_csv(tempfile.mkdtemp(), "jax").name
    'jax.csv'
    """
    path = make_folder(Path(out)) / f"{name}.csv"
    if path.exists():
        raise BadInput(f"--out {out} has {path.name}, and nothing is overwritten")
    return path


class Results:
    """The folder of the results, and the machine they are measured on.

    Args:
        folder: A new or empty folder.
        columns: The columns of each CSV, by the file's name without suffix.

    Raises:
        BadInput: If it is not empty, or cannot be written to.
    """

    def __init__(self, folder: str, columns: Mapping[str, Sequence[str]]) -> None:
        self.folder = new_folder(folder)
        self.machine = machine()
        self._columns = columns

    def write(self, name: str, rows: Sequence[Row]) -> None:
        """Writes all rows so far to a CSV, and the machine to `machine.json`."""
        columns = self._columns[name]
        shown = [{column: row.get(column) for column in columns} for row in rows]
        write_csv(self.folder / f"{name}.csv", shown, columns)
        write_json(self.folder / "machine.json", self.machine)

    def measure(
        self, backend: str, job: Mapping[str, Any], cases: Sequence[Row], bar: tqdm
    ) -> Iterator[list[Row]]:
        """Measures cases in one process; a case that kills it gets a note, the next a new process.

        Args:
            backend: The backend to run on.
            job: What `timing.worker.answers` takes, without the cases.
            cases: The cases to measure.
            bar: The progress bar, which advances by one per case.

        Yields:
            The rows of a case, each with its backend, device and case.
        """
        left = list(cases)
        known = {"backend": backend}
        while left:
            bar.set_description_str(f"{backend} {describe(left[0])}")
            question = {**job, "cases": left}
            answers = ask(f"The worker on {backend}", WORKER, question, on_backend(backend))
            try:
                runs_on = next(answers)
                known["device"] = runs_on["device"]
                self.machine["backends"][backend] = runs_on
                for answer in answers:
                    case = left.pop(0)
                    bar.update()
                    if left:
                        bar.set_description_str(f"{backend} {describe(left[0])}")
                    yield [{**known, **case, **row} for row in answer["rows"]]
            except Died as error:
                case = left.pop(0)
                bar.update()
                yield [{**known, **case, "note": str(error)}]


def progress(total: int) -> tqdm:
    """Returns a progress bar over cases, on a terminal only.

    Example:

    >>> progress(2).update()
    """
    return tqdm(
        total=total,
        file=sys.stderr,
        leave=False,
        disable=None,  # disabled unless stderr is a terminal
        bar_format="{n_fmt}/{total_fmt} {desc}, {remaining} left",
    )


def machine() -> dict[str, Any]:
    """Describes the machine.

    Example:

    >>> sorted(machine())
    ['backends', 'cores', 'cpu', 'keras', 'mhe', 'numpy', 'python', 'ram_gib', 'system']
    """
    cpu = platform.processor()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = [line.split(":", 1) for line in info.read_text("utf-8").splitlines() if ":" in line]
        cpu = next((text.strip() for name, text in lines if name.strip() == "model name"), cpu)
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "ram_gib": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "mhe": mhe.__version__,
        "keras": keras.__version__,
        "numpy": np.__version__,
        "backends": {},
    }
