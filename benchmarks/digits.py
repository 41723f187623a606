"""Compares a plain network with half-space MHE on the embedded digits, with few training images.

Every model and seed is a run of `benchmarks/train.py`. The program can be stopped and repeated: it
keeps complete runs and resumes the others. It needs no network and takes a few minutes on two
cores.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

if __name__ == "__main__":
    from mhe_startup import start

    start(__file__)

import train

from mhe.harness.flags import (
    BATCH_SIZE,
    COUNT,
    EPOCHS,
    SEEDS,
    WIDTH,
    LineParser,
    file_path,
    number,
    program,
)

MODELS = ("baseline", "half_mhe")


def make_parser() -> LineParser:
    """Returns the parser of this program's flags."""
    parser = LineParser(
        prog="benchmarks/digits.py",
        description="Compares a plain network with half-space MHE (s=2) on a few digits.",
    )
    parser.add_argument(
        "--out", type=file_path, default="runs/digits", help="folder of the runs and the figure"
    )
    parser.add_argument("--seeds", type=SEEDS, default=3, help="number of runs per model")
    parser.add_argument(
        "--train_images",
        type=COUNT,
        default=200,
        help="number of training images, balanced over classes",
    )
    parser.add_argument("--epochs", type=EPOCHS, default=20, help="epochs to train for")
    parser.add_argument("--batch_size", type=BATCH_SIZE, default=20, help="images per batch")
    parser.add_argument(
        "--base_lr",
        type=number(0, above=True),
        default=0.02,
        help="initial learning rate; both models train at the default, and worse at 0.05",
    )
    parser.add_argument(
        "--width",
        type=WIDTH,
        default=0.25,
        help="factor on the number of filters of every layer",
    )
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Trains what is missing, then prints the table and draws the figures.

    Args:
        argv: The flags; those of the process by default.
    """
    args = make_parser().parse_args(argv)
    out = Path(args.out)
    # The rates of the published recipe; its loss would only add a collapse here.
    flags = ["--model_name", *MODELS, "--dataset", "digits"]
    flags += ["--recipe", "published", "--loss", "cross_entropy"]
    flags += [text for name, value in vars(args).items() for text in (f"--{name}", str(value))]
    resolved, _ = train.make_parser().parse(flags)
    train.resolve_defaults(resolved)
    runs = train.expand_runs(resolved)
    finished = train.COMPARISON.make(
        {f"{each.model_name}-seed{each.seed}": each for each in runs.values()}, out, train.main
    )
    title = f"digits, {args.train_images} training images"
    train.COMPARISON.report(finished, out, title)
    print(f"Figures of each run: curves.png and angles.png in {out}/<model>-seed<k>")


if __name__ == "__main__":
    sys.exit(program(main))
