"""How the programs train networks: the flags they share, and what follows from them."""

import argparse
import dataclasses
import functools
import itertools
import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from mhe.harness import datasets, models
from mhe.harness.affine import random_affine
from mhe.harness.batches import Augmentation, Batches, pad_crop_flip
from mhe.harness.datasets import Dataset
from mhe.harness.errors import BadInput
from mhe.harness.flags import BATCH_SIZE, EPOCHS, SEEDS, WIDTH, Parser, number, plain_text
from mhe.memory import total_memory
from mhe.text import brief

AUGMENTATIONS: dict[str, Augmentation | None] = {
    "crop_flip": pad_crop_flip,
    "crop": functools.partial(pad_crop_flip, flip=False),
    "affine": random_affine,
    "none": None,
}

# --power_s: the power s of an energy and its distance.
POWERS = {
    "0": (0, "euclidean"),
    "1": (1, "euclidean"),
    "2": (2, "euclidean"),
    "a0": (0, "angle"),
    "a1": (1, "angle"),
    "a2": (2, "angle"),
}

# That of SGD in all published recipes.
MOMENTUM = 0.9

# Larger than most training batches; only the duration of a test depends on it.
TEST_BATCH = 500


def add_comparison_flags(parser: Parser) -> None:
    """Adds the flags of programs that compare: how many seeds, and which images to report on.

    Args:
        parser: A program's parser.

    Example:

    >>> parser = Parser("benchmarks/x.py", "Trains.")
    >>> add_comparison_flags(parser)
    >>> parser.parse(["--seeds", "3"])[0].seeds
    3
    """
    parser.add_argument(
        "--validation",
        type=number(0),
        default=0.0,
        metavar="SHARE",
        help="hold out this share of each class of the training set and report on it instead of "
        "the test set, for tuning other flags",
    )
    add_seeds(parser)


def add_seeds(parser: Parser) -> None:
    """Adds `--seeds`.

    Args:
        parser: A program's parser.
    """
    parser.add_argument(
        "--seeds", type=SEEDS, default=1, help="number of runs, with --seed and the next seeds"
    )


def add_network_flags(
    parser: Parser,
    *,
    arch: str,
    base_lr: float | None,
    drops: str,
    epochs: int | None = None,
    batch_size: int = 128,
    width: float = 1.0,
    rate: str = "",
    plain: str = "none for digits",
) -> None:
    """Adds the flags for training one network on images.

    Args:
        parser: A program's parser.
        arch: The default of `--arch`.
        base_lr: The default of `--base_lr`; None leaves it to the program.
        drops: The default of `--drops`.
        epochs: The default of `--epochs`; None leaves the flag to the program.
        batch_size: The default of `--batch_size`.
        width: The default of `--width`.
        rate: What the help adds about the learning rate.
        plain: When images are not augmented by default, for the help.

    Example:

    >>> parser = Parser("benchmarks/x.py", "Trains.")
    >>> add_network_flags(parser, arch="conv4", epochs=9, base_lr=0.1, drops="0.5")
    >>> parser.parse(["--width", "2"])[0].width
    2.0
    """
    add_size_flags(parser, arch=arch, width=width)
    add_step_flags(
        parser, epochs=epochs, batch_size=batch_size, base_lr=base_lr, drops=drops, rate=rate
    )
    add_weight_decay(parser)
    parser.add_argument(
        "--augment",
        choices=list(AUGMENTATIONS),
        help="random crops after padding by 4, with or without horizontal flips, or small affine "
        f"maps (default: crop_flip; {plain})",
    )


def add_size_flags(parser: Parser, *, arch: str, width: float = 1.0) -> None:
    """Adds `--arch` and `--width`.

    Args:
        parser: A program's parser.
        arch: The default of `--arch`.
        width: The default of `--width`.
    """
    parser.add_argument("--arch", choices=models.ARCHITECTURES, default=arch, help="the network")
    parser.add_argument(
        "--width",
        type=WIDTH,
        default=width,
        help="factor on the number of filters of every layer",
    )


def add_weight_decay(parser: Parser, default: float | None = None) -> None:
    """Adds `--weight_decay`.

    Args:
        parser: A program's parser.
        default: Its default; None stands for what was published for the network.
    """
    published = (
        " (default: as published for the network, 1e-4 for the ResNets, 5e-4 for cnn9, none for "
        "conv4)"
    )
    parser.add_argument(
        "--weight_decay",
        type=number(0),
        default=default,
        help="adds this times |w|^2/2 to the loss, for kernels and for the scale and offset of "
        f"batch normalization{published if default is None else ''}",
    )


