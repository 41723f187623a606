"""Compares softmax, Magnet loss and RepMet on one network: classification, and retrieval.

Softmax ends in a dense layer over an embedding. Magnet loss separates clusters of classes, which
k-means finds in the embedding of the whole training set before each epoch; the nearest clusters
predict the class (kNC). RepMet learns several representatives per class, whose mixture predicts the
class. Retrieval uses the embedding alone: of the training images nearest to a test image, how many
are of its class?

Without flags this is softmax on CIFAR-100, ResNet-32, batches of 128, SGD with momentum 0.9, x0.1
after half and three quarters of 164 epochs, crops and flips, weight decay 1e-4.

A list in --model_name, or --seeds, makes a folder of runs, one per combination, and a table of
them. The same command can be stopped and repeated: it keeps complete runs and resumes the others.

References: Rippel et al., Metric learning with adaptive density discrimination, ICLR 2016
(arXiv 1511.05939). Karlinsky et al., RepMet: Representative-based metric learning for
classification and few-shot object detection, CVPR 2019 (arXiv 1806.04728).
"""

import argparse
import math
import sys
from collections.abc import Sequence

if __name__ == "__main__":
    from mhe_startup import start

    start(__file__)

import keras
from tasks import clusters

from mhe.clusters import ClusterError, RefreshClusters
from mhe.harness import figures, recipes
from mhe.harness.comparisons import Comparison, Varied
from mhe.harness.flags import ANY_DIMS, COUNT, Parser, number, program
from mhe.harness.run import Run
from mhe.harness.training import ImageTask, Program

COMPARISON = Comparison(
    "benchmarks/clusters.py",
    [Varied("model_name")],
    {
        "test_accuracy": 100,
        "test_retrieval_accuracy": 100,
        "validation_accuracy": 100,
        "validation_retrieval_accuracy": 100,
    },
    shared=["dataset"],
)


def make_parser() -> Parser:
    """Returns the parser of this program's flags."""
    parser = Parser(
        COMPARISON.program,
        "Compares softmax, Magnet loss and RepMet on one network. A list in --model_name, or "
        "--seeds, makes a folder of runs and a table of them.",
    )
    parser.add_argument(
        "--model_name",
        nargs="+",
        choices=clusters.MODELS,
        default=["softmax"],
        help="softmax: cross-entropy over an embedding; magnet: Magnet loss of the embedding; "
        "repmet1: RepMet with the closest representative of the class against those of all others; "
        "repmet2: RepMet with the share of the class in the mixture of all representatives",
    )
    parser.add_data_flags("cifar100")
    parser.add_argument("--dims", type=ANY_DIMS, default=64, help="dimensions of the embedding")
    parser.add_argument(
        "--embedding_norm",
        choices=["none", "batch", "unit"],
        default="none",
        help="normalization of the embedding: none, batch normalization, or unit length",
    )
    parser.add_argument(
        "--per_class",
        type=COUNT,
        default=3,
        help="clusters (magnet) or representatives (repmet) per class",
    )
    parser.add_argument(
        "--members",
        type=COUNT,
        default=4,
        help="magnet: images per cluster in a batch, which holds --batch_size / --members clusters",
    )
    parser.add_argument(
        "--alpha",
        type=number(-math.inf),
        default=1.0,
        help="desired separation of clusters, or margin between representatives, in log units",
    )
    parser.add_argument(
        "--sigma",
        type=number(0, above=True),
        default=0.5,
        help="repmet: standard deviation of the Gaussian around each representative",
    )
    parser.add_argument(
        "--nearest_clusters",
        type=COUNT,
        default=128,
        help="magnet: number of clusters nearest to a test image that predict its class",
    )
    parser.add_argument(
        "--neighbours",
        type=COUNT,
        default=10,
        help="retrieval: number of training images nearest to a test image; the score is the share "
        "of its class among them",
    )
    recipes.add_comparison_flags(parser)
    recipes.add_network_flags(
        parser,
        arch="resnet32",
        epochs=164,
        base_lr=0.1,
        drops="0.5,0.75",
    )
    return parser


class Task(ImageTask):
    """Trains one network."""

    divergence = (ClusterError,)

    def __init__(self, args: argparse.Namespace, run: Run | None):
        super().__init__(args, run)
        self.data = recipes.load(args)
        self.data.require_classes()
        self.magnet = clusters.magnet_batches(args, self.data)
        if self.magnet is not None:
            self.splits_on = ("jax",)
        # Magnet loss is defined on batches of clusters only.
        self.use(self.data.train, self.data.test if self.magnet is None else None)

    def build(self) -> keras.Model:
        """Builds and compiles the network."""
        self.network = clusters.build(self.args, self.data, self.steps)
        return self.network.model

    def batches(self, epoch: int, steps: int | None) -> keras.utils.PyDataset:
        """Returns batches of clusters for Magnet loss, and of images for the others."""
        return super().batches(epoch, steps) if self.magnet is None else self.magnet

    def callbacks(self, run: Run) -> Sequence[keras.callbacks.Callback]:
        """Warns if the network does not learn, unless its accuracy is unknown in training."""
        if self.magnet is not None:
            return []
        return [self.chance_warning(run, self.train[1])]

    def late_callbacks(self, run: Run) -> Sequence[keras.callbacks.Callback]:
        """Finds the clusters for Magnet loss, after the epoch has been seeded."""
        if self.magnet is None:
            return []
        return [RefreshClusters(self.magnet, recipes.in_order(*self.train))]

    def report(self, run: Run) -> dict[str, float]:
        """Draws `curves.png`, and returns the accuracies of classification and retrieval."""
        scores = clusters.evaluate(self.args, self.network, self.data)
        metrics = {f"{self.held_out}_{name}": value for name, value in scores.items()}
        last = run.rows[-1]
        if "accuracy" in last:
            metrics["train_accuracy"] = last["accuracy"]
        columns: dict[str, str] = {name: name for name in ("loss", "accuracy") if name in last}
        figures.draw_metrics(run.rows, columns, run.folder / "curves.png", run.folder.name)
        return {**metrics, "epochs": self.epochs}


PROGRAM = Program(
    make_parser,
    Task,
    COMPARISON,
    folder="clusters",
    resolve_defaults=recipes.resolve_augment,
    check=recipes.check,
)
main = PROGRAM.main

if __name__ == "__main__":
    sys.exit(program(main))
