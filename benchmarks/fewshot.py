"""Trains prototypical networks on episodes, and tests them on classes they have never seen.

Without flags this is the published Omniglot recipe: episodes of 60 ways with 5 support and 5 query
images, four convolutional blocks, images of 28x28 pixels, rotated ones as additional classes, Adam
at 0.001, halved every 2,000 episodes. At the end the embedding is tested on 5 and 20 ways with 1
and 5 shots, 1,000 episodes each; `--one_shot_runs` scores it on Omniglot's published one-shot runs
too, even if the run is complete: `--resume RUN --one_shot_runs DIR`.

Omniglot holds out whole alphabets, those of its evaluation set if it is loaded by name; any other
dataset a part of its classes.

Reference: Snell et al., Prototypical Networks for Few-shot Learning, NeurIPS 2017
(arXiv 1703.05175).
"""

import argparse
import sys
from collections.abc import Sequence

if __name__ == "__main__":
    from mhe_startup import start

    start(__file__)

import keras
import numpy as np
from tasks import fewshot, new_classes

from mhe.fewshot import DISTANCES, EpisodeBatches, evaluate
from mhe.harness import figures, recipes, training
from mhe.harness.comparisons import Comparison, Varied, stem
from mhe.harness.files import replacing, write_csv
from mhe.harness.flags import (
    COUNT,
    EPOCHS,
    SEVERAL,
    Parser,
    file_path,
    number,
    plain_text,
    program,
)
from mhe.harness.run import Run
from mhe.harness.saved import load_model
from mhe.harness.tables import text_table

COMPARISON = Comparison(
    "benchmarks/fewshot.py",
    [Varied("distance"), Varied("shots", prefix="shots")],
    {
        f"test_accuracy_{ways}way_{shots}shot": 100
        for ways in fewshot.WAYS
        for shots in fewshot.SHOTS
    },
    shared=["dataset"],
)

_EMBEDDING = "embedding.keras"
_VALIDATION_EPISODES = 100


def make_parser() -> Parser:
    """Returns the parser of this program's flags."""
    parser = Parser(
        COMPARISON.program,
        "Trains prototypical networks on episodes and tests them on classes they have never seen. "
        "A list in --distance or --shots, or --seeds, makes a folder of runs and a table of them.",
    )
    above = number(0, above=True)
    parser.add_argument(
        "--model_name",
        choices=["prototypical"],
        default="prototypical",
        help="a network whose prototypes are the class means of its embeddings",
    )
    parser.add_argument(
        "--distance",
        nargs="+",
        choices=DISTANCES,
        default=["squared"],
        help="distance between an embedding and a prototype: squared Euclidean, or 1 - cosine",
    )
    parser.add_argument(
        "--scale",
        type=above,
        help="factor on the distance in the logits (default: 1, and 10 for cosine)",
    )
    new_classes.add_flags(parser)
    parser.add_argument(
        "--test_classes",
        type=plain_text,
        metavar="NAMES",
        help="classes to test on, comma-separated (default: a quarter, but at least 5, drawn by "
        "--seed)",
    )
    parser.add_argument(
        "--turns",
        choices=["none", "quarter", "mirror"],
        help="quarter: images rotated by 90, 180 and 270 degrees are new classes in training; "
        "mirror: their mirror images too (default: quarter for Omniglot, else none)",
    )
    parser.add_argument(
        "--augment",
        choices=["none", "affine"],
        default="none",
        help="affine: rotate, stretch, shear and shift each image of a training episode a little",
    )
    recipes.add_seeds(parser)
    recipes.add_size_flags(parser, arch="conv4")
    recipes.add_weight_decay(parser)
    parser.add_argument(
        "--ways",
        type=SEVERAL,
        help=f"classes per training episode (default: {fewshot.PUBLISHED_WAYS}, or all if there "
        "are fewer)",
    )
    parser.add_argument(
        "--shots",
        nargs="+",
        type=COUNT,
        default=[5],
        help="support images per class in a training episode",
    )
    parser.add_argument(
        "--queries", type=COUNT, default=5, help="query images per class in a training episode"
    )
    parser.add_argument("--epochs", type=EPOCHS, default=100, help="epochs to train for")
    parser.add_argument("--episodes", type=COUNT, default=100, help="episodes per epoch")
    parser.add_argument("--base_lr", type=above, default=1e-3, help="initial learning rate")
    parser.add_argument(
        "--halve_every",
        type=COUNT,
        default=2000,
        help="halve the learning rate whenever this many episodes have passed",
    )
    parser.add_argument(
        "--test_episodes",
        type=SEVERAL,
        default=1000,
        help="episodes of each test at the end",
    )
    parser.add_argument(
        "--test_queries", type=COUNT, default=15, help="query images per class in a test"
    )
    parser.add_argument(
        "--one_shot_runs",
        type=file_path,
        metavar="DIR",
        help="also score a folder or zip of Omniglot's published one-shot runs: run01/training/, "
        "run01/test/, run01/class_labels.txt and so on (default: none)",
    )
    parser.excluded.add("one_shot_runs")
    return parser