def add_step_flags(
    parser: Parser,
    *,
    batch_size: int,
    base_lr: float | None,
    drops: str | None = None,
    epochs: int | None = None,
    rate: str = "",
    unit: str = "images",
) -> None:
    """Adds `--epochs`, `--batch_size`, `--base_lr` and `--drops`.

    Args:
        parser: A program's parser.
        batch_size: The default of `--batch_size`.
        base_lr: The default of `--base_lr`; None leaves it to the program.
        drops: The default of `--drops`; None leaves out the flag.
        epochs: The default of `--epochs`; None leaves out the flag.
        rate: What the help adds about the learning rate.
        unit: What a batch consists of.
    """
    if epochs is not None:
        parser.add_argument("--epochs", type=EPOCHS, default=epochs, help="epochs to train for")
    parser.add_argument(
        "--batch_size", type=BATCH_SIZE, default=batch_size, help=f"{unit} per batch"
    )
    parser.add_argument(
        "--base_lr",
        type=number(0, above=True),
        default=base_lr,
        help=f"initial learning rate{rate}",
    )
    if drops is not None:
        parser.add_argument(
            "--drops",
            type=plain_text,
            default=drops,
            metavar="FRACTIONS",
            help="fractions of the training, comma-separated, after which the learning rate is "
            "multiplied by 0.1",
        )


def resolve_augment(args: argparse.Namespace) -> None:
    """Resolves the default of `--augment`: digits are 8 pixels wide and not symmetric.

    Args:
        args: The flags, changed in place.
    """
    if args.augment is None:
        args.augment = "none" if args.dataset == "digits" else "crop_flip"


def check(args: argparse.Namespace) -> None:
    """Refuses shared flags that cannot be used.

    Args:
        args: The resolved flags.

    Raises:
        BadInput: If `--drops` or `--validation` is invalid.
    """
    fractions(args.drops)
    if args.validation >= 1:
        raise BadInput(f"--validation must be less than 1. Received: {args.validation:g}")


def fractions(drops: str) -> list[float]:
    """Parses the fractions of the training after which the learning rate drops.

    Args:
        drops: The value of `--drops`.

    Raises:
        BadInput: If they are not increasing numbers between 0 and 1.

    Example:

    >>> fractions("0.5,0.75"), fractions("1/4")
    ([0.5, 0.75], [0.25])
    """
    try:
        parts = [part.split("/") for part in drops.split(",")]
        numbers = [float(first) / math.prod(map(float, others)) for first, *others in parts]
    except (ValueError, ZeroDivisionError):
        numbers = []
    if not numbers or not all(0 < a < b for a, b in itertools.pairwise([*numbers, 1.0])):
        raise BadInput(
            "--drops must be increasing numbers between 0 and 1, comma-separated. "
            f"Received: {brief(drops)}"
        )
    return numbers


def stepped(
    base_lr: float, steps: int, drops: Sequence[float]
) -> keras.optimizers.schedules.PiecewiseConstantDecay:
    """Returns a schedule that drops by x0.1 after some fractions of the training.

    Args:
        base_lr: The initial rate.
        steps: The iterations of the whole training.
        drops: The fractions, between 0 and 1, in order.

    Example:

    >>> rate = stepped(0.1, 1000, [0.4, 0.8])
    >>> [round(float(rate(step)), 6) for step in (399, 400, 800)]
    [0.1, 0.01, 0.001]
    """
    # Keras counts iterations from 0 and keeps a rate up to and including its boundary.
    boundaries = [round(steps * drop) - 1 for drop in drops]
    return keras.optimizers.schedules.PiecewiseConstantDecay(
        boundaries, [base_lr * 0.1**count for count in range(len(drops) + 1)]
    )


class WarmUp(keras.optimizers.schedules.LearningRateSchedule):
    """Raises the rate linearly to that of another schedule over the first iterations.

    Args:
        schedule: The schedule.
        steps: The iterations until the schedule holds, positive.

    Example:

    >>> rate = WarmUp(stepped(0.1, 1000, [0.5]), steps=4)
    >>> [round(float(rate(step)), 6) for step in (0, 1, 3, 4, 500)]
    [0.025, 0.05, 0.1, 0.1, 0.01]
    """

    def __init__(self, schedule: keras.optimizers.schedules.LearningRateSchedule, steps: int):
        self.schedule = schedule
        self.steps = steps

    def __call__(self, step: Any) -> Any:
        share = (keras.ops.cast(step, "float32") + 1) / self.steps
        return self.schedule(step) * keras.ops.minimum(share, 1.0)

    def get_config(self) -> dict[str, Any]:
        return {
            "schedule": keras.saving.serialize_keras_object(self.schedule),
            "steps": self.steps,
        }


