"""Tests a trained face network: verification of pairs, identification, and a report of both.

    python sphereface_plus/test.py --run runs/faces --data_dir lfw --pairs pairs.txt
    python sphereface_plus/test.py --run runs/faces --pairs lfw.bin
    python sphereface_plus/test.py --run runs/faces --data_dir orl_faces.zip

With `--pairs`, a list in the format of Labeled Faces in the Wild, a CSV or a validation set of
InsightFace, which holds its own images, its pairs are scored in its folds. Without, all pairs of
people on whom the network was not trained are scored. Embeddings of an image and its mirror image
are concatenated, as published.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    from mhe_startup import start

    start(__file__)

from mhe.harness import figures
from mhe.harness.comparisons import stem
from mhe.harness.errors import BadInput, as_bad_input, within_memory
from mhe.harness.files import make_folder
from mhe.harness.flags import BATCH_SIZE, LineParser, file_path, program
from mhe.harness.reports import write_report
from mhe.harness.run import Run, require_unused
from sphereface_plus import faces
from sphereface_plus.pairs import Pairs, read_pairs
from sphereface_plus.program import evaluation, people_flags, trained


def make_parser() -> LineParser:
    """Returns the parser of this program's flags."""
    parser = LineParser(
        prog="sphereface_plus/test.py",
        description="Tests a trained face network on pairs of faces, and on identifying people.",
    )
    parser.add_argument(
        "--run",
        type=file_path,
        required=True,
        help="the folder of a complete run of sphereface_plus/train.py",
    )
    people_flags.add(parser, "default: those of --pairs, if that is a .bin")
    parser.add_argument(
        "--pairs",
        type=file_path,
        metavar="FILE",
        help="a list of pairs, such as LFW's pairs.txt or a CSV, or InsightFace's lfw.bin, which "
        "holds the images too (default: all pairs of people on whom the run was not trained)",
    )
    parser.add_argument(
        "--mirror",
        choices=["concatenate", "none"],
        default="concatenate",
        help="whether to append the embedding of the mirror image",
    )
    parser.add_argument(
        "--batch_size", type=BATCH_SIZE, default=128, help="number of images to embed at once"
    )
    parser.add_argument(
        "--out",
        type=file_path,
        help="the report's folder, new or empty (default: test-<data> in the run's folder)",
    )
    return parser


def check(args: argparse.Namespace) -> None:
    """Refuses flags that cannot be used together.

    Args:
        args: The flags.

    Raises:
        BadInput: If nothing holds the images, or too much does.
    """
    data_of(args)


def test(args: argparse.Namespace) -> dict[str, Any]:
    """Tests a network, and writes the report.

    Args:
        args: The flags.

    Returns:
        The content of `result.json`.

    Raises:
        BadInput: If the run, the people or the pairs cannot be used.
    """
    started = time.monotonic()
    figures.require_matplotlib()
    data = data_of(args)
    model, run = trained.load_model(args.run)
    is_listed = args.pairs is not None and args.data_dir is not None
    name = f"{stem(data)}-pairs" if is_listed else stem(data)
    folder = Path(args.out) if args.out is not None else run.folder / f"test-{name}"
    require_unused(folder)
    make_folder(folder)
    people, pairs = people_and_pairs(args, run)
    landmarks = None
    if args.landmarks is not None:
        landmarks = faces.read_landmarks(args.landmarks, people)
    is_aligned = people_flags.is_aligned(data, args.landmarks)
    if is_aligned != people_flags.is_aligned(run.config["data_dir"], run.config["landmarks"]):
        states = ("not aligned", "aligned")
        trained_on, tested_on = states if is_aligned else states[::-1]
        print(
            f"the network was trained on faces that are {trained_on}, and is tested on faces that "
            f"are {tested_on}",
            file=sys.stderr,
        )
    report = evaluation.evaluate(
        model,
        people,
        pairs,
        landmarks=landmarks,
        mirror=args.mirror == "concatenate",
        batch_size=args.batch_size,
    )
    print(report.text)
    report.write(folder, f"{run.folder.name} on {name}")
    return write_report(
        folder,
        run,
        report.metrics,
        started=started,
        dataset=data,
        pairs=args.pairs,
        mirror=args.mirror,
        notes=report.verification.notes,
    )


def data_of(args: argparse.Namespace) -> str:
    """Returns what holds the images: `--data_dir`, or the .bin of `--pairs`.

    Raises:
        BadInput: If it is neither or both.

    Example:

    >>> data_of(argparse.Namespace(data_dir=None, pairs="lfw.bin", landmarks=None))
    'lfw.bin'
    """
    if args.pairs is None or not faces.validation_sets.is_validation_set(args.pairs):
        if args.data_dir is None:
            raise BadInput(
                "--data_dir must name a folder or zip of people, or a .rec; only pairs in a .bin "
                "hold their images. Received: none"
            )
        return args.data_dir
    for flag in ("data_dir", "landmarks"):
        if getattr(args, flag) is not None:
            raise BadInput(
                f"--pairs {args.pairs} holds its own images, aligned. "
                f"Received: --{flag} {getattr(args, flag)}"
            )
    return args.pairs


def people_and_pairs(args: argparse.Namespace, run: Run) -> tuple[faces.People, Pairs | None]:
    """Finds the people and pairs to test on, and prints who is known to the network.

    Args:
        args: The flags.
        run: The run to test.

    Returns:
        The people, and their pairs; None for all pairs.

    Raises:
        BadInput: If there are too few people, or the list of pairs cannot be used.
    """
    if args.data_dir is None:
        return faces.read_validation_set(args.pairs)
    known = set(trained.trained_people(run.folder))
    # A list of pairs may need people with a single image.
    people = people_flags.find(args, least=2 if args.pairs is None else 1)
    unseen = [name for name in people.names if name not in known]
    count = len(people.names)
    if args.pairs is not None:
        with as_bad_input():
            pairs = read_pairs(args.pairs, people.images)
        if len(unseen) < count:
            print(
                f"{count - len(unseen):,} of {count:,} people have the names of people that the "
                "network was trained on",
                file=sys.stderr,
            )
        return people, pairs
    if len(unseen) < 2:
        raise BadInput(
            f"{args.data_dir} must have at least 2 people on whom {args.run} was not trained. "
            f"Received: {len(unseen)} of {count}"
        )
    print(f"{len(unseen):,} of {count:,} people have names that the network was not trained on")
    people = people.subset(unseen)
    evaluation.require_pairs(people)
    return people, None


def main(argv: Sequence[str] | None = None) -> None:
    """Tests a network.

    Args:
        argv: The flags; those of the process by default.
    """
    args = make_parser().parse_args(argv)
    check(args)
    with within_memory(f"--batch_size {args.batch_size}"):
        test(args)


if __name__ == "__main__":
    sys.exit(program(main))
