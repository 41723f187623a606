"""Tests a trained face network: verification of pairs, identification, a report of both.

    python sphereface_plus/test.py --run runs/faces --data_dir lfw --pairs pairs.txt
    python sphereface_plus/test.py --run runs/faces --data_dir orl_faces.zip

With `--pairs`, a list in the form of Labeled Faces in the Wild, its pairs are scored by its folds;
without, all pairs of people whom the network was not trained on. The embeddings of an image and of
its mirror image are concatenated, as published.
"""

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from mhe.harness import figures
from mhe.harness.comparisons import stem
from mhe.harness.errors import BadInput
from mhe.harness.files import write_json
from mhe.harness.flags import Defaults, LineParser, integer, program
from mhe.harness.run import require_unused
from sphereface_plus import evaluation, faces, trained
from sphereface_plus.pairs import read_pairs


def make_parser() -> LineParser:
    """Returns the parser of this program's flags."""
    parser = LineParser(
        prog="sphereface_plus/test.py",
        description="Tests a trained face network on pairs of faces, and on finding people.",
        formatter_class=Defaults,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--run", required=True, help="the folder of a complete run of sphereface_plus/train.py"
    )
    parser.add_argument(
        "--data_dir", required=True, help="a folder or zip of people: <person>/<image>"
    )
    parser.add_argument(
        "--pairs",
        metavar="FILE",
        help="a list of pairs, such as LFW's pairs.txt (default: all pairs of the people whom the "
        "run was not trained on)",
    )
    parser.add_argument(
        "--pattern",
        default="*",
        help="the files that are images of people, such as *.jpg, where there are others",
    )
    parser.add_argument(
        "--small_people",
        choices=["refuse", "skip"],
        default="refuse",
        help="what becomes of people with one image, where all pairs are scored",
    )
    parser.add_argument(
        "--landmarks",
        metavar="FILE",
        help="five points per image, to align the faces by (default: the middle of every image)",
    )
    parser.add_argument(
        "--mirror",
        choices=["concatenate", "none"],
        default="concatenate",
        help="what becomes of the embedding of the mirror image",
    )
    parser.add_argument(
        "--batch_size", type=integer(1), default=128, help="images that are embedded at once"
    )
    parser.add_argument(
        "--out", help="the report's folder, new or empty (default: test-<data> in the run's folder)"
    )
    return parser


def test(args: argparse.Namespace) -> dict[str, Any]:
    """Tests a network, and writes the report.

    Args:
        args: The flags.

    Returns:
        What `result.json` holds.

    Raises:
        BadInput: If the run, the people or the pairs cannot be used.
    """
    begun = time.monotonic()
    figures.require_matplotlib()
    model, run = trained.load_model(args.run)
    name = stem(args.data_dir) if args.pairs is None else f"{stem(args.data_dir)}-pairs"
    folder = Path(args.out) if args.out is not None else run.folder / f"test-{name}"
    require_unused(folder)
    known = set(trained.trained_people(run.folder))
    # A list of pairs may need people with a single image.
    least = 2 if args.pairs is None else 1
    people = faces.find_people(
        args.data_dir,
        least=least,
        skip_small=args.small_people == "skip",
        pattern=args.pattern,
    )
    pairs = None
    if args.pairs is None:
        unseen = [name for name in people.names if name not in known]
        if len(unseen) < 2:
            raise BadInput(
                f"{args.data_dir} must hold at least 2 people whom {args.run} was not trained on. "
                f"Received: {len(unseen)} of {len(people.names)}"
            )
        print(
            f"{len(unseen):,} of {len(people.names):,} people have names that the network was not "
            "trained on"
        )
        people = people.subset(unseen)
        evaluation.require_pairs(people)
    else:
        pairs = read_pairs(args.pairs, people.images)
        seen = known.intersection(people.names)
        if seen:
            print(
                f"{len(seen):,} of {len(people.names):,} people have the names of people that the "
                "network was trained on",
                file=sys.stderr,
            )
    landmarks = None
    if args.landmarks is not None:
        landmarks = faces.read_landmarks(args.landmarks, people)
    if (landmarks is None) != (run.config["landmarks"] is None):
        words = ("aligned by landmarks", "not aligned")
        known_as, tested_as = words if landmarks is None else words[::-1]
        print(
            f"the network was trained on faces that are {known_as}, and is tested on faces that "
            f"are {tested_as}",
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
    folder.mkdir(parents=True, exist_ok=True)
    report.write(folder, f"{run.folder.name} on {name}")
    result = {
        "model_name": run.config["model_name"],
        "power_s": run.config["power_s"],
        "dataset": args.data_dir,
        "seed": run.config["seed"],
        "run": str(run.folder),
        "pairs": args.pairs,
        "mirror": args.mirror,
        "metrics": report.metrics,
        "notes": report.verification.notes,
        "seconds": round(time.monotonic() - begun, 3),
    }
    write_json(folder / "result.json", result)
    print(f"Report in {folder}")
    return result


def main(argv: Sequence[str] | None = None) -> None:
    """Tests a network.

    Args:
        argv: The flags; those of the process by default.
    """
    test(make_parser().parse_args(argv))


if __name__ == "__main__":
    sys.exit(program(main))
