"""The network and the tests of `benchmarks/detection.py`."""

import argparse
from collections.abc import Sequence

import keras
import numpy as np

from mhe.harness import datasets, models, recipes
from mhe.harness.errors import BadInput
from mhe.layers import Representatives, region_logits
from mhe.losses import repmet_loss
from mhe.types import Tensor
from tasks import boxes, new_classes, scenes
from tasks.unit_norm import UnitNorm

# Of one class on one canvas: boxes `(N, 4)` and their scores `(N,)`.
Detections = tuple[np.ndarray, np.ndarray]


def prepare(args: argparse.Namespace) -> datasets.ClassSplit:
    """Loads the drawings and splits their classes into those to train on and those to test on.

    Args:
        args: The flags of one run.

    Raises:
        BadInput: If there are too few classes, or too few drawings of one.
    """
    split = new_classes.load(args)
    names, counts = np.unique(split.test[1], return_counts=True)
    if names.size < args.ways:
        raise BadInput(
            f"--ways must be at most the {names.size} classes to test on. Received: {args.ways}"
        )
    if counts.min() <= args.shots:
        least = int(counts.argmin())
        raise BadInput(
            f"--shots must leave a drawing of each class to detect; {names[least]} has "
            f"{counts[least]}. Received: {args.shots}"
        )
    return split


def training_regions(
    args: argparse.Namespace, split: datasets.ClassSplit
) -> tuple[tuple[np.ndarray, np.ndarray], int]:
    """Draws the canvases to train on and cuts regions from them.

    Args:
        args: The flags of one run.
        split: The drawings; only those of the training classes are used.

    Returns:
        Regions and their classes; and the number of classes, which as a class is background.
    """
    images, names = split.train
    classes, labels = np.unique(names, return_inverse=True)
    if args.train_images is not None:
        images, labels = datasets.balanced_subset(images, labels, args.train_images, args.seed)
    rng = np.random.default_rng(np.random.SeedSequence(args.seed, spawn_key=(0,)))
    canvases = scenes.draw_scenes(images, labels, args.scenes, rng)
    return scenes.regions(canvases, classes.size, rng), classes.size


def build(args: argparse.Namespace, classes: int, steps: int) -> tuple[keras.Model, keras.Model]:
    """Builds and compiles a network of regions.

    Args:
        args: The flags of one run.
        classes: The number of training classes, without background.
        steps: The iterations of the whole training.

    Returns:
        Regions to squared distances to representatives, compiled; and regions to embeddings.
    """
    shape = (scenes.REGION, scenes.REGION, 1)
    network = models.build(args.arch, shape, args.dims, args.width, args.weight_decay)
    # Between unit vectors distances are at most 2, so background cannot move infinitely far away.
    unit = UnitNorm(name="embedding_norm")(network.outputs[0])
    embed = keras.Model(network.inputs, unit)
    head = Representatives(classes, args.per_class, args.dims, name="representatives")
    model = keras.Model(embed.inputs, head(embed.output), name=args.model_name)
    version = int(args.model_name.removeprefix("repmet"))

    def region_loss(labels: Tensor, distances: Tensor) -> Tensor:
        logits = region_logits(distances, args.sigma)
        labels = keras.ops.reshape(labels, (-1,))
        entropy = keras.losses.sparse_categorical_crossentropy(labels, logits, from_logits=True)
        # Background has no representatives.
        margin = repmet_loss(labels, distances, version, args.alpha, args.sigma, classes)
        return entropy + margin

    def accuracy(labels: Tensor, distances: Tensor) -> Tensor:
        logits = region_logits(distances, args.sigma)
        return keras.metrics.sparse_categorical_accuracy(labels, logits)

    model.compile(
        recipes.optimizer(args, steps),
        loss=region_loss,
        metrics=[accuracy],
        jit_compile=recipes.jit_compile(),
    )
    return model, embed


