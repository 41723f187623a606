"""The flags that say whose images to use, which training and testing share."""

import argparse

from mhe.harness.flags import BATCH_SIZE, LineParser, file_path, plain_text
from sphereface_plus.faces import People, find_faces, find_people, records, validation_sets


def add(parser: LineParser, otherwise: str, *, with_names: bool = False) -> None:
    """Adds the flags.

    Args:
        parser: A program's parser.
        otherwise: When `--data_dir` is required, for the help; argparse requires none.
        with_names: Whether to add `--names`, by which faces may be of nobody known.

    Example:

    >>> parser = LineParser()
    >>> add(parser, "required")
    >>> parser.parse_args(["--data_dir", "faces.zip"]).small_people
    'refuse'
    """
    parser.add_argument(
        "--data_dir",
        type=file_path,
        help="a folder or zip of people: <person>/<image>, in any common format; or InsightFace's "
        f"train.rec with its train.idx ({otherwise})",
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
    if with_names:
        parser.add_argument(
            "--names",
            choices=["folders", "none"],
            default="folders",
            help="folders: the folder of an image is its person; none: whose faces they are is not "
            "known, and images may be in any folders",
        )
    parser.add_argument(
        "--check_images",
        choices=["headers", "pixels"],
        default="headers",
        help="headers: check at the start that all files are images, and decode each when it is "
        "needed; pixels: decode all at the start, too, which finds files that are cut short",
    )
    parser.add_argument(
        "--landmarks",
        type=file_path,
        metavar="FILE",
        help="a text file with a line per image: its name, and x and y of both eyes, the nose and "
        "both corners of the mouth, to align the faces by (default: crop the center of every "
        "image)",
    )


def add_embedding(parser: LineParser, only: str = "") -> None:
    """Adds the flags that say how faces are embedded.

    Args:
        parser: A program's parser.
        only: What the help begins with where they do not always apply.

    Example:

    >>> parser = LineParser()
    >>> add_embedding(parser)
    >>> parser.parse_args([])
    Namespace(mirror='concatenate', batch_size=128)
    """
    parser.add_argument(
        "--mirror",
        choices=["concatenate", "none"],
        default="concatenate",
        help=f"{only}whether to append the embedding of the mirror image",
    )
    parser.add_argument(
        "--batch_size",
        type=BATCH_SIZE,
        default=128,
        help=f"{only}number of images to embed at once",
    )


def is_aligned(data: str, landmarks: str | None) -> bool:
    """Whether faces are aligned: by landmarks, or as they come in InsightFace's files.

    Args:
        data: `--data_dir`, or the pairs that hold their own images.
        landmarks: `--landmarks`.

    Example:

    >>> is_aligned("faces.zip", None), is_aligned("train.rec", None)
    (False, True)
    """
    return (
        landmarks is not None
        or records.is_record_file(data)
        or validation_sets.is_validation_set(data)
    )


def find(args: argparse.Namespace, least: int = 2) -> People:
    """Finds the people that the flags ask for.

    Args:
        args: The flags.
        least: The minimum number of images per person.

    Raises:
        BadInput: As `find_people`.
    """
    decode = args.check_images == "pixels"
    if vars(args).get("names") == "none":
        return find_faces(args.data_dir, pattern=args.pattern, decode=decode)
    return find_people(
        args.data_dir,
        least=least,
        skip_small=args.small_people == "skip",
        pattern=args.pattern,
        decode=decode,
    )
