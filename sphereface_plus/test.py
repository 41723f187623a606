"""Tests a trained face network: verification of pairs, identification, and a report of both.

    python sphereface_plus/test.py --run runs/faces --data_dir lfw --pairs pairs.txt
    python sphereface_plus/test.py --run runs/faces --pairs lfw.bin cfp_fp.bin agedb_30.bin
    python sphereface_plus/test.py --run runs/faces --ijb IJBC
    python sphereface_plus/test.py --run runs/faces --data_dir orl_faces.zip

With `--pairs`, a list in the format of Labeled Faces in the Wild, a CSV or a validation set of
InsightFace, which holds its own images, its pairs are scored in its folds. With `--ijb`, templates
are compared, and searched for in galleries. With neither, all pairs of people on whom the network
was not trained are scored, and they are identified by one image each. Embeddings of an image and
its mirror image are concatenated, as published.

Several protocols are reported by their names, each in a folder of its own.
"""

import argparse
import functools
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    from mhe_startup import start

    start(__file__)

from mhe.harness import figures
from mhe.harness.comparisons import stem
from mhe.harness.errors import BadInput, as_bad_input, within_memory
from mhe.harness.files import make_folder
from mhe.harness.flags import LineParser, file_path, program
from mhe.harness.reports import write_report
from mhe.harness.run import Run, require_unused
from sphereface_plus import faces
from sphereface_plus.face_model import FaceModel
from sphereface_plus.pairs import Pairs, read_pairs
from sphereface_plus.program import evaluation, janus, people_flags, trained

_LONGEST = 100  # characters of a folder's name


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
        nargs="+",
        metavar="FILE",
        help="lists of pairs, such as LFW's pairs.txt or a CSV, or InsightFace's lfw.bin, which "
        "holds the images too (default: all pairs of people on whom the run was not trained)",
    )
    parser.add_argument(
        "--ijb",
        type=file_path,
        metavar="FOLDER",
        help="IJB-B or IJB-C as InsightFace lays it out, a folder with loose_crop/ and meta/; "
        "embeddings of mirror images are added there, as in its published rates (default: none)",
    )
    people_flags.add_embedding(parser)
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
    folder = _folder(args, run)
    require_unused(folder)
    protocols = _protocols(args, run)
    make_folder(folder)
    reports = {}
    for protocol in protocols:
        _warn_of_alignment(run, protocol)
        own = folder if len(protocols) == 1 else make_folder(folder / protocol.key)
        report = protocol.evaluate(
            model, mirror=args.mirror == "concatenate", batch_size=args.batch_size
        )
        print(f"{protocol.name}:\n{report.text}")
        report.write(own, f"{run.folder.name} on {protocol.name}")
        reports[protocol] = report
    several = len(reports) > 1
    metrics = {
        f"{protocol.key}_{name}" if several else name: value
        for protocol, report in reports.items()
        for name, value in report.metrics.items()
    }
    notes = [
        f"{protocol.name}: {note}" if several else note
        for protocol, report in reports.items()
        for note in report.notes
    ]
    pairs = args.pairs
    return write_report(
        folder,
        run,
        metrics,
        started=started,
        dataset=data if data is not None else args.ijb,
        pairs=pairs[0] if pairs is not None and len(pairs) == 1 else pairs,
        mirror=args.mirror,
        protocols={protocol.name: report.metrics for protocol, report in reports.items()},
        notes=notes,
    )


@dataclass(frozen=True)
class Protocol:
    """What a network is tested on.

    Attributes:
        name: What the report calls it.
        key: What its folder is called, and what the names of its metrics begin with.
        is_aligned: Whether its faces are.
        evaluate: Runs it.
    """

    name: str
    key: str
    is_aligned: bool
    evaluate: Callable[..., evaluation.Report | janus.Report]


# What sets of pairs are called that are passed around under these names.
_NAMES = {
    "lfw": "LFW",
    "cfp_fp": "CFP-FP",
    "cfp_ff": "CFP-FF",
    "agedb_30": "AgeDB-30",
    "calfw": "CALFW",
    "cplfw": "CPLFW",
    "vgg2_fp": "VGG2-FP",
}
_LFW_PAIRS = 6000  # in ten folds


def _folder(args: argparse.Namespace, run: Run) -> Path:
    """The folder of the report."""
    if args.out is not None:
        return Path(args.out)
    names = [] if args.ijb is None else [stem(args.ijb)]
    for path in args.pairs or []:
        is_set = faces.validation_sets.is_validation_set(path)
        only = len(args.pairs) == 1
        names.append(stem(path) if is_set or not only else f"{stem(args.data_dir)}-pairs")
    if args.pairs is None and args.data_dir is not None:
        names.append(stem(args.data_dir))
    return run.folder / f"test-{'-'.join(names)[:_LONGEST]}"


