"""Trains prototypes that are images, and shows what the network takes a class to look like.

Prototypes pass through the same encoder as the images, and the logit of a class is the similarity
to its prototypes (`mhe.layers.InputPrototypes`). A run draws them beside where they started and the
training images that are nearest to them (`prototypes.png`), and explains some predictions by the
prototypes that an image resembles (`explanations.png`).

A list in --similarity, --start or --scale, or --seeds, makes a folder of runs, one for each
combination, and a table of them. Runs that are complete are not repeated and broken ones go on
where they stopped, so the same command can be stopped and called again.

How readable prototypes are is measured in pixels, without the network, besides being drawn:

    own_class_nearest  the share of prototypes whose nearest training image is of their own class
    distance_ratio     how far a prototype is from that image, as a multiple of what a test image is
    roughness          its total variation, as a multiple of a training image's
"""

import argparse
import math
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from mhe.harness.chance import ChanceWarning
from mhe.harness.schedules import stepped

import mhe
from mhe.harness import figures, models, recipes, runs
from mhe.harness.batches import Batches, normalize
from mhe.harness.comparisons import Comparison, Varied, stem
from mhe.harness.errors import BadInput
from mhe.harness.flags import Parser, integer, number, program
from mhe.layers.input_prototypes import REDUCTIONS, SIMILARITIES
from mhe.regularizers import nearest_images, total_variation

PROGRAM = "benchmarks/interpret.py"
COMPARISON = Comparison(
    PROGRAM,
    [Varied("similarity"), Varied("start"), Varied("scale", "scale")],
    {
        "test_accuracy": 100,
        "validation_accuracy": 100,
        "own_class_nearest": 100,
        "distance_ratio": 1,
        "roughness": 1,
    },
)
# Factors from similarities to logits. Cosines are at most 1, and a softmax over them needs one; dot
# products and distances grow by themselves.
SCALES = {"cosine": 10.0, "dot": 1.0, "l2": 1.0, "lk": 1.0}

# What result.json has of every program, and no flag of this one says.
DESCRIBED = {"model_name": "input_prototypes", "power_s": None}
_DARK, _BRIGHT = (float(each) for each in normalize(np.array([0, 255], "uint8")))
# So many test images tell how far a fresh image is from the nearest training image.
_FRESH = 500
_EXPLAINED = 4


@dataclass(frozen=True)
class Data:
    """Images uint8 `(N, H, W, C)` and labels `(N,)`, and where the prototypes start.

    Attributes:
        train: Images and labels.
        test: The same, of the test set or, with `--validation`, held out of the training set.
        class_names: The name of class i at place i.
        start: As pixels are normalised, `(classes, per_class, H, W, C)`.
    """

    train: tuple[np.ndarray, np.ndarray]
    test: tuple[np.ndarray, np.ndarray]
    class_names: tuple[str, ...]
    start: np.ndarray


def make_parser() -> Parser:
    """Returns the parser of this program's flags."""
    parser = Parser(
        PROGRAM,
        "Trains prototypes that are images, draws them and explains predictions by them. A list in "
        "--similarity, --start or --scale, or --seeds, makes a folder of runs and a table of them.",
    )
    positive, above = integer(1), number(0, above=True)
    parser.add_argument(
        "--similarity",
        nargs="+",
        choices=SIMILARITIES,
        default=["cosine"],
        help="what images and prototypes are compared by, where the encoder ends",
    )
    parser.add_argument(
        "--start",
        nargs="+",
        choices=["images", "noise"],
        default=["images"],
        help="where prototypes start: at training images of their class, drawn by the seed; at "
        "noise, even between black and white",
    )
    scales = ", ".join(f"{scale:g} for {name}" for name, scale in SCALES.items())
    parser.add_argument(
        "--scale",
        nargs="+",
        type=above,
        help=f"factor from similarities to logits (default: {scales})",
    )
    parser.add_argument("--k", type=number(1), default=3.0, help="exponent of --similarity lk")
    parser.add_argument("--per_class", type=positive, default=3, help="prototypes of each class")
    parser.add_argument(
        "--reduction",
        choices=REDUCTIONS,
        default="max",
        help="the logit of a class is that of its most similar prototype, or the mean of all",
    )
    parser.add_argument(
        "--smooth",
        type=number(0),
        default=3e-3,
        help="strength of the prototypes' total variation, pixels being from -1 to 1",
    )
    parser.add_argument(
        "--pull",
        type=number(0),
        default=3e-2,
        help="strength of the squared distance to the nearest training image of the class",
    )
    parser.add_data_flags("digits")
    recipes.add_comparison_flags(parser)
    recipes.add_network_flags(
        parser,
        arch="conv4",
        epochs=20,
        base_lr=0.01,
        rate=" of Adam",
        drops="0.5,0.8",
    )
    # The encoder sees the prototypes in every step; small ones go a long way.
    parser.set_defaults(width=0.5, batch_size=64)
    return parser


def fill_in(args: argparse.Namespace) -> None:
    """Settles the flags whose default depends on others; those of a resumed run are settled."""
    if args.augment is None:
        args.augment = "none" if args.dataset == "digits" else "crop_flip"
    if args.out is None:
        args.out = Path("runs", f"{stem(args.dataset)}-interpret")


