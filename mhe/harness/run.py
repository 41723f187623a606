"""The folder of one run: config, log, checkpoints, resume, result.

    config.json            every flag as it was resolved, and the versions that ran it
    log.csv                a row per epoch
    checkpoints/           the last two epochs: weights and optimizer, the log up to then, checksums
    tensorboard/           the numbers of log.csv for TensorBoard
    result.json            written last: a run that has it is complete

Every file is written under another name and moved into place in one step, so a run that is killed
at any moment leaves a folder that can be resumed.
"""

import argparse
import importlib.metadata
import math
import os
import platform
import shlex
import sys
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import keras
import numpy as np

from mhe.checkpoints import Checkpoints
from mhe.checkpoints.generations import epoch_of
from mhe.harness.errors import BadInput, CannotWrite, Diverged, as_bad_input, as_cannot_write
from mhe.harness.events import EventWriter
from mhe.harness.files import (
    PARTIAL,
    make_folder,
    read_csv,
    read_json,
    write_csv,
    write_json,
)
from mhe.harness.lock import LOCK
from mhe.keras_internals import weights_file
from mhe.version import __version__


def versions() -> dict[str, str]:
    """Returns the versions that a result depends on.

    Example:

    >>> sorted(versions())
    ['backend', 'backend_version', 'keras', 'mhe', 'numpy', 'python']
    """
    backend = keras.backend.backend()
    return {
        "mhe": __version__,
        "keras": keras.__version__,
        "backend": backend,
        "backend_version": importlib.metadata.version(backend),
        "numpy": np.__version__,
        "python": platform.python_version(),
    }


def require_unused(folder: str | os.PathLike) -> None:
    """Refuses a folder that no run can start in, before any work is done for the run.

    Args:
        folder: The run's folder; it need not exist and is not created.

    Raises:
        BadInput: If the folder is not empty, or is not a folder.

    Example:

    >>> require_unused("runs/of/tomorrow")
    """
    folder = Path(folder)
    try:
        if not folder.exists():
            return
        # A run that was killed before it had a config leaves nothing worth keeping.
        names = {path.name for path in folder.iterdir()}
        if names - {LOCK, f"{PARTIAL}config.json"}:
            raise BadInput(
                f"--out {folder} is not empty, and nothing in it is overwritten: "
                "pass --resume to resume a run, or another --out"
            )
    except OSError as error:
        raise BadInput(f"--out {folder} cannot be written to: {error.strerror}") from error