def _protocols(args: argparse.Namespace, run: Run) -> list[Protocol]:
    """What the flags ask for; all of it is read and checked before anything is embedded."""
    found = []
    for path in args.pairs if args.pairs is not None else [None] if args.data_dir else []:
        is_set = path is not None and faces.validation_sets.is_validation_set(path)
        people, pairs = people_and_pairs(args, run, path)
        landmarks = None
        if args.landmarks is not None and not is_set:
            landmarks = faces.read_landmarks(args.landmarks, people)
        data = path if path is not None and is_set else str(args.data_dir)
        name = key = stem(path if path is not None else args.data_dir)
        if path is None:
            name = f"all pairs of {name}, and identification"
        elif is_set:
            name = _NAMES.get(key.lower(), key)
        elif pairs is not None and pairs.folds is not None and len(pairs.same) == _LFW_PAIRS:
            name = "LFW"
        aligned = people_flags.is_aligned(data, None if is_set else args.landmarks)
        listed = functools.partial(_evaluate_pairs, people=people, pairs=pairs, landmarks=landmarks)
        found.append(Protocol(name, key, aligned, listed))
    if args.ijb is not None:
        benchmark = janus.read_benchmark(args.ijb)
        templates = functools.partial(_evaluate_templates, benchmark=benchmark)
        found.append(Protocol(benchmark.name, stem(args.ijb), True, templates))
    for attribute in ("key", "name"):
        used = [getattr(each, attribute) for each in found]
        twice = sorted({each for each in used if used.count(each) > 1})
        if twice:
            raise BadInput(
                f"--pairs and --ijb must have different names. Received: {twice[0]} twice"
            )
    return found


def _evaluate_pairs(
    model: FaceModel, *, people: faces.People, pairs: Pairs | None, **options: Any
) -> evaluation.Report:
    return evaluation.evaluate(model, people, pairs, **options)


def _evaluate_templates(
    model: FaceModel, *, benchmark: janus.Benchmark, **options: Any
) -> janus.Report:
    return janus.evaluate(model, benchmark, **options)


def _warn_of_alignment(run: Run, protocol: Protocol) -> None:
    """Says on stderr if faces are aligned in the test alone, or in the training alone."""
    if protocol.is_aligned != people_flags.is_aligned(
        run.config["data_dir"], run.config["landmarks"]
    ):
        states = ("not aligned", "aligned")
        trained_on, tested_on = states if protocol.is_aligned else states[::-1]
        print(
            f"the network was trained on faces that are {trained_on}, and is tested on faces that "
            f"are {tested_on}",
            file=sys.stderr,
        )


def data_of(args: argparse.Namespace) -> str | None:
    """Returns what holds the images: `--data_dir`, or the first .bin of `--pairs`.

    Returns:
        Its path; None if there are templates alone, which `--ijb` holds.

    Raises:
        BadInput: If it is neither or both.

    Example:

    >>> data_of(argparse.Namespace(data_dir=None, pairs=["lfw.bin"], landmarks=None, ijb=None))
    'lfw.bin'
    """
    if args.ijb is not None and args.pairs is None and args.data_dir is None:
        return None
    sets = [each for each in args.pairs or [] if faces.validation_sets.is_validation_set(each)]
    if args.pairs is None or len(sets) < len(args.pairs):
        if args.data_dir is None:
            raise BadInput(
                "--data_dir must name a folder or zip of people, or a .rec; only pairs in a .bin "
                "hold their images. Received: none"
            )
        return args.data_dir
    for flag in ("data_dir", "landmarks"):
        if getattr(args, flag) is not None:
            raise BadInput(
                f"--pairs {' '.join(args.pairs)} holds its own images, aligned. "
                f"Received: --{flag} {getattr(args, flag)}"
            )
    return sets[0]


def people_and_pairs(
    args: argparse.Namespace, run: Run, path: str | None
) -> tuple[faces.People, Pairs | None]:
    """Finds the people and pairs to test on, and prints who is known to the network.

    Args:
        args: The flags.
        run: The run to test.
        path: One of `--pairs`, or None for all pairs.

    Returns:
        The people, and their pairs; None for all pairs.

    Raises:
        BadInput: If there are too few people, or the list of pairs cannot be used.
    """
    if path is not None and faces.validation_sets.is_validation_set(path):
        return faces.read_validation_set(path)
    known = set(trained.trained_people(run.folder))
    # A list of pairs may need people with a single image.
    people = people_flags.find(args, least=2 if path is None else 1)
    unseen = [name for name in people.names if name not in known]
    count = len(people.names)
    if path is not None:
        with as_bad_input():
            pairs = read_pairs(path, people.images)
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
