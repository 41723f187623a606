"""Images of no known class: how well a network tells them from images of its classes.

Each score of `mhe.open_set` is measured by the area under its ROC curve and by the share of unknown
images that pass where 95 % of the known ones do. A threshold for "unknown" is chosen on one half of
each class of the held-out images, at a wanted rate of false alarms, and tried on the other half.
"""

import argparse
import os
import sys
from collections.abc import Mapping
from typing import Any, NamedTuple

import keras
import numpy as np

from mhe import open_set
from mhe.harness import datasets, recipes
from mhe.harness.datasets.images import decode, is_image
from mhe.harness.datasets.tree import Tree
from mhe.harness.errors import BadInput, as_bad_input
from mhe.harness.files import write_json
from mhe.harness.flags import Parser, file_path, number
from mhe.harness.run import Run
from mhe.harness.tables import text_table
from mhe.metrics import roc_curve
from mhe.text import brief
from tasks.hpn import Data

_FILE = "unknown.json"
_TAR = 0.95


class Outputs(NamedTuple):
    """What a network makes of images.

    Attributes:
        embeddings: The inputs of its last layer, `(N, dims)`.
        logits: `(N, classes)`; the cosines of a prototype network times `--scale`.
    """

    embeddings: np.ndarray
    logits: np.ndarray


def add_flags(parser: Parser) -> None:
    """Adds the flags that say what is unknown.

    Args:
        parser: A program's parser.
    """
    parser.add_argument(
        "--unknown",
        type=file_path,
        metavar="PATH",
        help="images of no known class: a folder or zip, of which all images count or, if it has a "
        "folder test/, those in there; or the test images of what else --dataset takes. Writes how "
        f"well they are told from the held-out images to {_FILE} in the run's folder; with "
        "--resume also for a complete run (default: none)",
    )
    parser.add_argument(
        "--false_alarms",
        type=number(0, 0.999),
        default=0.05,
        help="share of the images of known classes that may be taken for unknown, by thresholds "
        "chosen on half of the held-out images and tried on the other half",
    )
    parser.excluded |= {"unknown", "false_alarms"}


def load(args: argparse.Namespace, data: Data) -> np.ndarray | None:
    """Loads the images of no known class.

    Args:
        args: The flags of one run.
        data: The data of the run.

    Returns:
        uint8 `(N, H, W, C)` of the shape of the run's images; None without `--unknown`.

    Raises:
        BadInput: If they cannot be read, do not fit the run's images, or it has no classes.
    """
    if args.unknown is None:
        return None
    if args.task == "regression":
        raise BadInput(f"--unknown needs classes. Received: --task {args.task}")
    if len(set(datasets.halves(data.test[1]["label"]).tolist())) < 2:
        raise BadInput(
            "--unknown needs two held-out images or more, to choose a threshold and to try it. "
            f"Received: {len(data.test[0])}"
        )
    height, width, channels = data.train[0].shape[1:]
    size = height if height == width else None
    with as_bad_input(f"--unknown {args.unknown}"):
        if os.path.exists(os.path.expanduser(args.unknown)):
            images = _images(args.unknown, size, data.class_names)
        else:
            if args.unknown == "digits":
                size = None
            images = datasets.load(args.unknown, args.data_dir, size).test[0]
        if channels == 3 and images.shape[-1] == 1:
            images = np.repeat(images, 3, axis=-1)
        if images.shape[1:] != (height, width, channels):
            expected = "x".join(map(str, (height, width, channels)))
            raise BadInput(
                f"images must be {expected}, as those of {args.dataset} are. "
                f"Received: {'x'.join(map(str, images.shape[1:]))}"
            )
    if args.target == "rotation":
        images, _ = datasets.turned(images, data.low, data.high, (args.seed, 2))
    return images


def _images(path: str, size: int | None, class_names: tuple[str, ...]) -> np.ndarray:
    """Decodes all images of a folder or zip, or those in its folder `test/` if it has one."""
    with Tree(path) as tree:
        names = [name for name in tree.names if is_image(name)]
        names = [name for name in names if name.startswith("test/")] or names
        if not names:
            raise BadInput("must hold images. Received: none")
        parents = {name.split("/")[-2] for name in names if "/" in name}
        known = sorted(parents & set(class_names))
        if known:
            names_known = brief(", ".join(known))
            print(
                f"--unknown {path}: folders have the names of known classes: {names_known}",
                file=sys.stderr,
            )
        return decode(path, names, tree.read, size)


def measure(
    model: keras.Model, args: argparse.Namespace, data: Data, images: np.ndarray, run: Run
) -> None:
    """Writes `unknown.json`, and prints what is in it.

    Args:
        model: The trained network.
        args: The flags of the run.
        data: The data of the run.
        images: The images of no known class.
        run: The run.

    Raises:
        BadInput: If the network's outputs are not finite.
    """
    outputs = _reader(model, args)
    train, test = outputs(data.train[0]), outputs(data.test[0])
    train_labels, labels = data.train[1]["label"], data.test[1]["label"]
    means = np.stack(
        [train.embeddings[train_labels == label].mean(axis=0) for label in np.unique(train_labels)]
    )
    vectors = _class_vectors(model, args)
    with as_bad_input(f"{run.folder} cannot be measured"):
        scores = compare(
            known_scores(test, vectors, means),
            known_scores(outputs(images), vectors, means),
            labels,
            args.false_alarms,
        )
    write_json(
        run.folder / _FILE,
        {
            "unknown": str(args.unknown),
            "unknown_images": len(images),
            "known_images": len(labels),
            "false_alarms": args.false_alarms,
            "scores": scores,
        },
    )
    print(table(scores))


