"""Trains a classifier with or without minimum hyperspherical energy, or its relatives.

Without flags this is the published CIFAR-100 recipe: CNN-9, 390 batches of 128 per epoch, a loss
that is smoothed and bounded (`mhe.losses.BoundedCrossEntropy`), SGD with momentum 0.9 at 0.1, x0.1
at iterations 20,000, 30,000 and 37,500 of 42,500, crops and flips, weight decay 5e-4. At this rate
the network collapses at once and stays dead for some 2,000 iterations, until weight decay has
shrunk its kernels, as in the published logs. `--recipe modern`, the default for any other dataset,
is what one would use today: cross-entropy, a warm-up and a cosine schedule.

The network is built plain; `mhe.attach` then adds the energies to it.

A list in --model_name or --power_s, or --seeds, makes a folder of runs, one per combination, and a
table of them. The same command can be stopped and repeated: it keeps complete runs and resumes the
others.

Reference: Liu et al., Learning towards Minimum Hyperspherical Energy, NeurIPS 2018
(arXiv 1805.09298).
"""

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    from mhe_startup import start

    start(__file__)

import keras
from tasks import classification

from mhe.callbacks import EnergyLogger, NormLogger
from mhe.harness import figures, recipes
from mhe.harness.comparisons import Comparison, Varied, milliseconds_per_step
from mhe.harness.errors import BadInput
from mhe.harness.flags import EPOCHS, Parser, integer, number, program
from mhe.harness.run import Run
from mhe.harness.training import ImageTask, Program

DROPS = "20/42.5,30/42.5,37.5/42.5"

# For each --power_s the strength on hidden layers: that of the reference implementation in terms of
# `mhe.MHE`, which leaves out its factors 2, 0.1 and 1/π.
STRENGTHS = {
    "0": 2.0,
    "1": 1.0,
    "2": 1.0,
    "a0": 1.0,
    "a1": 0.1 * math.pi,
    "a2": 0.1 * math.pi**2,
}
# The published strengths of other regularizers, which are the same on the output layer. Those of
# orthogonality are those that its published schedules begin with.
FAMILY_STRENGTHS = {"mma": 0.07, "so": 0.1, "dso": 0.1, "mc": 0.1, "srip": 0.1}
HEAD_FACTOR = 10

# The defaults that a recipe sets.
RECIPES: dict[str, dict[str, Any]] = {
    "published": {"loss": "published", "schedule": "drops", "base_lr": 0.1},
    "modern": {"loss": "cross_entropy", "schedule": "cosine", "base_lr": 0.05},
}
MODERN_EPOCHS = 60
MODERN_WARMUP = 500  # iterations, a tenth of the run at most


class Curves(Comparison):
    """A comparison that draws how the runs trained, too, in `curves.png`."""

    def report(self, finished: Sequence[Run], out: Path, title: str) -> None:
        """Writes `table.csv`, `comparison.png` and `curves.png`, and prints the table."""
        super().report(finished, out, title)
        powers = {run.config["power_s"] for run in finished} - {None}
        rows: dict[str, list] = {}
        for run in finished:
            model, power = run.config["model_name"], run.config["power_s"]
            name = f"{model}, s = {power}" if power and len(powers) > 1 else model
            rows.setdefault(name, []).append(run.rows)
        figures.draw_comparison(rows, out / "curves.png", title)


COMPARISON = Curves(
    "benchmarks/train.py",
    [Varied("model_name"), Varied("power_s")],
    {
        "test_accuracy": 100,
        "validation_accuracy": 100,
        "train_accuracy": 100,
        "energy": 1,
        "smallest_angle": 1,
        "ms_per_step": 1,
    },
    shared=["dataset"],
    derived={"ms_per_step": milliseconds_per_step},
)


