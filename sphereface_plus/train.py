"""Trains face recognition: a backbone, and a head with an angular margin, on a folder of people.

Without flags but `--data_dir` this is SphereFace+ by SphereFace's published recipe: SFNet-20 with
embeddings of 512 numbers, faces of 112x96 pixels, batches of 256, SGD with momentum 0.9 at 0.1,
x0.1 after 16/28 and 24/28 of the training, weight decay 5e-4. The publication fine-tunes: train
`--model_name sphereface` first, and start from it with `--finetune RUN`, the same `--seed` and
`--test_people`.

`--test_people` holds people out, and all pairs of their images are scored at the end.
`sphereface_plus/test.py` scores them too, and other people and lists of pairs.

A list in --model_name or --m, or --seeds, makes a folder of runs and a table of them.

Reference: Liu et al., SphereFace (arXiv 1704.08063); Liu et al., Learning towards Minimum
Hyperspherical Energy, NeurIPS 2018 (arXiv 1805.09298), on SphereFace+.
"""

import argparse
import functools
import math
import re
import sys
from collections.abc import Sequence

if __name__ == "__main__":
    from mhe_startup import start

    start(__file__)

import keras
import numpy as np

import mhe
from mhe.harness import figures, recipes, training
from mhe.harness.affine import random_affine
from mhe.harness.comparisons import Comparison, Varied, stem
from mhe.harness.errors import BadInput, as_bad_input
from mhe.harness.files import replacing
from mhe.harness.flags import (
    COUNT,
    COUNT_OR_NONE,
    DIMS,
    LARGEST_SIDE,
    WIDTH,
    Parser,
    file_path,
    integer,
    number,
    plain_text,
    program,
)
from mhe.harness.run import Run
from mhe.text import brief
from sphereface_plus import faces
from sphereface_plus.backbones import iresnet, sfnet
from sphereface_plus.face_model import FaceModel
from sphereface_plus.program import evaluation, head_flags, people_flags, trained

COMPARISON = Comparison(
    trained.PROGRAM,
    [Varied("model_name"), Varied("m", prefix="m")],
    {"test_accuracy": 100, "test_auc": 100, "test_eer": 100, "class_energy": 1},
    shared=["dataset", "test_people"],
)

ARCHITECTURES = [
    *(f"sfnet{depth}" for depth in (4, 10, 20, 36, 64)),
    *(f"iresnet{depth}" for depth in (18, 34, 50, 100)),
]
# About as much as faces differ where nothing has aligned them.
_AFFINE = functools.partial(random_affine, degrees=8, stretch=0.1, shear=0.05, shift=0.06)


def make_parser() -> Parser:
    """Returns the parser of this program's flags."""
    parser = Parser(
        COMPARISON.program,
        "Trains face recognition on a folder of people. A list in --model_name or --m, or --seeds, "
        "makes a folder of runs and a table of them.",
    )
    rate = number(0)
    people_flags.add(parser, "required for a new run")
    parser.add_argument(
        "--image_size",
        type=plain_text,
        default="112x96",
        metavar="HxW",
        help="height and width to which every face is aligned or cropped",
    )
    parser.add_argument(
        "--channels", type=integer(1, 3), choices=[1, 3], default=3, help="1 for gray faces"
    )
    parser.add_argument(
        "--test_people",
        type=integer(0),
        default=0,
        metavar="N",
        help="hold out this many people, drawn by --seed, and test on all pairs of their images",
    )
    parser.add_argument("--arch", choices=ARCHITECTURES, default="sfnet20", help="the backbone")
    parser.add_argument(
        "--norm",
        choices=["none", "batch"],
        help="batch norm in an sfnet, as in SphereFace-R (default: none, as first published; "
        "iresnets always have it)",
    )
    parser.add_argument(
        "--width", type=WIDTH, default=1.0, help="factor on the number of filters of every layer"
    )
    parser.add_argument("--dims", type=DIMS, default=512, help="dimensions of the embedding")
    head_flags.add(parser, "sphereface_plus")
    parser.add_argument(
        "--finetune",
        type=file_path,
        metavar="RUN",
        help="start from the weights of a complete run: those of the backbone and of the people "
        "who are in both; people that it was trained on cannot be held out, so use its --seed "
        "(default: new weights)",
    )
    recipes.add_seeds(parser)
    parser.add_argument(
        "--epochs",
        type=COUNT_OR_NONE,
        default=20,
        help="epochs to train for; 0 leaves the network untrained, for comparison",
    )
    recipes.add_step_flags(parser, batch_size=256, base_lr=0.1, drops="0.5714,0.8571")
    parser.add_argument(
        "--per_person",
        type=COUNT,
        metavar="K",
        help="batches of K images of each of --batch_size / K people (default: drawn from all "
        "images)",
    )
    parser.add_argument(
        "--augment",
        choices=["mirror", "affine"],
        default="mirror",
        help="mirror: flip half of the faces left to right, as published; affine: also rotate, "
        "stretch, shear and shift all of them a little, for small sets without landmarks",
    )
    parser.add_argument(
        "--weight_decay",
        type=rate,
        default=5e-4,
        help="adds this times |w|^2/2 to the loss, for all but biases; with --class_share to the "
        "gradient, for the people that a step looks at",
    )
    parser.add_argument(
        "--cache",
        choices=["none", "memory"],
        default="none",
        help="memory: keep every face once it was read, up to --cache_gib",
    )
    parser.add_argument(
        "--cache_gib",
        type=number(0, 2**20, above=True),
        help="with --cache memory: how much memory faces may take, in GiB (default: that of all)",
    )
    parser.added = {"check_images", "cache_gib"}
    return parser


