"""Detects characters of alphabets never trained on from a few examples of each, with RepMet.

The detection set is drawn by the program: drawings scattered on a canvas, in several sizes. A grid
of boxes proposes regions; a network embeds each; RepMet's head gives squared distances to the
representatives of every class, which make the probabilities of the classes and of background. It is
trained on regions of some characters, with cross-entropy of these probabilities, and for regions
that show an object RepMet's loss.

An episode then takes some characters of other alphabets and a few examples of each: their
embeddings are the representatives of a new head, in the place of the one that was trained. Nothing
is trained on them. What is detected on new canvases is scored by mean average precision at an
overlap of 0.5 (VOC).

Reference: Karlinsky et al., RepMet: Representative-based metric learning for classification and
few-shot object detection, CVPR 2019 (arXiv 1806.04728).
"""

import argparse
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from tasks import boxes as detection_boxes
from tasks import scenes as detection_scenes
import keras
import numpy as np

from mhe.harness import datasets, figures, models, recipes, runs
from mhe.harness.batches import Batches
from mhe.harness.comparisons import Comparison, Varied, stem
from mhe.harness.errors import BadInput
from mhe.harness.flags import Parser, integer, number, program
from mhe.layers import Representatives, region_logits
from mhe.losses import repmet_loss

PROGRAM = "benchmarks/detection.py"
COMPARISON = Comparison(
    PROGRAM, [Varied("model_name")], {"test_mean_average_precision": 100}, shared=["dataset"]
)

_IMAGE_SIZE = 28  # pixels: larger drawings would lose strokes when they are scaled to regions


def make_parser() -> Parser:
    """Returns the parser of this program's flags."""
    parser = Parser(
        PROGRAM,
        "Detects characters of alphabets never trained on from a few examples of each. A list in "
        "--model_name, or --seeds, makes a folder of runs and a table of them.",
    )
    positive, above = integer(1), number(0, above=True)
    parser.add_argument(
        "--model_name",
        nargs="+",
        choices=["repmet1", "repmet2"],
        default=["repmet1"],
        help="the version of RepMet's loss of regions that show an object",
    )
    parser.add_data_flags("omniglot", f"{_IMAGE_SIZE}; digits stay as they are")
    parser.add_argument(
        "--test_alphabets",
        metavar="NAMES",
        help="Omniglot's alphabets to test on, parted by commas (default: as in "
        "benchmarks/fewshot.py)",
    )
    parser.add_argument("--dims", type=positive, default=64, help="dimensions of the embedding")
    parser.add_argument(
        "--per_class", type=positive, default=3, help="representatives of a class in training"
    )
    parser.add_argument(
        "--alpha", type=number(-math.inf), default=1.0, help="the margin of the loss"
    )
    parser.add_argument(
        "--sigma",
        type=above,
        default=0.25,
        help="standard deviation of the Gaussian around each representative",
    )
    parser.add_argument("--scenes", type=positive, default=1000, help="canvases to train on")
    parser.add_argument("--ways", type=integer(2), default=5, help="new characters in an episode")
    parser.add_argument("--shots", type=positive, default=5, help="examples of each of them")
    parser.add_argument("--episodes", type=integer(2), default=20, help="episodes to test on")
    parser.add_argument(
        "--queries", type=positive, default=5, help="canvases of an episode to detect on"
    )
    parser.add_argument("--seeds", type=positive, default=1, help="runs with --seed and the next")
    parser.add_argument("--arch", choices=models.ARCHITECTURES, default="conv4", help="the network")
    parser.add_argument("--width", type=above, default=1.0, help="factor on every layer's filters")
    parser.add_argument("--epochs", type=positive, default=15, help="epochs to train for")
    parser.add_argument("--batch_size", type=positive, default=128, help="regions in a batch")
    parser.add_argument("--base_lr", type=above, default=0.1, help="learning rate at the start")
    recipes.add_drops(parser, "0.7,0.9")
    parser.add_argument(
        "--weight_decay",
        type=number(0),
        default=1e-4,
        help="adds this times |w|^2/2 to the loss, for kernels and batch norm's scale and offset",
    )
    return parser


def fill_in(args: argparse.Namespace) -> None:
    """Settles the flags whose default depends on others; those of a resumed run are settled."""
    if args.image_size is None and args.dataset != "digits":
        args.image_size = _IMAGE_SIZE
    if args.out is None:
        args.out = Path("runs", f"{stem(args.dataset)}-detection")


