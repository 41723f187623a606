"""What a prototype network and its baseline are trained on, and what they end in.

Both are one network of `mhe.harness.models` with other numbers at its end. The prototype network
ends in `dims` numbers, which stay an embedding: fixed prototypes read the class off it, a pole the
value. The baseline ends in logits, or in a number for the value, or in both.

Joint training shares the embedding: axis 0 is the pole, and the classes' prototypes stand in the
remaining axes.

Reference: Mettes et al., Hyperspherical Prototype Networks, NeurIPS 2019 (arXiv 1901.10514), and
its published code.
"""

import argparse
import sys
from dataclasses import dataclass

import keras
import numpy as np

from mhe import checks
from mhe.harness import datasets, models, placed, recipes
from mhe.harness.errors import BadInput
from mhe.layers import PolarHead, PrototypeHead
from mhe.losses import PolarLoss, PrototypeLoss
from mhe.prototypes import place, vectors

ANGLES = (-45.0, 45.0)  # degrees

Targets = dict[str, np.ndarray]


@dataclass(frozen=True)
class Data:
    """Images, and the targets of the network's outputs `label` and `value`.

    Attributes:
        train: Images uint8 `(N, H, W, C)` and the targets `(N,)` by output.
        test: The same, of the test set or, with `--validation`, held out of the training set.
        class_names: The name of class i at place i.
        low: The least value there can be; 0 where there are no values.
        high: The largest.
    """

    train: tuple[np.ndarray, Targets]
    test: tuple[np.ndarray, Targets]
    class_names: tuple[str, ...]
    low: float
    high: float


def prepare(args: argparse.Namespace) -> Data:
    """Loads the data of a run, and derives what there is to predict.

    Args:
        args: The flags of one run.

    Raises:
        BadInput: If the data cannot be used for the task.
    """
    data = recipes.load(args)
    (images, labels), (test_images, test_labels) = data.train, data.test
    values, test_values = data.values or (None, None)
    low = high = 0.0
    if args.target == "rotation":
        low, high = _bounds(args, *ANGLES)
        images, values = datasets.turned(images, low, high, (args.seed, 0))
        test_images, test_values = datasets.turned(test_images, low, high, (args.seed, 1))
    elif args.task != "classification":
        if values is None:
            raise BadInput(
                f"{args.dataset} has classes and no values to regress on; --target rotation makes "
                f"some. Received: --task {args.task} --target {args.target}"
            )
        low, high = _bounds(args, float(values.min()), float(values.max()))
    train: Targets = {}
    test: Targets = {}
    if args.task != "classification":
        train["value"], test["value"] = values, test_values
        try:
            checks.check_values(np.concatenate([values, test_values]), low, high)
        except ValueError as error:
            raise BadInput(f"{args.dataset}, with --low and --high: {error}") from error
    if args.task != "regression":
        data.require_classes()
        train["label"], test["label"] = labels, test_labels
    return Data((images, train), (test_images, test), data.class_names, low, high)


def _bounds(args: argparse.Namespace, low: float, high: float) -> tuple[float, float]:
    low = low if args.low is None else args.low
    high = high if args.high is None else args.high
    if low >= high:
        raise BadInput(f"--low must be less than --high. Received: {low:g} and {high:g}")
    return low, high


def _has_prototypes(args: argparse.Namespace) -> bool:
    return args.model_name != "baseline" and args.task != "regression"


def prototypes(args: argparse.Namespace, data: Data, known: np.ndarray | None) -> np.ndarray | None:
    """Places the prototypes of the classes, or reads them.

    Args:
        args: The flags of one run.
        data: What it is trained on.
        known: What `semantics` read.

    Returns:
        `(classes, dims)`, or `dims - 1` numbers a row in joint training, whose first axis is the
        pole; `None` where the run needs none.

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
                progress=sys.stderr.isatty(),
            )
        except (ValueError, ImportError) as error:
            raise BadInput(f"No prototypes for --dims {args.dims}: {error}") from error
    rows = placed.read(args.prototypes)
    if rows.shape != (classes, dims):
        raise BadInput(
            f"--prototypes {args.prototypes} must hold a row for each of the {classes} classes "
            f"with {dims} numbers for --dims {args.dims}. Received: shape {rows.shape}"
        )
    return rows


def semantics(args: argparse.Namespace, data: Data) -> np.ndarray | None:
    """Reads what is known of the classes beforehand.

    Args:
        args: The flags of one run.
        data: What it is trained on, with the names of the classes.

    Returns:
        `(classes, m)`, or `None` where no file is given or the run has no prototypes.

    Raises:
        BadInput: If the file cannot be read or does not know the classes.
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
        data: What it is trained on.
        rows: The prototypes, if it has some.
        steps: The iterations of the whole training.

    Returns:
        A model of images with the outputs `label` (cosines or logits), `value` or both.
    """
    hpn, joint = args.model_name == "hpn", args.task == "joint"
    classes, (low, high) = len(data.class_names), (data.low, data.high)
    if hpn:
        ends = args.dims
    else:
        ends = (classes if args.task != "regression" else 0) + (args.task != "classification")
    network = models.build(args.arch, data.train[0].shape[1:], ends, args.width, args.weight_decay)
    (images,), (end,) = network.inputs, network.outputs
    if hpn and args.embedding_norm == "batch":
        # Images of all classes begin with nearly one direction. Prototypes that sum to zero pull
        # it nowhere on average, and what is common goes slowly; taken out, classes part at once.
        end = keras.layers.BatchNormalization(momentum=0.9, name="embedding_norm")(end)
    outputs, losses, weights, metrics = {}, {}, {}, {}
    if args.task != "regression":
        scores = end[:, 1:] if joint else end
        if hpn:
            try:
                scores = PrototypeHead(rows, name="label")(scores)
            except ValueError as error:
                raise BadInput(f"--prototypes {args.prototypes}: {error}") from error
            if args.loss == "squared":
                # The published loss is the sum over the batch, and its learning rate goes with it.
                losses["label"] = PrototypeLoss(reduction="sum")
            else:
                scores = keras.layers.Rescaling(args.scale, name="logits_of_cosines")(scores)
                losses["label"] = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        else:
            losses["label"] = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        outputs["label"] = scores
        metrics["label"] = [keras.metrics.SparseCategoricalAccuracy(name="accuracy")]
        weights["label"] = args.task_weights if joint else 1.0
    if args.task != "classification":
        weights["value"] = 1 - args.task_weights if joint else 1.0
        if hpn:
            outputs["value"] = PolarHead(low, high, args.dims, name="value")(end)
            reduction = "sum" if args.loss == "squared" else "sum_over_batch_size"
            losses["value"] = PolarLoss(low, high, reduction=reduction)
        else:
            # The output 0 is the middle of the values and 1 the largest, in the loss too: its
            # learning rate does not depend on the unit.
            half = (high - low) / 2
            outputs["value"] = keras.layers.Rescaling(half, low + half, name="value")(end[:, :1])
            losses["value"] = keras.losses.MeanSquaredError()
            weights["value"] /= half**2
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