def detect(
    args: argparse.Namespace,
    embed: keras.Model,
    head: Representatives,
    canvases: Sequence[scenes.Scene],
) -> list[list[Detections]]:
    """Detects the classes of a head on canvases.

    Args:
        args: The flags of one run.
        embed: Regions to embeddings.
        head: The representatives of the classes.
        canvases: The scenes to detect on.

    Returns:
        The detections by scene and class, after non-maximum suppression.
    """
    proposals = scenes.proposals()
    regions = np.concatenate([scenes.cut(scene.canvas, proposals) for scene in canvases])
    logits = region_logits(head(embeddings(embed, regions)), args.sigma)
    scores = keras.ops.convert_to_numpy(keras.ops.softmax(logits, axis=-1))
    detections = []
    for of_scene in scores.reshape(len(canvases), len(proposals), -1):
        of_classes = []
        for column in of_scene.T[:-1]:
            best = boxes.suppress(proposals, column)
            of_classes.append((proposals[best], column[best]))
        detections.append(of_classes)
    return detections


def mean_average_precision(
    detections: Sequence[Sequence[Detections]], canvases: Sequence[scenes.Scene]
) -> float:
    """Scores detections, averaged over the classes that have an object.

    Args:
        detections: See `detect`.
        canvases: The scenes that they were made on.

    Example:

    >>> box = np.array([[10, 10, 40, 40]])
    >>> scene = scenes.Scene(np.zeros((84, 84, 1)), box, np.array([1]))
    >>> nothing = np.zeros((0, 4)), np.zeros(0)
    >>> mean_average_precision([[nothing, (box + 3, np.array([0.9]))]], [scene])
    1.0
    """
    precisions = []
    for label in range(len(detections[0])):
        scores, correct, objects = [], [], 0
        for of_classes, scene in zip(detections, canvases, strict=True):
            detected, of_boxes = of_classes[label]
            truths = scene.boxes[scene.classes == label]
            scores.append(of_boxes)
            correct.append(boxes.matched(detected, of_boxes, truths))
            objects += len(truths)
        if objects:
            precisions.append(
                boxes.average_precision(np.concatenate(scores), np.concatenate(correct), objects)
            )
    return float(np.mean(precisions))


def episode(
    args: argparse.Namespace, embed: keras.Model, split: datasets.ClassSplit, number: int
) -> float:
    """Detects new classes from a few examples of each.

    Args:
        args: The flags of one run.
        embed: Regions to embeddings.
        split: The drawings; only those of the test classes are used.
        number: The number of the episode, which with the seed determines it.

    Returns:
        The mean average precision.
    """
    rng = np.random.default_rng(np.random.SeedSequence(args.seed, spawn_key=(1, number)))
    images, names = split.test
    chosen = rng.choice(np.unique(names), args.ways, replace=False)
    # Support and queries are different drawings.
    drawings = [rng.permutation(np.flatnonzero(names == name)) for name in chosen]
    support = np.concatenate([each[: args.shots] for each in drawings])
    queries = np.concatenate([each[args.shots :] for each in drawings])
    labels = np.empty(len(names), np.int64)
    for label, each in enumerate(drawings):
        labels[each] = label
    # An example is a region of a canvas, like what is to be detected.
    examples = [scenes.draw_scene(images, labels, [each], rng) for each in support]
    regions = np.concatenate([scenes.cut(one.canvas, one.boxes) for one in examples])
    few = embeddings(embed, regions).reshape(args.ways, args.shots, -1)
    head = Representatives(args.ways, args.shots, args.dims, representatives=few, trainable=False)
    canvases = scenes.draw_scenes(images[queries], labels[queries], args.queries, rng)
    return mean_average_precision(detect(args, embed, head, canvases), canvases)


def embeddings(embed: keras.Model, regions: np.ndarray) -> np.ndarray:
    """Returns the embeddings of uint8 regions.

    Args:
        embed: Regions to embeddings.
        regions: uint8 `(N, REGION, REGION, 1)`.
    """
    return recipes.predict(embed, regions)
