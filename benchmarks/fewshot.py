"""Trains prototypical networks on episodes, and tests them on classes they have never seen.

Without flags this is the published Omniglot recipe: episodes of 60 ways with 5 support and 5 query
images, four convolutional blocks, images of 28x28 pixels, turned ones as further classes, Adam at
0.001, halved every 2,000 episodes. At the end the embedding is tested on 5 and 20 ways with 1 and 5
shots, 1,000 episodes each; `--one_shot_runs` scores it on Omniglot's published one-shot runs too,
also where a run is complete: `--resume RUN --one_shot_runs DIR`.

Of Omniglot whole alphabets are held out, those of its evaluation set where it comes by name; of any
other dataset a part of the classes.

Reference: Snell et al., Prototypical Networks for Few-shot Learning, NeurIPS 2017
(arXiv 1703.05175).
"""

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

from mhe import fewshot
from mhe.harness import datasets, figures, models, recipes, runs
from mhe.harness.comparisons import Comparison, Varied, stem, write
from mhe.harness.errors import BadInput
from mhe.harness.flags import Parser, integer, number, program

PROGRAM = "benchmarks/fewshot.py"
WAYS, SHOTS = (5, 20), (1, 5)
COMPARISON = Comparison(
    PROGRAM,
    [Varied("distance"), Varied("shots", prefix="shots")],
    {f"test_accuracy_{ways}way_{shots}shot": 100 for ways in WAYS for shots in SHOTS},
)

_EMBEDDING = "embedding.keras"
_IMAGE_SIZE = 28
_PUBLISHED_WAYS = 60
_WATCHED = 100  # episodes that each epoch is tested on
# Every run is tested on the same episodes, so that runs can be compared.
_TEST_SEED = 0


def make_parser() -> Parser:
    """Returns the parser of this program's flags."""
    parser = Parser(
        PROGRAM,
        "Trains prototypical networks on episodes and tests them on classes they have never seen. "
        "A list in --distance or --shots, or --seeds, makes a folder of runs and a table of them.",
    )
    positive, above = integer(1), number(0, above=True)
    parser.add_argument(
        "--model_name",
        choices=["prototypical"],
        default="prototypical",
        help="a network whose embeddings have class means for prototypes",
    )
    parser.add_argument(
        "--distance",
        nargs="+",
        choices=fewshot.DISTANCES,
        default=["squared"],
        help="between an embedding and a prototype: squared Euclidean, or 1 - cosine",
    )
    parser.add_argument(
        "--scale",
        type=above,
        help="factor of the distance in the logits (default: 1, and 10 for cosine)",
    )
    parser.add_data_flags("omniglot", f"{_IMAGE_SIZE}; digits stay as they are")
    parser.add_argument(
        "--test_alphabets",
        metavar="NAMES",
        help="Omniglot's alphabets to test on, parted by commas (default: those of the evaluation "
        "set of omniglot; of Omniglot's zips the last by name that hold a fifth of the characters, "
        "Sanskrit and Tagalog in its two small sets)",
    )
    parser.add_argument(
        "--test_classes",
        metavar="NAMES",
        help="classes to test on, parted by commas (default: a quarter, but at least 5, drawn by "
        "--seed)",
    )
    parser.add_argument(
        "--turns",
        choices=["none", "quarter", "mirror"],
        help="quarter: images turned by 90, 180 and 270 degrees are of new classes in training; "
        "mirror: their mirror images too (default: quarter for Omniglot, else none)",
    )
    parser.add_argument(
        "--augment",
        choices=["none", "affine"],
        default="none",
        help="affine: turn, stretch, shear and shift every image of a training episode a little",
    )
    parser.add_argument("--seeds", type=positive, default=1, help="runs with --seed and the next")
    parser.add_argument(
        "--arch",
        choices=models.ARCHITECTURES,
        default="conv4",
        help="the network, up to its embedding",
    )
    parser.add_argument("--width", type=above, default=1.0, help="factor on every layer's filters")
    parser.add_argument(
        "--weight_decay",
        type=number(0),
        help="adds this times |w|^2/2 to the loss, for kernels and batch norm's scale and offset "
        "(default: as published for the network, none for conv4)",
    )
    parser.add_argument(
        "--ways",
        type=integer(2),
        help=f"classes in a training episode (default: {_PUBLISHED_WAYS}, or all if there are "
        "fewer)",
    )
    parser.add_argument(
        "--shots",
        nargs="+",
        type=positive,
        default=[5],
        help="support images of a class in a training episode",
    )
    parser.add_argument(
        "--queries", type=positive, default=5, help="query images of a class in a training episode"
    )
    parser.add_argument("--epochs", type=positive, default=100, help="epochs to train for")
    parser.add_argument("--episodes", type=positive, default=100, help="episodes in an epoch")
    parser.add_argument("--base_lr", type=above, default=1e-3, help="learning rate at the start")
    parser.add_argument(
        "--halve_every", type=positive, default=2000, help="episodes after which the rate is halved"
    )
    parser.add_argument(
        "--test_episodes", type=integer(2), default=1000, help="episodes of each test at the end"
    )
    parser.add_argument(
        "--test_queries", type=positive, default=15, help="query images of a class in a test"
    )
    parser.add_argument(
        "--one_shot_runs",
        metavar="DIR",
        help="score a folder or zip of Omniglot's published one-shot runs as well: "
        "run01/training/, run01/test/, run01/class_labels.txt and so on",
    )
    parser.apart.add("one_shot_runs")
    return parser


