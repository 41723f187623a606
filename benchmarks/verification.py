"""Times verification of very many pairs against scikit-learn's ROC curve of the same pairs.

It alternates between

    scikit-learn   `sklearn.metrics.roc_curve`
    roc_curve      `sphereface_plus.verification.roc_curve`, the same curve
    verify_scores  the same curve, and the thresholds and accuracies of ten folds

on two kinds of pairs: `all`, every pair of a set of images, few of which show the same person, and
`half`, as many pairs, half of which do. For the first kind it also times `all_pairs`, which scores
them. Prints medians, ratios to scikit-learn and the peak memory of arrays beyond the scores, and
writes a CSV.
"""

import argparse
import sys
import tracemalloc
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

if __name__ == "__main__":
    from mhe_startup import start

    start(__file__)

import numpy as np
from timing.flags import add_rounds, timing_parser
from timing.results import Row, new_csv
from timing.rounds import compared, interleaved

from mhe.harness.errors import BadInput, within_memory
from mhe.harness.files import write_csv
from mhe.harness.flags import ANY_DIMS, SEVERAL, LineParser, integer, program
from mhe.harness.tables import text_table
from sphereface_plus import verification

COLUMNS = (
    *("pairs", "kind", "same", "method"),
    *("median_ms", "min_ms", "spread_ms", "rounds", "ratio", "memory_mib"),
)


def make_parser() -> LineParser:
    """Returns the parser of this program's flags."""
    parser = timing_parser(
        "verification",
        "Times verification of very many pairs against scikit-learn's ROC curve.",
        out="folder for the results",
        seeded="embeddings and scores",
    )
    add_rounds(parser, 9, 120.0, "kind of pairs")
    parser.add_argument(
        "--images",
        type=integer(40, 10**6),
        default=4473,
        help="number of images; the default makes 10 million pairs",
    )
    parser.add_argument("--people", type=SEVERAL, default=500, help="number of people")
    parser.add_argument("--dims", type=ANY_DIMS, default=512, help="dimensions of an embedding")
    return parser


def faces(flags: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Returns embeddings, each its person's direction plus noise, and the people's labels.

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
    """Returns scores, and whether each is of a same pair: every other one, 2 deviations higher.

    Example:

    >>> half_same(4, seed=0)[1]
    array([ True, False,  True, False])
    """
    same = np.arange(pairs) % 2 == 0
    scores = np.random.default_rng(seed).standard_normal(pairs, np.float32)
    return np.float32(0.1) * (scores + 2 * same), same


def peak_memory(call: Callable[[], Any]) -> float:
    """Returns the peak of the MiB of arrays that a call has in use, its result included.

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
    """Times calls in turn, and measures their memory in further calls.

    Args:
        kind: The kind of pairs.
        calls: What to time, by name.
        flags: The flags of this program.

    Returns:
        A row each, with the ratio of its median to that of the first.
    """
    times = interleaved(calls, flags["rounds"], flags["seconds"])
    return [
        {
            "kind": kind,
            "method": name,
            **numbers,
            "memory_mib": round(peak_memory(calls[name])),
        }
        for name, numbers in compared(times).items()
    ]


def table(rows: Sequence[Row]) -> str:
    """Returns the rows as text.

    Example:

    >>> row = {"kind": "half", "method": "roc_curve", "median_ms": 250.0, "spread_ms": 1.0}
    >>> print(table([{**row, "ratio": 0.5, "memory_mib": 70}]))
    pairs  method     median, s  spread, s  ratio  memory, MiB
    half   roc_curve       0.25       0.00   0.50           70
    """
    cells = [
        [
            row["kind"],
            row["method"],
            f"{row['median_ms'] / 1000:.2f}",
            f"{row['spread_ms'] / 1000:.2f}",
            f"{row['ratio']:.2f}",
            str(row["memory_mib"]),
        ]
        for row in rows
    ]
    header = ["pairs", "method", "median, s", "spread, s", "ratio", "memory, MiB"]
    return text_table(cells, header, left=(0, 1))


def check(args: argparse.Namespace) -> None:
    """Refuses people of whom too few have two images.

    Args:
        args: The flags.

    Raises:
        BadInput: If there are too many people.
    """
    if args.people > args.images - 10:
        raise BadInput(
            "--people must be at least 10 fewer than --images, so that ten folds have enough pairs "
            f"of a person. Received: {args.people} people and {args.images} images"
        )


def main(argv: Sequence[str] | None = None) -> None:
    """Measures what the flags ask for, prints the table, and writes the numbers to the folder.

    Args:
        argv: The flags; those of the process by default.
    """
    # It takes as long to load as Keras's smaller backends, and `--help` needs none of it.
    from sklearn import metrics

    args = make_parser().parse_args(argv)
    check(args)
    flags = vars(args)
    path = new_csv(flags["out"], "verification")
    with within_memory(f"--images {flags['images']} --dims {flags['dims']}"):
        embeddings, labels = faces(flags)
        all_scores = verification.all_pairs(embeddings, labels)
    rows: list[Row] = []
    for kind, (scores, same) in (
        ("all", all_scores),
        ("half", half_same(len(all_scores[0]), flags["seed"])),
    ):
        folds = verification.stratified_folds(same, seed=flags["seed"])
        calls: dict[str, Callable[[], Any]] = {
            "scikit-learn": partial(metrics.roc_curve, same, scores),
            "roc_curve": partial(verification.roc_curve, scores, same),
            "verify_scores": partial(verification.verify_scores, scores, same, folds),
        }
        if kind == "all":
            calls["all_pairs"] = partial(verification.all_pairs, embeddings, labels)
        sizes = {"pairs": len(scores), "same": int(same.sum())}
        rows += [sizes | row for row in measure(kind, calls, flags)]
    write_csv(path, rows, COLUMNS)
    print(f"{rows[0]['pairs']:,} pairs\n{table(rows)}\n\nNumbers in {path}")


if __name__ == "__main__":
    sys.exit(program(main))
