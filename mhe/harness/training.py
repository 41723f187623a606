"""The one skeleton of the training programs: start or resume a run, fit, finish; or compare.

A program declares its flags, a `Task` (its data, model, batches and report) and a `Comparison`, and
puts them into a `Program`, whose `main` does the rest.
"""

import abc
import argparse
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import keras
import numpy as np

from mhe.harness import devices, recipes
from mhe.harness.batches import Batches
from mhe.harness.callbacks import ChanceWarning, run_callbacks
from mhe.harness.comparisons import Comparison, stem
from mhe.harness.datasets import images_in_words
from mhe.harness.errors import BadInput, Diverged, within_memory
from mhe.harness.events import require_tensorboardx
from mhe.harness.figures import require_matplotlib
from mhe.harness.flags import Parser
from mhe.harness.lock import locked
from mhe.harness.run import Run, require_unused
from mhe.harness.together import aside, heard, together

_MEMORY_FLAGS = (
    *("width", "dims", "per_class", "image_size", "train_images", "scenes"),
    *("batch_size", "ways", "shots", "queries", "images"),
)


class Task(abc.ABC):
    """One run of a program: what is trained on what, and what is reported.

    The skeleton creates the task, which loads its data and refuses what it cannot use; seeds Keras;
    builds the model; starts or resumes the run; fits; and reports.

    Args:
        args: The flags of one run.
        run: The run to resume, or None.

    Attributes:
        args: The flags of one run.
        model: What `build` returned.
        steps_per_epoch: The iterations of a full epoch. Set it in `__init__`.
        steps: The iterations of the whole run; the last epoch may be shorter. Set it in `__init__`.
        validation: What `fit` evaluates after each epoch, or None.
        config: Entries of `config.json` besides the flags.
        result: Entries of `result.json` besides the metrics.
        splits_on: The backends on which a batch can be split among devices; JAX splits any.
        summary: What is printed about the data before training.
        divergence: Errors in training or reporting that mean that the training diverged.
    """

    divergence: ClassVar[tuple[type[Exception], ...]] = ()
    model: keras.Model
    steps_per_epoch: int
    steps: int
    splits_on: Sequence[str] = ("jax", "tensorflow", "torch")

    def __init__(self, args: argparse.Namespace, run: Run | None):
        self.args = args
        self.validation: keras.utils.PyDataset | None = None
        self.config: dict[str, Any] = {}
        self.result: dict[str, Any] = {}
        self.summary = ""

    @property
    def epochs(self) -> int:
        """The epochs of the whole run, the last of which may be shorter."""
        return math.ceil(self.steps / self.steps_per_epoch)

    @property
    def held_out(self) -> str:
        """The prefix of the metrics on held-out images: `"test"` or `"validation"`."""
        return "validation" if vars(self.args).get("validation") else "test"

    @property
    def batch_sizes(self) -> Sequence[int]:
        """The numbers of images that the batches of an epoch have."""
        return getattr(self.batches(0, None), "sizes", [self.args.batch_size])

    @abc.abstractmethod
    def build(self) -> keras.Model:
        """Builds and compiles the model. Keras has been seeded before.

        It may be called twice, and gives the same model then.
        """

    @abc.abstractmethod
    def batches(self, epoch: int, steps: int | None) -> keras.utils.PyDataset:
        """Returns what to train on.

        Args:
            epoch: The epoch to start with.
            steps: The iterations of a last, shorter epoch; None for full epochs.
        """

    def prepare_run(self, run: Run) -> None:  # noqa: B027 - most tasks have nothing to do
        """Checks the run or adds files to its folder before its checkpoint is restored."""

    def callbacks(self, run: Run) -> Sequence[keras.callbacks.Callback]:
        """Returns the callbacks that go before those that record the epoch."""
        return []

    def late_callbacks(self, run: Run) -> Sequence[keras.callbacks.Callback]:
        """Returns the callbacks that go after those that record the epoch."""
        return []

    @abc.abstractmethod
    def report(self, run: Run) -> Mapping[str, float]:
        """Draws the figures of a trained run and returns its metrics."""