def resolve_defaults(args: argparse.Namespace) -> None:
    """Resolves flags whose default depends on others, in place."""
    if args.norm is None:
        args.norm = "batch" if args.arch.startswith("iresnet") else "none"


def check(args: argparse.Namespace) -> None:
    """Refuses flags that cannot be used.

    Raises:
        BadInput: If they cannot.
    """
    if args.data_dir is None:
        raise BadInput("--data_dir must name a folder or zip of people, or a .rec. Received: none")
    recipes.fractions(args.drops)
    image_size(args)
    if args.cache_gib is not None and args.cache == "none":
        raise BadInput(
            f"--cache_gib needs --cache memory. Received: --cache_gib {args.cache_gib:g}"
        )
    if args.arch.startswith("iresnet") and args.norm == "none":
        raise BadInput(f"--norm none needs an sfnet. Received: --arch {args.arch}")
    head_flags.check(args)


def image_size(args: argparse.Namespace) -> tuple[int, int]:
    """Reads `--image_size`: height and width.

    Raises:
        BadInput: If it is not two integers with an x between.

    Example:

    >>> image_size(argparse.Namespace(image_size="112x96"))
    (112, 96)
    """
    sides = re.fullmatch(r"(\d{1,4})x(\d{1,4})", args.image_size)
    if not sides or max(map(int, sides.groups())) > LARGEST_SIDE:
        raise BadInput(
            f"--image_size must be a height and a width of at most {LARGEST_SIDE}, such as "
            f"112x96. Received: {brief(args.image_size)}"
        )
    return int(sides[1]), int(sides[2])


def build(args: argparse.Namespace, classes: int, steps: int) -> FaceModel:
    """Builds and compiles the network of a run.

    Args:
        args: The flags of one run.
        classes: The number of people to train on.
        steps: The iterations of the whole training.

    Raises:
        BadInput: If the flags do not suit the network.
    """
    name = args.arch.rstrip("0123456789")
    depth = int(args.arch.removeprefix(name))
    shared = {
        "dims": args.dims,
        "input_shape": (*image_size(args), args.channels),
        "width": args.width,
        "weight_decay": args.weight_decay,
    }
    with as_bad_input(f"--arch {args.arch}"):
        if name == "sfnet":
            backbone = sfnet(depth, batch_norm=args.norm == "batch", **shared)
        else:
            backbone = iresnet(depth, **shared)
    model = FaceModel(backbone, head_flags.build(args, classes), name=args.model_name)
    model(np.zeros((1, *backbone.input_shape[1:]), "float32"))
    accuracy = keras.metrics.SparseCategoricalAccuracy(name="accuracy")
    # It needs the logits of all people, which a share of them is there to save.
    metrics = [] if args.class_share else [accuracy]
    model.compile(
        head_flags.optimizer(args, recipes.optimizer(args, max(1, steps))),
        metrics=metrics,
        jit_compile=recipes.jit_compile(),
    )
    return model


def cached_faces(args: argparse.Namespace) -> bool | int:
    """Returns how many faces to keep in memory at most, or whether to keep all.

    Example:

    >>> flags = argparse.Namespace(cache="memory", cache_gib=0.5, image_size="112x96", channels=3)
    >>> cached_faces(flags)
    16644
    """
    if args.cache == "none" or args.cache_gib is None:
        return args.cache == "memory"
    return int(args.cache_gib * 2**30) // (math.prod(image_size(args)) * args.channels)


