"""New classes for a trained network, a few at a time, from a few images each.

The network stays as it was trained; only what reads its features changes. There are three ways:

- `reserved`: the last layer is tuned until the images of the new classes reach the prototypes that
  were reserved for them, while the mean features of all earlier classes stay with theirs;
- `growing`: the softmax layer gets columns for the new classes, tuned on the same features;
- `nearest_mean`: nothing is tuned, and the class is that of the nearest mean feature, by cosine.

Reference: Yang et al., Neural collapse inspired feature-classifier alignment for few-shot
class-incremental learning, ICLR 2023 (arXiv 2302.03004), on which `reserved` is modelled.
"""

import abc
import argparse
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import keras
import numpy as np

from mhe.harness import recipes
from mhe.harness.datasets import Dataset
from mhe.harness.errors import BadInput
from mhe.harness.tables import text_table
from mhe.layers import NearestClassMean, PrototypeHead
from mhe.losses import DotRegressionLoss

METHODS = ("reserved", "growing", "nearest_mean")
PARTS = ("old", "new")

Split = tuple[np.ndarray, np.ndarray]
Line = dict[str, float | str]


@dataclass(frozen=True)
class Later:
    """The images of the classes to come, with labels that go on after those of the first.

    Attributes:
        train: Images uint8 `(N, H, W, C)` and labels `(N,)`, class after class: `--shots` of each.
        test: The same of the test set.
    """

    train: Split
    test: Split


def split(data: Dataset, args: argparse.Namespace) -> tuple[Dataset, Later]:
    """Holds the last classes of a dataset back, and draws a few training images of each.

    Args:
        data: The dataset.
        args: The flags of one run.

    Raises:
        BadInput: If there are too few classes, or too few images of a new one.

    Example:

    >>> from mhe.harness.datasets import load
    >>> flags = argparse.Namespace(new_classes=4, ways=2, shots=5, seed=0)
    >>> first, later = split(load("digits"), flags)
    >>> first.class_names, later.train[1].tolist()[:10]
    (('0', '1', '2', '3', '4', '5'), [6, 6, 6, 6, 6, 7, 7, 7, 7, 7])
    """
    count = len(data.class_names) - args.new_classes
    if count < 2:
        raise BadInput(
            f"--new_classes must leave at least 2 of the {len(data.class_names)} classes to train "
            f"on. Received: {args.new_classes}"
        )
    rng = np.random.default_rng((args.seed, count))
    images, labels = data.train
    shots = []
    for label in range(count, len(data.class_names)):
        own = rng.permutation(np.flatnonzero(labels == label))
        if len(own) < args.shots or not np.any(data.test[1] == label):
            raise BadInput(
                f"--shots {args.shots} needs as many training images of each new class, and one to "
                f"test on. Received: {len(own)} and {np.sum(data.test[1] == label)} of "
                f"{data.class_names[label]}"
            )
        shots.append(np.sort(own[: args.shots]))
    shown = np.concatenate(shots)
    old, tested = labels < count, data.test[1] < count
    first = replace(
        data,
        train=(images[old], labels[old]),
        test=(data.test[0][tested], data.test[1][tested]),
        class_names=data.class_names[:count],
    )
    later = Later((images[shown], labels[shown]), (data.test[0][~tested], data.test[1][~tested]))
    return first, later


