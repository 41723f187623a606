"""The data, network, measures and figures of `benchmarks/interpret.py`."""

import argparse
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np

import mhe
from mhe.harness import figures, models, recipes
from mhe.harness.batches import normalize
from mhe.harness.errors import BadInput
from mhe.regularizers import nearest_images, total_variation

_DARK, _BRIGHT = (float(each) for each in normalize(np.array([0, 255], "uint8")))
# The number of test images that tell how far a new image is from the nearest training image.
_FRESH = 500
_EXPLAINED = 4


@dataclass(frozen=True)
class Data:
    """Images, labels, and where the prototypes start.

    Attributes:
        train: Images uint8 `(N, H, W, C)` and labels `(N,)`.
        test: The same of the test set or, with `--validation`, held out of the training set.
        class_names: The name of class i at index i.
        start: Normalized images `(classes, per_class, H, W, C)`.
    """

    train: tuple[np.ndarray, np.ndarray]
    test: tuple[np.ndarray, np.ndarray]
    class_names: tuple[str, ...]
    start: np.ndarray


def prepare(args: argparse.Namespace) -> Data:
    """Loads the data of a run and draws where its prototypes start.

    Args:
        args: The flags of one run.

    Raises:
        BadInput: If the data cannot be used.
    """
    data = recipes.load(args)
    data.require_classes()
    images, labels = data.train
    classes = len(data.class_names)
    shape = (classes, args.per_class, *images.shape[1:])
    rng = np.random.default_rng((args.seed, 1))
    if args.start == "noise":
        start = rng.uniform(_DARK, _BRIGHT, shape).astype(np.float32)
    else:
        members = [np.flatnonzero(labels == each) for each in range(classes)]
        for name, own in zip(data.class_names, members, strict=True):
            if len(own) < args.per_class:
                raise BadInput(
                    f"--per_class {args.per_class} needs as many training images of every class "
                    f"to start from. Received: {len(own)} of class {name}"
                )
        drawn = [rng.permutation(own)[: args.per_class] for own in members]
        start = normalize(images[np.concatenate(drawn)]).reshape(shape)
    return Data(data.train, data.test, data.class_names, start)


def build(args: argparse.Namespace, data: Data, steps: int) -> keras.Model:
    """Builds and compiles the network of a run.

    Args:
        args: The flags of one run.
        data: The data of the run.
        steps: The iterations of the whole training.

    Returns:
        A model from images to logits, whose last layer is called `prototypes`.
    """
    images, labels = data.train
    network = models.build(
        args.arch, images.shape[1:], len(data.class_names), args.width, args.weight_decay
    )
    # All but the logits layer, which the prototypes replace.
    encoder = keras.Model(network.inputs, network.get_layer("logits").input, name="encoder")
    terms = []
    if args.smooth:
        terms.append(mhe.TotalVariation(args.smooth))
    if args.pull:
        terms.append(mhe.NearestImagePull(normalize(images), args.pull, labels))
    head = mhe.layers.InputPrototypes(
        len(data.class_names),
        args.per_class,
        args.similarity,
        encoder=encoder,
        k=args.k,
        scale=args.scale,
        reduction=args.reduction,
        prototypes=data.start,
        prototypes_regularizer=mhe.Sum(*terms) if terms else None,
        prototypes_constraint=mhe.PixelRange(_DARK, _BRIGHT),
        name="prototypes",
    )
    model = keras.Sequential([keras.Input(images.shape[1:]), head])
    model.compile(
        keras.optimizers.Adam(recipes.stepped(args.base_lr, steps, recipes.fractions(args.drops))),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=[keras.metrics.SparseCategoricalAccuracy(name="accuracy")],
    )
    return model


