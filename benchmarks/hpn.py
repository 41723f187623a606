"""Trains hyperspherical prototype networks: classification, regression, or both at once.

Without flags this is the published CIFAR-100 recipe: ResNet-32, batches of 128, SGD with momentum
0.9 at 0.01, x0.1 after 100 and 200 of 250 epochs, crops and flips, weight decay 1e-4, the squared
distance of the cosine from 1 summed over the batch.

A list in --model_name, --dims or --task_weights, or --seeds, makes a folder of runs, one for each
combination, and a table of them. Runs that are complete are not repeated and broken ones go on
where they stopped, so the same command can be stopped and called again.

Reference: Mettes et al., Hyperspherical Prototype Networks, NeurIPS 2019 (arXiv 1901.10514).
"""

import argparse
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from tasks import hpn as hpn_task
import keras
import numpy as np
from hpn_table import COMPARISON

from mhe.harness import figures, placed, recipes, runs
from mhe.harness.batches import Batches
from mhe.harness.chance import ChanceWarning
from mhe.harness.comparisons import stem
from mhe.harness.errors import BadInput
from mhe.harness.flags import Parser, integer, number, program
from mhe.prototypes import cosine_lower_bound, order_kept, separation

PROGRAM = "benchmarks/hpn.py"
TASKS = ("classification", "regression", "joint")


def make_parser() -> Parser:
    """Returns the parser of this program's flags."""
    parser = Parser(
        PROGRAM,
        "Trains hyperspherical prototype networks and their baselines. A list in --model_name, "
        "--dims or --task_weights, or --seeds, makes a folder of runs and a table of them.",
    )
    parser.add_argument(
        "--task",
        choices=TASKS,
        default="classification",
        help="tell classes apart, recover a value, or both from one output",
    )
    parser.add_argument(
        "--model_name",
        nargs="+",
        choices=["hpn", "baseline"],
        default=["hpn"],
        help="a prototype network; the same network with softmax cross-entropy for the class and "
        "mean squared error, of values scaled to [-1, 1], for the value",
    )
    parser.add_argument(
        "--dims",
        nargs="+",
        type=integer(2),
        help="output dimensions of a prototype network; in joint training the first belongs to the "
        "value (default: 50, and 2 for regression)",
    )
    parser.add_argument(
        "--prototypes",
        metavar="FILE",
        help="prototypes as a .npy, as python -m mhe.prototypes writes them (default: placed as "
        "far apart as is known)",
    )
    parser.add_argument(
        "--semantics",
        metavar="FILE",
        help="what is known of the classes beforehand, whose order the prototypes' similarities "
        "should keep: a .npy with a row a class, or word vectors with the names of the classes, "
        "as word2vec or GloVe write them as text",
    )
    parser.add_argument(
        "--semantics_weight",
        type=number(0),
        default=1.0,
        help="weight of that order beside the separation",
    )
    parser.add_argument(
        "--task_weights",
        nargs="+",
        type=number(0),
        help="joint training: w of the loss (1 - w) regression + w classification, from 0 to 1 "
        "(default: 0.5)",
    )
    parser.add_data_flags("cifar100")
    parser.add_argument(
        "--target",
        choices=["dataset", "rotation"],
        default="dataset",
        help="the value to recover: the dataset's own, as OmniArt's years; or the angle in degrees "
        "that each image was turned by, drawn once and evenly from --low to --high. Images are "
        "turned for classification too",
    )
    parser.add_argument(
        "--low",
        type=number(-math.inf),
        help="the least value (default: of the training set; -45 for rotation)",
    )
    parser.add_argument(
        "--high",
        type=number(-math.inf),
        help="the largest value (default: of the training set; 45 for rotation)",
    )
    parser.add_argument(
        "--loss",
        choices=["squared", "cross_entropy"],
        default="squared",
        help="the published (1 - cos)^2, summed over the batch; or softmax cross-entropy of the "
        "cosines with the prototypes times --scale, a mean over the batch, as then is the "
        "squared error of the value",
    )
    parser.add_argument(
        "--scale",
        type=number(0, above=True),
        default=16.0,
        help="factor of the cosines in the cross-entropy",
    )
    parser.add_argument(
        "--embedding_norm",
        choices=["none", "batch"],
        default="none",
        help="batch norm of the embedding of a prototype network before its heads, which is not "
        "in the published one",
    )
    recipes.add_comparison_flags(parser)
    recipes.add_network_flags(
        parser,
        arch="resnet32",
        epochs=250,
        base_lr=0.01,
        rate=". The loss of a prototype network is a sum over the batch, as published, that of a "
        "baseline a mean",
        drops="0.4,0.8",
        plain="none for digits and for --target rotation",
    )
    return parser


def fill_in(args: argparse.Namespace) -> None:
    """Settles the flags whose default depends on others; those of a resumed run are settled."""
    if args.dims is None:
        args.dims = [2 if args.task == "regression" else 50]
    if args.task_weights is None and args.task == "joint":
        args.task_weights = [0.5]
    if args.augment is None:
        plain = args.dataset == "digits" or args.target == "rotation"
        args.augment = "none" if plain else "crop_flip"
    if args.out is None:
        args.out = Path("runs", f"{stem(args.dataset)}-{args.task}")


