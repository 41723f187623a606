"""The data, prototypes and networks of `benchmarks/hpn.py`.

A prototype network and its baseline are the same network of `mhe.harness.models` with different
outputs. The prototype network ends in an embedding with `dims` dimensions, from which fixed
prototypes tell the class and a pole the value. The baseline, with or without hyperspherical
energies, ends in logits, in a number for the value, or in both.

Joint training shares the embedding: axis 0 is the pole, and the class prototypes take up the other
axes.

Reference: Mettes et al., Hyperspherical Prototype Networks, NeurIPS 2019 (arXiv 1901.10514), and
its published code.
"""

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np

from mhe import checks
from mhe.attach import attach
from mhe.harness import datasets, figures, models, recipes
from mhe.harness.errors import BadInput
from mhe.layers import PolarHead, PrototypeHead
from mhe.losses import (
    DotRegressionLoss,
    LogitAdjustedCrossEntropy,
    PolarLoss,
    PrototypeLoss,
)
from mhe.metrics import pairwise_angles
from mhe.prototypes import cosine_lower_bound, place, vectors
from mhe.regularizers import MHE
from mhe.types import Tensor
from tasks import placed, sessions

ANGLES = (-45.0, 45.0)  # degrees

Targets = dict[str, np.ndarray]


@dataclass(frozen=True)
class Data:
    """Images, and the targets of the network's outputs `label` and `value`.

    Attributes:
        train: Images uint8 `(N, H, W, C)` and targets `(N,)` by output.
        test: The same of the test set or, with `--validation`, held out of the training set.
        class_names: The name of class i at index i.
        low: The smallest possible value; 0 if there are no values.
        high: The largest possible value.
        later: The images of `--new_classes`, or None.
    """

    train: tuple[np.ndarray, Targets]
    test: tuple[np.ndarray, Targets]
    class_names: tuple[str, ...]
    low: float
    high: float
    later: sessions.Later | None = None


def prepare(args: argparse.Namespace) -> Data:
    """Loads the data of a run and derives its targets.

    Args:
        args: The flags of one run.

    Raises:
        BadInput: If the data cannot be used for the task.
    """
    whole = "--new_classes" if args.new_classes else None
    if args.target == "rotation":
        whole = "--target rotation"
    data = recipes.load(args, whole)
    later = None
    if args.new_classes:
        data, later = sessions.split(data, args)
    (images, labels), (test_images, test_labels) = data.train, data.test
    values = data.values
    low = high = 0.0
    if args.target == "rotation":
        low, high = _bounds(args, *ANGLES)
        images, angles = datasets.turned(images, low, high, (args.seed, 0))
        test_images, test_angles = datasets.turned(test_images, low, high, (args.seed, 1))
        values = angles, test_angles
    elif args.task != "classification":
        if values is None:
            raise BadInput(
                f"{args.dataset} has classes and no values to regress on; --target rotation makes "
                f"some. Received: --task {args.task} --target {args.target}"
            )
        low, high = _bounds(args, float(values[0].min()), float(values[0].max()))
    train: Targets = {}
    test: Targets = {}
    if args.task != "classification" and values is not None:
        train["value"], test["value"] = values
        try:
            checks.check_values(np.concatenate(values), low, high)
        except ValueError as error:
            raise BadInput(f"{args.dataset}, with --low and --high: {error}") from error
    if args.task != "regression":
        data.require_classes()
        train["label"], test["label"] = labels, test_labels
    return Data((images, train), (test_images, test), data.class_names, low, high, later)


def _bounds(args: argparse.Namespace, low: float, high: float) -> tuple[float, float]:
    low = low if args.low is None else args.low
    high = high if args.high is None else args.high
    if low >= high:
        raise BadInput(f"--low must be less than --high. Received: {low:g} and {high:g}")
    return low, high


def _has_prototypes(args: argparse.Namespace) -> bool:
    return args.model_name == "hpn" and args.task != "regression"


def prototypes(args: argparse.Namespace, data: Data, known: np.ndarray | None) -> np.ndarray | None:
    """Places the prototypes of the classes, or reads them.

    Args:
        args: The flags of one run.
        data: The data of the run.
        known: What `semantics` returned.

    Returns:
        `(classes, dims)`, or `(classes, dims - 1)` in joint training, whose first axis is the pole;
        those of new classes are the last. None if the run needs none.

    Raises:
        BadInput: If they do not fit the classes or the flags.
    """
    if not _has_prototypes(args):
        return None
    classes = len(data.class_names)
    dims = args.dims - (args.task == "joint")
    if args.prototypes is None:
        try:
            return place(
                *(classes, dims),
                seed=args.seed,
                semantics=known,
                semantics_weight=args.semantics_weight,
                reserve=args.new_classes,
                progress=sys.stderr.isatty(),
            )
        except (ValueError, ImportError) as error:
            raise BadInput(f"No prototypes for --dims {args.dims}: {error}") from error
    rows = placed.read(args.prototypes)
    classes += args.new_classes
    if rows.shape != (classes, dims):
        raise BadInput(
            f"--prototypes {args.prototypes} must hold a row for each of the {classes} classes "
            f"with {dims} numbers for --dims {args.dims}. Received: shape {rows.shape}"
        )
    return rows


def semantics(args: argparse.Namespace, data: Data) -> np.ndarray | None:
    """Reads the prior knowledge about the classes.

    Args:
        args: The flags of one run.
        data: The data of the run, with the names of the classes.

    Returns:
        `(classes, m)`, or None if there is no file or the run has no prototypes.

    Raises:
        BadInput: If the file cannot be read or lacks a class.
    """
    if args.semantics is None or not _has_prototypes(args):
        return None
    try:
        return vectors.read(args.semantics, data.class_names)
    except (OSError, ValueError) as error:
        raise BadInput(f"--semantics {args.semantics}: {error}") from error


