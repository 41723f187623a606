"""Callbacks that keep a run's folder and show its progress."""

import math
import sys
import time
from collections.abc import Mapping, Sequence

import keras
import numpy as np
from tqdm import tqdm

from mhe.callbacks.seeds import EpochSeeds
from mhe.harness.run import Run


def run_callbacks(run: Run, epochs: int, *, seed: int = 0) -> list[keras.callbacks.Callback]:
    """Returns the callbacks that `fit` needs to keep a run.

    They go after every callback that adds to the logs, such as `mhe.EnergyLogger`, and `fit` gets
    `verbose=0`, since they show progress themselves.

    Args:
        run: The run.
        epochs: The epochs of the whole run.
        seed: With the epoch it seeds what layers draw, such as dropout, so that a resumed run draws
            what an unbroken one would.

    Example:

    >>> import tempfile
    >>> run = Run.create(tempfile.mkdtemp(), "train.py", {})
    >>> model = keras.Sequential([keras.layers.Input((2,)), keras.layers.Dense(1)])
    >>> model.compile("sgd", "mse")
    >>> first = run.restore(model)
    >>> with run:
    ...     _ = model.fit(np.ones((4, 2)), np.ones((4, 1)), initial_epoch=first, epochs=2,
    ...                   verbose=0, callbacks=run_callbacks(run, epochs=2))
    epoch 1/2  loss ...
    epoch 2/2  loss ...
    """
    return [EpochSeeds(seed), Recorder(run), Progress(run, epochs)]


class Recorder(keras.callbacks.Callback):
    """Adds the learning rate to the logs and passes each epoch to `Run.record`.

    Args:
        run: The run.
    """

    def __init__(self, run: Run):
        super().__init__()
        self.run = run
        self._started = 0.0

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        if epoch != self.run.epoch:
            raise ValueError(
                "`fit` must start with `initial_epoch=run.restore(model)`. "
                f"Received: epoch {epoch} after {self.run.epoch} epochs"
            )
        self._started = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        logs = {} if logs is None else logs
        optimizer = getattr(self.model, "optimizer", None)
        if optimizer is not None:
            rate = keras.ops.convert_to_numpy(keras.ops.convert_to_tensor(optimizer.learning_rate))
            logs["lr"] = float(rate)
        self.run.record(self.model, logs, time.perf_counter() - self._started)


class Progress(keras.callbacks.Callback):
    """Prints a line per epoch and, on a terminal, a bar over the whole run with the time left.

    Args:
        run: The run, whose last row is printed.
        epochs: The epochs of the whole run.

    Example:

    >>> import tempfile
    >>> progress = Progress(Run.create(tempfile.mkdtemp(), "train.py", {}), epochs=10)
    >>> progress.line({"epoch": 3, "loss": 1.25, "energy/conv/kernel": 0.6, "seconds": 1.5})
    'epoch 3/10  loss 1.25  1.5 s'
    """

    # Keras need not wait for the numbers of each batch, which the bar does not show.
    async_safe = True

    def __init__(self, run: Run, epochs: int):
        super().__init__()
        self.run = run
        self.epochs = epochs

    def line(self, row: Mapping[str, float]) -> str:
        """Returns the line for one row of the log, without the columns of single layers."""
        numbers = [name for name in row if name not in ("epoch", "seconds") and "/" not in name]
        return "  ".join(
            [
                f"epoch {row['epoch']}/{self.epochs}",
                *(f"{name} {row[name]:.4g}" for name in numbers),
                f"{row['seconds']:.1f} s",
            ]
        )

    def on_train_begin(self, logs: dict[str, float] | None = None) -> None:
        self._bar = tqdm(
            desc=self._place(),
            total=self.epochs,
            initial=self.run.epoch,
            file=sys.stdout,
            leave=False,
            disable=None,  # unless the output is a terminal
            smoothing=0,  # evaluations between epochs take their share of the time
            bar_format="epoch {desc} |{bar}| {percentage:3.0f}%, {remaining} left",
        )

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        self._bar.update(1 / self.params["steps"])

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        tqdm.write(self.line(self.run.rows[-1]), file=sys.stdout)
        sys.stdout.flush()
        self._bar.n = self.run.epoch
        self._bar.set_description_str(self._place(), refresh=False)

    def on_train_end(self, logs: dict[str, float] | None = None) -> None:
        self._bar.close()

    def _place(self) -> str:
        return f"{self.run.epoch + 1}/{self.epochs}"


class ChanceWarning(keras.callbacks.Callback):
    """Warns once if the network is still at chance after enough training.

    It judges every epoch from the one that completes three epochs and 500 iterations, or from the
    last one of a shorter training.

    Args:
        labels: The training labels `(N,)`.
        steps_per_epoch: The iterations per epoch.
        epochs: The epochs of the whole training.
        base_lr: The learning rate, for the message.
        rows: The log's rows of earlier epochs, so that a resumed run does not warn again.
        dead_steps: How many iterations the recipe is expected to leave the network dead, with the
            loss at its ceiling and shrinking weights; None if it is not. Such a phase is announced
            once, and there is no warning before it should be over.
    """

    def __init__(
        self,
        labels: np.ndarray,
        steps_per_epoch: int,
        epochs: int,
        base_lr: float,
        rows: Sequence[Mapping[str, float]] = (),
        dead_steps: int | None = None,
    ):
        super().__init__()
        # Always predicting the most frequent class; three standard deviations of luck are noise.
        share = float(np.bincount(labels).max() / labels.size)
        self.chance = share
        self.limit = share + 3 * math.sqrt(share * (1 - share) / labels.size)
        self.first_judged = min(epochs, max(3, math.ceil(500 / steps_per_epoch)))
        self.base_lr = base_lr
        self.dead_steps = dead_steps
        if dead_steps is not None:
            # The phase varies with the seed, by half or so.
            recovered = math.ceil(1.5 * dead_steps / steps_per_epoch)
            self.first_judged = min(epochs, max(self.first_judged, recovered))
        self.warned = any(self._at_chance(row["epoch"], row) for row in rows)
        self.announced = any(self._is_dead(row) for row in rows)

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        logs = logs or {}
        if not self.announced and self._is_dead(logs):
            self.announced = True
            print(
                "Note: the loss is at its ceiling and has no gradient; weight decay is shrinking "
                f"the weights. With this recipe that is expected for about {self.dead_steps:,} "
                "iterations; then training starts",
                file=sys.stderr,
            )
        if not self.warned and self._at_chance(epoch + 1, logs):
            self.warned = True
            print(
                f"Warning: after {epoch + 1} epochs the training accuracy, "
                f"{logs['accuracy']:.3f}, is at chance ({self.chance:.3f}). "
                f"Try a --base_lr lower than {self.base_lr:g}, or train longer",
                file=sys.stderr,
            )

    def _is_dead(self, logs: Mapping[str, float]) -> bool:
        return self.dead_steps is not None and logs.get("saturated", 0.0) > 0.5

    def _at_chance(self, epoch: float, logs: Mapping[str, float]) -> bool:
        return epoch >= self.first_judged and logs["accuracy"] <= self.limit