def optimizer(args: argparse.Namespace, steps: int) -> keras.optimizers.Optimizer:
    """Returns SGD with momentum 0.9 and the learning rates of the flags.

    Args:
        args: The resolved flags. `schedule` and `warmup` default to drops without warm-up.
        steps: The iterations of the whole training.
    """
    flags = vars(args)
    if flags.get("schedule") == "cosine":
        schedule = keras.optimizers.schedules.CosineDecay(args.base_lr, steps)
    else:
        schedule = stepped(args.base_lr, steps, fractions(args.drops))
    if flags.get("warmup"):
        schedule = WarmUp(schedule, args.warmup)
    return keras.optimizers.SGD(schedule, momentum=MOMENTUM)


def in_order(images: np.ndarray, targets: Any) -> Batches:
    """Returns large batches of images in their order, to predict or evaluate on.

    Args:
        images: uint8 `(N, H, W, C)`.
        targets: Labels `(N,)`, or targets by output.
    """
    return Batches(images, targets, TEST_BATCH, shuffle=False)


def predict(model: keras.Model, images: np.ndarray) -> Any:
    """Returns a model's outputs for images, in their order.

    Args:
        model: The model.
        images: uint8 `(N, H, W, C)`.

    Example:

    >>> images = np.zeros((3, 2, 2, 1), "uint8")
    >>> predict(keras.Sequential([keras.layers.Flatten()]), images).shape
    (3, 4)
    """
    # `predict` passes no targets on.
    return model.predict(in_order(images, np.zeros(len(images), "int64")), verbose=0)


def jit_compile() -> bool | str:
    """Returns the argument of `compile` of this name: no XLA for TensorFlow on a CPU.

    XLA takes long to compile there, and its convolutions are slower by half.

    Example:

    >>> jit_compile() in (False, "auto")
    True
    """
    # On other backends `list_devices` fails for devices that do not exist.
    if keras.backend.backend() == "tensorflow" and not keras.distribution.list_devices("gpu"):
        return False
    return "auto"


def load(args: argparse.Namespace, whole: str | None = None) -> Dataset:
    """Loads the images of a run: those of `--dataset`, reduced according to other flags.

    Args:
        args: The resolved flags.
        whole: The flags that need all images in memory, if any.

    Returns:
        The dataset. With `--validation` its test set is held out of the training set.

    Raises:
        BadInput: If the data cannot be used, too few images are left, or `--memory` is too little
            for what needs them in memory.
    """
    memory = _memory(args)
    data = datasets.load(args.dataset, args.data_dir, args.image_size, args.label, memory)
    if whole is not None and isinstance(data.train[0], datasets.StreamedImages):
        raise BadInput(
            f"{whole} needs all images in memory, which --memory has to allow. "
            f"Received: {data.in_words()}"
        )
    # Not every program has the flag.
    share = vars(args).get("validation")
    if share:
        labels = data.train[1]
        is_held_out = datasets.held_out(labels, share, args.seed)
        if is_held_out.all() or not is_held_out.any():
            raise BadInput(
                f"--validation must leave images to train on and to validate on. "
                f"Received: {share:g} of {labels.size} images"
            )
        data = _subset(data, np.flatnonzero(~is_held_out), np.flatnonzero(is_held_out))
    if vars(args).get("test_images") is not None:
        every = np.arange(data.test[1].size)
        chosen, _ = datasets.balanced_subset(every, data.test[1], args.test_images, seed=0)
        values = None if data.values is None else (data.values[0], data.values[1][chosen])
        tested = datasets.take(data.test[0], chosen), data.test[1][chosen]
        data = dataclasses.replace(data, test=tested, values=values)
    if args.train_images is not None:
        every = np.arange(data.train[1].size)
        chosen, _ = datasets.balanced_subset(every, data.train[1], args.train_images, args.seed)
        data = _subset(data, chosen)
    if vars(args).get("imbalance") is not None:
        try:
            chosen = datasets.long_tailed(data.train[1], args.imbalance, args.seed)
        except BadInput as error:
            raise BadInput(f"--imbalance {args.imbalance:g}: {error}") from error
        data = _subset(data, chosen)
    return data


def _memory(args: argparse.Namespace) -> float | None:
    """The bytes that decoded images may take, or None for any number."""
    flags = vars(args)
    if "memory" not in flags:  # the program needs all of them
        return None
    if flags["memory"] is not None:
        return flags["memory"] * 2**30
    total = total_memory()
    return None if total is None else total / 2


def _subset(data: Dataset, train: np.ndarray, test: np.ndarray | None = None) -> Dataset:
    """Keeps the training images `train` and, if given, makes those of `test` the test set."""
    images, labels = data.train
    values = data.values
    if values is not None:
        values = values[0][train], values[1] if test is None else values[0][test]
    return dataclasses.replace(
        data,
        train=(datasets.take(images, train), labels[train]),
        test=data.test if test is None else (datasets.take(images, test), labels[test]),
        values=values,
    )