def build(args: argparse.Namespace, classes: int, steps: int) -> tuple[keras.Model, keras.Model]:
    """Builds and compiles a network of regions.

    Args:
        args: The flags.
        classes: How many classes there are to train on, background not among them.
        steps: The iterations of the whole training.

    Returns:
        Regions to squared distances from representatives, compiled; and regions to embeddings.
    """
    shape = (detection_scenes.REGION, detection_scenes.REGION, 1)
    network = models.build(args.arch, shape, args.dims, args.width, args.weight_decay)
    # At unit length distances are at most 2: background is some way from all, not infinitely far.
    embeddings = keras.layers.UnitNormalization(name="embedding_norm")(network.outputs[0])
    embed = keras.Model(network.inputs, embeddings)
    head = Representatives(classes, args.per_class, args.dims, name="representatives")
    model = keras.Model(embed.inputs, head(embed.output), name=args.model_name)
    version = int(args.model_name.removeprefix("repmet"))

    def region_loss(labels, distances):
        logits = region_logits(distances, args.sigma)
        labels = keras.ops.reshape(labels, (-1,))
        told = keras.losses.sparse_categorical_crossentropy(labels, logits, from_logits=True)
        # Background has no representatives.
        apart = repmet_loss(labels, distances, version, args.alpha, args.sigma, classes)
        return told + apart

    def accuracy(labels, distances):
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
    scenes: Sequence[detection_scenes.Scene],
) -> list[list[tuple[np.ndarray, np.ndarray]]]:
    """Detects the classes of a head on canvases.

    Args:
        args: The flags.
        embed: Regions to embeddings.
        head: The representatives of the classes.
        scenes: Where to detect.

    Returns:
        For every scene and class the boxes `(N, 4)` and their scores `(N,)`, without doubles.
    """
    boxes = detection_scenes.proposals()
    regions = np.concatenate([detection_scenes.cut(scene.canvas, boxes) for scene in scenes])
    embeddings = _embedded(embed, regions)
    logits = region_logits(head(embeddings), args.sigma)
    scores = keras.ops.convert_to_numpy(keras.ops.softmax(logits, axis=-1))
    found = []
    for of_scene in scores.reshape(len(scenes), len(boxes), -1):
        of_classes = []
        for column in of_scene.T[:-1]:
            kept = detection_boxes.without_doubles(boxes, column)
            of_classes.append((boxes[kept], column[kept]))
        found.append(of_classes)
    return found


def mean_average_precision(
    found: Sequence[Sequence[tuple[np.ndarray, np.ndarray]]],
    scenes: Sequence[detection_scenes.Scene],
) -> float:
    """Scores detections, over the classes that have an object.

    Args:
        found: As `detect` gives it, for classes 0, 1, ...
        scenes: What there is to find.

    Example:

    >>> box = np.array([[10, 10, 40, 40]])
    >>> scene = detection_scenes.Scene(np.zeros((84, 84, 1)), box, np.array([1]))
    >>> nothing = np.zeros((0, 4)), np.zeros(0)
    >>> mean_average_precision([[nothing, (box + 3, np.array([0.9]))]], [scene])
    1.0
    """
    precisions = []
    for label in range(len(found[0])):
        scores, right, objects = [], [], 0
        for of_classes, scene in zip(found, scenes, strict=True):
            boxes, of_boxes = of_classes[label]
            truths = scene.boxes[scene.classes == label]
            scores.append(of_boxes)
            right.append(detection_boxes.matched(boxes, of_boxes, truths))
            objects += len(truths)
        if objects:
            precisions.append(
                detection_boxes.average_precision(
                    np.concatenate(scores), np.concatenate(right), objects
                )
            )
    return float(np.mean(precisions))


