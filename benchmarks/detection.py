"""Detects characters of alphabets never trained on from a few examples of each, with RepMet.

The program draws the detection set itself: drawings scattered on a canvas, in several sizes. A grid
of boxes proposes regions; a network embeds each; RepMet's head gives squared distances to the
representatives of every class, which make the probabilities of the classes and of background. It is
trained on regions of some characters, with cross-entropy of these probabilities and, for regions
that show an object, RepMet's loss.

An episode then takes some characters of other alphabets and a few examples of each: their
embeddings are the representatives of a new head, in place of the trained one. Nothing is trained on
them. The detections on new canvases are scored by mean average precision at an overlap of 0.5
(VOC).

Reference: Karlinsky et al., RepMet: Representative-based metric learning for classification and
few-shot object detection, CVPR 2019 (arXiv 1806.04728).
"""

import argparse
import math
import sys

if __name__ == "__main__":
    from mhe_startup import start

    start(__file__)

import keras
import numpy as np
from tasks import detection, new_classes

from mhe.harness import figures, recipes
from mhe.harness.comparisons import Comparison, Varied, stem
from mhe.harness.flags import ANY_DIMS, COUNT, SEVERAL, Parser, number, program
from mhe.harness.run import Run
from mhe.harness.training import ImageTask, Program

COMPARISON = Comparison(
    "benchmarks/detection.py",
    [Varied("model_name")],
    {"test_mean_average_precision": 100},
    shared=["dataset"],
)


def make_parser() -> Parser:
    """Returns the parser of this program's flags."""
    parser = Parser(
        COMPARISON.program,
        "Detects characters of alphabets never trained on from a few examples of each. A list in "
        "--model_name, or --seeds, makes a folder of runs and a table of them.",
    )
    above = number(0, above=True)
    parser.add_argument(
        "--model_name",
        nargs="+",
        choices=["repmet1", "repmet2"],
        default=["repmet1"],
        help="version of RepMet's loss for regions that show an object",
    )
    new_classes.add_flags(parser)
    parser.add_argument("--dims", type=ANY_DIMS, default=64, help="dimensions of the embedding")
    parser.add_argument(
        "--per_class", type=COUNT, default=3, help="representatives per class in training"
    )
    parser.add_argument("--alpha", type=number(-math.inf), default=1.0, help="margin of the loss")
    parser.add_argument(
        "--sigma",
        type=above,
        default=0.25,
        help="standard deviation of the Gaussian around each representative",
    )
    parser.add_argument("--scenes", type=COUNT, default=1000, help="number of canvases to train on")
    parser.add_argument("--ways", type=SEVERAL, default=5, help="new characters per episode")
    parser.add_argument("--shots", type=COUNT, default=5, help="examples of each new character")
    parser.add_argument("--episodes", type=SEVERAL, default=20, help="episodes to test on")
    parser.add_argument(
        "--queries", type=COUNT, default=5, help="canvases per episode to detect on"
    )
    recipes.add_seeds(parser)
    recipes.add_size_flags(parser, arch="conv4")
    recipes.add_step_flags(
        parser, epochs=15, batch_size=128, base_lr=0.1, drops="0.7,0.9", unit="regions"
    )
    recipes.add_weight_decay(parser, 1e-4)
    return parser


def check(args: argparse.Namespace) -> None:
    """Refuses flags that cannot be used.

    Raises:
        BadInput: If `--drops` is invalid.
    """
    recipes.fractions(args.drops)


class Task(ImageTask):
    """Trains one detector."""

    def __init__(self, args: argparse.Namespace, run: Run | None):
        super().__init__(args, run)
        self.split = detection.prepare(args)
        regions, self.classes = detection.training_regions(args, self.split)
        self.use(regions, None)

    def build(self) -> keras.Model:
        """Builds and compiles the network of regions."""
        model, self.embed = detection.build(self.args, self.classes, self.steps)
        return model

    def report(self, run: Run) -> dict[str, float]:
        """Draws `curves.png` and returns the mean average precision over the episodes."""
        columns = {"loss": "loss", "accuracy": "accuracy"}
        figures.draw_metrics(run.rows, columns, run.folder / "curves.png", run.folder.name)
        precisions = [
            detection.episode(self.args, self.embed, self.split, number)
            for number in range(self.args.episodes)
        ]
        # The interval is that of the mean over episodes, at 95%.
        spread = np.std(precisions, ddof=1)
        return {
            "test_mean_average_precision": float(np.mean(precisions)),
            "test_interval": float(1.96 * spread / math.sqrt(len(precisions))),
            "train_region_accuracy": run.rows[-1]["accuracy"],
            "epochs": self.epochs,
        }


PROGRAM = Program(
    make_parser,
    Task,
    COMPARISON,
    folder="detection",
    resolve_defaults=new_classes.resolve_image_size,
    check=check,
    title=lambda args: (
        f"{stem(args.dataset)}, {args.ways} new classes, {args.shots} examples of each"
    ),
)
main = PROGRAM.main

if __name__ == "__main__":
    sys.exit(program(main))