def readability(prototypes: np.ndarray, data: Data) -> dict[str, float]:
    """Measures in pixels, without the network, how much prototypes resemble training images.

    Args:
        prototypes: Normalized images `(classes, per_class, H, W, C)`.
        data: The data of the run.

    Returns:
        `own_class_nearest`, the share of prototypes whose nearest training image is of their own
        class; `distance_ratio`, the distance to that image as a multiple of a test image's; and
        `roughness`, the total variation as a multiple of a training image's.
    """
    images, labels = normalize(data.train[0]), data.train[1]
    flat = prototypes.reshape(-1, *images.shape[1:])
    index, squares = map(keras.ops.convert_to_numpy, nearest_images(flat, images))
    own = np.repeat(np.arange(len(prototypes)), prototypes.shape[1])
    every = np.linspace(0, len(data.test[0]) - 1, min(_FRESH, len(data.test[0]))).astype(int)
    _, fresh = nearest_images(normalize(data.test[0][every]), images)
    return {
        "own_class_nearest": float(np.mean(labels[index] == own)),
        "distance_ratio": float(
            np.sqrt(squares).mean() / np.sqrt(keras.ops.convert_to_numpy(fresh)).mean()
        ),
        "roughness": float(total_variation(prototypes)) / float(total_variation(images)),
    }


def draw_prototypes(head: mhe.layers.InputPrototypes, data: Data, folder: Path) -> None:
    """Draws prototypes beside their start, the nearest training image and the most similar one.

    The nearest image is so pixel by pixel, the most similar one for the network; either may be of
    another class.

    Args:
        head: The trained layer.
        data: The data of the run.
        folder: The run's folder.
    """
    images, _ = data.train
    rows = keras.ops.convert_to_numpy(head.prototypes)
    nearest, _ = nearest_images(rows, normalize(images))
    alike = similarities(head, images).reshape(len(images), -1).argmax(axis=0)
    figures.draw_input_prototypes(
        {
            "start": pixels(data.start),
            "prototype": pixels(rows),
            "nearest": images[keras.ops.convert_to_numpy(nearest)],
            "most similar": images[alike.reshape(rows.shape[:2])],
        },
        data.class_names,
        folder / "prototypes.png",
        folder.name,
    )


def draw_explanations(
    head: mhe.layers.InputPrototypes, data: Data, folder: Path, seed: int
) -> None:
    """Explains some predictions of test images, correct ones and wrong ones.

    Args:
        head: The trained layer.
        data: The data of the run.
        folder: The run's folder.
        seed: Seed of the choice among them.
    """
    images, labels = data.test
    found = similarities(head, images)
    reduced = found.max(axis=2) if head.reduction == "max" else found.mean(axis=2)
    logits = head.scale * reduced
    order = np.argsort(-logits, axis=1)[:, :2]
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    odds /= odds.sum(axis=1, keepdims=True)
    pictures = pixels(keras.ops.convert_to_numpy(head.prototypes))
    rng = np.random.default_rng((seed, 2))
    correct = order[:, 0] == labels
    explained = []
    for image in np.concatenate(
        [rng.permutation(np.flatnonzero(each))[:_EXPLAINED] for each in (correct, ~correct)]
    ):
        two = order[image]
        ranked = np.argsort(-found[image, two], axis=1)
        explained.append(
            figures.Explanation(
                images[image],
                data.class_names[labels[image]],
                tuple(data.class_names[each] for each in two),
                tuple(odds[image, two]),
                np.stack([pictures[each][own] for each, own in zip(two, ranked, strict=True)]),
                np.take_along_axis(found[image, two], ranked, axis=1),
            )
        )
    figures.draw_explanations(explained, folder / "explanations.png", folder.name)


def similarities(head: mhe.layers.InputPrototypes, images: np.ndarray) -> np.ndarray:
    """Returns the similarity of images to each prototype.

    Args:
        head: The trained layer.
        images: uint8 `(N, H, W, C)`.

    Returns:
        `(N, classes, per_class)`.
    """
    found = [
        keras.ops.convert_to_numpy(
            head.similarities(normalize(images[top : top + recipes.TEST_BATCH]))
        )
        for top in range(0, len(images), recipes.TEST_BATCH)
    ]
    return np.concatenate(found)


def pixels(normalized: np.ndarray) -> np.ndarray:
    """Converts normalized images back to uint8.

    Args:
        normalized: Array of any shape, see `normalize`.

    Example:

    >>> pixels(normalize(np.array([0, 7, 255], "uint8"))).tolist()
    [0, 7, 255]
    """
    return np.clip(np.rint(normalized * 128 + 127.5), 0, 255).astype(np.uint8)