def check(args: argparse.Namespace) -> None:
    """Refuses flags that do not go together.

    Raises:
        BadInput: If they do not.
    """
    if args.task_weights is not None:
        if args.task != "joint":
            raise BadInput(f"--task_weights goes with --task joint. Received: --task {args.task}")
        if max(args.task_weights) > 1:
            raise BadInput(
                f"--task_weights must be from 0 to 1. Received: {max(args.task_weights):g}"
            )
    if args.task == "joint" and "hpn" in args.model_name and min(args.dims) < 3:
        raise BadInput(
            "--dims must be at least 3 in joint training, 1 for the value and 2 or more for the "
            f"classes. Received: {min(args.dims)}"
        )
    if args.prototypes is not None and args.semantics is not None:
        raise BadInput(
            "--semantics says where prototypes are placed, --prototypes that they are. "
            f"Received: --semantics {args.semantics} and --prototypes {args.prototypes}"
        )
    recipes.check(args)


def single(args: argparse.Namespace) -> dict[str, argparse.Namespace]:
    """Returns the flags of every run that is asked for, by the name of the run.

    Args:
        args: The settled flags, with lists.

    Example:

    >>> args, _ = make_parser().settle(["--model_name", "baseline", "hpn", "--dims", "9", "3"])
    >>> fill_in(args)
    >>> list(single(args))
    ['baseline-seed0', 'hpn-dims9-seed0', 'hpn-dims3-seed0']
    """
    return COMPARISON.combinations(args, _applicable)


def _applicable(values: dict[str, Any]) -> dict[str, Any]:
    # A baseline has no such dimensions: one run serves them all.
    return {**values, "dims": None} if values["model_name"] == "baseline" else values


def train(args: argparse.Namespace, run: runs.Run | None = None) -> dict[str, Any]:
    """Trains one network, and leaves a complete run folder.

    Args:
        args: The flags of the run, as `single` gives them.
        run: The run to go on with; None begins one in `args.out`.

    Returns:
        What `result.json` holds.

    Raises:
        BadInput: If the data, the flags and the folder cannot be used together.
        Diverged: If the loss is no longer a number.
    """
    figures.require_matplotlib()
    if run is None:
        runs.require_unused(args.out)
    data = hpn_task.prepare(args)
    images, targets = data.train
    known = hpn_task.semantics(args, data)
    rows = placed.kept(run)
    if rows is None:
        rows = hpn_task.prototypes(args, data, known)
    steps_per_epoch = math.ceil(len(images) / args.batch_size)

    keras.utils.set_random_seed(args.seed)
    model = hpn_task.build(args, data, rows, args.epochs * steps_per_epoch)
    run = runs.Run.begin_or_go_on(run, PROGRAM, args)
    placed.keep(run, rows)
    done = run.restore(model)
    chance = []
    if args.task == "classification":
        chance = [
            ChanceWarning(targets["label"], steps_per_epoch, args.epochs, args.base_lr, run.rows)
        ]
    with run:
        if done < args.epochs:
            model.fit(
                Batches(
                    images,
                    targets,
                    args.batch_size,
                    seed=args.seed,
                    augment=recipes.AUGMENTATIONS[args.augment],
                    epoch=done,
                ),
                validation_data=Batches(*data.test, recipes.TEST_BATCH, shuffle=False),
                initial_epoch=done,
                epochs=args.epochs,
                shuffle=False,
                verbose=0,
                callbacks=[*chance, *run.callbacks(args.epochs, seed=args.seed)],
            )
        columns = {
            "accuracy": "accuracy" if args.task == "classification" else "label_accuracy",
            "mae": "mae" if args.task == "regression" else "value_mae",
        }
        columns = {name: each for name, each in columns.items() if each in run.rows[-1]}
        figures.draw_metrics(run.rows, columns, run.folder / "curves.png", run.folder.name)
        metrics = {}
        for name, column in columns.items():
            metrics[f"{'validation' if args.validation else 'test'}_{name}"] = run.rows[-1][
                f"val_{column}"
            ]
            metrics[f"train_{name}"] = run.rows[-1][column]
        if rows is not None:
            metrics["separation"] = separation(rows)
            # A simplex, whose cosines are all equal, knows no order that could be kept.
            if known is not None and np.isfinite(order := order_kept(rows, known).mean):
                metrics["order_kept"] = order
            draw_prototypes(model, rows, data, run.folder)
        return run.finish({**metrics, "epochs": args.epochs})


def draw_prototypes(
    model: keras.Model, rows: np.ndarray, data: hpn_task.Data, folder: Path
) -> None:
    """Draws how far apart the prototypes are, and on a circle or a sphere the test embeddings too.

    Args:
        model: The trained network.
        rows: Its prototypes.
        data: What it was trained on.
        folder: The run's folder.
    """
    bound = cosine_lower_bound(*rows.shape)
    figures.draw_cosines(rows, folder / "cosines.png", bound, folder.name)
    draw = {2: figures.draw_circle, 3: figures.draw_sphere}.get(rows.shape[1])
    if draw is not None:
        images, targets = data.test
        embed = keras.Model(model.inputs, model.get_layer("label").input)
        embeddings = embed.predict(
            Batches(images, targets, recipes.TEST_BATCH, shuffle=False), verbose=0
        )
        draw(
            *(rows, embeddings, targets["label"], data.class_names),
            folder / "embeddings.png",
            folder.name,
        )


def main(argv: Sequence[str] | None = None) -> None:
    """Trains, goes on training, or compares.

    Args:
        argv: The flags; those of the process by default.
    """
    args, run = make_parser().settle(argv)
    if run is None:
        fill_in(args)
        check(args)
    COMPARISON.carry_out(
        *(single(args), run, args.out),
        train=train,
        main=main,
        title=f"{stem(args.dataset)}, {args.task}",
    )


if __name__ == "__main__":
    sys.exit(program(main))
