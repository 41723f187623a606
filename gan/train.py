"""Trains a GAN, with or without spectral norm and minimum hyperspherical energy, and scores it.

Without flags this is MHE with spectral norm by the published recipe: CIFAR-10, 200,000 iterations
of a step of the generator and one of the discriminator, batches of 64, Adam at 1e-4 with β 0.5 and
0.999, the softplus loss, the energy s = 0 on every kernel of the discriminator. The inception score
is InceptionV3's; where its weights cannot be downloaded, train a classifier with
`gan/train_classifier.py` and pass it as `--classifier`.

An epoch of a run lasts from one snapshot to the next, and leaves a row of the log, a checkpoint,
images of always the same latents in `samples/`, and scores. The best snapshot by inception score
is kept (`best-step-NNNNNN.weights.h5`), and at the end scored on more images, with latents of their
own, as `gan/test.py` does at any time.

A list in --model_name, or --seeds, makes a folder of runs and a table of them.

Reference: Liu et al., Learning towards Minimum Hyperspherical Energy, NeurIPS 2018
(arXiv 1805.09298), section 4.4; Miyato et al., Spectral Normalization for Generative Adversarial
Networks, ICLR 2018 (arXiv 1802.05957).
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

if __name__ == "__main__":
    from mhe_startup import start

    start(__file__)

import keras

import mhe
from gan import networks
from gan.energies import PUBLISHED_MAGNITUDES, attach_published
from gan.losses import LOSSES
from gan.model import GAN, published_optimizer
from gan.program import figures, scorer, snapshots
from gan.program.real_images import RealImages
from gan.program.scorer import Scorer
from mhe.attach.neurons import neuron_weights
from mhe.harness import recipes, training
from mhe.harness.comparisons import Comparison, Varied
from mhe.harness.errors import BadInput, as_bad_input
from mhe.harness.flags import COUNT_OR_NONE, WIDTH, Parser, integer, number, program
from mhe.harness.run import Run


class Curves(Comparison):
    """A comparison that draws the curves of all runs too, in `curves.png`."""

    def report(self, finished: Sequence[Run], out: Path, title: str) -> None:
        """Writes `table.csv`, `comparison.png` and `curves.png`, and prints the table."""
        super().report(finished, out, title)
        rows = {run.folder.name: run.rows for run in finished}
        figures.draw_curves(rows, out / "curves.png", title)


COMPARISON = Curves(
    "gan/train.py",
    [Varied("model_name")],
    {
        "test_inception_score": 1,
        "test_frechet_distance": 1,
        "test_kernel_inception_distance": 1,
        "test_precision": 100,
        "test_recall": 100,
        "energy": 1,
    },
    shared=["dataset", "scored_by", "reference", "images", "splits"],
)

# Whether the discriminator has spectral norm, and whether energies.
MODELS = {
    "baseline": (False, False),
    "sn": (True, False),
    "mhe": (False, True),
    "sn_mhe": (True, True),
}


def make_parser() -> Parser:
    """Returns the parser of this program's flags."""
    parser = Parser(
        COMPARISON.program,
        "Trains a GAN on images. A list in --model_name, or --seeds, makes a folder of runs and a "
        "table of them.",
    )
    positive, above = integer(1), number(0, above=True)
    parser.add_argument(
        "--model_name",
        nargs="+",
        choices=list(MODELS),
        default=["sn_mhe"],
        help="what the discriminator has: nothing, spectral norm, energies, or both",
    )
    parser.add_argument(
        "--power_s",
        choices=list(recipes.POWERS),
        default="0",
        help="mhe, sn_mhe: the power s of the energy, with 'a' over angles instead of Euclidean "
        "distances; every model logs this energy",
    )
    parser.add_argument(
        "--strength",
        type=number(0),
        help="mhe, sn_mhe: strength of mhe.MHE on every kernel (default: equivalent to the "
        "published magnitudes, 1e-6 (N-1)/N for N neurons, and a tenth of it with spectral norm; "
        "required if --power_s is not 0)",
    )
    parser.add_data_flags("cifar10")
    parser.add_argument(
        "--width", type=WIDTH, default=1.0, help="factor on the number of filters of every layer"
    )
    recipes.add_seeds(parser)
    parser.add_argument("--steps", type=positive, default=200_000, help="iterations to train for")
    parser.add_argument(
        "--snapshot_every",
        type=positive,
        default=5000,
        metavar="STEPS",
        help="iterations between two snapshots, which make an epoch of the run",
    )
    recipes.add_step_flags(parser, batch_size=64, base_lr=1e-4, rate=" of both sides")
    parser.add_argument("--loss", choices=LOSSES, default="softplus", help="the loss of both sides")
    parser.add_argument(
        "--ema",
        type=above,
        metavar="DECAY",
        help="generate with a moving average of the generator's weights with this decay, such as "
        "0.999 (default: with the weights themselves)",
    )
    scorer.add_flags(parser)
    parser.add_argument(
        "--score_images",
        type=COUNT_OR_NONE,
        default=5000,
        metavar="N",
        help="number of images to generate and score at every snapshot, to keep the best; 0 keeps "
        "the last",
    )
    parser.add_argument(
        "--images",
        type=COUNT_OR_NONE,
        default=50_000,
        metavar="N",
        help="number of images to generate from the best snapshot and score at the end; 0 for none",
    )
    # A run does not depend on where the statistics are cached.
    parser.excluded.add("statistics")
    return parser


