"""The classes' tree, and the networks that are compared on it.

All are one network of `mhe.harness.models` with other numbers at its end: a number a class, a
number a node of the tree, or an embedding of `--dims` numbers with a prototype a class.

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
from mhe.harness import models, recipes
from mhe.harness.errors import BadInput

MODELS = (
    "softmax",
    "learnt",
    "metric_guided",
    "fixed_metric",
    "hyperspherical",
    "deepncm",
    "hierarchical",
    "soft_labels",
    "hxe",
    "emd",
)
WITH_PROTOTYPES = ("learnt", "metric_guided", "fixed_metric", "hyperspherical", "deepncm")

# The trees of datasets that TensorFlow Datasets, or this package, knows by name.
READY = {
    "cifar10": "cifar10",
    "cifar100": "cifar100",
    "digits": "digits",
}
NAMES = "names"

# The mean cost of so many best guesses is logged.
_GUESSES = 5


class Network(NamedTuple):
    """A compiled network.

    Attributes:
        model: Images `(B, H, W, C)` to scores `(B, classes)`.
        backbone: Images to what is before its head: an embedding `(B, dims)`, where it has one.
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
    """Returns what `--tree` is by default.

    Args:
        dataset: What `--dataset` takes.

    Example:

    >>> default_tree("cifar100"), default_tree("data/omniglot.zip")
    ('cifar100', 'names')
    """
    return READY.get(dataset.split(":")[0], NAMES)


def read_tree(tree: str, class_names: Sequence[str]) -> mhe.ClassTree:
    """Returns the tree of a dataset's classes, in the order of their labels.

    Args:
        tree: What `--tree` takes: `"names"`, the name of a ready tree, or a file of paths or, by
            the name .json, of iNaturalist's categories.
        class_names: The name of class i at place i.

    Raises:
        BadInput: If there is no such tree, or it does not have these classes.

    Example:

    >>> read_tree("names", ["Greek/character01", "Greek/character02"]).depth
    2
    """
    try:
        if tree == NAMES:
            if not any("/" in name for name in class_names):
                raise BadInput(
                    "--tree must name a tree of the classes, whose names do not say what they "
                    f"belong to. Received: --tree {tree}, classes {class_names[0]}, "
                    f"{class_names[1]} and so on"
                )
            return mhe.ClassTree.from_paths(class_names)
        if not Path(tree).is_file():
            known = mhe.ClassTree.ready(tree)
        elif Path(tree).suffix == ".json":
            known = mhe.ClassTree.from_categories(tree)
        else:
            return mhe.ClassTree.from_paths(_paths(Path(tree), class_names))
        # Made anew of the known one: in the order of these labels, without other classes.
        return mhe.ClassTree(known.get_config()["edges"], class_names)
    except OSError as error:
        raise BadInput(f"--tree {tree} cannot be read: {error}") from error
    except ValueError as error:
        if isinstance(error, BadInput):
            raise
        raise BadInput(f"--tree {tree}: {error}") from error


def _paths(file: Path, class_names: Sequence[str]) -> list[str]:
    """The path in a file that leads to each class."""
    lines = [line.strip() for line in file.read_text("utf-8").splitlines()]
    paths = [line for line in lines if line and not line.startswith("#")]
    # By every end of a path: a class may be called "poodle", "dog/poodle" or by the whole of it.
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
                f"animal/dog/poodle. Received: {known} {name}"
            )
    return [found[name][0] for name in class_names]


def prototypes(args: argparse.Namespace, costs: np.ndarray) -> np.ndarray | None:
    """Places the prototypes that stay where they are.

    Args:
        args: The flags of one run.
        costs: Those of the classes, `(classes, classes)`.

    Returns:
        Rows `(classes, dims)`, or None for a method without such prototypes.

    Raises:
        BadInput: If there can be none.
    """
    try:
        if args.model_name == "fixed_metric":
            return args.scale * mhe.prototypes.embed(costs, args.dims, seed=args.seed)
        if args.model_name == "hyperspherical":
            shown = sys.stderr.isatty()
            return mhe.prototypes.place(len(costs), args.dims, seed=args.seed, progress=shown)
    except (ValueError, ImportError) as error:
        raise BadInput(f"No prototypes for --dims {args.dims}: {error}") from error
    return None


def build(
    args: argparse.Namespace,
    shape: Sequence[int],
    tree: mhe.ClassTree,
    rows: np.ndarray | None,
    steps: int,
) -> Network:
    """Builds and compiles the network of a run.

    Args:
        args: The flags of one run.
        shape: The shape of an image, `(H, W, C)`.
        tree: The classes.
        rows: The prototypes that stay where they are, as `prototypes` gives them.
        steps: The iterations of the whole training.
    """
    costs = tree.cost_matrix()
    classes = len(tree.classes)
    ends = {"hierarchical": len(tree.nodes) - 1}.get(args.model_name, classes)
    if args.model_name in WITH_PROTOTYPES:
        ends = args.dims
    backbone = models.build(args.arch, tuple(shape), ends, args.width, args.weight_decay)
    head = _head(args, tree, costs, rows)
    if args.model_name == "deepncm":
        model = mhe.HeadModel(backbone, head)
        # A checkpoint is put into a model that is built.
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
    """What comes after the numbers at the end of the network."""
    classes = len(costs)
    # As published: distances between them are of the size of those of an embedding.
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
    if args.model_name == "hyperspherical":
        return mhe.layers.PrototypeHead(rows)
    if args.model_name == "deepncm":
        return mhe.layers.NearestClassMean(
            classes, args.dims, args.mean_decay, distance=args.distance
        )
    if args.model_name == "hierarchical":
        return mhe.layers.HierarchicalLogits(tree)
    return None


def loss(args: argparse.Namespace, tree: mhe.ClassTree, costs: np.ndarray) -> keras.losses.Loss:
    """Returns what a network is trained with, beside the regularizers of its weights.

    Args:
        args: The flags of one run.
        tree: The classes.
        costs: Theirs, `(classes, classes)`.
    """
    if args.model_name == "hyperspherical":
        # The published loss is the sum over the batch, and its learning rate goes with it.
        return mhe.losses.PrototypeLoss(reduction="sum")
    if args.model_name == "soft_labels":
        return mhe.losses.SoftLabelCrossEntropy(costs, args.beta)
    if args.model_name == "hxe":
        return mhe.losses.HierarchicalCrossEntropy(tree, args.alpha)
    if args.model_name == "emd":
        return mhe.losses.SquaredEarthMover(costs, args.mu)
    # Log-probabilities, as the hierarchical model gives them, are logits too.
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)
