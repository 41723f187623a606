"""Scores the best snapshot of a run of a GAN, and draws its images.

    python gan/test.py --run runs/cifar10-sn_mhe-seed0
    python gan/test.py --run runs/cifar10-sn_mhe-seed0 --classifier runs/classifier --images 10000

The best snapshot is the one with the best inception score in training, or the last one if none was
scored. The run need not be complete.
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

from gan import train
from gan.program import figures, scorer, snapshots
from gan.program.scorer import Scorer
from mhe.harness import recipes
from mhe.harness.errors import within_memory
from mhe.harness.figures import require_matplotlib
from mhe.harness.files import make_folder
from mhe.harness.flags import BATCH_SIZE, COUNT, LineParser, file_path, file_paths, program
from mhe.harness.reports import write_report
from mhe.harness.run import Run, require_unused


def make_parser() -> LineParser:
    """Returns the parser of this program's flags."""
    parser = LineParser(
        prog="gan/test.py",
        description="Scores the best snapshot of a run of gan/train.py, and draws its images.",
    )
    parser.add_argument(
        "--run", type=file_path, required=True, help="the folder of a run of gan/train.py"
    )
    parser.add_argument(
        "--images",
        type=COUNT,
        default=50_000,
        metavar="N",
        help="number of images to generate and score",
    )
    scorer.add_flags(parser, as_trained=True)
    parser.add_argument(
        "--dataset",
        type=file_paths,
        help="where the run's real images are now (default: where the run found them)",
    )
    parser.add_argument(
        "--batch_size", type=BATCH_SIZE, default=100, help="number of images to generate at once"
    )
    parser.add_argument(
        "--out",
        type=file_path,
        help="the report's folder, new or empty (default: test-<step>-<images>-<classifier> in "
        "the run's folder)",
    )
    return parser


def check(args: argparse.Namespace) -> None:
    """Refuses too few images for `--splits`; the number that a run was scored with is its own.

    Args:
        args: The flags.

    Raises:
        BadInput: If there are too few.
    """
    if args.splits is not None:
        scorer.require_enough("--images", args.images, args.splits)


def test(args: argparse.Namespace) -> dict[str, Any]:
    """Scores a snapshot, and writes the report.

    Args:
        args: The flags. Classifier, splits and reference default to those of the run.

    Returns:
        The content of `result.json`.

    Raises:
        BadInput: If the run, its data or the classifier cannot be used.
    """
    started = time.monotonic()
    require_matplotlib()
    moved = [] if args.dataset is None else [f"--dataset={args.dataset}"]
    flags, _ = train.make_parser().parse([f"--resume={args.run}", *moved])
    (flags,) = train.expand_runs(flags).values()
    run = Run.resume(args.run)
    if args.classifier is None and args.inception_weights is None:
        args.classifier, args.inception_weights = flags.classifier, flags.inception_weights
    args.splits = args.splits or flags.splits
    args.reference = args.reference or flags.reference
    scorer.require_enough("--images", args.images, args.splits)
    path, step = snapshots.best_snapshot(run)
    data = recipes.load(flags)
    model = train.build(flags, data.train[0].shape[1:])
    snapshots.load_snapshot(model, path)
    scored = Scorer(args, data)
    name = f"test-{step}-{args.images}-{scored.digest[:8]}"
    folder = Path(args.out) if args.out is not None else run.folder / name
    require_unused(folder)
    make_folder(folder)
    metrics = scored.score(model, args.images, seed=snapshots.TEST_SEED, batch_size=args.batch_size)
    print(f"Snapshot of step {step:,}:\n{scored.text(metrics, args.images)}")
    figures.draw_samples(model, folder)
    return write_report(
        folder,
        run,
        metrics,
        started=started,
        step=step,
        images=args.images,
        **scored.described,
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Tests a GAN.

    Args:
        argv: The flags; those of the process by default.
    """
    args = make_parser().parse_args(argv)
    check(args)
    with within_memory(f"--images {args.images} --batch_size {args.batch_size}"):
        test(args)


if __name__ == "__main__":
    sys.exit(program(main))
