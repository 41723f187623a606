"""Data of programs that test on classes they have never seen."""

import argparse

from mhe.harness import datasets
from mhe.harness.flags import Parser, plain_text

IMAGE_SIZE = 28  # pixels, as published for Omniglot


def add_flags(parser: Parser) -> None:
    """Adds the flags that say what to train and test on.

    Args:
        parser: A program's parser.
    """
    parser.add_data_flags("omniglot", f"{IMAGE_SIZE}; digits stay as they are", streams=False)
    parser.add_argument(
        "--test_alphabets",
        type=plain_text,
        metavar="NAMES",
        help="Omniglot's alphabets to test on, comma-separated (default: those of the evaluation "
        "set of omniglot; in Omniglot's zips the last by name that hold a fifth of the characters, "
        "which are Sanskrit and Tagalog in its two small sets)",
    )


def resolve_image_size(args: argparse.Namespace) -> None:
    """Resolves the default of `--image_size`, in place."""
    if args.image_size is None and args.dataset != "digits":
        args.image_size = IMAGE_SIZE


def load(args: argparse.Namespace) -> datasets.ClassSplit:
    """Loads images and splits their classes into those to train on and those to test on.

    Args:
        args: The flags of one run.

    Raises:
        BadInput: If the data cannot be used, or cannot be split as the flags say.
    """
    data = datasets.load(args.dataset, args.data_dir, args.image_size, args.label)
    tested = {
        flag: None if names is None else [name.strip() for name in names.split(",")]
        for flag, names in vars(args).items()
        if flag in ("test_alphabets", "test_classes")
    }
    return datasets.split_classes(data, args.seed, **tested)