def fill_in(args: argparse.Namespace) -> None:
    """Settles the flags whose default depends on others; those of a resumed run are settled."""
    if args.image_size is None and args.dataset != "digits":
        args.image_size = _IMAGE_SIZE
    if args.out is None:
        args.out = Path("runs", f"{stem(args.dataset)}-fewshot")


def prepare(args: argparse.Namespace) -> datasets.ClassSplit:
    """Loads the images of a run, and parts their classes.

    Args:
        args: The flags of one run; `turns` and `ways` are settled by what is found.

    Raises:
        BadInput: If the data cannot be used, or no episode can be drawn of them.
    """
    data = datasets.load(args.dataset, args.data_dir, args.image_size, args.label)
    asked = {
        flag: None if text is None else [name.strip() for name in text.split(",")]
        for flag, text in vars(args).items()
        if flag in ("test_alphabets", "test_classes")
    }
    split = datasets.split_classes(data, args.seed, **asked)
    images, classes = split.train
    if args.train_images is not None:
        images, classes = datasets.balanced_subset(images, classes, args.train_images, args.seed)
    if args.turns is None:
        args.turns = "quarter" if split.alphabets else "none"
    if args.turns != "none":
        if images.shape[1] != images.shape[2]:
            raise BadInput(
                f"--turns {args.turns} needs square images; --image_size makes them so. "
                f"Received: images of {images.shape[2]}x{images.shape[1]} pixels"
            )
        images, classes = datasets.with_quarter_turns(images, classes)
    if args.turns == "mirror":
        images, classes = datasets.with_mirror_images(images, classes)
    if args.ways is None:
        args.ways = min(_PUBLISHED_WAYS, np.unique(classes).size)
    return datasets.ClassSplit((images, classes), split.test, split.alphabets)


def build(args: argparse.Namespace, input_shape: tuple[int, int, int]) -> keras.Model:
    """Builds and compiles the network of a run.

    Args:
        args: The flags of one run.
        input_shape: `(H, W, C)` of the uint8 images.
    """
    network = models.build(args.arch, input_shape, 2, args.width, args.weight_decay)
    embedding = keras.Model(network.inputs, network.get_layer("embedding").output)
    images = keras.Input(input_shape, dtype="uint8", name="images")
    outputs = embedding(keras.layers.Rescaling(1 / 255, name="unit_range")(images))
    outputs = keras.layers.Flatten(name="flat_embedding")(outputs)
    backbone = keras.Model(images, outputs, name=f"{network.name}_embedding")
    model = fewshot.PrototypicalNetwork(backbone, args.distance, args.scale, name=args.model_name)
    rate = keras.optimizers.schedules.ExponentialDecay(
        args.base_lr, args.halve_every, 0.5, staircase=True
    )
    model.compile(keras.optimizers.Adam(rate), jit_compile=recipes.jit_compile())
    return model