def make_parser() -> Parser:
    """Returns the parser of this program's flags."""
    parser = Parser(
        COMPARISON.program,
        "Trains a classifier with minimum hyperspherical energy. A list in --model_name or "
        "--power_s, or --seeds, makes a folder of runs and a table of them.",
    )
    positive, rate = integer(1), number(0)
    parser.add_argument(
        "--model_name",
        nargs="+",
        choices=["baseline", "mhe", "half_mhe", "radial", *classification.FAMILY],
        default=["half_mhe"],
        help="baseline: no energy; mhe: energy in full space; half_mhe: in half space on hidden "
        "layers and in full space on the output layer; radial: for comparison, a force as strong "
        "as MHE's (1/|w|) that lengthens neurons instead of turning them; comhe: energy after a "
        "random projection to 30 dimensions, on layers that have them; mhp, mhc: polarization, "
        "covering; uniformity: Gaussian potential; mma: minimal angles; mhs: smallest distance; "
        "mgd: Gram determinant; so, dso, mc, srip: orthogonality (single, double, coherence, "
        "spectral)",
    )
    parser.add_argument(
        "--power_s",
        nargs="+",
        choices=list(recipes.POWERS),
        default=["2"],
        help="the power s of the energy, with 'a' over angles instead of Euclidean distances; "
        "only mhe and half_mhe use it",
    )
    parser.add_argument(
        "--recipe",
        choices=list(RECIPES),
        help="published: the bounded loss at a rate of 0.1 that drops by x0.1, full batches only; "
        "modern: cross-entropy at a rate of 0.05 with a warm-up and a cosine schedule; other "
        "flags override either (default: published for cifar100, modern for any other dataset)",
    )
    parser.add_argument(
        "--loss",
        choices=["published", "cross_entropy"],
        help="published: cross-entropy smoothed by 0.01 and bounded by -log(1e-4), as in the "
        "published code; cross_entropy: plain (default: set by --recipe)",
    )
    parser.add_data_flags("cifar100")
    parser.add_argument(
        "--test_images",
        type=positive,
        help="number of test images, balanced over classes (default: all)",
    )
    recipes.add_comparison_flags(parser)
    length = parser.add_mutually_exclusive_group()
    length.add_argument(
        "--steps",
        type=positive,
        help=f"iterations to train for (default: {classification.STEPS} in the published recipe)",
    )
    length.add_argument(
        "--epochs",
        type=EPOCHS,
        help=f"epochs to train for, instead of --steps (default: {MODERN_EPOCHS} in the modern "
        "recipe)",
    )
    recipes.add_network_flags(
        parser,
        arch="cnn9",
        base_lr=None,
        drops=DROPS,
        rate=" (default: 0.1 in the published recipe, 0.05 in the modern one)",
    )
    parser.add_argument(
        "--schedule",
        choices=["drops", "cosine"],
        help="whether the learning rate drops after --drops or follows a cosine to 0 (default: "
        "set by --recipe)",
    )
    parser.add_argument(
        "--warmup",
        type=integer(0),
        metavar="STEPS",
        help="iterations over which the learning rate first rises linearly (default: 0 in the "
        f"published recipe; {MODERN_WARMUP} in the modern one, or a tenth of a shorter run)",
    )
    parser.add_argument(
        "--norm",
        choices=["batch", "none"],
        default="batch",
        help="normalization of the hidden layers: batch norm, or none",
    )
    parser.add_argument(
        "--normalized_kernels",
        choices=["decayed", "undecayed", "fixed"],
        default="decayed",
        help="how to treat kernels followed by batch norm, whose scale does not affect the output: "
        "with weight decay like the others, without it, or kept at their initial norm",
    )
    parser.add_argument(
        "--strength",
        type=rate,
        help="strength of the energy or force on hidden layers (default: 2 for --power_s 0, 1 for "
        "1, 2, a0 and radial, 0.1 pi for a1, 0.1 pi^2 for a2; 0.07 for mma, 0.1 for so, dso, mc "
        "and srip, 1 for the others)",
    )
    parser.add_argument(
        "--head_strength",
        type=rate,
        help=f"its strength on the output layer (default: {HEAD_FACTOR} times the hidden layers' "
        "for energies and radial, the same for the others)",
    )
    parser.add_argument(
        "--mixed_precision",
        choices=["float16", "bfloat16"],
        help="compute in 16 bits, keep weights and energies in 32 (default: 32 bits throughout)",
    )
    parser.added = {
        *("drops", "validation", "seeds", "recipe", "loss", "schedule", "warmup", "norm"),
        *("normalized_kernels", "test_images"),
    }
    return parser


