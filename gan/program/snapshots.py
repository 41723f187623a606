"""Snapshots of a run: images and scores of each, and keeping, finding and loading the best."""

import re
import shutil
from pathlib import Path
from typing import Any

import keras

from gan.model import GAN
from gan.program import figures
from gan.program.scorer import Scorer
from mhe.harness import checksums
from mhe.harness.errors import BadInput
from mhe.harness.files import make_folder
from mhe.harness.run import Run, require_intact_checkpoint
from mhe.harness.saved import load_weights

# The score that the best snapshot maximizes.
SCORE = "inception_score"
# Different latents to show images, to choose a snapshot, and to test it.
GRID_SEED, SCORE_SEED, TEST_SEED = range(3)

_BEST = re.compile(r"best-step-(\d+)\.weights\.h5")


class Snapshots(keras.callbacks.Callback):
    """Draws images of fixed latents at the end of each epoch, and scores others.

    Images go to `samples/step-NNNNNN.png`, the number of iterations and the scores into the logs,
    so this must come before the run's own callbacks. It also checks after every iteration that the
    losses are finite, as an epoch of a GAN may take hours.

    Args:
        run: The run.
        every: The iterations of an epoch.
        steps: The iterations of the whole training.
        scorer: The scorer, or None.
        images: The number of images to score; 0 for none.
    """

    # Lets Keras continue without waiting for the logs of each batch.
    async_safe = True

    def __init__(self, run: Run, every: int, steps: int, scorer: Scorer | None, images: int):
        super().__init__()
        self.run = run
        self.every = every
        self.steps = steps
        self.scorer = scorer
        self.images = images

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Ends the training if a loss is no longer finite."""
        self.run.refuse_divergence(logs or {})

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Draws and scores."""
        logs = {} if logs is None else logs
        self.run.refuse_divergence(logs, self.model)
        step = min(self.steps, (epoch + 1) * self.every)
        logs["step"] = step
        folder = make_folder(self.run.folder / "samples")
        figures.draw_grid(self.model.generate(64, seed=GRID_SEED), folder / f"step-{step:06d}.png")
        if self.scorer is not None and self.images:
            logs.update(self.scorer.score(self.model, self.images, seed=SCORE_SEED))


class KeepBest(keras.callbacks.Callback):
    """Keeps the snapshot with the best score, see `keep_best`.

    This must come after the run's own callbacks, which record the epoch.

    Args:
        run: The run.
    """

    def __init__(self, run: Run):
        super().__init__()
        self.run = run

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Keeps the best snapshot."""
        keep_best(self.run)


def keep_best(run: Run) -> None:
    """Keeps a run's last snapshot, instead of an earlier one, if it has the best score.

    It is a copy of the checkpoint. If the run is killed between recording an epoch and this copy,
    the next call makes up for it.

    Args:
        run: The run, whose last epoch is recorded and has a checkpoint.
    """
    scored = [row for row in run.rows if SCORE in row]
    if not scored or max(scored, key=lambda row: row[SCORE]) is not run.rows[-1]:
        return
    path = run.folder / f"best-step-{int(run.rows[-1]['step']):06d}.weights.h5"
    with checksums.replacing_with_checksum(path) as partial:
        shutil.copyfile(run.checkpoints[-1], partial)
    for other in _kept(run):
        if other != path:
            other.unlink()
            checksums.beside(other).unlink(missing_ok=True)


def best_snapshot(run: Run) -> tuple[Path, int]:
    """Finds the snapshot of a run to test: the best, or without scores the last.

    Args:
        run: The run, complete or not.

    Returns:
        The file of its weights, and its iterations.

    Raises:
        BadInput: If there is no snapshot.
    """
    kept = _kept(run)
    if kept:
        return kept[-1], _first_number(kept[-1])
    if not run.checkpoints:
        raise BadInput(f"{run.folder} must be a run with a snapshot. Received: a run without one")
    path = run.checkpoints[-1]
    return path, min(run.config["steps"], _first_number(path) * run.config["snapshot_every"])


def load_snapshot(model: GAN, path: Path) -> None:
    """Loads the weights of a snapshot into the GAN of its run.

    Args:
        model: The GAN that `gan.train.build` returned.
        path: The file.

    Raises:
        BadInput: If it cannot be read, has changed, or belongs to another GAN.
    """
    is_best = _BEST.fullmatch(path.name) is not None
    try:
        if is_best:
            checksums.require_own(path)
        else:
            require_intact_checkpoint(path)
    except (OSError, ValueError) as error:
        other = "delete it to test the last snapshot" if is_best else "resume the run to go back"
        raise BadInput(f"{path} cannot be used: {error}; put it back, or {other}") from error
    load_weights(model, path)


def _kept(run: Run) -> list[Path]:
    # Two, of which the later one is better, if the run was killed while replacing one.
    kept = [each for each in run.folder.glob("best-step-*") if _BEST.fullmatch(each.name)]
    return sorted(kept, key=_first_number)


def _first_number(path: Path) -> int:
    return int(re.findall(r"\d+", path.name)[0])
