"""The flags of the programs, and how their errors are reported."""

import argparse
import errno
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from mhe import command_line
from mhe.command_line import TEXTS, file_path, file_paths, integer, number, plain_text
from mhe.harness import datasets
from mhe.harness.errors import BadInput, Diverged, is_out_of_memory
from mhe.harness.run import Run, versions
from mhe.text import brief

__all__ = [
    "ANY_DIMS",
    "BATCH_SIZE",
    "COUNT",
    "COUNT_OR_NONE",
    "DEVICES",
    "DIMS",
    "EPOCHS",
    "LARGEST_SIDE",
    "SECONDS",
    "SEED",
    "SEEDS",
    "SEVERAL",
    "SIDE",
    "WIDTH",
    "LineParser",
    "Parser",
    "file_path",
    "file_paths",
    "integer",
    "number",
    "plain_text",
    "program",
]

# The types of flags that set how much memory and time a program takes. What is larger is a slip.
BATCH_SIZE = integer(1, 2**16)
COUNT = integer(1, 10**6)  # of what is generated, drawn or compared
COUNT_OR_NONE = integer(0, 10**6)
DEVICES = integer(1, 2**16)
SEVERAL = integer(2, 10**6)
ANY_DIMS = integer(1, 2**16)
DIMS = integer(2, 2**16)  # of a sphere
EPOCHS = integer(1, 10**6)
# NumPy's global generator takes no larger seed.
SEED = integer(0, 2**32 - 1)
SEEDS = integer(1, 1000)
SECONDS = number(0, 86_400, above=True)
LARGEST_SIDE = 2**12  # pixels
SIDE = integer(1, LARGEST_SIDE)
WIDTH = number(0, 32, above=True)

_UNSET = object()
# What the operating system refuses for reasons that are no defect of a program.
_REFUSED = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM),
    *(errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM),
}


class LineParser(command_line.LineParser):
    """An argument parser whose help shows defaults and whose errors are a `BadInput`.

    Args:
        **options: Those of `argparse.ArgumentParser`.

    Example:

    >>> LineParser(prog="speed.py").parse_args(["--fast"])
    Traceback (most recent call last):
        ...
    mhe.harness.errors.BadInput: unrecognized arguments: --fast
    """

    def error(self, message: str) -> NoReturn:
        """Reports an error of argparse in one line.

        Args:
            message: What is wrong.

        Raises:
            BadInput: Always.
        """
        raise BadInput(message)


