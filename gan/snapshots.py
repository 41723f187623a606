"""What a training shows of itself at every snapshot."""

from typing import Any

import keras

from gan import figures, trained
from gan.scorer import Scorer
from mhe.harness.runs import Run

# Latents of their own: those that a snapshot is chosen by are not those it is tested by.
GRID_SEED, SCORE_SEED, TEST_SEED = range(3)


class Snapshots(keras.callbacks.Callback):
    """Draws images of always the same latents at the end of an epoch, scores images, logs both.

    The images go to `samples/step-NNNNNN.png`, the iterations behind the run and the scores into
    the logs, so it stands before the run's own callbacks. It also looks after every iteration
    whether the losses are still numbers, for an epoch of a GAN may take hours.

    Args:
        run: The run.
        every: The iterations of an epoch.
        steps: The iterations of the whole training.
        scorer: What scores images, or None.
        images: How many are scored; 0 scores none.
    """

    # Lets Keras go on without waiting for each batch's numbers.
    async_safe = True

    def __init__(self, run: Run, every: int, steps: int, scorer: Scorer | None, images: int):
        super().__init__()
        self.run = run
        self.every = every
        self.steps = steps
        self.scorer = scorer
        self.images = images

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Ends the training if a loss is no longer a number."""
        self.run.refuse_divergence(logs or {})

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Draws and scores."""
        logs = {} if logs is None else logs
        self.run.refuse_divergence(logs, self.model)
        step = min(self.steps, (epoch + 1) * self.every)
        logs["step"] = step
        folder = self.run.folder / "samples"
        folder.mkdir(exist_ok=True)
        figures.draw_grid(self.model.generate(64, seed=GRID_SEED), folder / f"step-{step:06d}.png")
        if self.scorer is not None and self.images:
            logs.update(self.scorer.score(self.model, self.images, seed=SCORE_SEED))


class KeepBest(keras.callbacks.Callback):
    """Keeps the snapshot with the best score, see `gan.trained.keep_best`.

    It stands behind the run's own callbacks, which record the epoch.

    Args:
        run: The run.
    """

    def __init__(self, run: Run):
        super().__init__()
        self.run = run

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Keeps what is to be kept."""
        trained.keep_best(self.run)
