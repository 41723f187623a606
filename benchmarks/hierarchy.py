"""Compares ways to learn from the cost of each mistake: error rates and average costs.

Every method trains the same network: a plain softmax; prototypes that are learnt, guided by the
costs (metric-guided), fixed where their distances follow the costs, fixed far apart on the sphere,
or class means; a softmax among siblings; and soft labels, hierarchical cross-entropy and the
squared earth mover's distance over plain logits.

Without flags this is metric-guided prototypes on CIFAR-100 and its 20 superclasses: ResNet-32 by
He et al.'s recipe for CIFAR, batches of 128, SGD with momentum 0.9 at 0.1, x0.1 after half and
three quarters of 164 epochs, crops and flips, weight decay 1e-4; the regularizer weighs 1, as in
the published code.

A list in --model_name, or --seeds, makes a folder of runs, one for each combination, and a table
of them. Runs that are complete are not repeated and broken ones go on where they stopped, so the
same command can be stopped and called again.

Reference: Garnot and Landrieu, Leveraging class hierarchies with metric-guided prototype learning
(arXiv 2007.03047).
"""

import argparse
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from tasks import hierarchy as hierarchy_task
import keras
from hierarchy_table import COMPARISON

import mhe
from mhe.harness import figures, placed, recipes, runs
from mhe.harness.batches import Batches
from mhe.harness.chance import ChanceWarning
from mhe.harness.comparisons import stem
from mhe.harness.datasets import Dataset
from mhe.harness.errors import BadInput
from mhe.harness.flags import Parser, integer, number, program

PROGRAM = "benchmarks/hierarchy.py"

BASE_LR = 0.1
# The loss of hyperspherical prototypes is a sum over the batch.
SUM_LR = 0.01


def make_parser() -> Parser:
    """Returns the parser of this program's flags."""
    parser = Parser(
        PROGRAM,
        "Compares ways to learn from the cost of each mistake. A list in --model_name, or --seeds, "
        "makes a folder of runs and a table of them.",
    )
    above = number(0, above=True)
    parser.add_argument(
        "--model_name",
        nargs="+",
        choices=hierarchy_task.MODELS,
        default=["metric_guided"],
        help="what the network ends in and is trained with: softmax cross-entropy; prototypes that "
        "are learnt, learnt and guided by the costs, fixed by the costs, fixed on the sphere, or "
        "the means of the classes; softmax among the children of every node; or plain logits with "
        "soft labels, hierarchical cross-entropy, or the squared earth mover's distance",
    )
    parser.add_data_flags("cifar100")
    parser.add_argument(
        "--tree",
        help="what the classes belong to: a ready tree (cifar10, cifar100, digits, "
        "inaturalist2019); a file with the path to a class in each line, such as animal/dog/"
        "poodle; the categories.json of a year of iNaturalist; or 'names', where the names of the "
        "classes are such paths, as Omniglot's are (default: the dataset's own ready tree, else "
        "names)",
    )
    parser.add_argument(
        "--dims", type=integer(2), default=64, help="dimensions of an embedding with prototypes"
    )
    parser.add_argument(
        "--distance",
        choices=["euclidean", "squared", "cosine", "huber"],
        help="distance from prototypes, whose negative is a class's logit (default: euclidean; "
        "squared for deepncm, as published)",
    )
    parser.add_argument(
        "--guide",
        choices=["distortion", "rank"],
        default="distortion",
        help="metric_guided: what follows the costs, the distances between prototypes, whatever "
        "their scale; or only their order",
    )
    parser.add_argument(
        "--strength",
        type=number(0),
        default=1.0,
        help="metric_guided: weight of that beside the cross-entropy",
    )
    parser.add_argument(
        "--scale",
        type=above,
        default=5.0,
        help="fixed_metric: distance between prototypes for a cost of 1",
    )
    parser.add_argument(
        "--mean_decay",
        type=number(0),
        help="deepncm: the part of a class's mean that stays when it is in a batch (default: none; "
        "means are of all embeddings there ever were)",
    )
    parser.add_argument(
        "--beta",
        type=above,
        default=10.0,
        help="soft_labels: the labels are softmax(-beta costs / largest cost)",
    )
    parser.add_argument(
        "--alpha",
        type=number(0),
        default=0.1,
        help="hxe: how fast the weight of an edge decays, exp(-alpha depth)",
    )
    parser.add_argument(
        "--mu",
        type=number(-math.inf),
        default=0.0,
        help="emd: what is added to every cost; below 0, classes nearer than that draw probability",
    )
    recipes.add_comparison_flags(parser)
    recipes.add_network_flags(
        parser,
        arch="resnet32",
        epochs=164,
        base_lr=None,
        rate=f" (default: {BASE_LR:g}; {SUM_LR:g} for hyperspherical, whose loss is a sum over the "
        "batch)",
        drops="0.5,0.75",
    )
    return parser