def resolve_defaults(args: argparse.Namespace) -> None:
    """Resolves flags whose default depends on others, in place."""
    if args.recipe is None:
        args.recipe = "published" if args.dataset == "cifar100" else "modern"
    if args.epochs is None and args.steps is None:
        if args.recipe == "published":
            args.steps = classification.STEPS
        else:
            args.epochs = MODERN_EPOCHS
    for name, value in RECIPES[args.recipe].items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    recipes.resolve_augment(args)


def expand_runs(args: argparse.Namespace) -> dict[str, argparse.Namespace]:
    """Returns the flags of each run by the name of the run.

    Example:

    >>> args, _ = make_parser().parse(["--model_name", "baseline", "mhe", "--power_s", "0", "a2"])
    >>> {name: flags.strength for name, flags in expand_runs(args).items()}
    {'baseline-seed0': None, 'mhe-0-seed0': 2.0, 'mhe-a2-seed0': 0.9869604401089358}
    """
    runs = COMPARISON.combinations(args, _applicable)
    for flags in runs.values():
        if flags.model_name == "baseline":
            flags.strength = flags.head_strength = None
            continue
        if flags.strength is None:
            default = FAMILY_STRENGTHS.get(flags.model_name, 1.0)
            flags.strength = STRENGTHS.get(flags.power_s, default)
        if flags.head_strength is None:
            factor = 1 if flags.model_name in classification.FAMILY else HEAD_FACTOR
            flags.head_strength = factor * flags.strength
    return runs


def _applicable(values: dict[str, Any]) -> dict[str, Any]:
    return values if values["model_name"].endswith("mhe") else {**values, "power_s": None}


class Task(ImageTask):
    """Trains one classifier, with or without energies."""

    def __init__(self, args: argparse.Namespace, run: Run | None):
        super().__init__(args, run)
        self.data = recipes.load(args)
        self.data.require_classes()
        self.drop_remainder = args.recipe == "published"
        self.use(self.data.train, self.data.test)
        if args.warmup is None:
            modern = args.recipe == "modern"
            args.warmup = min(MODERN_WARMUP, self.steps // 10) if modern else 0
        if args.warmup > self.steps:
            raise BadInput(
                f"--warmup must be at most the {self.steps} iterations of the run. "
                f"Received: {args.warmup}"
            )
        if args.recipe is not None:  # as in runs of earlier versions
            print(
                f"Recipe {args.recipe}: loss {args.loss}, {self.steps:,} iterations of "
                f"{args.batch_size} images at a rate of {args.base_lr:g}, schedule "
                f"{args.schedule}, {args.warmup} iterations of warm-up"
            )

    def build(self) -> keras.Model:
        """Builds and compiles the network."""
        shape, classes = self.train[0].shape[1:], len(self.data.class_names)
        model = classification.build(self.args, shape, classes, self.steps)
        # Before any checkpoint: a resumed run draws the same initial weights from its seed.
        self.initial_angles = classification.angles(model)
        return model

    def callbacks(self, run: Run) -> Sequence[keras.callbacks.Callback]:
        """Logs energies and norms, and warns if the network does not learn."""
        dead_steps = classification.expected_dead_steps(self.args)
        return [
            EnergyLogger(),
            NormLogger(),
            self.chance_warning(run, self.train[1], dead_steps),
        ]

    def report(self, run: Run) -> dict[str, float]:
        """Draws `curves.png` and `angles.png` and returns the metrics of the last epoch."""
        figures.draw_curves(run.rows, run.folder / "curves.png", run.folder.name)
        angles = classification.angles(self.model)
        figures.draw_angles(
            self.initial_angles,
            angles,
            run.folder / "angles.png",
            run.folder.name,
        )
        last = run.rows[-1]
        return {
            f"{self.held_out}_accuracy": last["val_accuracy"],
            f"{self.held_out}_cross_entropy": last["val_cross_entropy"],
            "train_accuracy": last["accuracy"],
            "train_cross_entropy": last["cross_entropy"],
            "energy": last["energy"],
            "smallest_angle": classification.mean_smallest_angle(angles),
            "steps": self.steps,
        }


PROGRAM = Program(
    make_parser,
    Task,
    COMPARISON,
    folder="train",
    resolve_defaults=resolve_defaults,
    check=recipes.check,
    expand_runs=expand_runs,
    name_single_runs=True,
)
main = PROGRAM.main

if __name__ == "__main__":
    sys.exit(program(main))
