"""The class trees and networks of `benchmarks/hierarchy.py`.

All networks are one of `mhe.harness.models` with different outputs: a number per class, a number
per node of the tree, or an embedding with `--dims` dimensions and a prototype per class.

Reference: Garnot and Landrieu, Leveraging class hierarchies with metric-guided prototype learning
(arXiv 2007.03047), and its published code.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np

import mhe
from mhe.harness import figures, models, recipes
from mhe.harness.datasets import Dataset
from mhe.harness.errors import BadInput
from mhe.harness.run import Run
from mhe.text import lookalike, read_text
from tasks import decisions

MODELS = (
    "softmax",
    "learnt",
    "metric_guided",
    "fixed_metric",
    "hyperspherical",
    "frame",
    "deepncm",
    "hierarchical",
    "soft_labels",
    "hxe",
    "emd",
)
ON_SPHERE = ("hyperspherical", "frame")
WITH_PROTOTYPES = ("learnt", "metric_guided", "fixed_metric", *ON_SPHERE, "deepncm")

# Datasets whose name is also that of a ready tree.
READY = ("cifar10", "cifar100", "digits")
NAMES = "names"

# The logged hierarchical distance is the mean cost of this many best guesses.
_GUESSES = 5


class Network(NamedTuple):
    """A compiled network.

    Attributes:
        model: Images `(B, H, W, C)` to scores `(B, classes)`.
        backbone: Images to the head's inputs: an embedding `(B, dims)` if there are prototypes.
        head: The layer with the prototypes, or None.
    """

    model: keras.Model
    backbone: keras.Model
    head: keras.layers.Layer | None

    @property
    def prototypes(self) -> np.ndarray | None:
        """Rows `(classes, dims)`, or None."""
        if self.head is None:
            return None
        return keras.ops.convert_to_numpy(self.head.prototypes)


def default_tree(dataset: str) -> str:
    """Returns the default of `--tree`.

    Args:
        dataset: The value of `--dataset`.

    Example:

    >>> default_tree("cifar100"), default_tree("data/omniglot.zip")
    ('cifar100', 'names')
    """
    name = dataset.split(":")[0]
    return name if name in READY else NAMES


def read_tree(tree: str, class_names: Sequence[str]) -> mhe.ClassTree:
    """Returns the tree of a dataset's classes, in the order of their labels.

    Args:
        tree: The value of `--tree`: `"names"`, the name of a ready tree, a file of paths, or a
            .json of iNaturalist's categories.
        class_names: The name of class i at index i.

    Raises:
        BadInput: If there is no such tree, or it lacks a class.

    Example:

    >>> read_tree("names", ["Greek/character01", "Greek/character02"]).depth
    2
    """
    try:
        if tree == NAMES:
            if not any("/" in name for name in class_names):
                raise BadInput(
                    "--tree must name a tree: the names of the classes are not paths in one. "
                    f"Received: --tree {tree}, classes {class_names[0]}, {class_names[1]}, ..."
                )
            return mhe.ClassTree.from_paths(class_names)
        if not Path(tree).is_file():
            known = mhe.ClassTree.ready(tree)
        elif Path(tree).suffix == ".json":
            known = mhe.ClassTree.from_categories(tree)
        else:
            return mhe.ClassTree.from_paths(_paths(Path(tree), class_names))
        # A new tree, in the order of these labels and without other classes.
        return mhe.ClassTree(known.get_config()["edges"], class_names)
    except OSError as error:
        raise BadInput(f"--tree {tree} cannot be read: {error}") from error
    except ValueError as error:
        if isinstance(error, BadInput):
            raise
        raise BadInput(f"--tree {tree}: {error}") from error


def _paths(file: Path, class_names: Sequence[str]) -> list[str]:
    """Returns the path in a file that leads to each class."""
    lines = [line.strip() for line in read_text(file).splitlines()]
    paths = [line for line in lines if line and not line.startswith("#")]
    # Keyed by every end of a path: a class may be "poodle", "dog/poodle" or the whole path.
    found: dict[str, list[str]] = {}
    for path in paths:
        parts = path.split("/")
        for start in range(len(parts)):
            found.setdefault("/".join(parts[start:]), []).append(path)
    for name in class_names:
        leading = found.get(name, [])
        if len(leading) != 1:
            known = f"{len(leading)} paths that end in" if leading else "no path that ends in"
            raise BadInput(
                f"--tree {file} must have a path to each class of the dataset, such as "
                f"animal/dog/poodle. Received: {known} {name}{lookalike(name, found)}"
            )
    return [found[name][0] for name in class_names]


def prototypes(args: argparse.Namespace, costs: np.ndarray) -> np.ndarray | None:
    """Places fixed prototypes.

    Args:
        args: The flags of one run.
        costs: The cost matrix `(classes, classes)`.

    Returns:
        Rows `(classes, dims)`, or None for a method without fixed prototypes.

    Raises:
        BadInput: If they cannot be placed.
    """
    try:
        if args.model_name == "fixed_metric":
            return args.scale * mhe.prototypes.embed(costs, args.dims, seed=args.seed)
        if args.model_name == "hyperspherical":
            shown = sys.stderr.isatty()
            return mhe.prototypes.place(len(costs), args.dims, seed=args.seed, progress=shown)
        if args.model_name == "frame":
            return mhe.prototypes.embed(costs, args.dims, seed=args.seed, method="frame")
    except (ValueError, ImportError) as error:
        raise BadInput(f"No prototypes for --dims {args.dims}: {error}") from error
    return None


def build(
    args: argparse.Namespace,
    shape: tuple[int, int, int],
    tree: mhe.ClassTree,
    rows: np.ndarray | None,
    steps: int,
) -> Network:
    """Builds and compiles the network of a run.

    Args:
        args: The flags of one run.
        shape: The shape of an image, `(H, W, C)`.
        tree: The classes.
        rows: Fixed prototypes, see `prototypes`.
        steps: The iterations of the whole training.
    """
    costs = tree.cost_matrix()
    classes = len(tree.classes)
    ends = {"hierarchical": len(tree.nodes) - 1}.get(args.model_name, classes)
    if args.model_name in WITH_PROTOTYPES:
        ends = args.dims
    backbone = models.build(args.arch, shape, ends, args.width, args.weight_decay)
    head = _head(args, tree, costs, rows)
    if args.model_name == "deepncm":
        model = mhe.HeadModel(backbone, head)
        # Checkpoints are loaded into built models only.
        model(keras.ops.zeros((1, *shape)))
    elif head is not None:
        (images,), (end,) = backbone.inputs, backbone.outputs
        model = keras.Model(images, head(end))
    else:
        model = backbone
    model.compile(
        recipes.optimizer(args, steps),
        loss=loss(args, tree, costs),
        metrics=[
            keras.metrics.SparseCategoricalAccuracy(name="accuracy"),
            mhe.metrics.AverageCost(costs),
            mhe.metrics.HierarchicalDistance(costs, min(_GUESSES, classes)),
            *(mhe.metrics.LevelError(tree, level) for level in range(1, tree.depth)),
        ],
        jit_compile=recipes.jit_compile(),
    )
    return Network(model, backbone, head if args.model_name in WITH_PROTOTYPES else None)


def _head(
    args: argparse.Namespace, tree: mhe.ClassTree, costs: np.ndarray, rows: np.ndarray | None
) -> keras.layers.Layer | None:
    """Returns the layer over the network's outputs, if any."""
    classes = len(costs)
    # As published: distances between prototypes start as large as those between embeddings.
    anywhere = keras.initializers.RandomUniform(0.0, 1.0)
    if args.model_name == "learnt":
        return mhe.layers.LearntPrototypes(
            classes, args.dims, args.distance, prototypes_initializer=anywhere
        )
    if args.model_name == "metric_guided":
        guide = {"distortion": mhe.Distortion, "rank": mhe.Rank}[args.guide]
        return mhe.layers.LearntPrototypes(
            *(classes, args.dims, args.distance),
            prototypes_initializer=anywhere,
            prototypes_regularizer=guide(costs, args.strength),
        )
    if args.model_name == "fixed_metric":
        return mhe.layers.LearntPrototypes(
            classes, args.dims, args.distance, prototypes=rows, trainable=False
        )
    if args.model_name in ON_SPHERE:
        return mhe.layers.PrototypeHead(rows)
    if args.model_name == "deepncm":
        return mhe.layers.NearestClassMean(
            classes, args.dims, args.mean_decay, distance=args.distance
        )
    if args.model_name == "hierarchical":
        return mhe.layers.HierarchicalLogits(tree)
    return None


