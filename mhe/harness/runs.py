"""One run, one folder: flags, log, checkpoints, resume, result.

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
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import keras
import numpy as np

from mhe.harness.errors import BadInput
from mhe.harness.events import EventWriter

_KEPT_CHECKPOINTS = 2
_PARTIAL = "partial-"
_UNSET = object()


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


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
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
            # What is left of a run that was killed before it had a config is not worth keeping.
            if any(not path.name.startswith(_PARTIAL) for path in folder.iterdir()):
                raise BadInput(
                    f"--out {folder} is not empty, and nothing in it is overwritten: "
                    "give --resume to go on with a run, or another --out"
                )
            config = {"program": program, **flags, "versions": versions()}
            _write_json(folder / "config.json", config)
        except OSError as error:
            raise BadInput(f"--out {folder} cannot be written to: {error.strerror}") from error
        return cls(folder, config, resumed=False)

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
            raise BadInput(f"--resume {folder} is not a run's folder: it holds no config.json")
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
                misses epochs.
        """
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
        epoch = self.epoch + 1
        self._refuse_divergence(model, logs, epoch)
        row = {"epoch": epoch, **{name: float(value) for name, value in logs.items()}}
        row["seconds"] = round(seconds, 3)
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

    def finish(self, metrics: Mapping[str, float]) -> dict[str, Any]:
        """Writes `result.json`, which makes the run complete.

        Args:
            metrics: Plain, finite numbers by name.

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
        _write_json(self.folder / "result.json", result)
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
                model.load_weights(path)
            except OSError:
                unreadable.append(str(path))
            except ValueError as error:
                raise BadInput(f"{path} belongs to another model: {error}") from error
            else:
                if unreadable:
                    names = ", ".join(unreadable)
                    print(f"{names} cannot be read; going back to {path}", file=sys.stderr)
                return int(path.name.removeprefix("epoch-").removesuffix(".weights.h5"))
        raise BadInput(f"No checkpoint can be read: {', '.join(unreadable)}")

    def _refuse_divergence(self, model: keras.Model, logs: Mapping[str, float], epoch: int) -> None:
        broken = [
            f"{name} is {value}"
            for name, value in logs.items()
            if (name == "loss" or name.endswith("_loss")) and not math.isfinite(value)
        ]
        if not broken:
            broken = [
                f"{variable.path} holds numbers that are not finite"
                for variable in model.weights
                if not np.all(np.isfinite(keras.ops.convert_to_numpy(variable)))
            ][:1]
        if broken:
            kept = f"The checkpoint of epoch {self.epoch} is intact. " if self.epoch else ""
            raise Diverged(f"In epoch {epoch}, {', '.join(broken)}. {kept}{self.advice}".rstrip())

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
        draws = np.random.default_rng([self.seed, epoch]).integers(1, 1 << 31, 1 << 10).tolist()
        keras.utils.set_random_seed(draws.pop())
        # Layers own their generators, which no global seed reaches.
        for variable in self.model.variables:
            if variable.name == "seed_generator_state":
                variable.assign(np.array([draws.pop(), 0]))


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


class Progress(keras.callbacks.Callback):
    """One line an epoch, and on a terminal a bar with the time that the whole run still takes.

    Args:
        run: The run, whose last row is printed.
        epochs: The epochs of the whole run.

    Example:
        >>> import tempfile
        >>> run = Run.create(tempfile.mkdtemp(), "train.py", {})
        >>> progress = Progress(run, epochs=10)
        >>> progress.line({"epoch": 3, "loss": 1.25, "energy/conv/kernel": 0.6, "seconds": 1.5})
        'epoch 3/10  loss 1.25  1.5 s'
    """

    # Lets Keras go on without waiting for each batch's numbers, which the bar does not show.
    async_safe = True
    _width = 30

    def __init__(self, run: Run, epochs: int):
        super().__init__()
        self.run = run
        self.epochs = epochs
        self._terminal = sys.stdout.isatty()
        self._first = run.epoch
        self._began = self._drawn = time.perf_counter()

    def line(self, row: Mapping[str, float]) -> str:
        """Returns the line for one row of the log; single layers are left to the log."""
        numbers = {k: v for k, v in row.items() if k not in ("epoch", "seconds") and "/" not in k}
        return "  ".join(
            [
                f"epoch {row['epoch']}/{self.epochs}",
                *(f"{name} {numbers[name]:.4g}" for name in sorted(numbers, key=_column)),
                f"{row['seconds']:.1f} s",
            ]
        )

    def on_train_begin(self, logs: dict | None = None) -> None:
        """Starts the clock."""
        self._began = time.perf_counter()
        self._first = self.run.epoch

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        """Draws the bar, ten times a second at most."""
        now = time.perf_counter()
        if not self._terminal or now - self._drawn < 0.1:
            return
        self._drawn = now
        part = (batch + 1) / self.params["steps"]
        left = (now - self._began) * (
            (self.epochs - self._first) / (self.run.epoch - self._first + part) - 1
        )
        bar = ("=" * int(part * self._width)).ljust(self._width, ".")
        minutes, seconds = divmod(max(0, round(left)), 60)
        print(
            f"\repoch {self.run.epoch + 1}/{self.epochs} [{bar}] {part:4.0%}, "
            f"{minutes // 60}:{minutes % 60:02}:{seconds:02} left",
            end="\x1b[K",
            flush=True,
        )

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Prints the epoch's line."""
        start = "\r\x1b[K" if self._terminal else ""
        print(start + self.line(self.run.rows[-1]), flush=True)


