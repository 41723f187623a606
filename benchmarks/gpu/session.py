"""A folder of results that grows case by case, within a time, over as many sittings as it takes."""

import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from timing.processes import Died, Late, ask, on_backend
from timing.results import Row, machine, new_folder

from gpu.plan import Part
from mhe.harness.errors import BadInput
from mhe.harness.files import read_csv, read_json, write_csv, write_json
from mhe.text import brief

WORKER: Sequence[str] = ("-m", "gpu.worker")
# Seconds by which a case may outlast the time of its part before it is ended.
GRACE = 90.0
FAILED = "failed: "


class Session:
    """The folder of a session: a CSV per part, and `session.json` with the card and the versions.

    Args:
        out: A new or empty folder, or that of a session to go on with.
        toy: Whether the session is a toy.
        seed: Of weights and data, and of the order in which calls are timed.

    Raises:
        BadInput: If the folder holds anything else, or a session with other flags.
    """

    def __init__(self, out: str, toy: bool, seed: int) -> None:
        file = Path(out) / "session.json"
        own: dict[str, Any] = {"toy": toy, "seed": seed}
        if file.exists():
            self.folder, self.about = Path(out), dict(read_json(file))
            for name, value in own.items():
                if self.about.get(name) != value:
                    raise BadInput(
                        f"--out {out} holds a session with {name} {self.about.get(name)}; give it "
                        f"the same flags or another folder. Received: {name} {value}"
                    )
        else:
            self.folder, self.about = new_folder(out), {**own, "cards": cards(), **machine()}
        self.seed = seed
        self._rows: dict[str, list[Row]] = {}

    def start(self, backend: str, seconds: float) -> Row:
        """Returns what a backend runs on, after noting it in `session.json`.

        Args:
            backend: The backend.
            seconds: Time that this may take.

        Raises:
            BadInput: If it runs on the CPU and the session is no toy, or on another card than the
                rows that are there.
        """
        job = {"task": "times", "cases": []}
        try:
            (runs_on,) = ask(f"The worker on {backend}", WORKER, job, on_backend(backend), seconds)
        except Late as error:
            raise BadInput(f"--minutes is too short to start {backend}, which {error}") from error
        device = runs_on["device"]
        if device == "cpu" and not self.about["toy"]:
            raise BadInput(f"{backend} finds no GPU; --toy measures something small on the CPU")
        before = self.about["backends"].setdefault(backend, runs_on)["device"]
        if before != device:
            raise BadInput(
                f"--out {self.folder} was measured on {before}; {backend} now runs on {device}"
            )
        self._note()
        return runs_on

    def left(self, part: Part, backend: str) -> list[Row]:
        """Returns the cases of a part that are not in its CSV."""
        done = {_key(part, row) for row in self.rows(part) if row["backend"] == backend}
        return [case for case in part.cases if _key(part, case) not in done]

    def rows(self, part: Part) -> list[Row]:
        """Returns the rows of a part's CSV. Those that failed in an earlier sitting are left out.

        Raises:
            BadInput: If the CSV cannot be read.
        """
        if part.name not in self._rows:
            path = self.folder / f"{part.name}.csv"
            known = read_csv(path) if path.exists() else []
            self._rows[part.name] = [row for row in known if not row["note"].startswith(FAILED)]
        return self._rows[part.name]

    def measure(self, part: Part, backend: str, until: float, end: float) -> None:
        """Measures the cases of a part that are left, as far as the time goes.

        Args:
            part: The part.
            backend: The backend.
            until: No case starts after this time, in seconds since 1970.
            end: The end of the session, which no case outlasts.

        Raises:
            RuntimeError: If the worker does not even start.
        """
        left = self.left(part, backend)
        while left and time.time() < until:
            last = min(end, until + GRACE)
            job = {
                **part.options,
                "task": part.task,
                "cases": left[:1] if part.alone else list(left),
                "seed": self.seed,
                "order": self.seed,
                "until": until,
            }
            seconds = last - time.time()
            answers = ask(f"The worker on {backend}", WORKER, job, on_backend(backend), seconds)
            started = False
            try:
                for answer in answers:
                    if started:
                        self._add(part, backend, left.pop(0), answer["rows"])
                    started = True
                if not part.alone:
                    return  # what is left is too late
            except Late:
                if last < end and left:  # or it would take the time of all parts
                    note = f"{FAILED}not done {GRACE:.0f} s after the time of its part"
                    self._add(part, backend, left.pop(0), [{"note": note}])
                return
            except Died as error:
                self._add(part, backend, left.pop(0), [{"note": str(error)}])
            except RuntimeError as error:
                if not started:
                    raise
                note = FAILED + brief(str(error).strip().splitlines()[-1], 300)
                self._add(part, backend, left.pop(0), [{"note": note}])

    def _add(self, part: Part, backend: str, case: Row, rows: Sequence[Row]) -> None:
        known = {"backend": backend, "device": self.about["backends"][backend]["device"]}
        mine = self.rows(part)
        for row in rows:
            full = {**row, **case, **known}
            mine.append({column: _text(full.get(column)) for column in part.columns})
        write_csv(self.folder / f"{part.name}.csv", mine, part.columns)

    def finish(self, left_out: Mapping[str, Mapping[str, int]]) -> None:
        """Notes how many cases of each backend and part were left out."""
        self.about["left_out"] = left_out
        self._note()

    def _note(self) -> None:
        write_json(self.folder / "session.json", self.about)


def _key(part: Part, row: Row) -> tuple[str, ...]:
    return tuple(_text(row.get(column)) for column in part.keys)


def _text(value: Any) -> str:
    return "" if value is None else str(value)


def cards() -> list[str]:
    """Returns name, driver, memory, power limit and highest clock of each NVIDIA GPU, if known.

    Example:

    >>> all(isinstance(each, str) for each in cards())
    True
    """
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    asked = "name,driver_version,memory.total,power.limit,clocks.max.sm"
    command = [program, f"--query-gpu={asked}", "--format=csv,noheader"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return answer.stdout.splitlines()
