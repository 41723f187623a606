"""Compares softmax, Magnet loss and RepMet on one network: classification, and retrieval.

Softmax ends in a dense layer over an embedding. Magnet loss pulls clusters of classes apart, which
k-means finds in the embedding of the whole training set before each epoch; classes are told by the
nearest clusters (kNC). RepMet learns several representatives a class; classes are told by their
mixture. Retrieval looks at the embedding alone: of the training images nearest to a test image, how
many are of its class?

Without flags this is softmax on CIFAR-100, ResNet-32, batches of 128, SGD with momentum 0.9, x0.1
after half and three quarters of 164 epochs, crops and flips, weight decay 1e-4.

A list in --model_name, or --seeds, makes a folder of runs, one for each combination, and a table
of them. Runs that are complete are not repeated and broken ones go on where they stopped, so the
same command can be stopped and called again.

References: Rippel et al., Metric learning with adaptive density discrimination, ICLR 2016
(arXiv 1511.05939). Karlinsky et al., RepMet: Representative-based metric learning for
classification and few-shot object detection, CVPR 2019 (arXiv 1806.04728).
"""

import argparse
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from tasks import clusters as clusters_task
import keras
from clusters_table import COMPARISON

from mhe.clusters import ClusterError
from mhe.harness import figures, recipes, runs
from mhe.harness.comparisons import stem
from mhe.harness.flags import Parser, integer, number, program

PROGRAM = "benchmarks/clusters.py"


def make_parser() -> Parser:
    """Returns the parser of this program's flags."""
    parser = Parser(
        PROGRAM,
        "Compares softmax, Magnet loss and RepMet on one network. A list in --model_name, or "
        "--seeds, makes a folder of runs and a table of them.",
    )
    positive = integer(1)
    parser.add_argument(
        "--model_name",
        nargs="+",
        choices=clusters_task.MODELS,
        default=["softmax"],
        help="softmax cross-entropy over an embedding; Magnet loss of the embedding; RepMet, the "
        "closest representative of the class over those of all others, or the share of the class "
        "in the mixture of all representatives",
    )
    parser.add_data_flags("cifar100")
    parser.add_argument("--dims", type=positive, default=64, help="dimensions of the embedding")
    parser.add_argument(
        "--embedding_norm",
        choices=["none", "batch", "unit"],
        default="none",
        help="batch norm of the embedding, or unit length, before what each model makes of it",
    )
    parser.add_argument(
        "--per_class",
        type=positive,
        default=3,
        help="clusters (magnet) or representatives (repmet) of each class",
    )
    parser.add_argument(
        "--members",
        type=positive,
        default=4,
        help="magnet: images of each cluster in a batch, which holds --batch_size / --members "
        "clusters",
    )
    parser.add_argument(
        "--alpha",
        type=number(-math.inf),
        default=1.0,
        help="the separation wanted of clusters, or the margin of representatives, in units of "
        "the logarithm",
    )
    parser.add_argument(
        "--sigma",
        type=number(0, above=True),
        default=0.5,
        help="repmet: standard deviation of the Gaussian around each representative",
    )
    parser.add_argument(
        "--nearest_clusters",
        type=positive,
        default=128,
        help="magnet: clusters nearest to a test image, which tell its class",
    )
    parser.add_argument(
        "--neighbours",
        type=positive,
        default=10,
        help="training images nearest to a test image, of which retrieval counts those of its "
        "class",
    )
    recipes.add_comparison_flags(parser)
    recipes.add_network_flags(
        parser,
        arch="resnet32",
        epochs=164,
        base_lr=0.1,
        rate="",
        drops="0.5,0.75",
    )
    return parser


def fill_in(args: argparse.Namespace) -> None:
    """Settles the flags whose default depends on others; those of a resumed run are settled."""
    if args.augment is None:
        args.augment = "none" if args.dataset == "digits" else "crop_flip"
    if args.out is None:
        args.out = Path("runs", f"{stem(args.dataset)}-clusters")


def train(args: argparse.Namespace, run: runs.Run | None = None) -> dict[str, Any]:
    """Trains one network, and leaves a complete run folder.

    Args:
        args: The flags of the run, with one model.
        run: The run to go on with; None begins one in `args.out`.

    Returns:
        What `result.json` holds.

    Raises:
        BadInput: If the data, the flags and the folder cannot be used together.
        Diverged: If the loss is no longer a number, or the embedding has collapsed.
    """
    figures.require_matplotlib()
    if run is None:
        runs.require_unused(args.out)
    data = recipes.load(args)
    data.require_classes()
    clusters_task.check(args, data)
    keras.utils.set_random_seed(args.seed)
    network = clusters_task.build(args, data)
    run = runs.Run.begin_or_go_on(run, PROGRAM, args)
    done = run.restore(network.model)
    with run:
        try:
            if done < args.epochs:
                batches, tested, callbacks = clusters_task.training(args, data, done, run.rows)
                network.model.fit(
                    batches,
                    validation_data=tested,
                    initial_epoch=done,
                    epochs=args.epochs,
                    shuffle=False,
                    verbose=0,
                    callbacks=[*run.callbacks(args.epochs, seed=args.seed), *callbacks],
                )
            found = clusters_task.evaluate(args, network, data)
        except ClusterError as error:
            raise runs.Diverged(f"After epoch {run.epoch}: {error}. {run.advice}") from error
        part = "validation" if args.validation else "test"
        metrics = {f"{part}_{name}": value for name, value in found.items()}
        last = run.rows[-1]
        if "accuracy" in last:
            metrics["train_accuracy"] = last["accuracy"]
        columns = {name: name for name in ("loss", "accuracy") if name in last}
        figures.draw_metrics(run.rows, columns, run.folder / "curves.png", run.folder.name)
        return run.finish({**metrics, "epochs": args.epochs})


def main(argv: Sequence[str] | None = None) -> None:
    """Trains, goes on training, or compares.

    Args:
        argv: The flags; those of the process by default.
    """
    args, run = make_parser().settle(argv)
    if run is None:
        fill_in(args)
        recipes.check(args)
    COMPARISON.carry_out(
        *(COMPARISON.combinations(args), run, args.out),
        train=train,
        main=main,
        title=stem(args.dataset),
    )


if __name__ == "__main__":
    sys.exit(program(main))