class HeldOutAccuracy(keras.callbacks.Callback):
    """Adds `val_accuracy` to the logs: that of a few episodes of classes never trained on.

    Args:
        test: Images and the names of their classes.
        **episodes: As `mhe.fewshot.evaluate` takes them.
    """

    def __init__(self, test: tuple[np.ndarray, np.ndarray], **episodes: Any):
        super().__init__()
        self.test, self.episodes = test, episodes

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        embeddings = self.model.embed(self.test[0])
        # Weights that are no longer numbers are for the run to tell.
        if np.isfinite(embeddings).all():
            found = fewshot.evaluate(lambda _: embeddings, *self.test, **self.episodes)
            logs["val_accuracy"] = found.accuracy


def train(args: argparse.Namespace, run: runs.Run | None = None) -> dict[str, Any]:
    """Trains one network, and leaves a complete run folder.

    Args:
        args: The flags of one run.
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
    episodes, tests = drawn(args, data)
    one_shot = _one_shot_runs(args, data.train[0].shape[1:])
    keras.utils.set_random_seed(args.seed)
    model = build(args, data.train[0].shape[1:])
    is_new = run is None
    run = runs.Run.begin_or_go_on(run, PROGRAM, args, apart=make_parser().apart)
    if is_new:
        write(
            [
                {"class": name, "set": side}
                for side, (_, classes) in (("train", data.train), ("test", data.test))
                for name in np.unique(classes).tolist()
            ],
            run.folder / "classes.csv",
        )
    done = run.restore(model)
    tested = f" of {', '.join(data.alphabets)}" if data.alphabets else ""
    count = np.unique(data.test[1]).size
    print(
        f"{args.ways} ways, {args.shots} shots, {args.queries} queries of "
        f"{len(episodes.classes)} classes; tested on {count} classes{tested}"
    )
    for ways in set(WAYS) - {test["ways"] for test in tests}:
        print(f"No test on {ways} ways: there are {count} classes to test on", file=sys.stderr)
    with run:
        if done < args.epochs:
            watched = HeldOutAccuracy(
                data.test,
                **{**tests[0], "episodes": _WATCHED, "distance": args.distance},
            )
            model.fit(
                fewshot.EpisodeBatches(
                    data.train[0],
                    episodes,
                    args.episodes,
                    epoch=done,
                    augment=recipes.AUGMENTATIONS[args.augment],
                ),
                initial_epoch=done,
                epochs=args.epochs,
                shuffle=False,
                verbose=0,
                callbacks=[watched, *run.callbacks(args.epochs, seed=args.seed)],
            )
        with runs.replacing(run.folder / _EMBEDDING) as partial:
            model.backbone.save(partial)
        title = f"{run.folder.name}: trained on {args.ways} ways, tested on 5 ways and 1 shot"
        figures.draw_metrics(run.rows, {"accuracy": "accuracy"}, run.folder / "curves.png", title)
        lines, metrics = [], {}
        for test in tests:
            found = fewshot.evaluate(
                model.embed,
                *data.test,
                **test,
                episodes=args.test_episodes,
                distance=args.distance,
            )
            name = f"test_accuracy_{test['ways']}way_{test['shots']}shot"
            metrics |= {name: found.accuracy, f"{name}_interval": found.interval}
            lines.append(
                {
                    "ways": test["ways"],
                    "shots": test["shots"],
                    "episodes": args.test_episodes,
                    "accuracy": found.accuracy,
                    "interval": found.interval,
                }
            )
        write(lines, run.folder / "episodes.csv")
        print(_table(lines))
        metrics |= {"train_accuracy": run.rows[-1]["accuracy"], "epochs": args.epochs}
        if one_shot:
            metrics |= score_one_shot(model.backbone, one_shot, args.distance, run.folder)
        return run.finish(metrics)


def drawn(
    args: argparse.Namespace, data: datasets.ClassSplit
) -> tuple[fewshot.Episodes, list[dict[str, int]]]:
    """Returns the episodes to train on, and the tests that the classes allow.

    Args:
        args: The flags of one run.
        data: What it is trained and tested on.

    Returns:
        The episodes, and for each test the `ways`, `shots`, `queries` and `seed` of its episodes.

    Raises:
        BadInput: If they cannot be drawn.
    """
    try:
        episodes = fewshot.Episodes(
            data.train[1], args.ways, args.shots, args.queries, seed=args.seed
        )
    except ValueError as error:
        raise BadInput(f"--ways, --shots and --queries: {error}") from error
    count = np.unique(data.test[1]).size
    tests = [
        {"ways": ways, "shots": shots, "queries": args.test_queries, "seed": _TEST_SEED}
        for ways in WAYS
        for shots in SHOTS
        if ways <= count
    ]
    try:
        for test in tests or [{"ways": WAYS[0]}]:
            fewshot.Episodes(data.test[1], **test)
    except ValueError as error:
        raise BadInput(f"Classes to test on, with --test_queries: {error}") from error
    return episodes, tests


def _one_shot_runs(
    args: argparse.Namespace, input_shape: tuple[int, int, int]
) -> list[datasets.OneShotRun]:
    """Loads what is to be scored, before anything is spent on the training."""
    if args.one_shot_runs is None:
        return []
    height, width, channels = input_shape
    if (height, channels) != (width, 1):
        raise BadInput(
            "--one_shot_runs needs a network of square grey images. "
            f"Received: one of {width}x{height} pixels and {channels} channels"
        )
    return datasets.load_one_shot_runs(args.one_shot_runs, height)


def score_one_shot(
    backbone: keras.Model, asked: Sequence[datasets.OneShotRun], distance: str, folder: Path
) -> dict[str, float]:
    """Scores an embedding on one-shot runs, and writes `one_shot_runs.csv`.

    Args:
        backbone: From images to embeddings.
        asked: The runs.
        distance: What it was trained with.
        folder: The folder to write to.

    Returns:
        The metrics `one_shot_accuracy` and `one_shot_error`, means over the runs.
    """
    lines = []
    for each in asked:
        images = np.concatenate([each.support, each.items])
        embeddings = backbone.predict(images, batch_size=len(images), verbose=0)
        support, items = np.split(embeddings, [len(each.support)])
        logits = fewshot.episode_logits(support[:, None], items, distance)
        chosen = keras.ops.convert_to_numpy(logits).argmax(axis=1)
        accuracy = float(np.mean(chosen == each.answers))
        lines.append({"run": each.name, "accuracy": accuracy, "error": 1 - accuracy})
    accuracy = float(np.mean([line["accuracy"] for line in lines]))
    lines.append({"run": "mean", "accuracy": accuracy, "error": 1 - accuracy})
    write(lines, folder / "one_shot_runs.csv")
    for line in lines:
        print(f"{line['run']}: accuracy {line['accuracy']:.2%}, error {line['error']:.2%}")
    return {"one_shot_accuracy": accuracy, "one_shot_error": 1 - accuracy}


def _table(lines: Sequence[Mapping[str, Any]]) -> str:
    """Lays out the tests as text, in per cent with 95 % intervals."""
    rows = [
        f"{line['ways']:>4}  {line['shots']:>5}  {100 * line['accuracy']:>8.2f}"
        f" ± {100 * line['interval']:.2f}"
        for line in lines
    ]
    return "\n".join(["ways  shots  accuracy (%)", *rows])


def score_complete(run: runs.Run, args: argparse.Namespace) -> None:
    """Scores a complete run on one-shot runs, and adds what it finds to its result.

    Args:
        run: The run.
        args: Its flags, with `one_shot_runs`.

    Raises:
        BadInput: If the run's embedding or the one-shot runs cannot be read.
    """
    path = run.folder / _EMBEDDING
    try:
        backbone = keras.saving.load_model(path, compile=False, safe_mode=True)
    except (OSError, ValueError) as error:
        raise BadInput(f"{path} cannot be read: {error}") from error
    asked = _one_shot_runs(args, backbone.input_shape[1:])
    (distance,) = args.distance
    found = score_one_shot(backbone, asked, distance, run.folder)
    run.finish({**run.result["metrics"], **found})


def main(argv: Sequence[str] | None = None) -> None:
    """Trains, goes on training, compares, or scores a complete run.

    Args:
        argv: The flags; those of the process by default.
    """
    args, run = make_parser().settle(argv)
    if run is None:
        fill_in(args)
    elif run.finished and args.one_shot_runs is not None:
        score_complete(run, args)
        return
    COMPARISON.carry_out(
        *(COMPARISON.combinations(args), run, args.out),
        train=train,
        main=main,
        title=f"{stem(args.dataset)}, few shots",
    )


if __name__ == "__main__":
    sys.exit(program(main))
