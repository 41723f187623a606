"""What a training prints while it runs."""

import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

import keras

if TYPE_CHECKING:
    from mhe.harness.runs import Run


def time_left(seconds: float) -> str:
    """Returns what a line of progress says of the time that something still takes.

    Args:
        seconds: The time; less than none counts as none.

    Example:

    >>> time_left(3725.4)
    '1:02:05 left'
    """
    minutes, seconds = divmod(max(0, round(seconds)), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{seconds:02} left"


class Progress(keras.callbacks.Callback):
    """One line an epoch, and on a terminal a bar with the time that the whole run still takes.

    Args:
        run: The run, whose last row is printed.
        epochs: The epochs of the whole run.

    Example:

    >>> import tempfile
    >>> from mhe.harness.runs import Run
    >>> run = Run.create(tempfile.mkdtemp(), "train.py", {})
    >>> progress = Progress(run, epochs=10)
    >>> progress.line({"epoch": 3, "loss": 1.25, "energy/conv/kernel": 0.6, "seconds": 1.5})
    'epoch 3/10  loss 1.25  1.5 s'
    """

    # Lets Keras go on without waiting for each batch's numbers, which the bar does not show.
    async_safe = True
    _width = 30

    def __init__(self, run: "Run", epochs: int):
        super().__init__()
        self.run = run
        self.epochs = epochs
        self._terminal = sys.stdout.isatty()
        self._first = run.epoch
        self._began = self._drawn = time.perf_counter()

    def line(self, row: Mapping[str, float]) -> str:
        """Returns the line for one row of the log; single layers are left to the log."""
        numbers = [k for k in row if k not in ("epoch", "seconds") and "/" not in k]
        return "  ".join(
            [
                f"epoch {row['epoch']}/{self.epochs}",
                *(f"{name} {row[name]:.4g}" for name in numbers),
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
        print(
            f"\repoch {self.run.epoch + 1}/{self.epochs} [{bar}] {part:4.0%}, {time_left(left)}",
            end="\x1b[K",
            flush=True,
        )

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Prints the epoch's line."""
        start = "\r\x1b[K" if self._terminal else ""
        print(start + self.line(self.run.rows[-1]), flush=True)
