"""Trains a small classifier that scores generated images where InceptionV3 is not available.

    python gan/train_classifier.py --dataset cifar10 --out runs/classifier
    python gan/test.py --run RUN --classifier runs/classifier

The run's folder keeps `classifier.keras`, which takes pixels from 0 to 255 as they are. Its scores
are comparable with each other, but not with published ones.
"""

import argparse
import sys
from collections.abc import Sequence

if __name__ == "__main__":
    from mhe_startup import start

    start(__file__)

import keras
import numpy as np

from gan.program.classifier_files import SAVED
from mhe.harness import figures, models, recipes, training
from mhe.harness.batches import normalize
from mhe.harness.comparisons import Comparison, Varied
from mhe.harness.files import replacing
from mhe.harness.flags import Parser, program
from mhe.harness.run import Run

COMPARISON = Comparison(
    "gan/train_classifier.py",
    [Varied("arch")],
    {"test_accuracy": 100, "train_accuracy": 100},
    shared=["dataset"],
)


def make_parser() -> Parser:
    """Returns the parser of this program's flags."""
    parser = Parser(
        COMPARISON.program,
        "Trains a small classifier to score generated images with. --seeds makes a folder of runs "
        "and a table of them.",
    )
    parser.add_data_flags("cifar10")
    recipes.add_seeds(parser)
    recipes.add_network_flags(
        parser,
        arch="cnn9",
        epochs=10,
        base_lr=0.02,
        rate=", with momentum 0.9",
        drops="0.6,0.85",
        width=0.25,
    )
    parser.added = {"seeds"}
    return parser


def on_pixels(model: keras.Model) -> keras.Model:
    """Adds to a network the normalization that it was trained with.

    Args:
        model: A network on what `mhe.harness.batches.normalize` gives.

    Returns:
        The same on pixels from 0 to 255.

    Example:

    >>> network = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten()])
    >>> classifier = on_pixels(network)
    >>> float(classifier(np.full((1, 8, 8, 1), 255.0))[0, 0])
    0.99609375
    """
    low, high = (float(each) for each in normalize(np.array([0, 255], "uint8")))
    images = keras.Input(model.input_shape[1:], name="pixels")
    rescaled = keras.layers.Rescaling((high - low) / 255, offset=low, name="normalize")(images)
    return keras.Model(images, model(rescaled), name="classifier")


class Task(training.ImageTask):
    """Trains one classifier, and saves it with the normalization of its images."""

    def __init__(self, args: argparse.Namespace, run: Run | None):
        super().__init__(args, run)
        self.data = recipes.load(args)
        self.data.require_classes()
        self.use(self.data.train, self.data.test)
        self.config = {"model_name": args.arch}

    def build(self) -> keras.Model:
        """Builds and compiles the network."""
        args, shape = self.args, self.train[0].shape[1:]
        classes = len(self.data.class_names)
        model = models.build(args.arch, shape, classes, args.width, args.weight_decay)
        model.compile(
            recipes.optimizer(args, self.steps),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=[
                keras.metrics.SparseCategoricalAccuracy(name="accuracy"),
                keras.metrics.SparseCategoricalCrossentropy(from_logits=True, name="cross_entropy"),
            ],
            jit_compile=recipes.jit_compile(),
        )
        return model

    def callbacks(self, run: Run) -> Sequence[keras.callbacks.Callback]:
        """Warns if the network does not learn."""
        return [self.chance_warning(run, self.train[1])]

    def report(self, run: Run) -> dict[str, float]:
        """Saves the classifier, draws `curves.png`, and returns the metrics of the last epoch."""
        with replacing(run.folder / SAVED) as partial:
            on_pixels(self.model).save(partial)
        figures.draw_curves(run.rows, run.folder / "curves.png", run.folder.name)
        last = run.rows[-1]
        return {
            "test_accuracy": last["val_accuracy"],
            "test_cross_entropy": last["val_cross_entropy"],
            "train_accuracy": last["accuracy"],
            "train_cross_entropy": last["cross_entropy"],
        }


def check(args: argparse.Namespace) -> None:
    """Refuses flags that cannot be used.

    Raises:
        BadInput: If they cannot.
    """
    recipes.fractions(args.drops)


def expand_runs(args: argparse.Namespace) -> dict[str, argparse.Namespace]:
    """Returns the flags of each run by the name of the run."""
    runs = COMPARISON.combinations(args).values()
    return {f"classifier-seed{flags.seed}": flags for flags in runs}


PROGRAM = training.Program(
    make_parser,
    Task,
    COMPARISON,
    folder="classifier",
    resolve_defaults=recipes.resolve_augment,
    check=check,
    expand_runs=expand_runs,
    name_single_runs=True,
)
main = PROGRAM.main

if __name__ == "__main__":
    sys.exit(program(main))