def check(args: argparse.Namespace) -> None:
    """Refuses flags that cannot be used.

    Raises:
        BadInput: If they cannot.
    """
    with_energies = [name for name in args.model_name if MODELS[name][1]]
    names = ", ".join(args.model_name)
    if args.strength is not None and not with_energies:
        raise BadInput(f"--strength does not apply to --model_name {names}")
    if args.strength is None and with_energies and args.power_s != "0":
        raise BadInput(
            "--strength must be given if --power_s is not 0, for which nothing is published. "
            f"Received: --power_s {args.power_s}"
        )
    if args.ema is not None and args.ema >= 1:
        raise BadInput(f"--ema must be less than 1. Received: {args.ema:g}")
    scorer.require_enough("--score_images", args.score_images, args.splits)
    scorer.require_enough("--images", args.images, args.splits)


def expand_runs(args: argparse.Namespace) -> dict[str, argparse.Namespace]:
    """Returns the flags of each run by the name of the run.

    Args:
        args: The resolved flags, with lists.

    Returns:
        The flags by run, without a strength for models without energies.
    """
    runs = COMPARISON.combinations(args)
    for flags in runs.values():
        if not MODELS[flags.model_name][1]:
            flags.strength = None
    return runs


def build(args: argparse.Namespace, image_shape: Sequence[int]) -> GAN:
    """Builds and compiles the GAN of a run.

    Args:
        args: The flags of one run.
        image_shape: `(H, W, C)` of the real images.

    Raises:
        BadInput: If the networks cannot make such images.
    """
    spectral_norm, energies = MODELS[args.model_name]
    height, columns, channels = image_shape
    shape = (height, columns, channels)
    with as_bad_input(
        f"--dataset {args.dataset}: the networks cannot make its images; --image_size resizes them"
    ):
        generator = networks.generator(args.width, image_shape=shape)
        discriminator = networks.discriminator(args.width, shape, spectral_norm)
    if energies and args.strength is None:
        with as_bad_input(f"--width {args.width:g}"):
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


class Task(training.Task):
    """Trains and scores one GAN."""

    def __init__(self, args: argparse.Namespace, run: Run | None):
        super().__init__(args, run)
        self.data = recipes.load(args)
        self.summary = self.data.in_words()
        self.images, _ = self.data.train
        self.steps_per_epoch, self.steps = args.snapshot_every, args.steps
        # Refuses too few images before the run has a folder.
        self.batches(0, None)
        self.scorer: Scorer | None = None

    def batches(self, epoch: int, steps: int | None) -> RealImages:
        """Returns the real images of each step."""
        return RealImages(
            self.images,
            self.args.batch_size,
            every=self.args.snapshot_every,
            seed=self.args.seed,
            last=steps,
            epoch=epoch,
        )

    def build(self) -> GAN:
        """Builds and compiles the GAN."""
        model = build(self.args, self.images.shape[1:])
        if self.args.score_images or self.args.images:
            self.scorer = Scorer(self.args, self.data)
            self.result = self.scorer.described
        self.config = {"scored_by": None if self.scorer is None else self.scorer.name}
        return model

    def prepare_run(self, run: Run) -> None:
        """Refuses to continue with another classifier."""
        scored_by = self.config["scored_by"]
        if run.config.get("scored_by") != scored_by:
            raise BadInput(
                f"{run.folder} was started with scores by {run.config.get('scored_by')}, and "
                f"scores by another classifier are not comparable. Received: {scored_by}"
            )
        args = self.args
        print(f"{len(self.images):,} real images; {args.steps:,} steps of {args.batch_size} each")

    def callbacks(self, run: Run) -> Sequence[keras.callbacks.Callback]:
        """Keeps the best snapshot up to date, logs energies, and draws and scores snapshots."""
        snapshots.keep_best(run)
        args = self.args
        s, distance = recipes.POWERS[args.power_s]
        watched = [weight.path for weight in neuron_weights(self.model.discriminator)]
        return [
            mhe.EnergyLogger(s=s, distance=distance, layers=watched),
            snapshots.Snapshots(
                run, args.snapshot_every, args.steps, self.scorer, args.score_images
            ),
        ]

    def late_callbacks(self, run: Run) -> Sequence[keras.callbacks.Callback]:
        """Keeps the best snapshot, of which the checkpoint is a copy."""
        return [snapshots.KeepBest(run)]

    def report(self, run: Run) -> dict[str, float]:
        """Draws curves and samples, and scores the best snapshot."""
        snapshots.keep_best(run)
        figures.draw_curves({run.folder.name: run.rows}, run.folder / "curves.png")
        path, step = snapshots.best_snapshot(run)
        snapshots.load_snapshot(self.model, path)
        figures.draw_samples(self.model, run.folder)
        metrics = {"steps": self.steps, "best_step": step, "energy": run.rows[-1]["energy"]}
        if self.args.score_images:
            chosen = next(row for row in run.rows if row["step"] == step)
            metrics[f"snapshot_{snapshots.SCORE}"] = chosen[snapshots.SCORE]
        if self.scorer is not None and self.args.images:
            scores = self.scorer.score(self.model, self.args.images, seed=snapshots.TEST_SEED)
            print(self.scorer.text(scores, self.args.images))
            metrics |= {f"test_{name}": value for name, value in scores.items()}
        return metrics


PROGRAM = training.Program(
    make_parser,
    Task,
    COMPARISON,
    folder="gan",
    check=check,
    expand_runs=expand_runs,
    name_single_runs=True,
    distributes=("data",),
    undistributed="its networks have no class vectors",
)
main = PROGRAM.main

if __name__ == "__main__":
    sys.exit(program(main))
