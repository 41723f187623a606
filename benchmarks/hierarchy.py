"""Compares ways to learn from the cost of each mistake: error rates and average costs.

Every method trains the same network: a plain softmax; prototypes that are learnt, guided by the
costs (metric-guided), fixed so that their distances follow the costs, fixed far apart on the
sphere, or class means; a softmax among siblings; and soft labels, hierarchical cross-entropy and
the squared earth mover's distance over plain logits.

Without flags this is metric-guided prototypes on CIFAR-100 and its 20 superclasses: ResNet-32 by
He et al.'s recipe for CIFAR, batches of 128, SGD with momentum 0.9 at 0.1, x0.1 after half and
three quarters of 164 epochs, crops and flips, weight decay 1e-4; the weight of the regularizer is
1, as in the published code.

A list in --model_name, or --seeds, makes a folder of runs, one per combination, and a table of
them. The same command can be stopped and repeated: it keeps complete runs and resumes the others.

With --decide cost, both the class of the largest score and that of least expected cost are
evaluated, from the same training.

Reference: Garnot and Landrieu, Leveraging class hierarchies with metric-guided prototype learning
(arXiv 2007.03047).
"""

import argparse
import math
import sys
from collections.abc import Sequence

if __name__ == "__main__":
    from mhe_startup import start

    start(__file__)

import keras
import numpy as np
from tasks import decisions, hierarchy, placed

import mhe
from mhe.harness import recipes
from mhe.harness.comparisons import Comparison, Varied, stem
from mhe.harness.errors import BadInput
from mhe.harness.flags import DIMS, Parser, file_path, number, program
from mhe.harness.run import Run
from mhe.harness.training import ImageTask, Program

COMPARISON = Comparison(
    "benchmarks/hierarchy.py",
    [Varied("model_name")],
    {
        **{
            f"{held_out}_{decided}{metric}": factor
            for held_out in ("test", "validation")
            for decided in ("", "decided_")
            for metric, factor in (
                ("error", 100),
                ("average_cost", 1),
                ("mistake_severity", 1),
                ("cost_at_5", 1),
            )
        },
        "distortion": 1,
    },
    shared=["dataset", "tree"],
)

BASE_LR = 0.1
# The loss of hyperspherical prototypes is a sum over the batch.
SUM_LR = 0.01


def make_parser() -> Parser:
    """Returns the parser of this program's flags."""
    parser = Parser(
        COMPARISON.program,
        "Compares ways to learn from the cost of each mistake. A list in --model_name, or --seeds, "
        "makes a folder of runs and a table of them.",
    )
    above = number(0, above=True)
    parser.add_argument(
        "--model_name",
        nargs="+",
        choices=hierarchy.MODELS,
        default=["metric_guided"],
        help="output and loss of the network: softmax cross-entropy; prototypes that are learnt, "
        "learnt and guided by the costs, fixed by the costs, fixed on the sphere, fixed there with "
        "cosines that follow the costs, or class means; softmax among the children of each node; "
        "or plain logits with soft labels, hierarchical cross-entropy, or the squared earth "
        "mover's distance",
    )
    parser.add_data_flags("cifar100")
    parser.add_argument(
        "--tree",
        type=file_path,
        help="the tree of the classes: a ready one (cifar10, cifar100, digits, inaturalist2019); a "
        "file with the path to one class per line, such as animal/dog/poodle; the categories.json "
        "of a year of iNaturalist; or 'names', if the names of the classes are such paths, like "
        "Omniglot's (default: the dataset's own ready tree, else names)",
    )
    parser.add_argument(
        "--dims", type=DIMS, default=64, help="dimensions of an embedding with prototypes"
    )
    parser.add_argument(
        "--distance",
        choices=["euclidean", "squared", "cosine", "huber"],
        help="distance to the prototypes; a class's logit is its negative (default: euclidean; "
        "squared for deepncm, as published)",
    )
    parser.add_argument(
        "--guide",
        choices=["distortion", "rank"],
        default="distortion",
        help="metric_guided: whether the distances between prototypes follow the costs up to "
        "scale, or only their order",
    )
    parser.add_argument(
        "--strength",
        type=number(0),
        default=1.0,
        help="metric_guided: weight of the guide relative to the cross-entropy",
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
        help="deepncm: decay of a class mean per batch that holds the class (default: no decay, "
        "the mean of all embeddings so far)",
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
        help="emd: added to every cost; if negative, classes at a smaller cost attract probability",
    )
    parser.add_argument(
        "--decide",
        choices=["score", "cost"],
        default="score",
        help="cost: besides the class of the largest score, evaluate the class, and the node of "
        "the tree, of least expected cost, from probabilities calibrated on half of the held-out "
        "images each; with --resume also for a complete run, and with the flags of a comparison "
        "for all of its runs",
    )
    parser.excluded.add("decide")
    recipes.add_comparison_flags(parser)
    recipes.add_network_flags(
        parser,
        arch="resnet32",
        epochs=164,
        base_lr=None,
        rate=f" (default: {BASE_LR:g}; {SUM_LR:g} for hyperspherical and frame, whose loss is a "
        "sum over the batch)",
        drops="0.5,0.75",
    )
    return parser