def build(args: argparse.Namespace, data: Data, rows: np.ndarray | None, steps: int) -> keras.Model:
    """Builds and compiles the network of a run.

    Args:
        args: The flags of one run.
        data: The data of the run.
        rows: The prototypes, if it has any.
        steps: The iterations of the whole training.

    Returns:
        A model from images to the outputs `label` (cosines or logits), `value` or both.
    """
    joint = args.task == "joint"
    if args.model_name == "hpn":
        ends = args.dims
    else:
        classes = len(data.class_names) if args.task != "regression" else 0
        ends = classes + (args.task != "classification")
    network = models.build(args.arch, data.train[0].shape[1:], ends, args.width, args.weight_decay)
    if args.model_name == "half_mhe":
        attach(network, MHE(args.strength), head=MHE(args.head_strength, space="full"))
    (images,), (end,) = network.inputs, network.outputs
    if args.model_name == "hpn" and args.embedding_norm == "batch":
        # Embeddings of all classes start in nearly one direction. Prototypes that sum to zero pull
        # this common part nowhere on average, so it fades slowly; without it classes separate fast.
        end = keras.layers.BatchNormalization(momentum=0.9, name="embedding_norm")(end)
    outputs, losses, weights, metrics = {}, {}, {}, {}
    if args.task != "regression":
        scores = end[:, 1:] if joint else end
        outputs["label"], losses["label"] = _class_output(args, scores, rows, data)
        weights["label"] = args.task_weights if joint else 1.0
        metrics["label"] = [keras.metrics.SparseCategoricalAccuracy(name="accuracy")]
    if args.task != "classification":
        outputs["value"], losses["value"], unit = _value_output(args, end, data)
        weights["value"] = (1 - args.task_weights if joint else 1.0) / unit
        metrics["value"] = [keras.metrics.MeanAbsoluteError(name="mae")]
    model = keras.Model(images, outputs, name=f"{args.model_name}_{network.name}")
    model.compile(
        recipes.optimizer(args, steps),
        loss=losses,
        loss_weights=weights,
        metrics=metrics,
        jit_compile=recipes.jit_compile(),
    )
    return model


def _class_output(
    args: argparse.Namespace, scores: Tensor, rows: np.ndarray | None, data: Data
) -> tuple[Tensor, keras.losses.Loss]:
    """Returns the output `label` and its loss."""
    if args.model_name == "hpn":
        try:
            scores = PrototypeHead(rows, args.new_classes, name="label")(scores)
        except ValueError as error:
            raise BadInput(f"--prototypes {args.prototypes}: {error}") from error
        if args.loss == "squared":
            # The published loss is the sum over the batch, and its learning rate goes with it.
            return scores, PrototypeLoss(reduction="sum")
        if args.loss == "dot_regression":
            return scores, DotRegressionLoss()
        scores = keras.layers.Rescaling(args.scale, name="logits_of_cosines")(scores)
    if args.loss == "logit_adjusted":
        try:
            return scores, LogitAdjustedCrossEntropy(class_counts(data), args.tau)
        except ValueError as error:
            raise BadInput(f"--loss {args.loss}: {error}") from error
    return scores, keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def class_counts(data: Data) -> np.ndarray:
    """Returns the number of training images of each class, `(classes,)`.

    Args:
        data: The data of a run with classes.
    """
    return np.bincount(data.train[1]["label"], minlength=len(data.class_names))


def smallest_angle(model: keras.Model, rows: np.ndarray | None) -> float:
    """Returns the smallest angle between the vectors of two classes, in degrees.

    Args:
        model: A network that `build` returned, with classes.
        rows: Its prototypes; None for a baseline, whose class vectors are the last kernel's
            columns.
    """
    if rows is not None:
        return float(np.degrees(pairwise_angles(rows, axis=0).min()))
    kernel = keras.ops.convert_to_numpy(model.get_layer("logits").kernel)
    # In joint training the first belongs to the value.
    kernel = kernel[..., int("value" in model.output) :]
    return float(np.degrees(pairwise_angles(kernel).min()))


def _value_output(
    args: argparse.Namespace, end: Tensor, data: Data
) -> tuple[Tensor, keras.losses.Loss, float]:
    """Returns the output `value`, its loss, and by what to divide the loss."""
    low, high = data.low, data.high
    if args.model_name == "hpn":
        reduction = "sum" if args.loss == "squared" else "sum_over_batch_size"
        output = PolarHead(low, high, args.dims, name="value")(end)
        return output, PolarLoss(low, high, reduction=reduction), 1.0
    # The network's 0 is the middle of the values and its 1 the largest, in the loss too, so that
    # the learning rate does not depend on the unit.
    half = (high - low) / 2
    output = keras.layers.Rescaling(half, low + half, name="value")(end[:, :1])
    return output, keras.losses.MeanSquaredError(), half**2


def draw_prototypes(model: keras.Model, rows: np.ndarray, data: Data, folder: Path) -> None:
    """Draws the cosines between prototypes and, on a circle or a sphere, the test embeddings.

    Args:
        model: The trained network.
        rows: Its prototypes.
        data: The data of the run.
        folder: The run's folder.
    """
    bound = cosine_lower_bound(*rows.shape)
    figures.draw_cosines(rows, folder / "cosines.png", bound, folder.name)
    draw = {2: figures.draw_circle, 3: figures.draw_sphere}.get(rows.shape[1])
    if draw is not None:
        images, targets = data.test
        embed = keras.Model(model.inputs, model.get_layer("label").input)
        embeddings = recipes.predict(embed, images)
        draw(
            *(rows, embeddings, targets["label"], data.class_names),
            folder / "embeddings.png",
            folder.name,
        )
