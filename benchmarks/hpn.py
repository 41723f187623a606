"""Trains hyperspherical prototype networks: classification, regression, or both at once.

Without flags this is the published CIFAR-100 recipe: ResNet-32, batches of 128, SGD with momentum
0.9 at 0.01, x0.1 after 100 and 200 of 250 epochs, crops and flips, weight decay 1e-4, the squared
distance of the cosine from 1 summed over the batch.

A list in --model_name, --dims or --task_weights, or --seeds, makes a folder of runs, one per
combination, and a table of them. The same command can be stopped and repeated: it keeps complete
runs and resumes the others.

Reference: Mettes et al., Hyperspherical Prototype Networks, NeurIPS 2019 (arXiv 1901.10514).
"""

import argparse
import math
import sys
from collections.abc import Sequence
from typing import Any

if __name__ == "__main__":
    from mhe_startup import start

    start(__file__)

import keras
import numpy as np
from tasks import hpn, long_tail, placed, sessions, unknown

from mhe.harness import figures, recipes
from mhe.harness.comparisons import Comparison, Varied, stem
from mhe.harness.errors import BadInput
from mhe.harness.files import write_csv
from mhe.harness.flags import COUNT, COUNT_OR_NONE, DIMS, Parser, file_path, number, program
from mhe.harness.run import Run
from mhe.harness.training import ImageTask, Program
from mhe.prototypes import order_kept, separation

TASKS = ("classification", "regression", "joint")
COMPARISON = Comparison(
    "benchmarks/hpn.py",
    [
        Varied("model_name"),
        Varied("dims", prefix="dims"),
        Varied("task_weights", prefix="weight", column="task_weight"),
    ],
    {
        "test_accuracy": 100,
        "validation_accuracy": 100,
        "test_mae": 1,
        "validation_mae": 1,
        **{f"test_{group}_accuracy": 100 for group in long_tail.GROUPS},
        **{f"validation_{group}_accuracy": 100 for group in long_tail.GROUPS},
        "smallest_angle": 1,
        **{
            f"{held_out}_{method}_{part}_accuracy": 100
            for held_out in ("test", "validation")
            for method in sessions.METHODS
            for part in sessions.PARTS
        },
    },
    shared=["task"],
)


def make_parser() -> Parser:
    """Returns the parser of this program's flags."""
    parser = Parser(
        COMPARISON.program,
        "Trains hyperspherical prototype networks and their baselines. A list in --model_name, "
        "--dims or --task_weights, or --seeds, makes a folder of runs and a table of them.",
    )
    parser.add_argument(
        "--task",
        choices=TASKS,
        default="classification",
        help="predict the class, a value, or both from one output",
    )
    parser.add_argument(
        "--model_name",
        nargs="+",
        choices=["hpn", "baseline", "half_mhe"],
        default=["hpn"],
        help="hpn: a prototype network; baseline: the same network with softmax cross-entropy for "
        "the class and mean squared error, of values scaled to [-1, 1], for the value; half_mhe: "
        "the baseline with minimum hyperspherical energy, in half space on hidden layers and in "
        "full space on the output layer",
    )
    parser.add_argument(
        "--strength",
        type=number(0),
        default=1.0,
        help="half_mhe: strength of the energy on hidden layers",
    )
    parser.add_argument(
        "--head_strength",
        type=number(0),
        default=10.0,
        help="half_mhe: strength of the energy on the output layer",
    )
    parser.add_argument(
        "--dims",
        nargs="+",
        type=DIMS,
        help="output dimensions of a prototype network; in joint training the first belongs to the "
        "value (default: 50, and 2 for regression)",
    )
    parser.add_argument(
        "--prototypes",
        type=file_path,
        metavar="FILE",
        help="a .npy of prototypes, as python -m mhe.prototypes writes it (default: place them as "
        "far apart as possible)",
    )
    parser.add_argument(
        "--semantics",
        type=file_path,
        metavar="FILE",
        help="prior knowledge about the classes, whose order of similarities the prototypes "
        "should keep: a .npy with a row per class, or word vectors with the names of the classes "
        "in the text format of word2vec and GloVe (default: none)",
    )
    parser.add_argument(
        "--semantics_weight",
        type=number(0),
        default=1.0,
        help="weight of that order relative to the separation",
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
        help="the value to predict: the dataset's own, such as OmniArt's years; or the angle in "
        "degrees by which each image was rotated, drawn once from a uniform distribution between "
        "--low and --high. Images are rotated for classification too",
    )
    parser.add_argument(
        "--low",
        type=number(-math.inf),
        help="the smallest value (default: that of the training set; -45 for rotation)",
    )
    parser.add_argument(
        "--high",
        type=number(-math.inf),
        help="the largest value (default: that of the training set; 45 for rotation)",
    )
    parser.add_argument(
        "--loss",
        choices=["squared", "cross_entropy", "dot_regression", "logit_adjusted"],
        default="squared",
        help="of a prototype network: squared, the published (1 - cos)^2, summed over the batch; "
        "dot_regression, half of it, averaged over the batch, as all that follow; cross_entropy, "
        "softmax cross-entropy of the cosines to the prototypes times --scale; logit_adjusted, "
        "the same with each logit adjusted by how frequent its class is. A baseline has "
        "cross-entropy, unless it is logit_adjusted",
    )
    parser.add_argument(
        "--tau",
        type=number(0),
        default=1.0,
        help="logit_adjusted: factor on the logarithms of the frequencies",
    )
    parser.add_argument(
        "--imbalance",
        type=number(1),
        metavar="RATIO",
        help="make the training set long-tailed: the first class keeps this many times as many "
        "images as the last, those between follow an exponential (default: as the data are)",
    )
    parser.add_argument(
        "--scale",
        type=number(0, above=True),
        default=16.0,
        help="factor on the cosines in the cross-entropy",
    )
    parser.add_argument(
        "--embedding_norm",
        choices=["none", "batch"],
        default="none",
        help="batch normalization of the embedding of a prototype network before its heads; the "
        "published network has none",
    )
    parser.add_argument(
        "--new_classes",
        type=COUNT_OR_NONE,
        default=0,
        help="train without the last classes of the dataset, this many, and then add them in "
        "sessions of --ways, from --shots images each: a prototype network gets the prototypes "
        "that were reserved for them, a baseline new columns, and either the nearest class mean",
    )
    parser.add_argument("--ways", type=COUNT, default=8, help="new classes per session")
    parser.add_argument("--shots", type=COUNT, default=5, help="images of each new class")
    parser.add_argument(
        "--session_lr",
        type=number(0, above=True),
        default=1e-3,
        help="learning rate of Adam, which tunes the last layer in a session",
    )
    parser.add_argument(
        "--session_steps",
        type=COUNT_OR_NONE,
        default=200,
        help="iterations in a session, each on its images and the mean features of all earlier "
        "classes",
    )
    unknown.add_flags(parser)
    recipes.add_comparison_flags(parser)
    recipes.add_network_flags(
        parser,
        arch="resnet32",
        epochs=250,
        base_lr=0.01,
        rate="; the loss of a prototype network is a sum over the batch, as published, that of a "
        "baseline a mean",
        drops="0.4,0.8",
        plain="none for digits and for --target rotation",
    )
    parser.added = {
        *("strength", "head_strength", "tau", "imbalance"),
        *("new_classes", "ways", "shots", "session_lr", "session_steps"),
    }
    return parser


