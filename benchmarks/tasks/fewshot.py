"""The data, network and tests of `benchmarks/fewshot.py`."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from mhe import fewshot
from mhe.harness import datasets, models, recipes
from mhe.harness.errors import BadInput
from mhe.harness.files import write_csv
from tasks import new_classes

WAYS, SHOTS = (5, 20), (1, 5)
PUBLISHED_WAYS = 60

# All runs are tested on the same episodes, so that they can be compared.
_TEST_SEED = 0


def prepare(args: argparse.Namespace) -> datasets.ClassSplit:
    """Loads the images of a run and splits their classes.

    Args:
        args: The flags of one run; `turns` and `ways` are resolved in place.

    Raises:
        BadInput: If the data cannot be used, or no episode can be drawn from them.
    """
    split = new_classes.load(args)
    images, classes = split.train
    if args.train_images is not None:
        images, classes = datasets.balanced_subset(images, classes, args.train_images, args.seed)
    if args.turns is None:
        args.turns = "quarter" if split.alphabets else "none"
    if args.turns != "none":
        if images.shape[1] != images.shape[2]:
            raise BadInput(
                f"--turns {args.turns} needs square images; --image_size crops them. "
                f"Received: images of {images.shape[2]}x{images.shape[1]} pixels"
            )
        images, classes = datasets.with_quarter_turns(images, classes)
    if args.turns == "mirror":
        images, classes = datasets.with_mirror_images(images, classes)
    if args.ways is None:
        args.ways = min(PUBLISHED_WAYS, np.unique(classes).size)
    return datasets.ClassSplit((images, classes), split.test, split.alphabets)


def episodes_and_tests(
    args: argparse.Namespace, data: datasets.ClassSplit
) -> tuple[fewshot.Episodes, list[dict[str, Any]]]:
    """Returns the episodes to train on, and the tests that the classes allow.

    Args:
        args: The flags of one run.
        data: The data of the run.

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
    tests: list[dict[str, Any]] = [
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
    """Adds `val_accuracy` to the logs: the accuracy on some episodes of the test classes.

    Args:
        test: Images and the names of their classes.
        **episodes: Arguments of `mhe.fewshot.evaluate`.
    """

    def __init__(self, test: tuple[np.ndarray, np.ndarray], **episodes: Any):
        super().__init__()
        self.test, self.episodes = test, episodes

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        embeddings = self.model.embed(self.test[0])
        # The run itself reports weights that are not finite.
        if logs is not None and np.isfinite(embeddings).all():
            result = fewshot.evaluate(lambda _: embeddings, *self.test, **self.episodes)
            logs["val_accuracy"] = result.accuracy


def load_one_shot_runs(
    args: argparse.Namespace, input_shape: tuple[int, int, int]
) -> list[datasets.OneShotRun]:
    """Loads the one-shot runs to score.

    Args:
        args: The flags of one run.
        input_shape: `(H, W, C)` of the images that the network takes.

    Raises:
        BadInput: If they cannot be read, or the network takes other images.
    """
    if args.one_shot_runs is None:
        return []
    height, width, channels = input_shape
    if (height, channels) != (width, 1):
        raise BadInput(
            "--one_shot_runs needs a network of square gray images. "
            f"Received: one of {width}x{height} pixels and {channels} channels"
        )
    return datasets.load_one_shot_runs(args.one_shot_runs, height)


def score_one_shot(
    backbone: keras.Model, runs: Sequence[datasets.OneShotRun], distance: str, folder: Path
) -> dict[str, float]:
    """Scores an embedding on one-shot runs, prints the scores and writes `one_shot_runs.csv`.

    Args:
        backbone: Images to embeddings.
        runs: The one-shot runs.
        distance: The distance that the embedding was trained with.
        folder: The folder to write to.

    Returns:
        The metrics `one_shot_accuracy` and `one_shot_error`, means over the runs.
    """
    lines = []
    for run in runs:
        images = np.concatenate([run.support, run.items])
        embeddings = backbone.predict(images, batch_size=len(images), verbose=0)
        support, items = np.split(embeddings, [len(run.support)])
        logits = fewshot.episode_logits(support[:, None], items, distance)
        predicted = keras.ops.convert_to_numpy(logits).argmax(axis=1)
        accuracy = float(np.mean(predicted == run.answers))
        lines.append({"run": run.name, "accuracy": accuracy, "error": 1 - accuracy})
    accuracy = float(np.mean([line["accuracy"] for line in lines]))
    lines.append({"run": "mean", "accuracy": accuracy, "error": 1 - accuracy})
    write_csv(folder / "one_shot_runs.csv", lines)
    for line in lines:
        print(f"{line['run']}: accuracy {line['accuracy']:.2%}, error {line['error']:.2%}")
    return {"one_shot_accuracy": accuracy, "one_shot_error": 1 - accuracy}