def episode(
    args: argparse.Namespace, embed: keras.Model, split: datasets.ClassSplit, number: int
) -> float:
    """Detects new classes from a few examples of each.

    Args:
        args: The flags.
        embed: Regions to embeddings.
        split: The drawings, of which those of the test classes are used.
        number: The number of the episode; with the seed it decides everything.

    Returns:
        The mean average precision.
    """
    rng = np.random.default_rng(np.random.SeedSequence(args.seed, spawn_key=(1, number)))
    images, names = split.test
    chosen = rng.choice(np.unique(names), args.ways, replace=False)
    # Support and queries are of different drawings.
    drawings = [rng.permutation(np.flatnonzero(names == name)) for name in chosen]
    support = np.concatenate([each[: args.shots] for each in drawings])
    queries = np.concatenate([each[args.shots :] for each in drawings])
    labels = np.empty(len(names), np.int64)
    for label, each in enumerate(drawings):
        labels[each] = label
    # An example is a region of a canvas, as what is to be detected.
    examples = [detection_scenes.draw_scene(images, labels, [each], rng) for each in support]
    regions = np.concatenate([detection_scenes.cut(one.canvas, one.boxes) for one in examples])
    few = _embedded(embed, regions).reshape(args.ways, args.shots, -1)
    head = Representatives(args.ways, args.shots, args.dims, representatives=few, trainable=False)
    scenes = detection_scenes.draw_scenes(images[queries], labels[queries], args.queries, rng)
    return mean_average_precision(detect(args, embed, head, scenes), scenes)


def train(args: argparse.Namespace, run: runs.Run | None = None) -> dict[str, Any]:
    """Trains a detector and tests it, and leaves a complete run folder.

    Args:
        args: The flags.
        run: The run to go on with; None begins one in `args.out`.

    Returns:
        What `result.json` holds.

    Raises:
        BadInput: If the data, the flags and the folder cannot be used together.
        Diverged: If the loss is no longer a number.
    """
    figures.require_matplotlib()
    if run is None:
        runs.require_unused(args.out)
    split = prepare(args)
    images, names = split.train
    known, labels = np.unique(names, return_inverse=True)
    if args.train_images is not None:
        images, labels = datasets.balanced_subset(images, labels, args.train_images, args.seed)
    rng = np.random.default_rng(np.random.SeedSequence(args.seed, spawn_key=(0,)))
    scenes = detection_scenes.draw_scenes(images, labels, args.scenes, rng)
    regions, of_regions = detection_scenes.regions(scenes, known.size, rng)

    keras.utils.set_random_seed(args.seed)
    steps = args.epochs * math.ceil(len(regions) / args.batch_size)
    model, embed = build(args, known.size, steps)
    run = runs.Run.begin_or_go_on(run, PROGRAM, args)
    done = run.restore(model)
    with run:
        if done < args.epochs:
            model.fit(
                Batches(regions, of_regions, args.batch_size, seed=args.seed, epoch=done),
                initial_epoch=done,
                epochs=args.epochs,
                shuffle=False,
                verbose=0,
                callbacks=run.callbacks(args.epochs, seed=args.seed),
            )
        figures.draw_metrics(
            run.rows,
            {"loss": "loss", "accuracy": "accuracy"},
            run.folder / "curves.png",
            run.folder.name,
        )
        found = [episode(args, embed, split, each) for each in range(args.episodes)]
        metrics = {
            "test_mean_average_precision": float(np.mean(found)),
            # Of the mean over episodes, at 95%.
            "test_interval": float(1.96 * np.std(found, ddof=1) / math.sqrt(len(found))),
            "train_region_accuracy": run.rows[-1]["accuracy"],
        }
        return run.finish({**metrics, "epochs": args.epochs})


def prepare(args: argparse.Namespace) -> datasets.ClassSplit:
    """Loads the drawings, and parts their classes into those to train on and those to test on.

    Args:
        args: The flags.

    Raises:
        BadInput: If there are too few classes, or too few drawings of one.
    """
    data = datasets.load(args.dataset, args.data_dir, args.image_size, args.label)
    asked = args.test_alphabets
    alphabets = None if asked is None else [name.strip() for name in asked.split(",")]
    split = datasets.split_classes(data, args.seed, test_alphabets=alphabets)
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


def _embedded(embed: keras.Model, regions: np.ndarray) -> np.ndarray:
    labels = np.zeros(len(regions), np.int64)
    batches = Batches(regions, labels, recipes.TEST_BATCH, shuffle=False)
    return embed.predict(batches, verbose=0)


def main(argv: Sequence[str] | None = None) -> None:
    """Trains, goes on training, or compares.

    Args:
        argv: The flags; those of the process by default.
    """
    args, run = make_parser().settle(argv)
    if run is None:
        fill_in(args)
        recipes.parts(args.drops)
    COMPARISON.carry_out(
        *(COMPARISON.combinations(args), run, args.out),
        train=train,
        main=main,
        title=f"{stem(args.dataset)}, {args.ways} new classes, {args.shots} examples of each",
    )


if __name__ == "__main__":
    sys.exit(program(main))