def loss(args: argparse.Namespace, tree: mhe.ClassTree, costs: np.ndarray) -> keras.losses.Loss:
    """Returns the loss of a network.

    Args:
        args: The flags of one run.
        tree: The classes.
        costs: Their cost matrix `(classes, classes)`.
    """
    if args.model_name in ON_SPHERE:
        # The published loss is the sum over the batch, and its learning rate goes with it.
        return mhe.losses.PrototypeLoss(reduction="sum")
    if args.model_name == "soft_labels":
        return mhe.losses.SoftLabelCrossEntropy(costs, args.beta)
    if args.model_name == "hxe":
        return mhe.losses.HierarchicalCrossEntropy(tree, args.alpha)
    if args.model_name == "emd":
        return mhe.losses.SquaredEarthMover(costs, args.mu)
    # The log-probabilities of the hierarchical model are logits too.
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def last_metrics(rows: Sequence[dict[str, float]], held_out: str) -> dict[str, float]:
    """Returns the metrics in the last row of a log.

    Args:
        rows: The rows of the log.
        held_out: What the network was evaluated on, `"test"` or `"validation"`.

    Example:

    >>> row = {"accuracy": 0.75, "val_accuracy": 0.5, "average_cost": 0.5, "val_average_cost": 1}
    >>> metrics = last_metrics([row], "test")
    >>> metrics["test_error"], metrics["train_average_cost"]
    (0.5, 0.5)
    """
    last = rows[-1]
    metrics: dict[str, float] = {}
    for part, prefix in ((held_out, "val_"), ("train", "")):
        accuracy = last[f"{prefix}accuracy"]
        metrics |= {f"{part}_accuracy": accuracy, f"{part}_error": 1 - accuracy}
        for name in last:
            if name.startswith(("average_cost", "hierarchical_distance", "error_at_level")):
                metrics[f"{part}_{name}"] = last[f"{prefix}{name}"]
    return metrics