def part(people: faces.People, count: int, seed: int) -> tuple[faces.People, faces.People | None]:
    """Splits people into those to train on and those to test on, who are drawn.

    Args:
        people: All of them.
        count: The number of people to test on.
        seed: The seed of the draw.

    Raises:
        BadInput: If fewer than two are left on a side.
    """
    if not count:
        if len(people.names) < 2:
            raise BadInput(
                f"{people.source} must hold at least 2 people to train on. "
                f"Received: {len(people.names)}"
            )
        return people, None
    if count < 2 or len(people.names) - count < 2:
        raise BadInput(
            "--test_people must be at least 2 and leave at least 2 people to train on. "
            f"Received: {count} of {len(people.names)}"
        )
    drawn = np.random.default_rng(seed).permutation(people.names)[:count].tolist()
    rest = [name for name in people.names if name not in set(drawn)]
    return people.subset(rest), people.subset(drawn)


class Task(training.Task):
    """Trains one network on people, and tests it on people held out."""

    def __init__(self, args: argparse.Namespace, run: Run | None):
        super().__init__(args, run)
        everybody = people_flags.find(args)
        self.people, self.tested = part(everybody, args.test_people, args.seed)
        if self.tested is not None:
            evaluation.require_pairs(self.tested)
            if args.finetune is not None:
                trained.require_unseen(self.tested, args.finetune, args.seed)
        self.landmarks = None
        if args.landmarks is not None:
            self.landmarks = faces.read_landmarks(args.landmarks, everybody)
        self.is_new = run is None or not run.checkpoints
        self.steps_per_epoch = len(self.batches(0, None))
        self.steps = args.epochs * self.steps_per_epoch
        if head_flags.looks_at_batches(args):
            self.splits_on = ("jax",)
        self.config = {"dataset": args.data_dir}

    def batches(self, epoch: int, steps: int | None) -> faces.FaceBatches:
        """Returns shuffled and augmented batches of faces."""
        args = self.args
        return faces.FaceBatches(
            self.people,
            batch_size=args.batch_size,
            size=image_size(args),
            channels=args.channels,
            landmarks=self.landmarks,
            seed=args.seed,
            per_person=args.per_person,
            cache=cached_faces(args),
            augment=_AFFINE if args.augment == "affine" else None,
            epoch=epoch,
        )

    def build(self) -> FaceModel:
        """Builds and compiles the network, with the weights of `--finetune` in a new run."""
        model = build(self.args, len(self.people.names), self.steps)
        if self.args.finetune is not None and self.is_new:
            trained.begin_with(model, self.people.names, self.args.finetune)
        return model

    def prepare_run(self, run: Run) -> None:
        """Lists the people, and prints how many there are."""
        trained.list_people(run.folder, self.people, self.tested)
        print(
            f"{len(self.people):,} images of {len(self.people.names):,} people to train on; "
            f"{0 if self.tested is None else len(self.tested.names):,} people to test on"
        )

    def callbacks(self, run: Run) -> Sequence[keras.callbacks.Callback]:
        """Logs the energy and the angles of the class weights."""
        head = self.model.head.name
        return [mhe.EnergyLogger(s=2, distance="angle", layers=[head], angles=True)]

    def report(self, run: Run) -> dict[str, float]:
        """Saves the network, draws `curves.png`, and scores all pairs of the people held out."""
        with replacing(run.folder / trained.MODEL) as partial:
            self.model.save(partial)
        metrics = {"epochs": self.args.epochs, "class_energy": class_energy(self.model)}
        if run.rows:
            curves = {"loss": "loss", "accuracy": "accuracy", "energy of the classes": "energy"}
            if "accuracy" in run.rows[-1]:
                metrics["train_accuracy"] = run.rows[-1]["accuracy"]
            else:
                del curves["accuracy"]
            figures.draw_metrics(
                run.rows,
                curves,
                run.folder / "curves.png",
                run.folder.name,
            )
        if self.tested is not None:
            report = evaluation.evaluate(self.model, self.tested, landmarks=self.landmarks)
            report.write(run.folder, run.folder.name)
            print(report.text)
            metrics |= {f"test_{name}": value for name, value in report.metrics.items()}
        return metrics


def class_energy(model: FaceModel) -> float:
    """Returns the angular energy of the class weights, s = 2, the mean over pairs of people."""
    kernel = keras.ops.convert_to_numpy(model.head.kernel)
    return float(mhe.hyperspherical_energy(kernel, s=2, distance="angle"))


PROGRAM = training.Program(
    make_parser,
    Task,
    COMPARISON,
    folder="faces",
    resolve_defaults=resolve_defaults,
    check=check,
    expand_runs=lambda args: head_flags.expand_runs(args, COMPARISON),
    title=lambda args: f"{stem(args.data_dir)}, {args.test_people} people never seen",
    dataset="data_dir",
)
main = PROGRAM.main

if __name__ == "__main__":
    sys.exit(program(main))