def resolve_defaults(args: argparse.Namespace) -> None:
    """Resolves flags whose default depends on others, in place."""
    if args.tree is None:
        args.tree = hierarchy.default_tree(args.dataset)
    recipes.resolve_augment(args)


def check(args: argparse.Namespace) -> None:
    """Refuses flags that cannot be used.

    Raises:
        BadInput: If some cannot.
    """
    recipes.check(args)
    if args.mean_decay is not None and args.mean_decay >= 1:
        raise BadInput(f"--mean_decay must be less than 1. Received: {args.mean_decay:g}")


def expand_runs(args: argparse.Namespace) -> dict[str, argparse.Namespace]:
    """Returns the flags of each run by the name of the run.

    Example:

    >>> args, _ = make_parser().parse(["--model_name", "softmax", "hyperspherical"])
    >>> resolve_defaults(args)
    >>> {name: flags.base_lr for name, flags in expand_runs(args).items()}
    {'softmax-seed0': 0.1, 'hyperspherical-seed0': 0.01}
    """
    runs = COMPARISON.combinations(args)
    for flags in runs.values():
        if flags.base_lr is None:
            flags.base_lr = SUM_LR if flags.model_name in hierarchy.ON_SPHERE else BASE_LR
        if flags.distance is None:
            flags.distance = "squared" if flags.model_name == "deepncm" else "euclidean"
    return runs


class Task(ImageTask):
    """Trains one network."""

    def __init__(self, args: argparse.Namespace, run: Run | None):
        super().__init__(args, run)
        self.data = recipes.load(args)
        self.data.require_classes()
        self.tree = hierarchy.read_tree(args.tree, self.data.class_names)
        self.costs = self.tree.cost_matrix()
        self.prototypes = placed.read_or_place(run, lambda: hierarchy.prototypes(args, self.costs))
        self.use(self.data.train, self.data.test)

    def build(self) -> keras.Model:
        """Builds and compiles the network."""
        shape = self.train[0].shape[1:]
        self.network = hierarchy.build(self.args, shape, self.tree, self.prototypes, self.steps)
        return self.network.model

    def prepare_run(self, run: Run) -> None:
        """Keeps fixed prototypes in the run's folder."""
        placed.keep(run, self.prototypes)

    def callbacks(self, run: Run) -> Sequence[keras.callbacks.Callback]:
        """Warns if the network does not learn."""
        return [self.chance_warning(run, self.train[1])]

    def report(self, run: Run) -> dict[str, float]:
        """Draws the curves, the mistakes and prototypes in the plane; returns the last metrics."""
        metrics = hierarchy.last_metrics(run.rows, self.held_out)
        prototypes = self.network.prototypes
        if prototypes is not None:
            metrics["distortion"] = mhe.metrics.distortion(prototypes, self.costs)
        hierarchy.draw(self.network, self.costs, self.data, run)
        scores = self.draw_mistakes(run)
        if self.args.decide == "cost":
            metrics |= self.decided(scores)
        return {**metrics, "epochs": self.epochs}

    def draw_mistakes(self, run: Run) -> np.ndarray:
        """Draws the mistakes on the held-out images, and returns the scores `(N, classes)`."""
        images, labels = self.data.test
        scores = recipes.predict(self.model, images)
        hierarchy.draw_mistakes(scores, labels, self.tree, run.folder)
        return scores

    def decided(self, scores: np.ndarray) -> dict[str, float]:
        """Prints what each way to decide makes of held-out scores, and returns the metrics."""
        labels = self.data.test[1]
        metrics = decisions.compare(scores, labels, self.tree)
        print(decisions.table(metrics))
        # Every run has these two, from its log.
        known = ("error", "average_cost")
        return {f"{self.held_out}_{k}": value for k, value in metrics.items() if k not in known}


def decide_complete(args: argparse.Namespace, run: Run) -> bool:
    """Adds the decisions of `--decide cost` to the result of a complete run.

    Args:
        args: The flags of the run, with lists.
        run: The run.

    Returns:
        Whether there was something to decide.

    Raises:
        BadInput: If the run's data or its checkpoint cannot be read.
    """
    if args.decide != "cost":
        return False
    if not run.checkpoints:
        raise BadInput(
            f"--decide cost needs a checkpoint of the run. Received: none in {run.folder}"
        )
    (flags,) = expand_runs(args).values()
    task = Task(flags, run)
    task.model = task.build()
    run.restore(task.model)
    run.finish({**run.result["metrics"], **task.decided(task.draw_mistakes(run))})
    return True


PROGRAM = Program(
    make_parser,
    Task,
    COMPARISON,
    folder="hierarchy",
    resolve_defaults=resolve_defaults,
    check=check,
    expand_runs=expand_runs,
    title=lambda args: f"{stem(args.dataset)}, tree {args.tree}",
    revisit=decide_complete,
)
main = PROGRAM.main

if __name__ == "__main__":
    sys.exit(program(main))
