"""The flags that say whose images to use, which training and testing share."""

import argparse

from mhe.harness.flags import LineParser, file_path, plain_text
from sphereface_plus.faces import People, find_people


def add(parser: LineParser, *, required: bool) -> None:
    """Adds the flags.

    Args:
        parser: A program's parser.
        required: Whether argparse requires `--data_dir`; not in training, which `--resume` starts
            without it.

    Example:

    >>> parser = LineParser()
    >>> add(parser, required=True)
    >>> parser.parse_args(["--data_dir", "faces.zip"]).small_people
    'refuse'
    """
    parser.add_argument(
        "--data_dir",
        type=file_path,
        required=required,
        help="a folder or zip of people: <person>/<image>, in any common format"
        + " (required for a new run)" * (not required),
    )
    parser.add_argument(
        "--pattern",
        type=plain_text,
        default="*",
        help="pattern of the image files' names, such as *.jpg",
    )
    parser.add_argument(
        "--small_people",
        choices=["refuse", "skip"],
        default="refuse",
        help="whether to refuse or skip people with a single image",
    )
    parser.add_argument(
        "--landmarks",
        type=file_path,
        metavar="FILE",
        help="a text file with a line per image: its name, and x and y of both eyes, the nose and "
        "both corners of the mouth, to align the faces by (default: crop the center of every "
        "image)",
    )


def find(args: argparse.Namespace, least: int = 2) -> People:
    """Finds the people that the flags ask for.

    Args:
        args: The flags.
        least: The minimum number of images per person.

    Raises:
        BadInput: As `find_people`.
    """
    return find_people(
        args.data_dir,
        least=least,
        skip_small=args.small_people == "skip",
        pattern=args.pattern,
    )
