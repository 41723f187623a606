"""What Magnet loss, RepMet and softmax put on one network, and how each of them tells classes.

All four are one network of `mhe.harness.models` that ends in an embedding. Softmax adds a dense
layer to the classes; RepMet adds representatives; Magnet adds nothing, and finds the classes of
new images from the clusters of the training set.
"""

import argparse
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import keras
import numpy as np

from mhe import clusters
from mhe.harness import models, recipes
from mhe.harness.batches import Batches, normalize
from mhe.harness.chance import ChanceWarning
from mhe.harness.datasets import Dataset
from mhe.harness.errors import BadInput
from mhe.layers import Representatives, mixture_posterior
from mhe.losses import MagnetLoss, RepMetLoss

MODELS = ("softmax", "magnet", "repmet1", "repmet2")


@dataclass(frozen=True)
class Network:
    """A network as it is trained, and its embedding.

    Attributes:
        model: Images to what the loss takes; compiled.
        embed: Images to embeddings `(B, dims)`, with the same weights.
    """

    model: keras.Model
    embed: keras.Model


def steps_per_epoch(args: argparse.Namespace, images: int) -> int:
    """Returns the batches of an epoch, which hold as many images for every model.

    Args:
        args: The flags of one run.
        images: The images of the training set.
    """
    return math.ceil(images / args.batch_size)


def build(args: argparse.Namespace, data: Dataset) -> Network:
    """Builds and compiles the network of a run.

    Args:
        args: The flags of one run.
        data: What it is trained on.
    """
    images, labels = data.train
    classes = len(data.class_names)
    network = models.build(args.arch, images.shape[1:], args.dims, args.width, args.weight_decay)
    (embeddings,) = network.outputs
    if args.embedding_norm == "batch":
        embeddings = keras.layers.BatchNormalization(momentum=0.9, name="embedding_norm")(
            embeddings
        )
    elif args.embedding_norm == "unit":
        embeddings = keras.layers.UnitNormalization(name="embedding_norm")(embeddings)
    embed = keras.Model(network.inputs, embeddings)
    metrics: list[Callable | str] = []
    if args.model_name == "softmax":
        outputs = keras.layers.Dense(classes, dtype="float32", name="classes")(embeddings)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        metrics = [keras.metrics.SparseCategoricalAccuracy(name="accuracy")]
    elif args.model_name == "magnet":
        outputs, loss = embeddings, MagnetLoss(args.alpha)
    else:
        head = Representatives(classes, args.per_class, args.dims, name="representatives")
        outputs = head(embeddings)
        loss = RepMetLoss(int(args.model_name.removeprefix("repmet")), args.alpha, args.sigma)

        def accuracy(labels, distances):
            posterior = mixture_posterior(distances, args.sigma)
            return keras.metrics.sparse_categorical_accuracy(labels, posterior)

        metrics = [accuracy]
    model = keras.Model(network.inputs, outputs, name=f"{args.model_name}_{network.name}")
    steps = args.epochs * steps_per_epoch(args, len(labels))
    model.compile(
        recipes.optimizer(args, steps),
        loss=loss,
        metrics=metrics,
        jit_compile=recipes.jit_compile(),
    )
    return Network(model, embed)


def in_order(images: np.ndarray, labels: np.ndarray) -> Batches:
    """Images as they are, in large batches, to be embedded or tested.

    Args:
        images: uint8 `(N, H, W, C)`.
        labels: Their classes `(N,)`.
    """
    return Batches(images, labels, recipes.TEST_BATCH, shuffle=False)


def check(args: argparse.Namespace, data: Dataset) -> None:
    """Refuses flags that do not go together, or not with the data.

    Args:
        args: The flags of one run.
        data: What it is to be trained on.

    Raises:
        BadInput: If they do not.
    """
    if args.model_name != "magnet":
        return
    if args.batch_size % args.members:
        raise BadInput(
            "--batch_size must be a multiple of --members, the images of each cluster. "
            f"Received: {args.batch_size} and {args.members}"
        )
    try:
        _magnet_batches(args, data)
    except ValueError as error:
        raise BadInput(f"--per_class, --batch_size, --members: {error}") from error


def training(
    args: argparse.Namespace, data: Dataset, done: int, rows: Sequence[Mapping[str, float]]
) -> tuple[keras.utils.PyDataset, Batches | None, list[keras.callbacks.Callback]]:
    """Returns what a run is trained on, what it is tested on as it goes, and the callbacks of both.

    Args:
        args: The flags of one run.
        data: What it is trained on.
        done: The epochs behind it.
        rows: Their rows in the log.

    Returns:
        Batches; test images, or None for Magnet, whose loss is of batches of clusters; callbacks.
    """
    images, labels = data.train
    if args.model_name == "magnet":
        batches = _magnet_batches(args, data)
        return batches, None, [clusters.RefreshClusters(batches, in_order(images, labels))]
    batches = Batches(
        images,
        labels,
        args.batch_size,
        seed=args.seed,
        augment=recipes.AUGMENTATIONS[args.augment],
        epoch=done,
    )
    steps = steps_per_epoch(args, len(labels))
    chance = ChanceWarning(labels, steps, args.epochs, args.base_lr, rows)
    return batches, in_order(*data.test), [chance]


def _magnet_batches(args: argparse.Namespace, data: Dataset) -> clusters.MagnetBatches:
    augment = recipes.AUGMENTATIONS[args.augment]

    def transform(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return normalize(images if augment is None else augment(images, rng))

    images, labels = data.train
    return clusters.MagnetBatches(
        images,
        labels,
        args.per_class,
        clusters=args.batch_size // args.members,
        members=args.members,
        steps=steps_per_epoch(args, len(labels)),
        alpha=args.alpha,
        seed=args.seed,
        transform=transform,
        class_names=data.class_names,
    )


def evaluate(args: argparse.Namespace, network: Network, data: Dataset) -> dict[str, float]:
    """Tells classes as the model does, and retrieves: the accuracies of both on the test set.

    Args:
        args: The flags of one run.
        network: The trained network.
        data: What it was trained on.

    Returns:
        `accuracy`, the share of images whose class is told; `retrieval_accuracy`, of the training
        images nearest to a test image in the embedding the share that is of its class.

    Raises:
        ClusterError: If no clusters can be made of the embeddings.
    """
    (images, labels), (test_images, test_labels) = data.train, data.test
    known = network.embed.predict(in_order(images, labels), verbose=0)
    found = network.embed.predict(in_order(test_images, test_labels), verbose=0)
    if args.model_name == "magnet":
        index = clusters.cluster(
            *(known, labels, args.per_class, args.alpha, (args.seed, args.epochs)),
            data.class_names,
        )
        scores = clusters.knc(found, index, args.nearest_clusters)
    else:
        scores = network.model.predict(in_order(test_images, test_labels), verbose=0)
        if args.model_name != "softmax":
            scores = keras.ops.convert_to_numpy(mixture_posterior(scores, args.sigma))
    retrieval = clusters.attribute_concentration(found, test_labels, args.neighbours, known, labels)
    accuracy = float(np.mean(scores.argmax(axis=1) == test_labels))
    return {"accuracy": accuracy, "retrieval_accuracy": retrieval}
