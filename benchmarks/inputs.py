"""Compares images in memory with images that are streamed from disk, on one dataset.

In each round both are measured, each in a process of its own, which has its own peak of memory:

    batches     images per second that are shuffled and augmented, where nothing is trained on them
    training    images per second that `fit` trains a network on
    memory      the peak memory of the process, network and backend included

Prints medians and the ratios of streamed images to images in memory, round by round, and writes a
CSV.
"""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

if __name__ == "__main__":
    from mhe_startup import start

    start(__file__)

import keras
import numpy as np
from timing.flags import timing_parser
from timing.processes import ask, on_backend
from timing.results import Row, new_csv, progress
from timing.rounds import ratios

from mhe.harness import datasets
from mhe.harness.batches import Batches
from mhe.harness.errors import BadInput
from mhe.harness.files import write_csv
from mhe.harness.flags import BATCH_SIZE, COUNT, SECONDS, LineParser, file_paths, program
from mhe.harness.recipes import add_size_flags
from mhe.harness.tables import text_table

# How many bytes decoded images may take, by side.
SIDES = {"in memory": None, "streamed": 0}
UNITS = {"batches": "images/s", "training": "images/s", "memory_mib": "MiB"}
COLUMNS = ("backend", "what", *SIDES, "rounds", "ratio", "ratio_low", "ratio_high")


def make_parser() -> LineParser:
    """Returns the parser of this program's flags."""
    parser = timing_parser(
        "inputs",
        "Compares images in memory with images that are streamed from disk.",
        out="folder for the results",
        seeded="batches and the network",
    )
    parser.add_argument(
        "--dataset",
        type=file_paths,
        required=True,
        help="a folder or zip of images, or tar shards, as for the training programs",
    )
    add_size_flags(parser, arch="cnn9")
    parser.add_argument("--batch_size", type=BATCH_SIZE, default=128, help="images per batch")
    parser.add_argument("--rounds", type=COUNT, default=3, help="how often each is measured")
    parser.add_argument("--seconds", type=SECONDS, default=30.0, help="seconds per measurement")
    return parser


def require_images(flags: Mapping[str, Any]) -> datasets.Dataset:
    """Returns the dataset, streamed from disk.

    Args:
        flags: The flags of this program.

    Raises:
        BadInput: If it cannot be streamed, or has too few images for a batch.
    """
    data = datasets.load(flags["dataset"], memory=0)
    images, labels = data.train
    if not isinstance(images, datasets.StreamedImages):
        raise BadInput(
            "--dataset must be a folder or zip of images, or tar shards, which can be streamed "
            f"from disk. Received: {flags['dataset']}"
        )
    Batches(images, labels, flags["batch_size"], drop_remainder=True)
    return data


def measure(flags: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Measures both sides in turn.

    Args:
        flags: The flags of this program.

    Returns:
        What `timing.inputs.measure` returned in each round, by side.

    Raises:
        BadInput: If an image is damaged, or the network cannot be built for such images.
    """
    backend = keras.backend.backend()
    found: dict[str, list[dict[str, Any]]] = {side: [] for side in SIDES}
    with progress(flags["rounds"] * len(SIDES)) as bar:
        for turn in range(flags["rounds"]):
            # Neither side always comes first.
            for side in list(SIDES)[:: -1 if turn % 2 else 1]:
                bar.set_description_str(side)
                job = {**flags, "memory": SIDES[side]}
                worker = ("-m", "timing.inputs")
                process = f"The process with images {side}"
                (answer,) = ask(process, worker, job, on_backend(backend))
                if "refused" in answer:
                    raise BadInput(answer["refused"])
                found[side].append(answer)
                bar.update()
    return found


def compare(found: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[Row]:
    """Returns a row for each thing measured: medians, and quartiles of the ratios of the rounds.

    Args:
        found: From `measure`.

    Example:

    >>> rounds = {"batches": 900.0, "training": 90.0, "memory_mib": None}
    >>> rows = compare({"in memory": [rounds], "streamed": [{**rounds, "training": 81.0}]})
    >>> [(row["what"], row["ratio"]) for row in rows]
    [('batches', 1.0), ('training', 0.9)]
    """
    rows = []
    for what in UNITS:
        sides = {side: [each[what] for each in rounds] for side, rounds in found.items()}
        if any(None in each for each in sides.values()):
            continue  # Nothing tells a process its peak memory here.
        memory, streamed = (np.array(sides[side]) for side in ("in memory", "streamed"))
        rows.append(
            {
                "backend": keras.backend.backend(),
                "what": what,
                **{side: round(float(np.median(each)), 1) for side, each in sides.items()},
                "rounds": len(streamed),
                **ratios(streamed, to=memory),
            }
        )
    return rows


def table(rows: Sequence[Row]) -> str:
    """Returns the rows as text.

    Example:

    >>> row = {"what": "training", "in memory": 90.0, "streamed": 81.0, "ratio": 0.9}
    >>> print(table([{**row, "ratio_low": 0.88, "ratio_high": 0.91}]))
              unit      in memory  streamed  ratio     quartiles
    training  images/s         90        81  0.900  0.880, 0.910
    """
    cells = [
        [
            *(row["what"].removesuffix("_mib"), UNITS[row["what"]]),
            *(f"{row[side]:,.0f}" for side in SIDES),
            f"{row['ratio']:.3f}",
            f"{row['ratio_low']:.3f}, {row['ratio_high']:.3f}",
        ]
        for row in rows
    ]
    return text_table(cells, ["", "unit", *SIDES, "ratio", "quartiles"], left=(0, 1))


def main(argv: Sequence[str] | None = None) -> None:
    """Measures what the flags ask for, prints a table and writes the numbers.

    Args:
        argv: The flags; those of the process by default.
    """
    flags = vars(make_parser().parse_args(argv))
    data = require_images(flags)
    path = new_csv(flags["out"], f"inputs-{keras.backend.backend()}")
    print(data.in_words(), flush=True)
    rows = compare(measure(flags))
    write_csv(path, rows, COLUMNS)
    print(f"{table(rows)}\nNumbers in {path}")


if __name__ == "__main__":
    sys.exit(program(main))
