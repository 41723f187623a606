"""Trains prototypes that are images, and shows what the network takes a class to look like.

Prototypes pass through the same encoder as the images, and the logit of a class is the similarity
to its prototypes (`mhe.layers.InputPrototypes`). A run draws them next to their starts and to the
training images nearest to them (`prototypes.png`), and explains some predictions by the prototypes
that an image resembles (`explanations.png`).

A list in --similarity, --start or --scale, or --seeds, makes a folder of runs, one per combination,
and a table of them. The same command can be stopped and repeated: it keeps complete runs and
resumes the others.

How readable prototypes are is also measured, in pixels and without the network:

    own_class_nearest  the share of prototypes whose nearest training image is of their own class
    distance_ratio     the distance to that image, as a multiple of a test image's
    roughness          the total variation, as a multiple of a training image's
"""

import argparse
import sys
from collections.abc import Sequence
from typing import Any

if __name__ == "__main__":
    from mhe_startup import start

    start(__file__)

import keras
from tasks import interpret

from mhe.harness import figures, recipes
from mhe.harness.comparisons import Comparison, Varied
from mhe.harness.files import write_array
from mhe.harness.flags import COUNT, Parser, number, program
from mhe.harness.run import Run
from mhe.harness.training import ImageTask, Program
from mhe.layers.input_prototypes import REDUCTIONS, SIMILARITIES

COMPARISON = Comparison(
    "benchmarks/interpret.py",
    [Varied("similarity"), Varied("start"), Varied("scale", "scale")],
    {
        "test_accuracy": 100,
        "validation_accuracy": 100,
        "own_class_nearest": 100,
        "distance_ratio": 1,
        "roughness": 1,
    },
    shared=["dataset"],
)
# Factors from similarities to logits. Cosines are at most 1, and a softmax over them needs one; dot
# products and distances grow by themselves.
SCALES = {"cosine": 10.0, "dot": 1.0, "l2": 1.0, "lk": 1.0}


def make_parser() -> Parser:
    """Returns the parser of this program's flags."""
    parser = Parser(
        COMPARISON.program,
        "Trains prototypes that are images, draws them and explains predictions by them. A list in "
        "--similarity, --start or --scale, or --seeds, makes a folder of runs and a table of them.",
    )
    above = number(0, above=True)
    parser.add_argument(
        "--similarity",
        nargs="+",
        choices=SIMILARITIES,
        default=["cosine"],
        help="how the encoder's outputs for an image and a prototype are compared",
    )
    parser.add_argument(
        "--start",
        nargs="+",
        choices=["images", "noise"],
        default=["images"],
        help="where prototypes start: at training images of their class, drawn by the seed; or at "
        "noise, uniform between black and white",
    )
    scales = ", ".join(f"{scale:g} for {name}" for name, scale in SCALES.items())
    parser.add_argument(
        "--scale",
        nargs="+",
        type=above,
        help=f"factor from similarities to logits (default: {scales})",
    )
    parser.add_argument("--k", type=number(1), default=3.0, help="exponent of --similarity lk")
    parser.add_argument("--per_class", type=COUNT, default=3, help="prototypes per class")
    parser.add_argument(
        "--reduction",
        choices=REDUCTIONS,
        default="max",
        help="the logit of a class comes from its most similar prototype, or from the mean of all",
    )
    parser.add_argument(
        "--smooth",
        type=number(0),
        default=3e-3,
        help="strength of the prototypes' total variation; pixels are from -1 to 1",
    )
    parser.add_argument(
        "--pull",
        type=number(0),
        default=3e-2,
        help="strength of the squared distance to the nearest training image of the class",
    )
    parser.add_data_flags("digits", streams=False)
    recipes.add_comparison_flags(parser)
    recipes.add_network_flags(
        parser,
        arch="conv4",
        epochs=20,
        base_lr=0.01,
        rate=" of Adam",
        drops="0.5,0.8",
        # Every step encodes the prototypes too; a narrow network is enough.
        batch_size=64,
        width=0.5,
    )
    return parser


def expand_runs(args: argparse.Namespace) -> dict[str, argparse.Namespace]:
    """Returns the flags of each run by the name of the run.

    Example:

    >>> args, _ = make_parser().parse(["--similarity", "cosine", "dot", "--start", "noise"])
    >>> list(expand_runs(args))
    ['cosine-noise-scale10-seed0', 'dot-noise-scale1-seed0']
    """

    def with_scale(values: dict[str, Any]) -> dict[str, Any]:
        return {**values, "scale": values["scale"] or SCALES[values["similarity"]]}

    return COMPARISON.combinations(args, with_scale)


class Task(ImageTask):
    """Trains one network with prototypes that are images."""

    # Batch norm sees the prototypes beside a batch's images, once.
    splits_on = ("jax",)

    def __init__(self, args: argparse.Namespace, run: Run | None):
        super().__init__(args, run)
        # `result.json` names a model, and this program has no flag for it.
        self.config = {"model_name": "input_prototypes"}
        self.data = interpret.prepare(args)
        self.use(self.data.train, self.data.test)

    def build(self) -> keras.Model:
        """Builds and compiles the network."""
        return interpret.build(self.args, self.data, self.steps)

    def callbacks(self, run: Run) -> Sequence[keras.callbacks.Callback]:
        """Warns if the network does not learn."""
        return [self.chance_warning(run, self.train[1])]

    def report(self, run: Run) -> dict[str, float]:
        """Writes and draws the prototypes, explains predictions, and returns all measures."""
        last, title = run.rows[-1], run.folder.name
        figures.draw_metrics(run.rows, {"accuracy": "accuracy"}, run.folder / "curves.png", title)
        head = self.model.get_layer("prototypes")
        prototypes = keras.ops.convert_to_numpy(head.prototypes)
        write_array(run.folder / "prototypes.npy", prototypes)
        interpret.draw_prototypes(head, self.data, run.folder)
        interpret.draw_explanations(head, self.data, run.folder, self.args.seed)
        return {
            f"{self.held_out}_accuracy": last["val_accuracy"],
            "train_accuracy": last["accuracy"],
            **interpret.readability(prototypes, self.data),
            "epochs": self.epochs,
        }


PROGRAM = Program(
    make_parser,
    Task,
    COMPARISON,
    folder="interpret",
    resolve_defaults=recipes.resolve_augment,
    check=recipes.check,
    expand_runs=expand_runs,
)
main = PROGRAM.main

if __name__ == "__main__":
    sys.exit(program(main))