class ImageTask(Task):
    """A task on the images of `--dataset`, in augmented batches, evaluated after each epoch.

    Args:
        args: The flags of one run, those of `recipes.add_network_flags` among them.
        run: The run to resume, or None.

    Attributes:
        train: Training images and labels, or targets by output. Set it with `use`.
        drop_remainder: Whether an epoch leaves out the images that do not fill a batch.
    """

    drop_remainder = False
    train: tuple[Any, Any]

    def use(self, train: tuple[Any, Any], test: tuple[Any, Any] | None) -> None:
        """Sets the images to train on and, if any, to evaluate on, and the number of iterations."""
        self.train = train
        self.summary = images_in_words(train[0], None if test is None else test[0])
        count, size = len(train[0]), self.args.batch_size
        if self.drop_remainder and count < size:
            raise BadInput(
                f"--batch_size must be at most the {count} training images, as only full batches "
                f"are used. Received: {size}"
            )
        self.steps_per_epoch = count // size if self.drop_remainder else math.ceil(count / size)
        # Not every program has the flag.
        steps = vars(self.args).get("steps")
        self.steps = self.args.epochs * self.steps_per_epoch if steps is None else steps
        if test is not None:
            self.validation = recipes.in_order(*test)

    def chance_warning(
        self, run: Run, labels: np.ndarray, dead_steps: int | None = None
    ) -> ChanceWarning:
        """Returns a callback that warns if the network does not learn.

        Args:
            run: The run.
            labels: The training labels `(N,)`.
            dead_steps: How many iterations the recipe leaves the network dead, or None.
        """
        rate = self.args.base_lr
        return ChanceWarning(labels, self.steps_per_epoch, self.epochs, rate, run.rows, dead_steps)

    def batches(self, epoch: int, steps: int | None) -> keras.utils.PyDataset:
        """Returns shuffled and augmented batches."""
        return Batches(
            *self.train,
            self.args.batch_size,
            seed=self.args.seed,
            augment=recipes.AUGMENTATIONS[vars(self.args).get("augment", "none")],
            drop_remainder=self.drop_remainder,
            epoch=epoch,
        )


