"""Compares a plain network with half-space MHE on the embedded digits, with few training images.

Every model and seed is a run of `benchmarks/train.py` in a folder of its own. Runs that are
complete are not repeated and broken ones go on where they stopped, so the program can be stopped
and called again. It needs no network and a few minutes on two cores.
"""

import argparse
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import train

from mhe.harness import figures, runs
from mhe.harness.flags import LineParser, integer, number, program

MODELS = ("baseline", "half_mhe")


def make_parser() -> argparse.ArgumentParser:
    """Returns the parser of this program's flags."""
    parser = LineParser(
        prog="benchmarks/digits.py",
        description="Compares a plain network with half-space MHE (s=2) on few digits.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    positive = integer(1)
    parser.add_argument("--out", default="runs/digits", help="folder of the runs and the figure")
    parser.add_argument("--seeds", type=positive, default=3, help="seeds for each model")
    parser.add_argument("--train_images", type=positive, default=200, help="training images")
    parser.add_argument("--epochs", type=positive, default=20, help="epochs")
    parser.add_argument("--batch_size", type=positive, default=20, help="images in a batch")
    parser.add_argument(
        "--base_lr",
        type=number(0, above=True),
        default=0.02,
        help="learning rate; both models train at the default one, and worse at 0.05",
    )
    parser.add_argument(
        "--width",
        type=number(0, above=True),
        default=0.25,
        help="factor on the filters of CNN-9",
    )
    return parser


def table(results: Mapping[str, Sequence[Mapping[str, float]]]) -> str:
    """Lays out what the runs ended at, a line a model.

    Args:
        results: For each model the metrics of its runs, one a seed.

    Returns:
        Lines of text: means, and with more than one seed the standard deviations of the sample,
        which divide by n - 1.

    Example:

    >>> one = {"test_accuracy": 0.8, "train_accuracy": 1.0, "energy": 0.5}
    >>> two = {"test_accuracy": 0.9, "train_accuracy": 1.0, "energy": 0.7}
    >>> print(table({"baseline": [one, two], "half_mhe": [one]}))
    model     seeds  test accuracy (%)  train accuracy (%)  mean energy
    baseline      2       85.00 ± 7.07       100.00 ± 0.00        0.600
    half_mhe      1              80.00              100.00        0.500
    """
    lines = [f"{'model':9} {'seeds':>5}  test accuracy (%)  train accuracy (%)  mean energy"]
    for model, metrics in results.items():
        test, training, energy = (
            np.array([each[name] for each in metrics])
            for name in ("test_accuracy", "train_accuracy", "energy")
        )
        lines.append(
            f"{model:9} {len(metrics):5}  {_percent(test):>17}  {_percent(training):>18}  "
            f"{energy.mean():11.3f}"
        )
    return "\n".join(lines)


def _percent(shares: np.ndarray) -> str:
    mean = f"{100 * shares.mean():.2f}"
    return mean if shares.size == 1 else f"{mean} ± {100 * shares.std(ddof=1):.2f}"


def main(argv: Sequence[str] | None = None) -> None:
    """Trains what is missing, then prints the table and draws the figure.

    Args:
        argv: The flags; those of the process by default.
    """
    args = make_parser().parse_args(argv)
    out = Path(args.out)
    finished = {model: [] for model in MODELS}
    for seed in range(args.seeds):
        for model in MODELS:
            folder = out / f"{model}-seed{seed}"
            flags = {
                "model_name": model,
                "power_s": "2",
                "dataset": "digits",
                "seed": seed,
                **{
                    name: value
                    for name, value in vars(args).items()
                    if name not in ("out", "seeds")
                },
                "resume" if (folder / "config.json").exists() else "out": folder,
            }
            command = [text for name, value in flags.items() for text in (f"--{name}", str(value))]
            print(f"\npython {train.PROGRAM} {shlex.join(command)}", flush=True)
            train.main(command)
            finished[model].append(runs.Run.resume(folder))
            # The next model is a fresh one; this frees the graphs of the last.
            keras.backend.clear_session()
    figure = out / "comparison.png"
    figures.draw_comparison(
        {model: [run.rows for run in each] for model, each in finished.items()},
        figure,
        f"digits, {args.train_images} training images",
    )
    print(f"\n{table({m: [run.result['metrics'] for run in r] for m, r in finished.items()})}\n")
    print(f"Figures: {figure}, and curves.png and angles.png in {out}/<model>-seed<k>")


if __name__ == "__main__":
    sys.exit(program(main))
