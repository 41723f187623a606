"""Trains a classifier with or without minimum hyperspherical energy.

Without flags this is the published CIFAR-100 recipe: CNN-9, batches of 128, SGD with momentum 0.9
at 0.1, x0.1 at iterations 20,000, 30,000 and 37,500 of 42,500, crops and flips, weight decay 5e-4.
The network is built plain; `mhe.attach` then puts the energies on it.

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
from mhe.harness import datasets, figures, models, recipes, runs
from mhe.harness.batches import Batches, pad_crop_flip
from mhe.harness.chance import ChanceWarning
from mhe.harness.flags import Parser, integer, number, program
from mhe.harness.schedules import stepped
from mhe.metrics import pairwise_angles
from mhe.regularizers import MHE

PROGRAM = "benchmarks/train.py"
STEPS = 42_500
DROPS = (20_000, 30_000, 37_500)

# Of each --power_s, the strength on hidden layers. They are those of the reference implementation
# written in the terms of `mhe.MHE`, which leaves out its factors 2, 0.1 and 1/π.
STRENGTHS = {
    "0": 2.0,
    "1": 1.0,
    "2": 1.0,
    "a0": 1.0,
    "a1": 0.1 * math.pi,
    "a2": 0.1 * math.pi**2,
}
HEAD_FACTOR = 10


def make_parser() -> Parser:
    """Returns the parser of this program's flags."""
    parser = Parser(PROGRAM, "Trains a classifier with minimum hyperspherical energy.")
    positive, rate = integer(1), number(0)
    parser.add_argument(
        "--model_name",
        choices=["baseline", "mhe", "half_mhe"],
        default="half_mhe",
        help="no energy; energy in full space; in half space on hidden layers and in full space "
        "on the output layer",
    )
    parser.add_argument(
        "--power_s",
        choices=list(recipes.POWERS),
        default="2",
        help="the power s of the energy, with 'a' over angles instead of Euclidean distances; "
        "baseline takes no notice of it",
    )
    parser.add_data_flags("cifar100")
    parser.add_argument("--arch", choices=models.ARCHITECTURES, default="cnn9", help="the network")
    parser.add_argument(
        "--width",
        type=number(0, above=True),
        default=1.0,
        help="factor on every layer's filters",
    )
    length = parser.add_mutually_exclusive_group()
    length.add_argument(
        "--steps", type=positive, help=f"iterations to train for (default: {STEPS})"
    )
    length.add_argument("--epochs", type=positive, help="epochs to train for, instead of --steps")
    parser.add_argument("--batch_size", type=positive, default=128, help="images in a batch")
    parser.add_argument(
        "--base_lr",
        type=number(0, above=True),
        default=0.1,
        help="learning rate at the start; it drops by x0.1 at 20/42.5, 30/42.5 and 37.5/42.5 of "
        "the training, however long that is",
    )
    parser.add_argument(
        "--weight_decay",
        type=rate,
        help="adds this times |w|^2/2 to the loss, for kernels and batch norm's scale and offset "
        "(default: as published for the network, 5e-4 for cnn9, 1e-4 for the ResNets)",
    )
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
        "--augment",
        choices=["crop_flip", "none"],
        help="random crops after padding by 4 and horizontal flips (default: crop_flip; none for "
        "digits, which are 8 pixels wide and mean something else when flipped)",
    )
    parser.add_argument(
        "--mixed_precision",
        choices=["float16", "bfloat16"],
        help="compute in 16 bits, keep weights and energies in 32 (default: 32 bits throughout)",
    )
    return parser


def fill_in(args: argparse.Namespace) -> None:
    """Settles the flags whose default depends on others; those of a resumed run are settled."""
    if args.epochs is None and args.steps is None:
        args.steps = STEPS
    if args.strength is None:
        args.strength = STRENGTHS[args.power_s]
    if args.head_strength is None:
        args.head_strength = HEAD_FACTOR * args.strength
    if args.augment is None:
        args.augment = "none" if args.dataset == "digits" else "crop_flip"
    if args.out is None:
        name = "-".join(
            [Path(args.dataset).stem, args.model_name, args.power_s, f"seed{args.seed}"]
        )
        args.out = Path("runs", name)


