"""The GAN that the flags of `gan/train.py` mean, and the best snapshot of a run."""

import argparse
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import mhe
from gan import networks
from gan.energies import PUBLISHED_MAGNITUDES, attach_published
from gan.model import GAN, published_optimizer
from mhe.harness import recipes, runs
from mhe.harness.errors import BadInput

PROGRAM = "gan/train.py"
# Whether the discriminator has spectral norm, and whether energies.
MODELS = {
    "baseline": (False, False),
    "sn": (True, False),
    "mhe": (False, True),
    "sn_mhe": (True, True),
}
# What the best snapshot is best in.
SCORE = "inception_score"


def build(args: argparse.Namespace, image_shape: Sequence[int]) -> GAN:
    """Builds and compiles the GAN of a run.

    Args:
        args: The flags of one run.
        image_shape: `(H, W, C)` of the real images.

    Raises:
        BadInput: If the networks cannot make such images.
    """
    spectral_norm, energies = MODELS[args.model_name]
    shape = tuple(image_shape)
    try:
        generator = networks.generator(args.width, image_shape=shape)
        discriminator = networks.discriminator(args.width, shape, spectral_norm)
    except BadInput as error:
        raise BadInput(
            f"--dataset {args.dataset}: the networks cannot make its images, which --image_size "
            f"brings to another size. {error}"
        ) from error
    if energies and args.strength is None:
        attach_published(discriminator, PUBLISHED_MAGNITUDES[spectral_norm])
    elif energies:
        s, distance = recipes.POWERS[args.power_s]
        mhe.attach(discriminator, mhe.MHE(args.strength, s=s, distance=distance, space="full"))
    model = GAN(generator, discriminator, args.loss, args.ema, args.seed, name=args.model_name)
    optimizers = [published_optimizer() for _ in range(2)]
    for each in optimizers:
        each.learning_rate = args.base_lr
    model.compile(*optimizers, jit_compile=recipes.jit_compile())
    return model


def keep_best(run: runs.Run) -> None:
    """Keeps a run's last snapshot if none before it has a better score, and forgets the other.

    It is a copy of the checkpoint, made after the epoch is recorded: what a kill between the two
    leaves out, the next call makes up for.

    Args:
        run: The run, whose last epoch is recorded and has its checkpoint.
    """
    scored = [row for row in run.rows if SCORE in row]
    if not scored or max(scored, key=lambda row: row[SCORE]) is not run.rows[-1]:
        return
    path = run.folder / f"best-step-{int(run.rows[-1]['step']):06d}.weights.h5"
    with runs.replacing(path) as partial:
        shutil.copyfile(run.checkpoints[-1], partial)
    for other in _kept(run):
        if other != path:
            other.unlink()


def best_snapshot(run: runs.Run) -> tuple[Path, int]:
    """Finds the snapshot of a run that is to be tested: the best, or without scores the last.

    Args:
        run: The run, complete or not.

    Returns:
        The file of its weights, and the iterations behind it.

    Raises:
        BadInput: If there is none.
    """
    kept = _kept(run)
    if kept:
        return kept[-1], _number(kept[-1])
    if not run.checkpoints:
        raise BadInput(f"{run.folder} must be a run with a snapshot. Received: a run without one")
    path = run.checkpoints[-1]
    return path, min(run.config["steps"], _number(path) * run.config["snapshot_every"])


def load_snapshot(model: GAN, path: Path) -> None:
    """Puts the weights of a snapshot into the GAN of its run.

    Args:
        model: The GAN as `build` makes it.
        path: The file.

    Raises:
        BadInput: If it cannot be read, or belongs to another GAN.
    """
    try:
        model.load_weights(path)
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error}") from error
    except ValueError as error:
        raise BadInput(f"{path} belongs to another model: {error}") from error


def _kept(run: runs.Run) -> list[Path]:
    # Two, the later one better, if a kill came between keeping one and forgetting the other.
    return sorted(run.folder.glob("best-step-*.weights.h5"), key=_number)


def _number(path: Path) -> int:
    return int(re.search(r"\d+", path.name)[0])