def known_scores(outputs: Outputs, vectors: np.ndarray, means: np.ndarray) -> dict[str, np.ndarray]:
    """Every score of `mhe.open_set`, by name.

    Args:
        outputs: What the network makes of the images.
        vectors: The vector of each class, `(classes, dims)`.
        means: The mean embedding of each class, `(classes, dims)`. A fixed prototype has a
            direction but no length to compare with those of embeddings.

    Returns:
        Arrays `(N,)`.

    Example:

    >>> outputs = Outputs(np.array([[0.0, 2.0]]), np.array([[1.0, 3.0]]))
    >>> found = known_scores(outputs, np.eye(2), np.array([[0.0, 1.5], [9.0, 0.0]]))
    >>> {name: round(float(each[0]), 4) for name, each in found.items()}
    {'largest_logit': 3.0, 'largest_cosine': 1.0, 'negative_energy': 3.1269,
     'nearest_prototype': -0.5}
    """
    scores = {
        "largest_logit": open_set.largest_logit(outputs.logits),
        "largest_cosine": open_set.largest_cosine(outputs.embeddings, vectors),
        "negative_energy": open_set.negative_energy(outputs.logits),
        "nearest_prototype": open_set.nearest_prototype(outputs.embeddings, means),
    }
    return {name: keras.ops.convert_to_numpy(each) for name, each in scores.items()}


def compare(
    known: Mapping[str, np.ndarray],
    unknown: Mapping[str, np.ndarray],
    labels: np.ndarray,
    false_alarms: float,
) -> dict[str, dict[str, float]]:
    """Measures scores.

    Args:
        known: The scores of held-out images of known classes, `(N,)` by name.
        unknown: The scores of images of no known class, `(M,)` by name.
        labels: The classes of the former, `(N,)`.
        false_alarms: The wanted rate of false alarms.

    Returns:
        For each score the area under the ROC curve of all images, the false positive rate at 95 %
        true positives, the threshold chosen on one half of each class, and on the other half the
        rate of false alarms; and the share of unknown images found by that threshold.

    Raises:
        ValueError: If a score is not finite.

    Example:

    >>> known, unknown = {"score": np.array([3.0, 2.0, 4.0, 1.0])}, {"score": np.array([0.0, 2.5])}
    >>> compare(known, unknown, np.array([0, 0, 0, 0]), false_alarms=0.0)["score"]
    {'auroc': 0.75, 'fpr_at_95_tpr': 0.5, 'threshold': 3.0, 'false_alarms': 1.0, 'found': 1.0}
    """
    half = datasets.halves(labels)
    measured = {}
    for name, scores in known.items():
        both = np.concatenate([scores, unknown[name]])
        curve = roc_curve(both, np.arange(len(both)) < len(scores))
        threshold = open_set.threshold(scores[half == 0], false_alarms)
        measured[name] = {
            "auroc": float(curve.auc),
            "fpr_at_95_tpr": curve.far_at(_TAR),
            "threshold": threshold,
            "false_alarms": float(np.mean(scores[half == 1] < threshold)),
            "found": float(np.mean(unknown[name] < threshold)),
        }
    return measured


def table(scores: Mapping[str, Mapping[str, float]]) -> str:
    """Formats what `compare` returned, a score a line."""
    shares = ("auroc", "fpr_at_95_tpr", "false_alarms", "found")
    rows = [
        [name.replace("_", " "), *(f"{100 * each[share]:.2f}" for share in shares)]
        for name, each in scores.items()
    ]
    header = ["score", "AUROC (%)", "FPR at 95 % TPR (%)", "false alarms (%)", "found (%)"]
    return text_table(rows, header)


def _last(model: keras.Model, args: argparse.Namespace) -> keras.layers.Layer:
    """The layer with a vector for each class."""
    return model.get_layer("label" if args.model_name == "hpn" else "logits")


def _class_vectors(model: keras.Model, args: argparse.Namespace) -> np.ndarray:
    layer = _last(model, args)
    if args.model_name == "hpn":
        return keras.ops.convert_to_numpy(layer.prototypes)
    kernel = keras.ops.convert_to_numpy(layer.kernel)
    # That of a convolution has axes of size 1. In joint training the first output is the value.
    return kernel.reshape(-1, kernel.shape[-1])[:, args.task == "joint" :].T


def _reader(model: keras.Model, args: argparse.Namespace) -> Any:
    """Returns a function from images to `Outputs`."""
    ends = {"embeddings": _last(model, args).input, "logits": model.output["label"]}
    network = keras.Model(model.inputs, ends)
    # These losses train cosines, which are no logits before they are scaled.
    on_cosines = args.loss in ("squared", "dot_regression")
    scale = args.scale if args.model_name == "hpn" and on_cosines else 1.0

    def outputs(images: np.ndarray) -> Outputs:
        found = recipes.predict(network, images)
        return Outputs(found["embeddings"].reshape(len(images), -1), scale * found["logits"])

    return outputs