def schedule(base_lr: float, steps: int) -> keras.optimizers.schedules.PiecewiseConstantDecay:
    """Returns the published schedule, stretched or squeezed to a number of steps.

    Args:
        base_lr: The rate at the start.
        steps: The iterations of the whole training.

    Returns:
        A schedule that drops by x0.1 after 20/42.5, 30/42.5 and 37.5/42.5 of the steps.

    Example:

    >>> rate = schedule(0.1, 42_500)
    >>> [round(float(rate(step)), 6) for step in (19_999, 20_000, 30_000, 37_500)]
    [0.1, 0.01, 0.001, 0.0001]
    """
    return stepped(base_lr, steps, [drop / STEPS for drop in DROPS])


def build(args: argparse.Namespace, shape: Sequence[int], classes: int, steps: int) -> keras.Model:
    """Builds the plain network, attaches the energies and compiles it.

    Args:
        args: The settled flags.
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
    optimizer = keras.optimizers.SGD(schedule(args.base_lr, steps), momentum=0.9)
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


def train(args: argparse.Namespace, run: runs.Run | None = None) -> dict[str, Any]:
    """Trains as the flags say, and leaves a complete run folder.

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
    data = datasets.load(args.dataset, args.data_dir, args.image_size, args.label)
    data.require_classes()
    images, labels = data.train
    if args.train_images is not None:
        images, labels = datasets.balanced_subset(images, labels, args.train_images, args.seed)
    augment = None if args.augment == "none" else pad_crop_flip
    steps_per_epoch = math.ceil(len(images) / args.batch_size)
    steps = args.steps or args.epochs * steps_per_epoch
    epochs = math.ceil(steps / steps_per_epoch)

    keras.utils.set_random_seed(args.seed)
    model = build(args, images.shape[1:], len(data.class_names), steps)
    # The weights as drawn: the seed draws them again when a run is resumed.
    before = angles(model)

    run = runs.Run.begin_or_go_on(run, PROGRAM, args)
    done = run.restore(model)
    test = Batches(*data.test, recipes.TEST_BATCH, shuffle=False)
    # A last epoch that the steps cut short is a fit of its own.
    whole = steps // steps_per_epoch
    with run:
        for end, part in ((whole, None), (epochs, steps % steps_per_epoch)):
            if done < end:
                batches = Batches(
                    images, labels, args.batch_size, seed=args.seed, augment=augment, epoch=done
                )
                model.fit(
                    batches,
                    validation_data=test,
                    initial_epoch=done,
                    epochs=end,
                    steps_per_epoch=part,
                    shuffle=False,
                    verbose=0,
                    callbacks=[
                        EnergyLogger(),
                        ChanceWarning(labels, steps_per_epoch, epochs, args.base_lr, run.rows),
                        *run.callbacks(epochs, seed=args.seed),
                    ],
                )
                done = end
        figures.draw_curves(run.rows, run.folder / "curves.png", run.folder.name)
        figures.draw_angles(before, angles(model), run.folder / "angles.png", run.folder.name)
        last = run.rows[-1]
        return run.finish(
            {
                "test_accuracy": last["val_accuracy"],
                "test_cross_entropy": last["val_cross_entropy"],
                "train_accuracy": last["accuracy"],
                "train_cross_entropy": last["cross_entropy"],
                "energy": last["energy"],
                "steps": steps,
            }
        )


def angles(model: keras.Model) -> dict[str, np.ndarray]:
    """Returns the angles between the neurons of every layer, in radians, by the weight's path."""
    return {
        weight.path: pairwise_angles(weight.variable, weight.axis)
        for weight in neuron_weights(model)
    }


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
    print(
        f"test accuracy {result['metrics']['test_accuracy']:.4f}, results and figures in {folder}"
    )


if __name__ == "__main__":
    sys.exit(program(main))
