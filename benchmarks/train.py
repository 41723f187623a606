"""Trains a classifier with or without minimum hyperspherical energy.

Without flags this is the published CIFAR-100 recipe: CNN-9, batches of 128, SGD with momentum 0.9
at 0.1, x0.1 at iterations 20,000, 30,000 and 37,500 of 42,500, crops and flips, weight decay 5e-4.
The network is built plain; `mhe.attach` then adds the energies to it.

A list in --model_name or --power_s, or --seeds, makes a folder of runs, one per combination, and a
table of them. Complete runs are not repeated and broken ones are resumed, so the same command can
be stopped and called again.

Reference: Liu et al., Learning towards Minimum Hyperspherical Energy, NeurIPS 2018
(arXiv 1805.09298).
"""

import argparse
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

from mhe.attach import attach
from mhe.attach.neurons import neuron_weights
from mhe.callbacks import EnergyLogger
from mhe.harness import figures, models, recipes
from mhe.harness.callbacks import ChanceWarning
from mhe.harness.comparisons import Comparison, Varied
from mhe.harness.flags import Parser, integer, number, program
from mhe.harness.run import Run
from mhe.harness.training import ImageTask, Program
from mhe.metrics import pairwise_angles
from mhe.regularizers import MHE

STEPS = 42_500
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
HEAD_FACTOR = 10


class Curves(Comparison):
    """A comparison that draws the accuracy over the epochs too, in `curves.png`."""

    def report(self, finished: Sequence[Run], out: Path, title: str) -> None:
        """Writes `table.csv`, `comparison.png` and `curves.png`, and prints the table."""
        super().report(finished, out, title)
        rows: dict[str, list] = {}
        for run in finished:
            rows.setdefault(run.config["model_name"], []).append(run.rows)
        figures.draw_comparison(rows, out / "curves.png", title)


COMPARISON = Curves(
    "benchmarks/train.py",
    [Varied("model_name"), Varied("power_s")],
    {
        "test_accuracy": 100,
        "validation_accuracy": 100,
        "train_accuracy": 100,
        "energy": 1,
    },
    shared=["dataset"],
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
        choices=["baseline", "mhe", "half_mhe"],
        default=["half_mhe"],
        help="no energy; energy in full space; in half space on hidden layers and in full space "
        "on the output layer",
    )
    parser.add_argument(
        "--power_s",
        nargs="+",
        choices=list(recipes.POWERS),
        default=["2"],
        help="the power s of the energy, with 'a' over angles instead of Euclidean distances; "
        "baseline ignores it",
    )
    parser.add_data_flags("cifar100")
    recipes.add_comparison_flags(parser)
    length = parser.add_mutually_exclusive_group()
    length.add_argument(
        "--steps", type=positive, help=f"iterations to train for (default: {STEPS})"
    )
    length.add_argument("--epochs", type=positive, help="epochs to train for, instead of --steps")
    recipes.add_network_flags(parser, arch="cnn9", base_lr=0.1, drops=DROPS)
    parser.add_argument(
        "--strength",
        type=rate,
        help="strength of mhe.MHE on hidden layers (default: 2 for --power_s 0, 1 for 1, 2 and a0, "
        "0.1 pi for a1, 0.1 pi^2 for a2)",
    )
    parser.add_argument(
        "--head_strength",
        type=rate,
        help=f"strength on the output layer (default: {HEAD_FACTOR} times the hidden layers')",
    )
    parser.add_argument(
        "--mixed_precision",
        choices=["float16", "bfloat16"],
        help="compute in 16 bits, keep weights and energies in 32 (default: 32 bits throughout)",
    )
    parser.added = {"drops", "validation", "seeds"}
    return parser


def resolve_defaults(args: argparse.Namespace) -> None:
    """Resolves flags whose default depends on others, in place."""
    if args.epochs is None and args.steps is None:
        args.steps = STEPS
    recipes.resolve_augment(args)


