"""One run, one folder: config, log, checkpoints, resume, result.

    config.json            every flag as it was settled, and the versions that ran it
    log.csv                a row an epoch
    checkpoints/           the last two epochs: weights and optimizer
    tensorboard/           the same numbers as log.csv, for TensorBoard
    result.json            written last: a run that has it is complete

Every file is written under another name and then put in place in one step, so that a run killed
at any moment leaves a folder that can be resumed.
"""

import argparse
import csv
import importlib.metadata
import json
import math
import os
import platform
import shlex
import sys
import time
import warnings
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import keras
import numpy as np

from mhe.harness.errors import BadInput
from mhe.harness.events import EventWriter
from mhe.harness.progress import Progress

_KEPT_CHECKPOINTS = 2
_PARTIAL = "partial-"


class Diverged(RuntimeError):  # noqa: N818 - an end that a run can come to, not a defect
    """A loss or a weight is no longer a number; the run cannot go on."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Gives a path to write to, and puts what was written in the place of `path` in one step.

    Args:
        path: The file to write or to replace. It is left alone if the block raises.

    Yields:
        The path to write to, in the same folder and with the same suffixes.

    Example:

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with replacing(Path(folder, "a.txt")) as partial:
    ...         _ = partial.write_text("all of it")
    ...     os.listdir(folder)
    ['a.txt']
    """
    partial = path.with_name(_PARTIAL + path.name)
    yield partial
    with open(partial, "rb+") as file:
        os.fsync(file.fileno())
    os.replace(partial, path)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes a file of JSON in one step.

    Args:
        path: The file.
        content: What it is to hold, without NaN or infinity.
    """
    with replacing(path) as partial:
        partial.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", "utf-8")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise BadInput(f"{path} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise BadInput(f"{path} must hold a JSON object. Received: {type(content).__name__}")
    return content


def versions() -> dict[str, str]:
    """Returns the versions that a result depends on.

    Example:

    >>> sorted(versions())
    ['backend', 'backend_version', 'keras', 'mhe', 'numpy', 'python']
    """
    from mhe.version import __version__

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
    """Refuses a folder that no run can begin in, before much is spent on the run.

    Args:
        folder: The run's folder; it need not exist, and is not made.

    Raises:
        BadInput: If the folder holds anything, or is not a folder.

    Example:

    >>> require_unused("runs/of/tomorrow")
    """
    folder = Path(folder)
    if not folder.exists():
        return
    try:
        # What is left of a run that was killed before it had a config is not worth keeping.
        if any(not path.name.startswith(_PARTIAL) for path in folder.iterdir()):
            raise BadInput(
                f"--out {folder} is not empty, and nothing in it is overwritten: "
                "give --resume to go on with a run, or another --out"
            )
    except OSError as error:
        raise BadInput(f"--out {folder} cannot be written to: {error.strerror}") from error


class Run:
    """The folder of one run, and how far the run has come.

    Make one with `Run.create` or `Run.resume`. As a context it tells the user who presses Ctrl-C
    how to go on.

    Attributes:
        folder: The run's folder.
        config: What `config.json` holds.
        rows: The rows of `log.csv`, one a completed epoch.
        advice: What to try when the loss diverges; goes into the message.

    Example:

    >>> import tempfile
    >>> folder = tempfile.mkdtemp()
    >>> flags = {"model_name": "mhe", "power_s": "2", "dataset": "digits", "seed": 0}
    >>> run = Run.create(folder, "train.py", flags)
    >>> model = keras.Sequential([keras.layers.Input((2,)), keras.layers.Dense(1)])
    >>> model.compile("sgd", "mse")
    >>> first = run.restore(model)  # 0 here; the epochs behind it where a run is resumed
    >>> x, y = np.ones((4, 2)), np.ones((4, 1))
    >>> with run:
    ...     history = model.fit(x, y, initial_epoch=first, epochs=2, verbose=0,
    ...                         callbacks=run.callbacks(epochs=2, quiet=True))
    >>> run.epoch
    2
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
        self._events: EventWriter | None = None

    @classmethod
    def create(cls, folder: str | os.PathLike, program: str, flags: Mapping[str, Any]) -> "Run":
        """Begins a run in a new or empty folder.

        Args:
            folder: The run's folder.
            program: The script that runs, as the user would call it from the checkout.
            flags: Every flag with its settled value; plain values that JSON can hold.

        Returns:
            The run, with `config.json` written.

        Raises:
            BadInput: If the folder holds anything, or is not a folder, or cannot be written to.
        """
        folder = Path(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            require_unused(folder)
            config = {"program": program, **flags, "versions": versions()}
            write_json(folder / "config.json", config)
        except OSError as error:
            raise BadInput(f"--out {folder} cannot be written to: {error.strerror}") from error
        return cls(folder, config, resumed=False)

    @classmethod
    def begin_or_go_on(
        cls,
        run: "Run | None",
        program: str,
        args: argparse.Namespace,
        *,
        apart: Collection[str] = ("out", "resume"),
        **described: Any,
    ) -> "Run":
        """Gives a training program the run to go on with, or begins one in `args.out`.

        Args:
            run: The run to go on with, or None.
            program: As in `create`.
            args: The settled flags of the program, `base_lr` among them.
            apart: The flags that are no part of a run.
            **described: What the config of a new run holds beside the flags or in their place.
                `power_s` is None where it is neither.

        Returns:
            The run, with its advice.

        Raises:
            BadInput: As in `create`.

        Example:

        >>> import tempfile
        >>> flags = {"out": tempfile.mkdtemp(), "resume": None, "base_lr": 0.1, "seed": 3}
        >>> run = Run.begin_or_go_on(None, "train.py", argparse.Namespace(**flags))
        >>> [run.config[name] for name in ("program", "base_lr", "seed", "power_s")]
        ['train.py', 0.1, 3, None]
        """
        if run is None:
            flags = {name: value for name, value in vars(args).items() if name not in apart}
            flags = {**flags, "power_s": flags.get("power_s"), **described}
            run = cls.create(args.out, program, flags)
        run.advice = f"A lower --base_lr than {args.base_lr:g} may train; begin a new run with it."
        return run

    @classmethod
    def resume(cls, folder: str | os.PathLike) -> "Run":
        """Takes up a run where it stopped.

        Args:
            folder: The run's folder.

        Returns:
            The run, with its config and log read.

        Raises:
            BadInput: If the folder holds no run, or a file of it cannot be read.
        """
        folder = Path(folder)
        if not (folder / "config.json").is_file():
            raise BadInput(f"{folder} is not a run's folder: it holds no config.json")
        run = cls(folder, _read_json(folder / "config.json"), resumed=True)
        run.rows = run._read_log()
        return run

    @property
    def epoch(self) -> int:
        """The number of epochs behind the run."""
        return len(self.rows)

    @property
    def finished(self) -> bool:
        """Whether the run is complete."""
        return (self.folder / "result.json").exists()

    @property
    def result(self) -> dict[str, Any]:
        """What `result.json` holds."""
        return _read_json(self.folder / "result.json")

    @property
    def checkpoints(self) -> list[Path]:
        """The checkpoints, the newest last."""
        return sorted(self.folder.glob("checkpoints/epoch-*.weights.h5"))

    def restore(self, model: keras.Model) -> int:
        """Puts the newest checkpoint into a model, and the log in step with it.

        Args:
            model: The model, built and compiled as when the run began. All that Keras tracks in it
                is restored: weights, optimizers, metrics.

        Returns:
            The number of epochs behind the run, for `initial_epoch`. 0 leaves the model as it is.

        Raises:
            BadInput: If no checkpoint can be read, or it belongs to another model, or the log
                misses epochs or is more than an epoch ahead of the newest checkpoint.
        """
        newest = _epoch_of(self.checkpoints[-1]) if self.checkpoints else 0
        # A kill between a row and its checkpoint leaves one row too many; checkpoints that
        # somebody lost or copied by halves leave more, and those rows are worth keeping.
        if len(self.rows) > newest + 1:
            raise BadInput(
                f"{self.folder / 'log.csv'} has {len(self.rows)} epochs, but the newest checkpoint "
                f"is {newest or 'missing'}: put the later checkpoints back, or begin a new run"
            )
        for partial in self.folder.rglob(f"{_PARTIAL}*"):
            partial.unlink()
        epoch = self._load_newest(model) if self.checkpoints else 0
        if [row["epoch"] for row in self.rows[:epoch]] != list(range(1, epoch + 1)):
            raise BadInput(
                f"{self.folder / 'log.csv'} must hold the epochs 1 to {epoch} of the checkpoint. "
                f"Received: {len(self.rows)} rows"
            )
        if len(self.rows) > epoch:
            self.rows = self.rows[:epoch]
            self._write_log()
        self._forget_old_checkpoints()
        return epoch

    def callbacks(
        self, epochs: int, *, seed: int = 0, quiet: bool = False
    ) -> list[keras.callbacks.Callback]:
        """Returns what `fit` needs to keep this folder.

        They go after every callback that adds to the logs, such as `mhe.EnergyLogger`, and `fit`
        gets `verbose=0`: progress is theirs.

        Args:
            epochs: The epochs of the whole run, for the progress line.
            seed: With the number of the epoch it seeds what layers draw (dropout), so that a
                resumed run draws what an unbroken one would.
            quiet: Whether to print nothing.

        Returns:
            A list of callbacks.
        """
        shown = [] if quiet else [Progress(self, epochs)]
        return [_Seeds(seed), _Recorder(self), *shown]

    def record(self, model: keras.Model, logs: Mapping[str, float], seconds: float) -> None:
        """Writes an epoch down: its row, its events, its checkpoint.

        The row comes first: a run killed between the two drops it again in `restore`.

        Args:
            model: The model as it is at the end of the epoch.
            logs: The epoch's numbers by name.
            seconds: What the epoch took.

        Raises:
            Diverged: If a loss or a weight is not finite. Nothing is written then.
        """
        self.refuse_divergence(logs, model)
        epoch = self.epoch + 1
        row = {"epoch": epoch, **{name: float(value) for name, value in logs.items()}}
        row["seconds"] = round(seconds, 3)
        row = {name: row[name] for name in sorted(row, key=_column)}
        self.rows.append(row)
        self._write_log()
        if self._events is None:
            purge_from = epoch if self._resumed else None
            self._events = EventWriter(self.folder / "tensorboard", purge_from)
        self._events.scalars(epoch, {k: v for k, v in row.items() if k != "epoch"})
        path = self.folder / "checkpoints" / f"epoch-{epoch:06d}.weights.h5"
        path.parent.mkdir(exist_ok=True)
        with replacing(path) as partial:
            model.save_weights(partial)
        self._forget_old_checkpoints()

    def refuse_divergence(
        self, logs: Mapping[str, float], model: keras.Model | None = None
    ) -> None:
        """Ends a run whose numbers are no longer numbers.

        Args:
            logs: The numbers of the epoch, or of the part of it that is done.
            model: The model as it is then; None does not look at its weights.

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

    def finish(self, metrics: Mapping[str, float], **described: Any) -> dict[str, Any]:
        """Writes `result.json`, which makes the run complete.

        Args:
            metrics: Plain, finite numbers by name.
            **described: What else the file is to say of them; plain values that JSON can hold.

        Returns:
            What the file holds.

        Raises:
            ValueError: If a metric is not a finite number.
        """
        for name, value in metrics.items():
            if not math.isfinite(value):
                raise ValueError(f"metrics must be finite numbers. Received: {name}={value}")
        result = {name: self.config[name] for name in ("model_name", "power_s", "dataset", "seed")}
        result["metrics"] = {name: float(value) for name, value in metrics.items()}
        result["seconds"] = round(sum(row["seconds"] for row in self.rows), 3)
        result |= described
        write_json(self.folder / "result.json", result)
        return result

    def __enter__(self) -> "Run":
        """Begins what Ctrl-C may interrupt."""
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Says after Ctrl-C how to go on."""
        if kind is not None and issubclass(kind, KeyboardInterrupt):
            command = f"python {self.config['program']} --resume {shlex.quote(str(self.folder))}"
            print(f"\nInterrupted after epoch {self.epoch}. Go on with: {command}", file=sys.stderr)

    def _forget_old_checkpoints(self) -> None:
        for old in self.checkpoints[:-_KEPT_CHECKPOINTS]:
            old.unlink()

    def _load_newest(self, model: keras.Model) -> int:
        optimizer = getattr(model, "optimizer", None)
        if optimizer is not None and not optimizer.built:
            optimizer.build(model.trainable_variables)
        unreadable = []
        for path in reversed(self.checkpoints):
            try:
                with warnings.catch_warnings(record=True) as caught:
                    warnings.simplefilter("always", UserWarning)
                    model.load_weights(path)
            except OSError:
                unreadable.append(str(path))
            except ValueError as error:
                raise BadInput(f"{path} belongs to another model: {error}") from error
            else:
                # Keras only warns where it leaves an optimizer as it is.
                doubts = [each for each in caught if issubclass(each.category, UserWarning)]
                if doubts:
                    raise BadInput(f"{path} belongs to another model: {doubts[0].message}")
                if unreadable:
                    names = ", ".join(unreadable)
                    print(f"{names} cannot be read; going back to {path}", file=sys.stderr)
                return _epoch_of(path)
        raise BadInput(f"No checkpoint can be read: {', '.join(unreadable)}")

    def _read_log(self) -> list[dict[str, float]]:
        path = self.folder / "log.csv"
        if not path.exists():
            return []
        try:
            with open(path, newline="", encoding="utf-8") as file:
                rows = [
                    # A number that was not taken in this epoch is an empty cell.
                    {name: float(cell) for name, cell in row.items() if cell != ""}
                    for row in csv.DictReader(file)
                ]
            return [{**row, "epoch": int(row["epoch"])} for row in rows]
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise BadInput(f"{path} is not a run's log: {error}") from error

    def _write_log(self) -> None:
        with (
            replacing(self.folder / "log.csv") as partial,
            open(partial, "w", newline="", encoding="utf-8") as file,
        ):
            names = dict.fromkeys(["epoch", *(name for row in self.rows for name in row)])
            writer = csv.DictWriter(file, sorted(names, key=_column))
            writer.writeheader()
            writer.writerows(self.rows)


def _epoch_of(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix("epoch-").removesuffix(".weights.h5"))


def _column(name: str) -> tuple[int, str]:
    """Where a column stands in the log: training before validation, layers in their own order."""
    first = ("epoch", "loss", "accuracy")
    if name in first:
        return first.index(name), ""
    if name == "energy" or "/" in name:
        return 6, ""
    return {"lr": 5, "seconds": 7}.get(name, 4 if name.startswith("val_") else 3), name


class _Seeds(keras.callbacks.Callback):
    """Seeds everything that draws, at the start of each epoch, from (seed, epoch)."""

    def __init__(self, seed: int):
        super().__init__()
        self.seed = seed

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        rng = np.random.default_rng([self.seed, epoch])
        keras.utils.set_random_seed(int(rng.integers(1, 1 << 31)))
        # Layers own their generators, which no global seed reaches.
        for variable in self.model.variables:
            if variable.name == "seed_generator_state":
                variable.assign(np.array([int(rng.integers(1, 1 << 31)), 0]))


class _Recorder(keras.callbacks.Callback):
    """Adds the learning rate to the logs and hands each epoch to `Run.record`."""

    def __init__(self, run: Run):
        super().__init__()
        self.run = run
        self._began = 0.0

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        if epoch != self.run.epoch:
            raise ValueError(
                "`fit` must begin with `initial_epoch=run.restore(model)`. "
                f"Received: epoch {epoch} after {self.run.epoch} epochs"
            )
        self._began = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        optimizer = getattr(self.model, "optimizer", None)
        if optimizer is not None:
            rate = keras.ops.convert_to_numpy(keras.ops.convert_to_tensor(optimizer.learning_rate))
            logs["lr"] = float(rate)
        self.run.record(self.model, logs, time.perf_counter() - self._began)