class Run:
    """The folder of one run, and its progress.

    Make one with `Run.create` or `Run.resume`. As a context manager it prints how to resume when
    the user presses Ctrl-C.

    Attributes:
        folder: The run's folder.
        config: What `config.json` holds.
        rows: The rows of `log.csv`, one per completed epoch.
        advice: What to try when the loss diverges; goes into the message.

    Example:

    >>> import tempfile
    >>> folder = tempfile.mkdtemp()
    >>> flags = {"model_name": "mhe", "power_s": "2", "dataset": "digits", "seed": 0}
    >>> run = Run.create(folder, "train.py", flags)
    >>> model = keras.Sequential([keras.layers.Input((2,)), keras.layers.Dense(1)])
    >>> model.compile("sgd", "mse")
    >>> run.restore(model)  # the number of epochs that a resumed run has completed
    0
    >>> run.record(model, {"loss": 0.25}, seconds=1.5)
    >>> run.epoch
    1
    >>> result = run.finish({"loss": run.rows[-1]["loss"]})
    >>> Run.resume(folder).finished
    True
    """

    def __init__(self, folder: Path, config: dict[str, Any], resumed: bool):
        self.folder = folder
        self.config = config
        self.rows: list[dict[str, float]] = []
        self.advice = ""
        self._resumed = resumed
        self._lost = ""
        self._events: EventWriter | None = None

    @classmethod
    def create(cls, folder: str | os.PathLike, program: str, flags: Mapping[str, Any]) -> "Run":
        """Starts a run in a new or empty folder.

        Args:
            folder: The run's folder.
            program: The script as the user calls it from the checkout.
            flags: Every flag with its resolved, JSON-serializable value.

        Returns:
            The run, with `config.json` written.

        Raises:
            BadInput: If the folder is not empty, is not a folder, or cannot be written to.
        """
        folder = Path(folder)
        config = {"program": program, **flags, "versions": versions()}
        require_unused(folder)
        write_json(make_folder(folder) / "config.json", config)
        return cls(folder, config, resumed=False)

    @classmethod
    def start_or_resume(
        cls,
        run: "Run | None",
        program: str,
        args: argparse.Namespace,
        *,
        excluded: Collection[str] = ("out", "resume"),
        **extra: Any,
    ) -> "Run":
        """Returns the run to resume, or starts one in `args.out`.

        Args:
            run: The run to resume, or None.
            program: See `create`.
            args: The resolved flags of the program, `base_lr` among them.
            excluded: Flags that do not belong to a run.
            **extra: Entries of a new run's config besides the flags or instead of them. `power_s`
                is None if it is in neither.

        Returns:
            The run, with its advice set.

        Raises:
            BadInput: See `create`.

        Example:

        >>> import tempfile
        >>> flags = {"out": tempfile.mkdtemp(), "resume": None, "base_lr": 0.1, "seed": 3}
        >>> run = Run.start_or_resume(None, "train.py", argparse.Namespace(**flags))
        >>> [run.config[name] for name in ("program", "base_lr", "seed", "power_s")]
        ['train.py', 0.1, 3, None]
        """
        if run is None:
            flags = {name: value for name, value in vars(args).items() if name not in excluded}
            flags = {**flags, "power_s": flags.get("power_s"), **extra}
            run = cls.create(args.out, program, flags)
        run.advice = f"A --base_lr lower than {args.base_lr:g} may train; start a new run with it."
        return run

    @classmethod
    def resume(cls, folder: str | os.PathLike) -> "Run":
        """Opens a run to continue where it stopped.

        Args:
            folder: The run's folder.

        Returns:
            The run, with its config and log read. If `log.csv` is lost or damaged, the rows are
            those that the newest checkpoint keeps.

        Raises:
            BadInput: If the folder is not a run's, or one of its files cannot be read.
        """
        folder = Path(folder)
        if not os.path.isfile(folder / "config.json"):
            raise BadInput(f"{folder} is not a run's folder: it holds no config.json")
        config = read_json(folder / "config.json")
        for name in ("program", "model_name", "dataset"):
            config.require(name, str, "text")
        config.require("seed", int, "an integer")
        if "versions" in config:
            config.require("versions", dict, "an object of versions")
        run = cls(folder, config, resumed=True)
        run._read_log()
        return run

    @property
    def epoch(self) -> int:
        """The number of completed epochs."""
        return len(self.rows)

    @property
    def finished(self) -> bool:
        """Whether the run is complete."""
        return self._result.exists()

    @property
    def _result(self) -> Path:
        return self.folder / "result.json"

    @property
    def result(self) -> dict[str, Any]:
        """What `result.json` holds."""
        result = read_json(self._result)
        return {**result, "metrics": result.numbers("metrics")}

    @property
    def checkpoints(self) -> list[Path]:
        """The checkpoints, the newest last."""
        return self._kept.weights

    @property
    def _kept(self) -> Checkpoints:
        return Checkpoints(self.folder / "checkpoints", ".csv")

    def restore(self, model: keras.Model) -> int:
        """Puts the newest checkpoint into a model, and the log in step with it.

        Args:
            model: The model, built and compiled as when the run started. Everything that Keras
                tracks in it is restored: weights, optimizers, metrics.

        Returns:
            The number of completed epochs, for `initial_epoch`. With 0 the model is unchanged.

        Raises:
            BadInput: If no checkpoint can be read, it belongs to another model, or the log lacks
                epochs or is more than an epoch ahead of the newest checkpoint.
        """
        newest = epoch_of(self.checkpoints[-1]) if self.checkpoints else 0
        # A kill between a row and its checkpoint leaves one row too many. More rows mean that
        # checkpoints were lost or only partly copied: those rows are worth keeping.
        if len(self.rows) > newest + 1:
            raise BadInput(
                f"{self.folder / 'log.csv'} has {len(self.rows)} epochs, but the newest checkpoint "
                f"is {newest or 'missing'}: put the later checkpoints back, or start a new run"
            )
        self._kept.delete_partial()
        epoch = self._load_newest(model) if self.checkpoints else 0
        if [row["epoch"] for row in self.rows[:epoch]] != list(range(1, epoch + 1)):
            raise BadInput(
                f"{self.folder / 'log.csv'} must hold the epochs 1 to {epoch} of the checkpoint. "
                f"Received: {len(self.rows)} rows"
            )
        if len(self.rows) > epoch:
            self.rows = self.rows[:epoch]
            self._write_log(self.folder / "log.csv", self.rows)
        self.mend_log()
        self._kept.delete_old()
        return epoch

    def mend_log(self) -> None:
        """Says on stderr if `log.csv` is lost or damaged, and writes it anew if there is a copy."""
        path = self.folder / "log.csv"
        if self.rows and self._lost:
            self._write_log(path, self.rows)
            print(f"{path} {self._lost}; written anew from a checkpoint", file=sys.stderr)
        # A run of no epochs has no log.
        elif not self.rows and self.finished and read_json(self._result)["seconds"]:
            print(f"{path} {self._lost}, and no checkpoint keeps its rows", file=sys.stderr)
        self._lost = ""

    def record(self, model: keras.Model, logs: Mapping[str, float], seconds: float) -> None:
        """Records an epoch: its row, its events, its checkpoint.

        The row comes first: `restore` drops it again if the run was killed before the checkpoint.

        Args:
            model: The model at the end of the epoch.
            logs: The epoch's numbers by name.
            seconds: The duration of the epoch.

        Raises:
            Diverged: If a loss or a weight is not finite. Nothing is written then.
            CannotWrite: If the disk is full, for example. Earlier checkpoints stay.
        """
        self.refuse_divergence(logs, model)
        epoch = self.epoch + 1
        row = {"epoch": epoch, **{name: float(value) for name, value in logs.items()}}
        row["seconds"] = round(seconds, 3)
        row = {name: row[name] for name in sorted(row, key=_column)}
        rows = [*self.rows, row]
        self._write_log(self.folder / "log.csv", rows)
        self.rows = rows
        if self._events is None:
            purge_from = epoch if self._resumed else None
            self._events = EventWriter(self.folder / "tensorboard", purge_from)
        self._events.scalars(epoch, {k: v for k, v in row.items() if k != "epoch"})
        make_folder(self._kept.folder)
        with as_cannot_write():
            self._kept.write(
                weights_file(model), epoch, lambda log: self._write_log(log, self.rows)
            )

    def refuse_divergence(
        self, logs: Mapping[str, float], model: keras.Model | None = None
    ) -> None:
        """Ends a run that has diverged.

        Args:
            logs: The numbers of the epoch so far.
            model: The model, whose weights are checked too; None checks only the numbers.

        Raises:
            Diverged: If a loss or a weight is not finite.
        """
        broken = [
            f"{name} is {value}"
            for name, value in logs.items()
            if (name == "loss" or name.endswith("_loss")) and not math.isfinite(value)
        ]
        if not broken and model is not None:
            broken = [
                f"{variable.path} holds numbers that are not finite"
                for variable in model.weights
                if not np.all(np.isfinite(keras.ops.convert_to_numpy(variable)))
            ][:1]
        if broken:
            kept = f"The checkpoint of epoch {self.epoch} is intact. " if self.epoch else ""
            raise Diverged(
                f"In epoch {self.epoch + 1}, {', '.join(broken)}. {kept}{self.advice}".rstrip()
            )

    def finish(self, metrics: Mapping[str, float], **extra: Any) -> dict[str, Any]:
        """Writes `result.json`, which makes the run complete.

        Args:
            metrics: Finite numbers by name.
            **extra: Further JSON-serializable entries.

        Returns:
            The content of the file.

        Raises:
            ValueError: If a metric is not a finite number.
        """
        for name, value in metrics.items():
            if not math.isfinite(value):
                raise ValueError(f"metrics must be finite numbers. Received: {name}={value}")
        result = {name: self.config[name] for name in ("model_name", "power_s", "dataset", "seed")}
        result["metrics"] = {name: float(value) for name, value in metrics.items()}
        result["seconds"] = round(sum(row["seconds"] for row in self.rows), 3)
        result |= extra
        write_json(self._result, result)
        return result

    def __enter__(self) -> "Run":
        """Enters the run; what interrupts it says how to resume it."""
        return self

    def __exit__(self, kind: object, error: BaseException | None, *_: object) -> None:
        """Says after Ctrl-C, and in the error if a file cannot be written, how to resume."""
        command = f"python {self.config['program']} --resume {shlex.quote(str(self.folder))}"
        if isinstance(error, KeyboardInterrupt):
            print(
                f"\nInterrupted after epoch {self.epoch}. Resume with: {command}", file=sys.stderr
            )
        if isinstance(error, CannotWrite):
            kept = self.checkpoints
            intact = f"The checkpoint of epoch {epoch_of(kept[-1])} is intact. " if kept else ""
            raise CannotWrite(
                f"{error}. {intact}Free some space or make the folder writable, then resume "
                f"with: {command}"
            ) from error

    def _load_newest(self, model: keras.Model) -> int:
        with as_bad_input():
            path, unreadable = self._kept.restore(model)
        if unreadable:
            print(f"{'; '.join(unreadable)}; going back to {path}", file=sys.stderr)
        return epoch_of(path)

    def _read_log(self) -> None:
        """Reads the rows of `log.csv`, or if an intact checkpoint keeps more, those."""
        path = self.folder / "log.csv"
        damage = None
        try:
            self.rows = _rows(path) if path.exists() else []
            self._lost = "" if self.rows else "is empty" if path.exists() else "is missing"
        except BadInput as error:
            damage, self._lost = error, "is damaged"
        for checkpoint in reversed(self.checkpoints):
            log = self._kept.companion_of(checkpoint)
            if epoch_of(checkpoint) <= len(self.rows):
                return
            with suppress(OSError, ValueError):
                self._kept.require_intact(checkpoint)
                self.rows = _rows(log)
                self._lost = self._lost or f"lacks rows up to epoch {len(self.rows)}"
                return
        if damage is not None:
            raise damage

    def _write_log(self, path: Path, rows: list[dict[str, float]]) -> None:
        columns = dict.fromkeys(["epoch", *(name for row in rows for name in row)])
        write_csv(path, rows, sorted(columns, key=_column))


def _rows(path: Path) -> list[dict[str, float]]:
    try:
        rows = [
            # A number that this epoch does not have is an empty cell.
            {name: float(cell) for name, cell in row.items() if cell != ""}
            for row in read_csv(path)
        ]
        return [{**row, "epoch": int(row["epoch"])} for row in rows]
    except (ValueError, KeyError, OverflowError) as error:
        raise BadInput(f"{path} is not a run's log: {error}") from error


def require_intact_checkpoint(checkpoint: Path) -> None:
    """Refuses a checkpoint that has changed; those of earlier versions have no checksums.

    Args:
        checkpoint: Its weights.

    Raises:
        mhe.checkpoints.checksums.Damaged: If its weights or its log have changed.
        OSError: If they cannot be read.
    """
    Checkpoints(checkpoint.parent, ".csv").require_intact(checkpoint)


def _column(name: str) -> tuple[int, str]:
    """Sorts the log's columns: training before validation, layers in the model's order."""
    first = ("epoch", "loss", "accuracy")
    if name in first:
        return first.index(name), ""
    if name == "energy" or "/" in name:
        return 6, ""
    return {"lr": 5, "seconds": 7}.get(name, 4 if name.startswith("val_") else 3), name