def resolve_defaults(args: argparse.Namespace) -> None:
    """Resolves flags whose default depends on others, in place."""
    if args.dims is None:
        args.dims = [2 if args.task == "regression" else 50]
    if args.task_weights is None and args.task == "joint":
        args.task_weights = [0.5]
    if args.augment is None and args.target == "rotation":
        args.augment = "none"
    recipes.resolve_augment(args)


def check(args: argparse.Namespace) -> None:
    """Refuses flags that cannot be used together.

    Raises:
        BadInput: If some cannot.
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
    if args.task != "classification" and "half_mhe" in args.model_name:
        raise BadInput(
            "--model_name half_mhe spreads class vectors, and goes with --task classification. "
            f"Received: --task {args.task}"
        )
    of_classes = [
        *(["--imbalance"] if args.imbalance is not None else []),
        *([f"--loss {args.loss}"] if args.loss in ("dot_regression", "logit_adjusted") else []),
    ]
    if args.task == "regression" and of_classes:
        raise BadInput(f"{of_classes[0]} is for classes. Received: --task regression")
    if args.loss == "dot_regression" and set(args.model_name) != {"hpn"}:
        raise BadInput(
            "--loss dot_regression needs fixed prototypes, those of --model_name hpn. "
            f"Received: --model_name {' '.join(args.model_name)}"
        )
    if args.new_classes:
        if args.task != "classification" or args.imbalance is not None or args.semantics:
            raise BadInput(
                "--new_classes goes with --task classification, without --imbalance or "
                f"--semantics. Received: --task {args.task}, --imbalance {args.imbalance}, "
                f"--semantics {args.semantics}"
            )
        if args.new_classes % args.ways:
            raise BadInput(
                "--new_classes must be a multiple of --ways. "
                f"Received: --new_classes {args.new_classes} --ways {args.ways}"
            )
    if args.prototypes is not None and args.semantics is not None:
        raise BadInput(
            "--semantics is for placing prototypes, --prototypes reads prototypes already placed. "
            f"Received: --semantics {args.semantics} and --prototypes {args.prototypes}"
        )
    recipes.check(args)


def expand_runs(args: argparse.Namespace) -> dict[str, argparse.Namespace]:
    """Returns the flags of each run by the name of the run.

    Example:

    >>> args, _ = make_parser().parse(["--model_name", "baseline", "hpn", "--dims", "9", "3"])
    >>> resolve_defaults(args)
    >>> list(expand_runs(args))
    ['baseline-seed0', 'hpn-dims9-seed0', 'hpn-dims3-seed0']
    """
    return COMPARISON.combinations(args, _applicable)


def _applicable(values: dict[str, Any]) -> dict[str, Any]:
    # A baseline has no such dimensions: one run covers them all.
    return values if values["model_name"] == "hpn" else {**values, "dims": None}


class Task(ImageTask):
    """Trains one prototype network or its baseline."""

    def __init__(self, args: argparse.Namespace, run: Run | None):
        super().__init__(args, run)
        self.data = hpn.prepare(args)
        self.semantics = hpn.semantics(args, self.data)
        self.prototypes = placed.read_or_place(
            run, lambda: hpn.prototypes(args, self.data, self.semantics)
        )
        self.unknown = unknown.load(args, self.data)
        self.use(self.data.train, self.data.test)

    def build(self) -> keras.Model:
        """Builds and compiles the network."""
        return hpn.build(self.args, self.data, self.prototypes, self.steps)

    def prepare_run(self, run: Run) -> None:
        """Keeps the prototypes in the run's folder."""
        placed.keep(run, self.prototypes)

    def callbacks(self, run: Run) -> Sequence[keras.callbacks.Callback]:
        """Warns if the network does not learn."""
        if self.args.task != "classification":
            return []
        return [self.chance_warning(run, self.train[1]["label"])]

    def report(self, run: Run) -> dict[str, float]:
        """Draws the curves and the prototypes, and returns the metrics of the last epoch."""
        last = run.rows[-1]
        columns = {
            "accuracy": "accuracy" if self.args.task == "classification" else "label_accuracy",
            "mae": "mae" if self.args.task == "regression" else "value_mae",
        }
        columns = {name: column for name, column in columns.items() if column in last}
        figures.draw_metrics(run.rows, columns, run.folder / "curves.png", run.folder.name)
        metrics = {}
        for name, column in columns.items():
            metrics[f"{self.held_out}_{name}"] = last[f"val_{column}"]
            metrics[f"train_{name}"] = last[column]
        if self.prototypes is not None:
            metrics["separation"] = separation(self.prototypes)
            if self.semantics is not None:
                order = order_kept(self.prototypes, self.semantics).mean
                # A simplex, whose cosines are all equal, has no order to keep.
                if np.isfinite(order):
                    metrics["order_kept"] = order
            known = self.prototypes[: len(self.prototypes) - self.args.new_classes]
            hpn.draw_prototypes(self.model, known, self.data, run.folder)
        if self.unknown is not None:
            unknown.measure(self.model, self.args, self.data, self.unknown, run)
        if self.args.imbalance is not None:
            metrics |= self.long_tail()
        if self.data.later is not None:
            metrics |= self.new_classes(run, self.data.later)
        return {**metrics, "epochs": self.epochs}

    def new_classes(self, run: Run, later: sessions.Later) -> dict[str, float]:
        """Adds the new classes, and writes, prints and returns the accuracies."""
        (images, targets), (test_images, test_targets) = self.data.train, self.data.test
        old = (images, targets["label"]), (test_images, test_targets["label"])
        lines = sessions.add(self.model, self.prototypes, old, later, self.args)
        write_csv(run.folder / "sessions.csv", lines)
        print(sessions.table(lines))
        return sessions.metrics(lines, self.held_out)

    def long_tail(self) -> dict[str, float]:
        """Prints and returns the accuracies of frequent and rare classes, and their angle."""
        images, targets = self.data.test
        scores = recipes.predict(self.model, images)["label"]
        counts = hpn.class_counts(self.data)
        accuracies = long_tail.accuracies(targets["label"], scores.argmax(axis=1), counts)
        angle = hpn.smallest_angle(self.model, self.prototypes)
        print(long_tail.table(accuracies, counts))
        print(f"smallest angle between two class vectors: {angle:.2f} degrees")
        named = {f"{self.held_out}_{group}_accuracy": each for group, each in accuracies.items()}
        return {**named, "smallest_angle": angle}


def measure_complete(args: argparse.Namespace, run: Run) -> bool:
    """Measures a complete run on the images of `--unknown`.

    Args:
        args: The flags of the run, with lists.
        run: The run.

    Returns:
        Whether there are any.

    Raises:
        BadInput: If the images, the run's data or its checkpoint cannot be used.
    """
    if args.unknown is None:
        return False
    if not run.checkpoints:
        raise BadInput(f"--unknown needs a checkpoint of the run. Received: none in {run.folder}")
    (flags,) = expand_runs(args).values()
    task = Task(flags, run)
    task.model = task.build()
    run.restore(task.model)
    unknown.measure(task.model, flags, task.data, task.unknown, run)
    return True


PROGRAM = Program(
    make_parser,
    Task,
    COMPARISON,
    folder="{task}",
    resolve_defaults=resolve_defaults,
    check=check,
    expand_runs=expand_runs,
    title=lambda args: f"{stem(args.dataset)}, {args.task}",
    revisit=measure_complete,
)
main = PROGRAM.main

if __name__ == "__main__":
    sys.exit(program(main))