def fill_in(args: argparse.Namespace) -> None:
    """Settles the flags whose default depends on others; those of a resumed run are settled."""
    if args.tree is None:
        args.tree = hierarchy_task.default_tree(args.dataset)
    if args.augment is None:
        args.augment = "none" if args.dataset == "digits" else "crop_flip"
    if args.out is None:
        args.out = Path("runs", f"{stem(args.dataset)}-hierarchy")


def check(args: argparse.Namespace) -> None:
    """Refuses flags that cannot be used.

    Raises:
        BadInput: If they cannot.
    """
    recipes.check(args)
    if args.mean_decay is not None and args.mean_decay >= 1:
        raise BadInput(f"--mean_decay must be less than 1. Received: {args.mean_decay:g}")


def single(args: argparse.Namespace) -> dict[str, argparse.Namespace]:
    """Returns the flags of every run that is asked for, by the name of the run.

    Args:
        args: The settled flags, with lists.

    Example:

    >>> args, _ = make_parser().settle(["--model_name", "softmax", "hyperspherical"])
    >>> fill_in(args)
    >>> {name: flags.base_lr for name, flags in single(args).items()}
    {'softmax-seed0': 0.1, 'hyperspherical-seed0': 0.01}
    """
    found = COMPARISON.combinations(args)
    for flags in found.values():
        if flags.base_lr is None:
            flags.base_lr = SUM_LR if flags.model_name == "hyperspherical" else BASE_LR
        if flags.distance is None:
            flags.distance = "squared" if flags.model_name == "deepncm" else "euclidean"
    return found


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
    data = recipes.load(args)
    data.require_classes()
    tree = hierarchy_task.read_tree(args.tree, data.class_names)
    images, labels = data.train
    rows = placed.kept(run)
    if rows is None:
        rows = hierarchy_task.prototypes(args, tree.cost_matrix())
    steps_per_epoch = math.ceil(len(images) / args.batch_size)

    keras.utils.set_random_seed(args.seed)
    steps = args.epochs * steps_per_epoch
    network = hierarchy_task.build(args, images.shape[1:], tree, rows, steps)
    run = runs.Run.begin_or_go_on(run, PROGRAM, args)
    placed.keep(run, rows)
    done = run.restore(network.model)
    with run:
        if done < args.epochs:
            network.model.fit(
                Batches(
                    images,
                    labels,
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
                callbacks=[
                    ChanceWarning(labels, steps_per_epoch, args.epochs, args.base_lr, run.rows),
                    *run.callbacks(args.epochs, seed=args.seed),
                ],
            )
        metrics = measured(run.rows, "validation" if args.validation else "test")
        if network.prototypes is not None:
            metrics["distortion"] = mhe.metrics.distortion(network.prototypes, tree.cost_matrix())
        draw(network, tree, data, run)
        return run.finish({**metrics, "epochs": args.epochs})


def measured(rows: Sequence[dict[str, float]], held_out: str) -> dict[str, float]:
    """Returns the metrics of a run by name, from the last row of its log.

    Args:
        rows: The rows of its log.
        held_out: What the network was evaluated on, `"test"` or `"validation"`.

    Example:

    >>> row = {"accuracy": 0.75, "val_accuracy": 0.5, "average_cost": 0.5, "val_average_cost": 1}
    >>> measured([row], "test")["test_error"], measured([row], "test")["train_average_cost"]
    (0.5, 0.5)
    """
    last = rows[-1]
    metrics = {}
    for part, prefix in ((held_out, "val_"), ("train", "")):
        accuracy = last[f"{prefix}accuracy"]
        metrics |= {f"{part}_accuracy": accuracy, f"{part}_error": 1 - accuracy}
        for name in last:
            if name.startswith(("average_cost", "hierarchical_distance", "error_at_level")):
                metrics[f"{part}_{name}"] = last[f"{prefix}{name}"]
    return metrics


def draw(
    network: hierarchy_task.Network, tree: mhe.ClassTree, data: Dataset, run: runs.Run
) -> None:
    """Draws the curves of a run, and in the plane its prototypes and test embeddings too.

    Args:
        network: The trained network.
        tree: Its classes.
        data: What it was trained on.
        run: The run.
    """
    rows = [
        {**row, "error": 1 - row["accuracy"], "val_error": 1 - row["val_accuracy"]}
        for row in run.rows
    ]
    columns = {"error rate": "error", "average cost": "average_cost"}
    figures.draw_metrics(rows, columns, run.folder / "curves.png", run.folder.name)
    prototypes = network.prototypes
    if prototypes is not None and prototypes.shape[1] == 2:
        images, labels = data.test
        batches = Batches(images, labels, recipes.TEST_BATCH, shuffle=False)
        embeddings = network.backbone.predict(batches, verbose=0)
        figures.draw_plane(
            *(prototypes, embeddings, labels, data.class_names, tree.cost_matrix()),
            run.folder / "embeddings.png",
            f"{run.folder.name}: error rate {100 * rows[-1]['val_error']:.1f}%, "
            f"average cost {rows[-1]['val_average_cost']:.3f}",
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
        title=f"{stem(args.dataset)}, tree {args.tree}",
    )


if __name__ == "__main__":
    sys.exit(program(main))