class Parser(LineParser):
    """The flags of every training program, with defaults in the help and one-line errors.

    Args:
        program: The script as the user calls it from the checkout: `benchmarks/train.py`.
        description: What it does.

    Attributes:
        excluded: The flags that do not belong to a run and may change when it is resumed.
        added: The flags that runs of earlier versions lack; a resumed run gets their defaults.

    Example:

    >>> parser = Parser("benchmarks/train.py", "Trains a classifier.")
    >>> args, run = parser.parse(["--seed", "3"])
    >>> args.seed, run
    (3, None)
    >>> parser.parse(["--seed", "three"])
    Traceback (most recent call last):
        ...
    mhe.harness.errors.BadInput: argument --seed: must be an integer from 0 to
    4294967295. Received: three
    """

    def __init__(self, program: str, description: str):
        super().__init__(prog=program, description=description)
        self.excluded = {"out", "resume", "distribute", "devices", "processes"}
        self.added: set[str] = set()
        self.add_argument(
            "--out",
            type=file_path,
            metavar="RUN",
            help="the run's folder, new or empty (default: in runs/, named after the flags)",
        )
        self.add_argument("--seed", type=SEED, default=0, help="seed of everything random")
        self.add_argument(
            "--resume",
            type=file_path,
            metavar="RUN",
            help="resume the run in this folder with its own flags",
        )
        self._add_device_flags()

    def parse(self, argv: Sequence[str] | None = None) -> tuple[argparse.Namespace, Run | None]:
        """Parses the flags of a new run, or reads those of the run that `--resume` names.

        Args:
            argv: The arguments; those of the process by default.

        Returns:
            The flags, among them `out` (`None` unless given), and the run to resume or `None`.

        Raises:
            BadInput: If a flag is invalid or contradicts the run to resume.
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
        for name in flags.keys() - self.excluded:
            kept = self._value_in(run, name)
            if name in given and given[name] != kept and not _moved(name, kept, given[name]):
                raise BadInput(
                    f"--{name} {_words(given[name])} contradicts the run in {folder}, "
                    f"which has --{name} {_words(kept)}"
                )
            flags[name] = given.get(name, kept)
        now = versions()
        changed = [
            f"{name} {was} (now {now.get(name)})"
            for name, was in run.config.get("versions", {}).items()
            if now.get(name) != was
        ]
        if changed and not run.finished:
            print(f"Warning: the run was started with {', '.join(changed)}", file=sys.stderr)
        return argparse.Namespace(**{**flags, "out": out}), run

    def _add_device_flags(self) -> None:
        self.add_argument(
            "--distribute",
            choices=["none", "data", "classes"],
            default="none",
            help="none: train on one device; data: split each batch among devices; classes: split "
            "class vectors and prototypes among them, on JAX. The result is the same, and a run "
            "may be resumed on another number of devices",
        )
        self.add_argument(
            "--devices",
            type=DEVICES,
            help="how many devices to use (default: all that the backend has)",
        )
        self.add_argument(
            "--processes",
            type=DEVICES,
            help="with --distribute data: how many processes train the run together, on one "
            "machine or several (default: one)",
        )

    def add_data_flags(
        self,
        dataset: str,
        image_size: str = "images as they are, all of one size",
        streams: bool = True,
    ) -> None:
        """Adds the flags that say what to train on.

        Args:
            dataset: The default of `--dataset`.
            image_size: The default of `--image_size` in words, for the help.
            streams: Whether images may stay on disk, which adds `--memory`.
        """
        self.add_argument(
            "--dataset",
            type=file_paths,
            default=dataset,
            help="a TensorFlow Datasets name; or a folder or zip of train/<class>/... and "
            "test/<class>/... images, of Tiny ImageNet or of OmniArt; or a folder of tar shards "
            "{prefix}-train-000000.tar and {prefix}-test-000000.tar, of key.jpg with key.cls or "
            "key.json, or the shards themselves, comma-separated, as train-{000000..000012}.tar; "
            "or folders or zips of Omniglot, comma-separated; or 'digits', which needs no download",
        )
        if streams:
            self.add_argument(
                "--memory",
                type=number(0),
                metavar="GIB",
                help="gibibytes that the decoded images of a folder, zip or shards may take; more "
                "are streamed from disk, in the same batches, and 0 streams them always. Data of "
                "TensorFlow Datasets are always in memory (default: half of the machine's memory)",
            )
            self.excluded.add("memory")
        self.add_argument(
            "--data_dir",
            type=file_path,
            help="where TensorFlow Datasets keeps its data (default: its own folder, "
            "~/tensorflow_datasets)",
        )
        self.add_argument(
            "--image_size",
            type=SIDE,
            help="scale every image to this many pixels on its shorter side and crop the center "
            f"(default: {image_size})",
        )
        self.add_argument(
            "--label",
            choices=["school", "century"],
            default="school",
            help="the column of OmniArt's csv files that holds the class",
        )
        self.add_argument(
            "--train_images",
            type=integer(1),
            help="number of training images, balanced over classes (default: all)",
        )

    def _value_in(self, run: Run, name: str) -> Any:
        """Returns the value of a flag in a run's config, checked as if it had been passed.

        The config of one run has a single value for a flag that takes several.
        """
        path = run.folder / "config.json"
        if name not in run.config:
            if name in self.added:
                return self.get_default(name)
            raise BadInput(f"{path} lacks the flag --{name}")
        value = run.config[name]
        (action,) = (action for action in self._actions if action.dest == name)
        # A flag with a list is None in runs that it does not apply to.
        if value is None and (action.default is None or action.nargs is not None):
            return None
        try:
            # Written out, the value must parse to itself.
            is_text = action.type is None or action.type in TEXTS
            if isinstance(value, str) and not is_text:
                raise argparse.ArgumentTypeError(f"must not be text. Received: {value!r}")
            if not isinstance(value, str) and is_text:
                raise argparse.ArgumentTypeError(f"must be text. Received: {value!r}")
            parsed = action.type(str(value)) if callable(action.type) else value
            if action.choices is not None and parsed not in action.choices:
                expected = ", ".join(action.choices)
                raise argparse.ArgumentTypeError(f"must be one of {expected}. Received: {value}")
        except argparse.ArgumentTypeError as error:
            raise BadInput(f"{path} cannot be used: --{name} {error}") from error
        return parsed if action.nargs is None else [parsed]


def _words(value: Any) -> str:
    """Returns the value of a flag as it is passed."""
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _moved(name: str, kept: Any, given: Any) -> bool:
    """Whether a flag only says where the same data are now; other changes make another run."""
    if name == "dataset":
        return datasets.names_path(kept) and datasets.names_path(given)
    return name == "data_dir"


def program(main: Callable[[Sequence[str] | None], None], argv: Sequence[str] | None = None) -> int:
    """Runs a program's `main` and turns the ways in which it can end into exit codes.

    A program that leaves Ctrl-C to the operating system while its modules load, which prints no
    traceback, gets Python's handler back.

    Args:
        main: Takes the arguments. `--help` exits through `SystemExit`, as usual.
        argv: The arguments; those of the process by default.

    Returns:
        0 for success, 1 if the training diverged, 2 for bad input, a full disk, a folder that
        cannot be read or written to, or too little memory, 130 after Ctrl-C. All but Ctrl-C are one
        line on stderr; any other error is a defect and keeps its traceback.

    Example:

    >>> program(lambda argv: None)
    0
    """
    name = Path(sys.argv[0]).name
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        main(argv)
    except BadInput as error:
        print(f"{name}: error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        if error.errno not in _REFUSED:
            raise
        file = "" if error.filename is None else f"{error.filename}: "
        print(f"{name}: error: {file}{error.strerror}", file=sys.stderr)
        return 2
    except Diverged as error:
        print(f"{name}: diverged: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        print(
            f"{name}: error: the flags ask for more memory than there is: {brief(error, 200)}",
            file=sys.stderr,
        )
        return 2
    return 0
