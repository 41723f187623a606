"""Shows what a margin does: the features of ten classes in the plane, one panel per head.

    python sphereface_plus/plane.py --out runs/plane

Without flags this trains SphereFace with m = 1, 2, 3 and 4 on scikit-learn's embedded digits, with
embeddings of two numbers. `plane.png` shows the features of the training images: every class is a
ray, and the larger the margin, the narrower the rays and the wider the gaps between them. Each run
has a folder of its own, and a table has the widths of rays and gaps.

Reference: Liu et al., SphereFace (arXiv 1704.08063), figure 2, and its published toy example.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

if __name__ == "__main__":
    from mhe_startup import start

    start(__file__)

import keras
import numpy as np
from keras import layers

from mhe.arrays import read_arrays
from mhe.harness import datasets, recipes, training
from mhe.harness.comparisons import Comparison, Varied, stem
from mhe.harness.errors import BadInput
from mhe.harness.files import replacing
from mhe.harness.flags import WIDTH, Parser, number, program
from mhe.harness.run import Run
from sphereface_plus.face_model import FaceModel
from sphereface_plus.program import head_flags
from sphereface_plus.program.figures import Plane, draw_planes


class Planes(Comparison):
    """A comparison that draws the features of all runs too, a panel per run."""

    def report(self, finished: Sequence[Run], out: Path, title: str) -> None:
        """Writes `table.csv`, `comparison.png` and `plane.png`, and prints the table."""
        super().report(finished, out, title)
        config = finished[0].config
        data = datasets.load(
            config["dataset"], config["data_dir"], config["image_size"], config["label"]
        )
        planes = {run.folder.name: load_plane(run.folder) for run in finished}
        draw_planes(planes, data.class_names, out / _FIGURE)
        print(f"Features: {out / _FIGURE}")


COMPARISON = Planes(
    "sphereface_plus/plane.py",
    [Varied("model_name"), Varied("m", prefix="m")],
    {"test_accuracy": 100, "spread": 1, "gap": 1},
    shared=["dataset"],
)

_FEATURES = "features.npz"
_FIGURE = "plane.png"
_MARGINS = [1.0, 2.0, 3.0, 4.0]
# Of each class, the directions of so many features count as its ray; the rest are outliers.
_OF_RAY = 0.95


def make_parser() -> Parser:
    """Returns the parser of this program's flags."""
    parser = Parser(
        COMPARISON.program,
        "Draws the features of classes in the plane, one panel per head. A list in --model_name or "
        "--m, or --seeds, makes a folder of runs, a table of them and one figure.",
    )
    head_flags.add(parser, "sphereface", gamma=1.2)
    parser.add_data_flags("digits")
    parser.add_argument(
        "--width", type=WIDTH, default=1.0, help="factor on the number of filters of every layer"
    )
    recipes.add_seeds(parser)
    recipes.add_step_flags(parser, epochs=60, batch_size=64, base_lr=0.02, drops="0.6,0.85")
    parser.add_argument(
        "--weight_decay",
        type=number(0),
        default=5e-4,
        help="adds this times |w|^2/2 to the loss, for all kernels",
    )
    return parser


def resolve_defaults(args: argparse.Namespace) -> None:
    """Resolves flags whose default depends on others, in place."""
    if args.m is None and set(args.model_name) <= {"sphereface", "sphereface_plus"}:
        args.m = list(_MARGINS)
    if not {"sphereface", "sphereface_plus"}.intersection(args.model_name):
        args.gamma = None


def check(args: argparse.Namespace) -> None:
    """Refuses flags that cannot be used.

    Raises:
        BadInput: If they cannot.
    """
    recipes.fractions(args.drops)
    head_flags.check(args)


def build(args: argparse.Namespace, shape: Sequence[int], classes: int, steps: int) -> FaceModel:
    """Builds and compiles a small network that ends in two numbers.

    Args:
        args: The flags of one run.
        shape: `(H, W, C)` of the images, at least 4 pixels each way.
        classes: The number of classes.
        steps: The iterations of the whole training.
    """
    decay = keras.regularizers.L2(args.weight_decay / 2)
    stack = [keras.Input(tuple(shape))]
    for stage, filters in enumerate((32, 64), 1):
        filters = max(1, round(filters * args.width))
        for place in (1, 2):
            stack += [
                layers.Conv2D(
                    filters,
                    3,
                    padding="same",
                    kernel_regularizer=decay,
                    name=f"conv{stage}_{place}",
                ),
                layers.PReLU(shared_axes=[1, 2], name=f"prelu{stage}_{place}"),
            ]
        stack.append(layers.MaxPooling2D(name=f"pool{stage}"))
    stack += [
        layers.Flatten(name="flat"),
        layers.Dense(2, kernel_regularizer=decay, name="plane"),
    ]
    model = FaceModel(keras.Sequential(stack), head_flags.build(args, classes))
    model(np.zeros((1, *shape), "float32"))
    model.compile(
        head_flags.optimizer(args, recipes.optimizer(args, steps)),
        metrics=[keras.metrics.SparseCategoricalAccuracy(name="accuracy")],
        jit_compile=recipes.jit_compile(),
    )
    return model


