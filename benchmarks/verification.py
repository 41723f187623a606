"""Times verification of very many pairs against scikit-learn's ROC curve of the same pairs.

It takes turns between

    scikit-learn   `sklearn.metrics.roc_curve`
    roc_curve      `sphereface_plus.verification.roc_curve`, the same curve
    verify_scores  the same curve, and the thresholds and accuracies of ten folds

on pairs of two kinds: `all`, every pair of a set of images, of which few are of the same person,
and `half`, as many of each kind. It times `all_pairs` too, which scores the pairs of the first
kind. Prints medians, ratios to scikit-learn and the memory that arrays take at most beyond the
scores themselves, and writes a CSV.
"""

import argparse
import csv
import os
import sys
import tracemalloc
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from sklearn import metrics
from timing.worker import interleaved, summary

from mhe.harness.errors import BadInput
from mhe.harness.files import replacing
from mhe.harness.flags import LineParser, integer, number, program
from sphereface_plus import verification

Row = dict[str, Any]

COLUMNS = (
    *("pairs", "kind", "same", "method"),
    *("median_ms", "min_ms", "spread_ms", "rounds", "ratio", "memory_mib"),
)


def make_parser() -> LineParser:
    """Returns the parser of this program's flags."""
    parser = LineParser(
        prog="benchmarks/verification.py",
        description="Times verification of very many pairs against scikit-learn's ROC curve.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    positive = integer(1)
    parser.add_argument(
        "--images", type=integer(40), default=4473, help="images; the default has 10 million pairs"
    )
    parser.add_argument("--people", type=integer(2), default=500, help="whose images they are")
    parser.add_argument("--dims", type=positive, default=512, help="numbers in an embedding")
    parser.add_argument(
        "--rounds", type=positive, default=9, help="how often each call is timed at most"
    )
    parser.add_argument(
        "--seconds",
        type=number(0, above=True),
        default=120.0,
        help="no round begins when so many have passed, for each kind of pairs; three there are",
    )
    parser.add_argument("--seed", type=integer(0, 2**32 - 1), default=0, help="seed of the numbers")
    parser.add_argument("--out", default="runs/verification", help="folder for the results")
    return parser


def faces(flags: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings that are their person's direction and noise, and whose they are.

    Example:

    >>> embeddings, labels = faces({"images": 5, "people": 2, "dims": 3, "seed": 0})
    >>> embeddings.shape, labels
    ((5, 3), array([0, 1, 0, 1, 0]))
    """
    generator = np.random.default_rng(flags["seed"])
    labels = np.arange(flags["images"]) % flags["people"]
    people = generator.standard_normal((flags["people"], flags["dims"]), np.float32)
    noise = generator.standard_normal((flags["images"], flags["dims"]), np.float32)
    return people[labels] + np.float32(2.5) * noise, labels


def half_same(pairs: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores of which every other one is of a same pair, two standard deviations higher.

    Example:

    >>> half_same(4, seed=0)[1]
    array([ True, False,  True, False])
    """
    same = np.arange(pairs) % 2 == 0
    scores = np.random.default_rng(seed).standard_normal(pairs, np.float32)
    return np.float32(0.1) * (scores + 2 * same), same


def peak_memory(call: Callable[[], Any]) -> float:
    """Returns how many MiB of arrays a call has in use at most, its result among them.

    Example:

    >>> round(peak_memory(lambda: np.ones(2**20)))
    8
    """
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1] / 2**20
    finally:
        tracemalloc.stop()


def measure(
    kind: str, calls: Mapping[str, Callable[[], Any]], flags: Mapping[str, Any]
) -> list[Row]:
    """Times calls in turn, and finds their memory in calls of their own.

    Args:
        kind: Of the pairs.
        calls: What to time, by name.
        flags: The flags of this program.

    Returns:
        A row for each, with the ratio of its median to that of the first.
    """
    times = interleaved(calls, flags["rounds"], flags["seconds"])
    rows = [
        {
            "kind": kind,
            "method": name,
            **summary(each),
            "memory_mib": round(peak_memory(calls[name])),
        }
        for name, each in times.items()
    ]
    return [row | {"ratio": round(row["median_ms"] / rows[0]["median_ms"], 3)} for row in rows]


def table(rows: Sequence[Row]) -> str:
    """The rows as text.

    Example:

    >>> row = {"kind": "half", "method": "roc_curve", "median_ms": 250.0, "spread_ms": 1.0}
    >>> print(table([{**row, "ratio": 0.5, "memory_mib": 70}]))
    pairs  method           median, s   spread, s    ratio   memory, MiB
    half   roc_curve             0.25        0.00     0.50            70
    """
    lines = [
        f"{'pairs':<6} {'method':<14} {'median, s':>11} {'spread, s':>11} {'ratio':>8} "
        f"{'memory, MiB':>13}"
    ]
    for row in rows:
        lines.append(
            f"{row['kind']:<6} {row['method']:<14} {row['median_ms'] / 1000:>11.2f} "
            f"{row['spread_ms'] / 1000:>11.2f} {row['ratio']:>8.2f} {row['memory_mib']:>13}"
        )
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    """Measures what the flags say, prints the table, and leaves the numbers in the folder.

    Args:
        argv: The flags; those of the process by default.
    """
    flags = vars(make_parser().parse_args(argv))
    if flags["people"] > flags["images"] - 10:
        raise BadInput(
            "--people must be 10 fewer than --images, or ten folds have too few pairs of the same "
            f"person. Received: {flags['people']} people and {flags['images']} images"
        )
    path = Path(flags["out"]) / "verification.csv"
    if path.exists():
        raise BadInput(f"--out {flags['out']} has {path.name}, and nothing is overwritten")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"--out {flags['out']} cannot be written to: {error.strerror}") from error
    embeddings, labels = faces(flags)
    all_scores = verification.all_pairs(embeddings, labels)
    rows = []
    for kind, (scores, same) in (
        ("all", all_scores),
        ("half", half_same(len(all_scores[0]), flags["seed"])),
    ):
        folds = verification.stratified_folds(same, seed=flags["seed"])
        calls = {
            "scikit-learn": lambda scores=scores, same=same: metrics.roc_curve(same, scores),
            "roc_curve": lambda scores=scores, same=same: verification.roc_curve(scores, same),
            "verify_scores": lambda scores=scores, same=same, folds=folds: (
                verification.verify_scores(scores, same, folds)
            ),
        }
        if kind == "all":
            calls["all_pairs"] = lambda: verification.all_pairs(embeddings, labels)
        sizes = {"pairs": len(scores), "same": int(same.sum())}
        rows += [sizes | row for row in measure(kind, calls, flags)]
    with (
        replacing(path) as partial,
        open(partial, "w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    print(f"{rows[0]['pairs']:,} pairs\n{table(rows)}\n\nNumbers in {path}")


if __name__ == "__main__":
    sys.exit(program(main))
