"""Trains a small classifier that scores generated images where InceptionV3 cannot be had.

    python gan/train_classifier.py --dataset cifar10 --out runs/classifier
    python gan/test.py --run RUN --classifier runs/classifier

The run's folder keeps `classifier.keras`, which takes pixels from 0 to 255 as they are. Scores by
it compare with one another alone, not with published ones.
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

from gan.classifiers import SAVED
from mhe.harness import figures, models, recipes, runs
from mhe.harness.batches import Batches, normalize
from mhe.harness.chance import ChanceWarning
from mhe.harness.comparisons import stem
from mhe.harness.flags import Parser, program

PROGRAM = "gan/train_classifier.py"


def make_parser() -> Parser:
    """Returns the parser of this program's flags."""
    parser = Parser(PROGRAM, "Trains a small classifier to score generated images with.")
    parser.add_data_flags("cifar10")
    recipes.add_network_flags(
        parser,
        arch="cnn9",
        epochs=10,
        base_lr=0.02,
        rate=", with momentum 0.9",
        drops="0.6,0.85",
    )
    parser.set_defaults(width=0.25)
    return parser


def fill_in(args: argparse.Namespace) -> None:
    """Settles the flags whose default depends on others; those of a resumed run are settled."""
    recipes.parts(args.drops)
    if args.augment is None:
        args.augment = "none" if args.dataset == "digits" else "crop_flip"
    if args.out is None:
        args.out = Path("runs", f"{stem(args.dataset)}-classifier-seed{args.seed}")


def on_pixels(model: keras.Model) -> keras.Model:
    """Puts the normalisation that a network was trained with into it.

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


def train(args: argparse.Namespace, run: runs.Run | None = None) -> dict[str, Any]:
    """Trains as the flags say, and leaves a complete run folder with the classifier.

    Args:
        args: The settled flags.
        run: The run to go on with; None begins one in `args.out`.

    Returns:
        What `result.json` holds.

    Raises:
        BadInput: If the data, the flags and the folder cannot be used together.
        Diverged: If the loss is no longer a number.
    """
    figures.require_matplotlib()
    if run is None:
        runs.require_unused(args.out)
    data = recipes.load(args)
    data.require_classes()
    images, labels = data.train
    steps_per_epoch = math.ceil(len(images) / args.batch_size)

    keras.utils.set_random_seed(args.seed)
    shape, classes = images.shape[1:], len(data.class_names)
    model = models.build(args.arch, shape, classes, args.width, args.weight_decay)
    model.compile(
        recipes.optimizer(args, args.epochs * steps_per_epoch),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=[
            keras.metrics.SparseCategoricalAccuracy(name="accuracy"),
            keras.metrics.SparseCategoricalCrossentropy(from_logits=True, name="cross_entropy"),
        ],
        jit_compile=recipes.jit_compile(),
    )
    run = runs.Run.begin_or_go_on(run, PROGRAM, args, model_name=args.arch)
    done = run.restore(model)
    batches = Batches(
        images,
        labels,
        args.batch_size,
        seed=args.seed,
        augment=recipes.AUGMENTATIONS[args.augment],
        epoch=done,
    )
    with run:
        if done < args.epochs:
            model.fit(
                batches,
                validation_data=Batches(*data.test, recipes.TEST_BATCH, shuffle=False),
                initial_epoch=done,
                epochs=args.epochs,
                shuffle=False,
                verbose=0,
                callbacks=[
                    ChanceWarning(labels, steps_per_epoch, args.epochs, args.base_lr, run.rows),
                    *run.callbacks(args.epochs, seed=args.seed),
                ],
            )
        with runs.replacing(run.folder / SAVED) as partial:
            on_pixels(model).save(partial)
        figures.draw_curves(run.rows, run.folder / "curves.png", run.folder.name)
        last = run.rows[-1]
        return run.finish(
            {
                "test_accuracy": last["val_accuracy"],
                "test_cross_entropy": last["val_cross_entropy"],
                "train_accuracy": last["accuracy"],
                "train_cross_entropy": last["cross_entropy"],
            }
        )


def main(argv: Sequence[str] | None = None) -> None:
    """Trains, or goes on training.

    Args:
        argv: The flags; those of the process by default.
    """
    args, run = make_parser().settle(argv)
    if run is None:
        fill_in(args)
    if run is not None and run.finished:
        print(f"{run.folder} is complete; nothing to do")
        result, folder = run.result, run.folder
    else:
        result = train(args, run)
        folder = args.out if run is None else run.folder
    print(f"test accuracy {result['metrics']['test_accuracy']:.4f}, classifier in {folder}")


if __name__ == "__main__":
    sys.exit(program(main))