def single(args: argparse.Namespace) -> dict[str, argparse.Namespace]:
    """Returns the flags of every run that is asked for, by the name of the run.

    Args:
        args: The settled flags, with lists.

    Example:

    >>> args, _ = make_parser().settle(["--similarity", "cosine", "dot", "--start", "noise"])
    >>> list(single(args))
    ['cosine-noise-scale10-seed0', 'dot-noise-scale1-seed0']
    """

    def settled(own: dict[str, Any]) -> dict[str, Any]:
        return {**own, "scale": own["scale"] or SCALES[own["similarity"]]}

    return COMPARISON.combinations(args, settled)


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
                    f"to start at. Received: {len(own)} of class {name}"
                )
        drawn = [rng.permutation(own)[: args.per_class] for own in members]
        start = normalize(images[np.concatenate(drawn)]).reshape(shape)
    return Data(data.train, data.test, data.class_names, start)


def build(args: argparse.Namespace, data: Data, steps: int) -> keras.Model:
    """Builds and compiles the network of a run.

    Args:
        args: The flags of one run.
        data: What it is trained on.
        steps: The iterations of the whole training.

    Returns:
        A model from images to logits, whose last layer is called `prototypes`.
    """
    images, labels = data.train
    network = models.build(
        args.arch, images.shape[1:], len(data.class_names), args.width, args.weight_decay
    )
    # All but the layer of logits, whose place the prototypes take.
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
        keras.optimizers.Adam(stepped(args.base_lr, steps, recipes.parts(args.drops))),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=[keras.metrics.SparseCategoricalAccuracy(name="accuracy")],
    )
    return model


def train(args: argparse.Namespace, run: runs.Run | None = None) -> dict[str, Any]:
    """Trains one network, and leaves a complete run folder.

    Args:
        args: The flags of the run, as `single` gives them.
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
    data = prepare(args)
    images, labels = data.train
    steps_per_epoch = math.ceil(len(images) / args.batch_size)
    keras.utils.set_random_seed(args.seed)
    model = build(args, data, args.epochs * steps_per_epoch)
    run = runs.Run.begin_or_go_on(run, PROGRAM, args, **DESCRIBED)
    done = run.restore(model)
    chance = ChanceWarning(labels, steps_per_epoch, args.epochs, args.base_lr, run.rows)
    with run:
        if done < args.epochs:
            model.fit(
                Batches(
                    images,
                    labels,
                    args.batch_size,
                    seed=args.seed,
                    augment=recipes.AUGMENTATIONS[args.augment],
                    epoch=done,
                ),
                validation_data=Batches(*data.test, recipes.TEST_BATCH, shuffle=False),
                initial_epoch=done,
                epochs=args.epochs,
                shuffle=False,
                verbose=0,
                callbacks=[chance, *run.callbacks(args.epochs, seed=args.seed)],
            )
        figures.draw_metrics(
            run.rows, {"accuracy": "accuracy"}, run.folder / "curves.png", run.folder.name
        )
        head = model.get_layer("prototypes")
        rows = keras.ops.convert_to_numpy(head.prototypes)
        with runs.replacing(run.folder / "prototypes.npy") as partial, open(partial, "wb") as file:
            np.save(file, rows, allow_pickle=False)
        draw_prototypes(head, data, run.folder)
        draw_explanations(head, data, run.folder, args.seed)
        kind = "validation" if args.validation else "test"
        return run.finish(
            {
                f"{kind}_accuracy": run.rows[-1]["val_accuracy"],
                "train_accuracy": run.rows[-1]["accuracy"],
                **readability(rows, data),
                "epochs": args.epochs,
            }
        )


def readability(prototypes: np.ndarray, data: Data) -> dict[str, float]:
    """Measures in pixels how much prototypes are like training images.

    Args:
        prototypes: As pixels are normalised, `(classes, per_class, H, W, C)`.
        data: What they were trained on.

    Returns:
        `own_class_nearest`, `distance_ratio` and `roughness`, as described above.
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

    The nearest is that of all training images pixel by pixel, the most similar what the network
    finds most similar; either may be of another class.

    Args:
        head: The trained layer.
        data: What it was trained on.
        folder: The run's folder.
    """
    images, _ = data.train
    rows = keras.ops.convert_to_numpy(head.prototypes)
    nearest, _ = nearest_images(rows, normalize(images))
    found = similarities(head, images).reshape(len(images), -1)
    alike = found.argmax(axis=0).reshape(rows.shape[:2])
    figures.draw_input_prototypes(
        {
            "start": pixels(data.start),
            "prototype": pixels(rows),
            "nearest": images[keras.ops.convert_to_numpy(nearest)],
            "most alike": images[alike],
        },
        data.class_names,
        folder / "prototypes.png",
        folder.name,
    )


def draw_explanations(
    head: mhe.layers.InputPrototypes, data: Data, folder: Path, seed: int
) -> None:
    """Explains some predictions of test images: some that are right, some that are wrong.

    Args:
        head: The trained layer.
        data: What it was trained on.
        folder: The run's folder.
        seed: Which of them is drawn by it.
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
    right = order[:, 0] == labels
    explained = []
    for image in np.concatenate(
        [rng.permutation(np.flatnonzero(each))[:_EXPLAINED] for each in (right, ~right)]
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
    """Brings images back to uint8 from what `normalize` makes of them.

    Args:
        normalized: Array of any shape.

    Example:

    >>> pixels(normalize(np.array([0, 7, 255], "uint8"))).tolist()
    [0, 7, 255]
    """
    return np.clip(np.rint(normalized * 128 + 127.5), 0, 255).astype(np.uint8)


def main(argv: Sequence[str] | None = None) -> None:
    """Trains, goes on training, or compares.

    Args:
        argv: The flags; those of the process by default.
    """
    args, run = make_parser().settle(argv)
    if run is None:
        fill_in(args)
        recipes.check(args)
    COMPARISON.carry_out(
        *(single(args), run, args.out), train=train, main=main, title=stem(args.dataset)
    )


if __name__ == "__main__":
    sys.exit(program(main))
