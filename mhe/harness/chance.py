"""A training that has learnt nothing, said aloud."""

import math
import sys
from collections.abc import Mapping, Sequence

import keras
import numpy as np


class ChanceWarning(keras.callbacks.Callback):
    """Says once when the network has learnt nothing yet although it should have.

    It judges each epoch from the one on that completes three epochs and 500 iterations, or the
    last of a shorter training.

    Args:
        labels: The training labels `(N,)`.
        steps_per_epoch: The iterations of an epoch.
        epochs: The epochs of the whole training.
        base_lr: The learning rate, for the message.
        rows: The log's rows of the epochs before, so that a resumed run does not say it again.
    """

    def __init__(
        self,
        labels: np.ndarray,
        steps_per_epoch: int,
        epochs: int,
        base_lr: float,
        rows: Sequence[Mapping[str, float]] = (),
    ):
        super().__init__()
        # Always naming the commonest class; three standard deviations of its luck are noise.
        share = float(np.bincount(labels).max() / labels.size)
        self.chance = share
        self.limit = share + 3 * math.sqrt(share * (1 - share) / labels.size)
        self.judged = min(epochs, max(3, math.ceil(500 / steps_per_epoch)))
        self.base_lr = base_lr
        self.said = any(self._at_chance(row["epoch"], row) for row in rows)

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Warns at the first epoch that is at chance and should not be."""
        if not self.said and self._at_chance(epoch + 1, logs):
            self.said = True
            print(
                f"Warning: after {epoch + 1} epochs the training accuracy, "
                f"{logs['accuracy']:.3f}, is at chance ({self.chance:.3f}). "
                f"Try a lower --base_lr than {self.base_lr:g}, or longer training",
                file=sys.stderr,
            )

    def _at_chance(self, epoch: int, logs: Mapping[str, float]) -> bool:
        return epoch >= self.judged and logs["accuracy"] <= self.limit