def add(
    model: keras.Model,
    rows: np.ndarray | None,
    old: tuple[Split, Split],
    later: Later,
    args: argparse.Namespace,
) -> list[Line]:
    """Adds the new classes session by session, in each way that suits the network.

    Args:
        model: The network, trained on the first classes.
        rows: The prototypes of all classes, or None for a softmax layer.
        old: Training and test images of the first classes, with their labels.
        later: The images of the new classes.
        args: The flags of one run.

    Returns:
        A line per method and session, from session 0, before any is added: the number of classes,
        and the accuracies on test images of the old classes, of all new ones until then, and of
        both.
    """
    read = _reader(model)
    seen, labels = read(old[0][0]), old[0][1]
    shown, shown_labels = read(later.train[0]), later.train[1]
    tested = np.concatenate([read(old[1][0]), read(later.test[0])])
    test_labels = np.concatenate([old[1][1], later.test[1]])
    known = len(np.unique(labels))
    layer = _last_layer(model)
    readouts: dict[str, _Readout] = (
        {"growing": _Growing(*layer, args)}
        if rows is None
        else {"reserved": _Reserved(*layer, rows, known, args)}
    )
    readouts["nearest_mean"] = _NearestMean(seen, labels, known + args.new_classes)
    means = [seen[labels == label].mean(axis=0) for label in range(known)]
    lines = []
    for session in range(args.new_classes // args.ways + 1):
        if session:
            now = (shown_labels >= known) & (shown_labels < known + args.ways)
            for readout in readouts.values():
                readout.learn(shown[now], shown_labels[now], np.stack(means))
            known += args.ways
            means += [shown[shown_labels == k].mean(axis=0) for k in range(len(means), known)]
        asked = test_labels < known
        is_old = test_labels[asked] < known - session * args.ways
        for name, readout in readouts.items():
            answers = readout.scores(tested[asked])[:, :known].argmax(axis=1)
            right = answers == test_labels[asked]
            line: Line = {"method": name, "session": session, "classes": known}
            line["old"] = float(right[is_old].mean())
            if session:
                line |= {"new": float(right[~is_old].mean()), "all": float(right.mean())}
            lines.append(line)
    return lines


def metrics(lines: Sequence[Line], held_out: str) -> dict[str, float]:
    """Returns the metrics of a run: the accuracies after each session, and after the last.

    Args:
        lines: What `add` returned.
        held_out: The prefix of metrics on held-out images.

    Example:

    >>> line = {"method": "growing", "session": 1, "classes": 8, "old": 0.9, "new": 0.5, "all": 0.8}
    >>> list(metrics([line], "test"))[:2]
    ['session1_growing_old_accuracy', 'test_growing_old_accuracy']
    """
    found: dict[str, float] = {}
    for line in lines:
        for part in (*PARTS, "all"):
            if part in line:
                name = f"{line['method']}_{part}_accuracy"
                found[f"session{line['session']}_{name}"] = float(line[part])
                found[f"{held_out}_{name}"] = float(line[part])  # in the end that of the last
    return found


def table(lines: Sequence[Line]) -> str:
    """Formats what `add` returned, a session a line.

    Example:

    >>> line = {"method": "growing", "session": 0, "classes": 6, "old": 0.9}
    >>> print(table([line]))
    method   session  classes  old (%)  new (%)  all (%)
    growing        0        6    90.00
    """
    rows = [
        [str(line[name]) for name in ("method", "session", "classes")]
        + [f"{100 * float(line[part]):.2f}" if part in line else "" for part in (*PARTS, "all")]
        for line in lines
    ]
    parts = [f"{part} (%)" for part in (*PARTS, "all")]
    return text_table(rows, ["method", "session", "classes", *parts])


class _Readout(abc.ABC):
    """What reads features `(N, F)`."""

    @abc.abstractmethod
    def learn(self, features: np.ndarray, labels: np.ndarray, means: np.ndarray) -> None:
        """Learns new classes from a few features, given the mean feature of each class before."""

    @abc.abstractmethod
    def scores(self, features: np.ndarray) -> np.ndarray:
        """Features `(N, F)` → a score per class, `(N, classes)`."""


class _Linear(_Readout):
    """A dense layer, and what is over it, which Adam tunes on all features of a session at once."""

    def __init__(self, kernel: np.ndarray, bias: np.ndarray, args: argparse.Namespace) -> None:
        self.args = args
        self.model = self.build(kernel, bias)

    def build(self, kernel: np.ndarray, bias: np.ndarray) -> keras.Model:
        dense = keras.layers.Dense(kernel.shape[1])
        model = keras.Sequential([keras.Input((kernel.shape[0],)), dense, *self.over()])
        dense.set_weights([kernel, bias])
        model.compile(
            keras.optimizers.Adam(self.args.session_lr),
            self.loss(),
            jit_compile=recipes.jit_compile(),
        )
        return model

    @abc.abstractmethod
    def over(self) -> list[keras.layers.Layer]:
        """The layers over the dense one."""

    @abc.abstractmethod
    def loss(self) -> keras.losses.Loss:
        """The loss of a session."""

    @abc.abstractmethod
    def grow(self, kernel: np.ndarray, bias: np.ndarray, more: int) -> Split:
        """Makes room for more classes, and returns the weights of the dense layer."""

    def learn(self, features: np.ndarray, labels: np.ndarray, means: np.ndarray) -> None:
        weights = self.model.layers[0].get_weights()
        self.model = self.build(*self.grow(*weights, more=len(np.unique(labels))))
        batch = np.concatenate([features, means]), np.concatenate([labels, np.arange(len(means))])
        if self.args.session_steps:
            again = (batch for _ in itertools.count())
            steps = self.args.session_steps
            self.model.fit(again, steps_per_epoch=steps, shuffle=False, verbose=0)

    def scores(self, features: np.ndarray) -> np.ndarray:
        return keras.ops.convert_to_numpy(self.model(features))


class _Growing(_Linear):
    """A softmax layer that gets columns of zeros for new classes."""

    def over(self) -> list[keras.layers.Layer]:
        return []

    def loss(self) -> keras.losses.Loss:
        return keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    def grow(self, kernel: np.ndarray, bias: np.ndarray, more: int) -> Split:
        return np.pad(kernel, [(0, 0), (0, more)]), np.pad(bias, (0, more))


class _Reserved(_Linear):
    """A layer to an embedding, whose prototypes are there from the start."""

    def __init__(
        self,
        kernel: np.ndarray,
        bias: np.ndarray,
        rows: np.ndarray,
        classes: int,
        args: argparse.Namespace,
    ) -> None:
        self.prototypes = PrototypeHead(rows, reserve=len(rows) - classes)
        super().__init__(kernel, bias, args)

    def over(self) -> list[keras.layers.Layer]:
        return [self.prototypes]

    def loss(self) -> keras.losses.Loss:
        return DotRegressionLoss()

    def grow(self, kernel: np.ndarray, bias: np.ndarray, more: int) -> Split:
        self.prototypes = self.prototypes.extend(more)
        return kernel, bias


class _NearestMean(_Readout):
    """Running means of all classes; those to come are 0, and not asked for."""

    def __init__(self, features: np.ndarray, labels: np.ndarray, classes: int) -> None:
        self.layer = NearestClassMean(classes, features.shape[1], distance="cosine")
        self.layer(features, labels=labels, training=True)

    def learn(self, features: np.ndarray, labels: np.ndarray, means: np.ndarray) -> None:
        self.layer(features, labels=labels, training=True)

    def scores(self, features: np.ndarray) -> np.ndarray:
        return keras.ops.convert_to_numpy(self.layer(features))


def _reader(model: keras.Model) -> Callable[[np.ndarray], np.ndarray]:
    """Maps images to the features that enter the last layer of the network."""
    backbone = keras.Model(model.inputs, model.get_layer("logits").input)

    def read(images: np.ndarray) -> np.ndarray:
        found = recipes.predict(backbone, images)
        return found.reshape(len(images), -1).astype("float32")

    return read


def _last_layer(model: keras.Model) -> tuple[np.ndarray, np.ndarray]:
    """Kernel `(F, units)` and bias `(units,)` of the last layer, and of a batch norm after it."""
    layer = model.get_layer("logits")
    kernel, *biases = layer.get_weights()
    kernel = kernel.reshape(-1, kernel.shape[-1])
    bias = biases[0] if biases else np.zeros(kernel.shape[1], "float32")
    names = [each.name for each in model.layers]
    if "embedding_norm" in names:
        norm = model.get_layer("embedding_norm")
        gamma, beta, mean, variance = norm.get_weights()
        scale = gamma / np.sqrt(variance + norm.epsilon)
        kernel, bias = kernel * scale, (bias - mean) * scale + beta
    return kernel, bias