class _Defaults(argparse.ArgumentDefaultsHelpFormatter):
    """Shows the defaults, save where the help has to put the default into words."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default is None else super()._get_help_string(action)


class LineParser(argparse.ArgumentParser):
    """An argument parser whose errors are one line, without the usage before it.

    Example:
        >>> LineParser(prog="speed.py").parse_args(["--fast"])
        Traceback (most recent call last):
            ...
        mhe.harness.errors.BadInput: unrecognized arguments: --fast
    """

    def error(self, message: str) -> None:
        """Turns what argparse complains of into one line.

        Args:
            message: The complaint.

        Raises:
            BadInput: Always.
        """
        raise BadInput(message)


class Parser(LineParser):
    """The flags that every training program has, with defaults in the help and one-line errors.

    Args:
        program: The script, as the user calls it from the checkout: `benchmarks/train.py`.
        description: What it does.

    Example:
        >>> parser = Parser("benchmarks/train.py", "Trains a classifier.")
        >>> args, run = parser.settle(["--seed", "3"])
        >>> args.seed, run
        (3, None)
        >>> parser.settle(["--seed", "three"])
        Traceback (most recent call last):
            ...
        mhe.harness.errors.BadInput: argument --seed: must be an integer from 0 to
        4294967295. Received: three
    """

    def __init__(self, program: str, description: str):
        super().__init__(
            prog=program,
            description=description,
            formatter_class=_Defaults,
            allow_abbrev=False,
        )
        self.add_argument(
            "--out",
            metavar="RUN",
            help="the run's folder, new or empty (default: named after the flags, in runs/)",
        )
        # NumPy's global generator takes no larger seed.
        seed = integer(0, 2**32 - 1)
        self.add_argument("--seed", type=seed, default=0, help="seed of all that is drawn")
        self.add_argument(
            "--resume",
            metavar="RUN",
            help="go on with the run in this folder, with its own flags",
        )

    def settle(self, argv: Sequence[str] | None = None) -> tuple[argparse.Namespace, Run | None]:
        """Reads the flags of a new run, or those of the run that `--resume` names.

        Args:
            argv: The arguments; those of the process by default.

        Returns:
            The flags, among them `out` (`None` unless given), and the run to resume or `None`.

        Raises:
            BadInput: If a flag is wrong, or contradicts the run that is to be resumed.
        """
        names = vars(self.parse_args([]))
        # argparse sets no default where there is a value already: what stays unset was not given.
        given = vars(self.parse_args(argv, argparse.Namespace(**dict.fromkeys(names, _UNSET))))
        given = {name: value for name, value in given.items() if value is not _UNSET}
        out, folder = given.pop("out", None), given.pop("resume", None)
        flags = {name: self.get_default(name) for name in names} | given
        if folder is None:
            return argparse.Namespace(**{**flags, "out": out}), None
        run = Run.resume(folder)
        if run.config.get("program") != self.prog:
            raise BadInput(
                f"--resume {folder} is a run of {run.config.get('program')}, not of {self.prog}"
            )
        if out is not None and Path(out).resolve() != Path(folder).resolve():
            raise BadInput(f"--out {out} contradicts --resume {folder}: a run stays in its folder")
        for name in flags.keys() - {"out", "resume"}:
            if name not in run.config:
                raise BadInput(f"{run.folder / 'config.json'} lacks the flag --{name}")
            # Data may move between machines; everything else makes another run.
            if name in given and name != "data_dir" and given[name] != run.config[name]:
                raise BadInput(
                    f"--{name} {given[name]} contradicts the run in {folder}, "
                    f"which has --{name} {run.config[name]}"
                )
            flags[name] = given.get(name, run.config[name])
        now = versions()
        changed = [
            f"{name} {was} (now {now.get(name)})"
            for name, was in run.config.get("versions", {}).items()
            if now.get(name) != was
        ]
        if changed and not run.finished:
            print(f"Warning: the run was begun with {', '.join(changed)}", file=sys.stderr)
        return argparse.Namespace(**{**flags, "out": out}), run


def integer(low: int, high: int | None = None) -> Callable[[str], int]:
    """Returns an argparse type: an integer of at least `low`.

    Args:
        low: The smallest value allowed.
        high: The largest value allowed; None sets no bound.

    Example:
        >>> integer(1)("20")
        20
    """
    expected = f"of at least {low}" if high is None else f"from {low} to {high}"

    def parse(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = low - 1
        if number < low or (high is not None and number > high):
            raise argparse.ArgumentTypeError(f"must be an integer {expected}. Received: {text}")
        return number

    return parse


def number(low: float, *, above: bool = False) -> Callable[[str], float]:
    """Returns an argparse type: a finite number of at least `low`.

    Args:
        low: The smallest value allowed.
        above: Whether `low` itself is refused.

    Example:
        >>> number(0)("0.5")
        0.5
    """

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value) or value < low or (above and value == low):
            bound = "above" if above else "of at least"
            raise argparse.ArgumentTypeError(
                f"must be a finite number {bound} {low:g}. Received: {text}"
            )
        return value

    return parse


def program(main: Callable[[Sequence[str] | None], None], argv: Sequence[str] | None = None) -> int:
    """Runs a program's `main` and turns the ways it can end into exit codes.

    Args:
        main: Takes the arguments. `--help` leaves through `SystemExit`, as usual.
        argv: The arguments; those of the process by default.

    Returns:
        0 when done, 1 when the training diverged, 2 for bad input, 130 after Ctrl-C. Bad input and
        divergence are one line on stderr; any other error is a defect and keeps its traceback.

    Example:
        >>> program(lambda argv: None)
        0
    """
    name = Path(sys.argv[0]).name
    try:
        main(argv)
    except BadInput as error:
        print(f"{name}: error: {error}", file=sys.stderr)
        return 2
    except Diverged as error:
        print(f"{name}: diverged: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0
