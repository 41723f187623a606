"""How the programs train classifiers: the flags they share, and what becomes of them."""

import argparse
import dataclasses
import functools
import itertools

import keras
import numpy as np

from mhe.harness import datasets, models
from mhe.harness.affine import random_affine
from mhe.harness.batches import pad_crop_flip
from mhe.harness.datasets import Dataset
from mhe.harness.errors import BadInput
from mhe.harness.flags import Parser, integer, number
from mhe.harness.schedules import stepped

AUGMENTATIONS = {
    "crop_flip": pad_crop_flip,
    "crop": functools.partial(pad_crop_flip, flip=False),
    "affine": random_affine,
    "none": None,
}

# --power_s: the power s of an energy, and the distance it is a power of.
POWERS = {
    "0": (0, "euclidean"),
    "1": (1, "euclidean"),
    "2": (2, "euclidean"),
    "a0": (0, "angle"),
    "a1": (1, "angle"),
    "a2": (2, "angle"),
}

# Larger than most training batches: it changes nothing but the time that testing takes.
TEST_BATCH = 500


def add_comparison_flags(parser: Parser) -> None:
    """Adds the flags of programs that compare: over which seeds, and on which images.

    Args:
        parser: A program's parser.

    Example:

    >>> parser = Parser("benchmarks/x.py", "Trains.")
    >>> add_comparison_flags(parser)
    >>> parser.settle(["--seeds", "3"])[0].seeds
    3
    """
    parser.add_argument(
        "--validation",
        type=number(0),
        default=0.0,
        metavar="SHARE",
        help="hold out this share of every class of the training set and report on it instead of "
        "on the test set, to choose flags by",
    )
    parser.add_argument("--seeds", type=integer(1), default=1, help="runs with --seed and the next")


def add_network_flags(
    parser: Parser,
    *,
    arch: str,
    epochs: int,
    base_lr: float | None,
    rate: str,
    drops: str,
    plain: str = "none for digits",
) -> None:
    """Adds the flags that say how one network is trained.

    Args:
        parser: A program's parser.
        arch: The default of `--arch`.
        epochs: The default of `--epochs`.
        base_lr: The default of `--base_lr`; None leaves it to the program.
        rate: What there is to say of the learning rate, for the help.
        drops: The default of `--drops`.
        plain: Where nothing is augmented by default, for the help.

    Example:

    >>> parser = Parser("benchmarks/x.py", "Trains.")
    >>> add_network_flags(parser, arch="conv4", epochs=9, base_lr=0.1, rate="", drops="0.5")
    >>> parser.settle(["--width", "2"])[0].width
    2.0
    """
    positive, above = integer(1), number(0, above=True)
    parser.add_argument("--arch", choices=models.ARCHITECTURES, default=arch, help="the network")
    parser.add_argument("--width", type=above, default=1.0, help="factor on every layer's filters")
    parser.add_argument("--epochs", type=positive, default=epochs, help="epochs to train for")
    parser.add_argument("--batch_size", type=positive, default=128, help="images in a batch")
    parser.add_argument(
        "--base_lr", type=above, default=base_lr, help=f"learning rate at the start{rate}"
    )
    add_drops(parser, drops)
    parser.add_argument(
        "--weight_decay",
        type=number(0),
        help="adds this times |w|^2/2 to the loss, for kernels and batch norm's scale and offset "
        "(default: as published for the network, 1e-4 for the ResNets, 5e-4 for cnn9)",
    )
    parser.add_argument(
        "--augment",
        choices=list(AUGMENTATIONS),
        help="random crops after padding by 4, with or without horizontal flips, or small affine "
        f"maps (default: crop_flip; {plain})",
    )


def add_drops(parser: Parser, default: str) -> None:
    """Adds `--drops`, which `parts` reads.

    Args:
        parser: A program's parser.
        default: Its default.

    Example:

    >>> parser = Parser("benchmarks/x.py", "Trains.")
    >>> add_drops(parser, "0.5")
    >>> parser.settle([])[0].drops
    '0.5'
    """
    parser.add_argument(
        "--drops",
        default=default,
        metavar="PARTS",
        help="parts of the training, parted by commas, after which the learning rate drops by x0.1",
    )


def check(args: argparse.Namespace) -> None:
    """Refuses shared flags that cannot be used.

    Args:
        args: The settled flags.

    Raises:
        BadInput: If `--drops` or `--validation` are wrong.
    """
    parts(args.drops)
    if args.validation >= 1:
        raise BadInput(f"--validation must be less than 1. Received: {args.validation:g}")


def parts(drops: str) -> list[float]:
    """Reads the parts of the training after which the learning rate drops.

    Args:
        drops: What `--drops` takes.

    Raises:
        BadInput: If they are no such numbers.

    Example:

    >>> parts("0.5,0.75")
    [0.5, 0.75]
    """
    try:
        numbers = [float(part) for part in drops.split(",")]
    except ValueError:
        numbers = []
    if not numbers or not all(0 < a < b for a, b in itertools.pairwise([*numbers, 1.0])):
        raise BadInput(
            f"--drops must be rising numbers between 0 and 1, parted by commas. Received: {drops}"
        )
    return numbers


def optimizer(args: argparse.Namespace, steps: int) -> keras.optimizers.Optimizer:
    """Returns stochastic gradient descent with momentum 0.9 and the rates of the flags.

    Args:
        args: The settled flags.
        steps: The iterations of the whole training.
    """
    return keras.optimizers.SGD(stepped(args.base_lr, steps, parts(args.drops)), momentum=0.9)


def jit_compile() -> bool | str:
    """Returns what `compile` takes by this name: on a CPU, TensorFlow's own convolutions.

    XLA compiles long there, and its convolutions take half as long again.

    Example:

    >>> jit_compile() in (False, "auto")
    True
    """
    # Other backends cannot be asked for devices that are not there.
    if keras.backend.backend() == "tensorflow" and not keras.distribution.list_devices("gpu"):
        return False
    return "auto"


def load(args: argparse.Namespace) -> Dataset:
    """Loads the images of a run: those of `--dataset`, and of them what other flags leave.

    Args:
        args: The settled flags.

    Returns:
        The dataset. With `--validation` its test set is held out of the training set.

    Raises:
        BadInput: If the data cannot be used, or too little is left of them.
    """
    data = datasets.load(args.dataset, args.data_dir, args.image_size, args.label)
    (images, labels), values = data.train, data.values
    # Not every program has the flag.
    share = vars(args).get("validation")
    if share:
        held = datasets.held_out(labels, share, args.seed)
        if held.all() or not held.any():
            raise BadInput(
                f"--validation must leave images to train on and to validate on. "
                f"Received: {share:g} of {labels.size} images"
            )
        data = dataclasses.replace(
            data,
            train=(images[~held], labels[~held]),
            test=(images[held], labels[held]),
            values=None if values is None else (values[0][~held], values[0][held]),
        )
    if args.train_images is not None:
        (images, labels), values = data.train, data.values
        every = np.arange(labels.size)
        chosen, labels = datasets.balanced_subset(every, labels, args.train_images, args.seed)
        data = dataclasses.replace(
            data,
            train=(images[chosen], labels),
            values=None if values is None else (values[0][chosen], values[1]),
        )
    return data