def expand_runs(args: argparse.Namespace) -> dict[str, argparse.Namespace]:
    """Returns the flags of each run by the name of the run.

    Args:
        args: The resolved flags, with lists.

    Example:

    >>> args, _ = make_parser().parse(["--model_name", "baseline", "mhe", "--power_s", "0", "a2"])
    >>> {name: flags.strength for name, flags in expand_runs(args).items()}
    {'baseline-seed0': None, 'mhe-0-seed0': 2.0, 'mhe-a2-seed0': 0.9869604401089358}
    """
    runs = COMPARISON.combinations(args, _applicable)
    for flags in runs.values():
        if flags.power_s is None:
            flags.strength = flags.head_strength = None
            continue
        if flags.strength is None:
            flags.strength = STRENGTHS[flags.power_s]
        if flags.head_strength is None:
            flags.head_strength = HEAD_FACTOR * flags.strength
    return runs


def _applicable(values: dict[str, Any]) -> dict[str, Any]:
    return {**values, "power_s": None} if values["model_name"] == "baseline" else values


def build(args: argparse.Namespace, shape: Sequence[int], classes: int, steps: int) -> keras.Model:
    """Builds the plain network, attaches the energies and compiles it.

    Args:
        args: The flags of one run.
        shape: The shape of an image, `(H, W, C)`.
        classes: The number of classes.
        steps: The iterations of the whole training.
    """
    policy = keras.config.dtype_policy()
    if args.mixed_precision is not None:
        keras.config.set_dtype_policy(f"mixed_{args.mixed_precision}")
    try:
        model = models.build(args.arch, tuple(shape), classes, args.width, args.weight_decay)
    finally:
        keras.config.set_dtype_policy(policy)
    if args.model_name != "baseline":
        s, distance = recipes.POWERS[args.power_s]
        space = "half" if args.model_name == "half_mhe" else "full"
        attach(
            model,
            MHE(args.strength, s=s, distance=distance, space=space),
            head=MHE(args.head_strength, s=s, distance=distance, space="full"),
        )
    optimizer = recipes.optimizer(args, steps)
    if args.mixed_precision == "float16":
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    model.compile(
        optimizer,
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=[
            keras.metrics.SparseCategoricalAccuracy(name="accuracy"),
            keras.metrics.SparseCategoricalCrossentropy(from_logits=True, name="cross_entropy"),
        ],
        jit_compile=recipes.jit_compile(),
    )
    return model


class Task(ImageTask):
    """Trains one classifier, with or without energies.

    Args:
        args: The flags of one run.
        run: The run to resume, or None.
    """

    def __init__(self, args: argparse.Namespace, run: Run | None):
        super().__init__(args, run)
        self.data = recipes.load(args)
        self.data.require_classes()
        self.use(self.data.train, self.data.test)

    def build(self) -> keras.Model:
        """Builds and compiles the network."""
        model = build(self.args, self.train[0].shape[1:], len(self.data.class_names), self.steps)
        # The weights as drawn: the seed draws them again when a run is resumed.
        self.initial_angles = angles(model)
        return model

    def callbacks(self, run: Run) -> Sequence[keras.callbacks.Callback]:
        """Logs energies, and warns if the network does not learn."""
        labels, rate = self.train[1], self.args.base_lr
        return [
            EnergyLogger(),
            ChanceWarning(labels, self.steps_per_epoch, self.epochs, rate, run.rows),
        ]

    def report(self, run: Run) -> dict[str, float]:
        """Draws `curves.png` and `angles.png` and returns the metrics of the last epoch."""
        figures.draw_curves(run.rows, run.folder / "curves.png", run.folder.name)
        figures.draw_angles(
            self.initial_angles, angles(self.model), run.folder / "angles.png", run.folder.name
        )
        last = run.rows[-1]
        return {
            f"{self.held_out}_accuracy": last["val_accuracy"],
            f"{self.held_out}_cross_entropy": last["val_cross_entropy"],
            "train_accuracy": last["accuracy"],
            "train_cross_entropy": last["cross_entropy"],
            "energy": last["energy"],
            "steps": self.steps,
        }


def angles(model: keras.Model) -> dict[str, np.ndarray]:
    """Returns the angles between the neurons of each layer, in radians, by the weight's path."""
    return {
        weight.path: pairwise_angles(weight.variable, weight.axis)
        for weight in neuron_weights(model)
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