def draw(network: Network, costs: np.ndarray, data: Dataset, run: Run) -> None:
    """Draws the curves of a run and, if its embedding is a plane, prototypes and test embeddings.

    Args:
        network: The trained network.
        costs: The cost matrix of its classes.
        data: The data of the run.
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
        embeddings = recipes.predict(network.backbone, images)
        figures.draw_plane(
            *(prototypes, embeddings, labels, data.class_names, costs),
            run.folder / "embeddings.png",
            f"{run.folder.name}: error rate {100 * rows[-1]['val_error']:.1f}%, "
            f"average cost {rows[-1]['val_average_cost']:.3f}",
        )


def draw_mistakes(
    scores: np.ndarray, labels: np.ndarray, tree: mhe.ClassTree, folder: Path
) -> None:
    """Draws the mistakes of the largest score, and what answers cost if only the surest are given.

    Args:
        scores: The logits `(N, classes)` of held-out images.
        labels: Their labels `(N,)`.
        tree: The classes.
        folder: The run's folder.
    """
    answers, title = scores.argmax(axis=1), folder.name
    figures.draw_confusion(tree, labels, answers, folder / "confusion.png", title)
    figures.draw_mistakes(tree, labels, answers, folder / "mistakes.png", title)
    curves = decisions.coverage_curves(scores, labels, tree)
    figures.draw_coverage(curves, folder / "coverage.png", title)