class Task(training.ImageTask):
    """Trains one network whose features are two numbers."""

    def __init__(self, args: argparse.Namespace, run: Run | None):
        super().__init__(args, run)
        self.data = recipes.load(args)
        self.data.require_classes()
        self.use(self.data.train, self.data.test)
        if head_flags.looks_at_batches(args):
            self.splits_on = ("jax",)

    def build(self) -> FaceModel:
        """Builds and compiles the network."""
        return build(self.args, self.train[0].shape[1:], len(self.data.class_names), self.steps)

    def report(self, run: Run) -> dict[str, float]:
        """Keeps and draws the features of the training images, and measures their rays."""
        images, labels = self.train
        features = self.model.embed(recipes.in_order(images, labels))
        plane = Plane(features, labels, keras.ops.convert_to_numpy(self.model.head.kernel).T)
        with replacing(run.folder / _FEATURES) as partial:
            np.savez(partial, features=plane.features, labels=labels, classes=plane.classes)
        spread, gap = rays(features, labels)
        draw_planes({run.folder.name: plane}, self.data.class_names, run.folder / _FIGURE)
        return {
            "test_accuracy": run.rows[-1]["val_accuracy"],
            "train_accuracy": run.rows[-1]["accuracy"],
            "spread": spread,
            "gap": gap,
            "epochs": self.args.epochs,
        }


def rays(features: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """How narrow the rays of the classes are, and how wide the gaps between them.

    Args:
        features: `(N, 2)`.
        labels: `(N,)`.

    Returns:
        In degrees: the root mean square of the angle between a feature and its class's mean
        direction, the mean over the classes; and the angle between the rays of neighbours, the
        mean around the circle. A ray holds the middle 95 % of its class; where rays overlap, the
        angle is negative.

    Example:

    >>> turns = np.radians([0.0, 2.0, 90.0, 92.0, 200.0, 202.0])
    >>> features = np.column_stack([np.cos(turns), np.sin(turns)])
    >>> spread, gap = rays(features, np.array([0, 0, 1, 1, 2, 2]))
    >>> round(spread, 2), round(gap, 2)
    (1.0, 118.1)
    """
    around = np.exp(1j * np.arctan2(features[:, 1], features[:, 0]))
    edges, spreads = [], []
    for each in np.unique(labels):
        own = around[labels == each]
        middle = np.angle(own.mean())
        off = np.degrees(np.angle(own * np.exp(-1j * middle)))
        low, high = np.percentile(off, [50 * (1 - _OF_RAY), 50 * (1 + _OF_RAY)])
        edges.append((np.degrees(middle), low, high))
        spreads.append(np.sqrt(np.mean(off**2)))
    edges.sort()
    following = [*edges[1:], (edges[0][0] + 360, *edges[0][1:])]
    gaps = [
        (middle + low) - (before + high)
        for (before, _, high), (middle, low, _) in zip(edges, following, strict=True)
    ]
    return float(np.mean(spreads)), float(np.mean(gaps))


def load_plane(folder: Path) -> Plane:
    """Reads the features that a complete run left.

    Args:
        folder: The run's folder.

    Raises:
        BadInput: If they cannot be read.
    """
    path = folder / _FEATURES
    try:
        found = read_arrays(path, ["features", "labels", "classes"])
    except (OSError, ValueError) as error:
        raise BadInput(f"{path} cannot be read: {error}") from error
    plane = Plane(**found)
    if (
        plane.features.shape != (plane.labels.size, 2)
        or plane.labels.shape != (plane.labels.size,)
        or plane.classes.shape != (len(plane.classes), 2)
    ):
        shapes = ", ".join(f"{name} {array.shape}" for name, array in found.items())
        raise BadInput(f"{path} must hold features in two dimensions. Received: {shapes}")
    return plane


PROGRAM = training.Program(
    make_parser,
    Task,
    COMPARISON,
    folder="plane",
    resolve_defaults=resolve_defaults,
    check=check,
    expand_runs=lambda args: head_flags.expand_runs(args, COMPARISON),
    title=lambda args: f"{stem(args.dataset)}: features in two dimensions",
)
main = PROGRAM.main

if __name__ == "__main__":
    sys.exit(program(main))