@dataclass(frozen=True)
class Program:
    """A training program.

    Attributes:
        make_parser: Returns the parser of the flags.
        task: Creates the task of one run from its flags and the run to resume, or None.
        comparison: What the program compares when flags have lists.
        folder: The last part of the default of `--out`; `{task}` stands for the value of `--task`.
        resolve_defaults: Sets, in place, flags whose default depends on other flags. The flags of a
            resumed run are resolved already.
        check: Raises a `BadInput` for flags that cannot be used together.
        expand_runs: Returns the flags of each run by the name of the run; by default the
            combinations of the lists.
        title: Returns the title of the figure of a comparison; by default the dataset.
        name_single_runs: Whether a single run gets a folder of its own name by default.
        dataset: The flag that names the data.
        revisit: Returns whether it did something with a complete run that is resumed, to which
            there is otherwise nothing to do.
        distributes: The values that `--distribute` may have besides `none`.
        undistributed: Why it may not have the others.
    """

    make_parser: Callable[[], Parser]
    task: Callable[[argparse.Namespace, Run | None], Task]
    comparison: Comparison
    folder: str
    resolve_defaults: Callable[[argparse.Namespace], None] = lambda args: None
    check: Callable[[argparse.Namespace], None] = lambda args: None
    expand_runs: Callable[[argparse.Namespace], dict[str, argparse.Namespace]] | None = None
    title: Callable[[argparse.Namespace], str] = lambda args: stem(args.dataset)
    name_single_runs: bool = False
    dataset: str = "dataset"
    revisit: Callable[[argparse.Namespace, Run], bool] = lambda args, run: False
    distributes: Sequence[str] = ("data", "classes")
    undistributed: str = ""

    def parse(self, argv: Sequence[str] | None = None) -> tuple[argparse.Namespace, Run | None]:
        """Parses the flags, resolves their defaults and refuses what cannot be used together.

        Args:
            argv: The flags; those of the process by default.

        Returns:
            The flags, with lists, and the run to resume or None.

        Raises:
            BadInput: If a flag cannot be used.
        """
        args, run = self.make_parser().parse(argv)
        if run is None:
            self.resolve_defaults(args)
            self.check(args)
        else:
            self._refuse_missing_values(args, run)
        devices.check(args, self.distributes, self.undistributed)
        return args, run

    def _runs(self, args: argparse.Namespace) -> dict[str, argparse.Namespace]:
        """The flags of each run by the name of the run."""
        return (self.expand_runs or self.comparison.combinations)(args)

    def _refuse_missing_values(self, args: argparse.Namespace, run: Run) -> None:
        """Refuses a run's config with null for a flag whose default depends on others.

        A run's config has what the default was, so that there is nothing left to resolve.
        """
        resolved = argparse.Namespace(**vars(args))
        self.resolve_defaults(resolved)
        (expected,) = self._runs(resolved).values()
        for name, value in vars(args).items():
            if value is None and getattr(expected, name) is not None:
                raise BadInput(
                    f"{run.folder / 'config.json'} cannot be used: --{name} must have a value. "
                    "Received: null"
                )

    def main(self, argv: Sequence[str] | None = None) -> None:
        """Trains, resumes or compares.

        Args:
            argv: The flags; those of the process by default.

        Raises:
            BadInput: If a flag, the data or a folder cannot be used.
            Diverged: If a loss or a weight is no longer finite.
        """
        args, run = self.parse(argv)
        if run is not None and run.finished:
            run.mend_log()
            if self.revisit(args, run):
                return
        runs = self._runs(args)
        if run is None and args.out is None:
            single = self.name_single_runs and len(runs) == 1
            end = next(iter(runs)) if single else self.folder.format(**vars(args))
            args.out = Path("runs", f"{stem(getattr(args, self.dataset))}-{end}")
            for flags in runs.values():
                flags.out = args.out
        where = devices.place(args)
        if where.processes > 1 and len(runs) > 1:
            raise BadInput(f"Several processes train one run. Received: {len(runs)} runs")
        with heard(where):
            self.comparison.carry_out(
                runs, run, args.out, train=self.train, main=self.main, title=self.title(args)
            )

    def train(self, args: argparse.Namespace, run: Run | None = None) -> dict[str, Any]:
        """Trains one run, and leaves its folder complete.

        Args:
            args: The flags of the run.
            run: The run to resume; None starts one in `args.out`.

        Returns:
            The content of `result.json`.

        Raises:
            BadInput: If the data, the flags and the folder cannot be used together, or another
                process has the folder.
            CannotWrite: If the disk is full, for example.
            Diverged: If a loss or a weight is no longer finite.
        """
        with within_memory(_memory_flags(args)):
            return self._train(args, run)

    def _train(self, args: argparse.Namespace, run: Run | None) -> dict[str, Any]:
        require_matplotlib()
        require_tensorboardx()
        where = devices.place(args)
        with ExitStack() as stack:
            peers = stack.enter_context(together(where, args, run, self.make_parser().prog))
            spread = stack.enter_context(devices.of(args, where))
            if where.process:
                args, run = stack.enter_context(aside(peers, args, run))
            elif run is None:
                require_unused(args.out)
            else:
                stack.enter_context(locked(run.folder))
                # Another process may have trained it since it was read.
                run = Run.resume(run.folder)
                # While the others read it.
                peers.meet()
                peers.meet()
            task = self.task(args, run)
            if spread.parts > 1:
                spread.require_divisible(task.batch_sizes, task.splits_on)
            task.validation = spread.validation(task.validation)
            task.model = spread.build(task.build, args.seed)
            if run is None:
                stack.enter_context(locked(args.out))
            parser = self.make_parser()
            run = Run.start_or_resume(
                run, parser.prog, args, excluded=parser.excluded, **task.config
            )
            for line in filter(None, (task.summary, spread.in_words())):
                print(line)
            with run:
                task.prepare_run(run)
                try:
                    with spread.placed(), spread.synchronized(task.model):
                        _fit(task, run, run.restore(task.model), spread)
                    metrics = task.report(run)
                except task.divergence as error:
                    raise Diverged(f"After epoch {run.epoch}: {error}. {run.advice}") from error
                return run.finish(metrics, **task.result)


def _memory_flags(args: argparse.Namespace) -> str:
    """The flags that set how much memory a run takes, those that were given, as they are passed."""
    given = {name: vars(args).get(name) for name in _MEMORY_FLAGS}
    return " ".join(f"--{name} {value}" for name, value in given.items() if value is not None)


def _fit(task: Task, run: Run, done: int, spread: devices.Devices) -> None:
    whole, rest = divmod(task.steps, task.steps_per_epoch)
    # A shorter last epoch is a separate `fit`.
    for end, steps in ((whole, None), (task.epochs, rest)):
        if done < end:
            task.model.fit(
                spread.share(task.batches(done, steps)),
                validation_data=task.validation,
                initial_epoch=done,
                epochs=end,
                steps_per_epoch=steps,
                shuffle=False,
                verbose=0,
                callbacks=[
                    *spread.callbacks(task.validation),
                    *task.callbacks(run),
                    *run_callbacks(run, task.epochs, seed=task.args.seed),
                    *task.late_callbacks(run),
                ],
            )
            done = end