class Task(training.Task):
    """Trains one prototypical network."""

    def __init__(self, args: argparse.Namespace, run: Run | None):
        super().__init__(args, run)
        self.data = fewshot.prepare(args)
        self.episodes, self.tests = fewshot.episodes_and_tests(args, self.data)
        self.shape = self.data.train[0].shape[1:]
        self.one_shot_runs = fewshot.load_one_shot_runs(args, self.shape)
        self.steps_per_epoch = args.episodes
        self.steps = args.epochs * args.episodes

    def build(self) -> keras.Model:
        """Builds and compiles the network."""
        return fewshot.build(self.args, self.shape)

    def prepare_run(self, run: Run) -> None:
        """Writes `classes.csv`, and prints what is trained and tested on."""
        sets = {"train": self.data.train[1], "test": self.data.test[1]}
        write_csv(
            run.folder / "classes.csv",
            [
                {"class": name, "set": each}
                for each, classes in sets.items()
                for name in np.unique(classes).tolist()
            ],
        )
        count = np.unique(self.data.test[1]).size
        alphabets = f" of {', '.join(self.data.alphabets)}" if self.data.alphabets else ""
        print(
            f"{self.args.ways} ways, {self.args.shots} shots, {self.args.queries} queries of "
            f"{len(self.episodes.classes)} classes; tested on {count} classes{alphabets}"
        )
        for ways in set(fewshot.WAYS) - {test["ways"] for test in self.tests}:
            print(f"No test on {ways} ways: there are {count} classes to test on", file=sys.stderr)

    def batches(self, epoch: int, steps: int | None) -> keras.utils.PyDataset:
        """Returns the training episodes."""
        return EpisodeBatches(
            self.data.train[0],
            self.episodes,
            self.args.episodes,
            epoch=epoch,
            augment=recipes.AUGMENTATIONS[self.args.augment],
        )

    def callbacks(self, run: Run) -> Sequence[keras.callbacks.Callback]:
        """Logs the accuracy on some episodes of the test classes."""
        episodes = {**self.tests[0], "episodes": _VALIDATION_EPISODES}
        distance = self.args.distance
        return [fewshot.HeldOutAccuracy(self.data.test, distance=distance, **episodes)]

    def report(self, run: Run) -> dict[str, float]:
        """Saves the embedding, draws `curves.png`, tests the embedding and returns its scores."""
        with replacing(run.folder / _EMBEDDING) as partial:
            self.model.backbone.save(partial)
        title = f"{run.folder.name}: trained on {self.args.ways} ways, tested on 5 ways and 1 shot"
        figures.draw_metrics(run.rows, {"accuracy": "accuracy"}, run.folder / "curves.png", title)
        metrics = {**self._tested(run), "train_accuracy": run.rows[-1]["accuracy"]}
        metrics["epochs"] = self.epochs
        if self.one_shot_runs:
            metrics |= fewshot.score_one_shot(
                self.model.backbone, self.one_shot_runs, self.args.distance, run.folder
            )
        return metrics

    def _tested(self, run: Run) -> dict[str, float]:
        """Makes the tests, writes and prints a table of them, and returns their metrics."""
        lines: list[dict[str, float]] = []
        metrics: dict[str, float] = {}
        for test in self.tests:
            result = evaluate(
                self.model.embed,
                *self.data.test,
                **test,
                episodes=self.args.test_episodes,
                distance=self.args.distance,
            )
            name = f"test_accuracy_{test['ways']}way_{test['shots']}shot"
            metrics |= {name: result.accuracy, f"{name}_interval": result.interval}
            lines.append(
                {
                    "ways": test["ways"],
                    "shots": test["shots"],
                    "episodes": self.args.test_episodes,
                    "accuracy": result.accuracy,
                    "interval": result.interval,
                }
            )
        write_csv(run.folder / "episodes.csv", lines)
        cells = [
            [
                str(line["ways"]),
                str(line["shots"]),
                f"{100 * line['accuracy']:.2f} ± {100 * line['interval']:.2f}",
            ]
            for line in lines
        ]
        print(text_table(cells, ["ways", "shots", "accuracy (%)"], left=()))
        return metrics


def score_complete(args: argparse.Namespace, run: Run) -> bool:
    """Adds the scores of `--one_shot_runs` to the result of a complete run.

    Args:
        args: The flags of the run, with lists.
        run: The run.

    Returns:
        Whether there are one-shot runs to score.

    Raises:
        BadInput: If the run's embedding or the one-shot runs cannot be read.
    """
    if args.one_shot_runs is None:
        return False
    backbone = load_model(run.folder / _EMBEDDING)
    one_shot_runs = fewshot.load_one_shot_runs(args, backbone.input_shape[1:])
    (distance,) = args.distance
    scores = fewshot.score_one_shot(backbone, one_shot_runs, distance, run.folder)
    run.finish({**run.result["metrics"], **scores})
    return True


PROGRAM = training.Program(
    make_parser,
    Task,
    COMPARISON,
    folder="fewshot",
    resolve_defaults=new_classes.resolve_image_size,
    title=lambda args: f"{stem(args.dataset)}, few shots",
    revisit=score_complete,
    distributes=(),
    undistributed="a batch is one episode",
)
main = PROGRAM.main

if __name__ == "__main__":
    sys.exit(program(main))
