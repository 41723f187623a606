"""The networks of `benchmarks/clusters.py`, and how each of them predicts classes.

All are one network of `mhe.harness.models` that ends in an embedding. Softmax adds a dense layer,
RepMet representatives. Magnet loss adds nothing: the clusters of the training set predict the
classes of new images.
"""

import argparse
import math
from collections.abc import Callable
from dataclasses import dataclass

import keras
import numpy as np

from mhe import clusters
from mhe.harness import models, recipes
from mhe.harness.batches import normalize
from mhe.harness.datasets import Dataset
from mhe.harness.errors import BadInput
from mhe.layers import Representatives, mixture_posterior
from mhe.losses import MagnetLoss, RepMetLoss
from mhe.types import Tensor
from tasks.unit_norm import UnitNorm

MODELS = ("softmax", "magnet", "repmet1", "repmet2")


@dataclass(frozen=True)
class Network:
    """A network as it is trained, and its embedding.

    Attributes:
        model: Images to the inputs of the loss; compiled.
        embed: Images to embeddings `(B, dims)`, with the same weights.
    """

    model: keras.Model
    embed: keras.Model


def build(args: argparse.Namespace, data: Dataset, steps: int) -> Network:
    """Builds and compiles the network of a run.

    Args:
        args: The flags of one run.
        data: The data of the run.
        steps: The iterations of the whole training.
    """
    classes, shape = len(data.class_names), data.train[0].shape[1:]
    network = models.build(args.arch, shape, args.dims, args.width, args.weight_decay)
    (embeddings,) = network.outputs
    if args.embedding_norm == "batch":
        embeddings = keras.layers.BatchNormalization(momentum=0.9, name="embedding_norm")(
            embeddings
        )
    elif args.embedding_norm == "unit":
        embeddings = UnitNorm(name="embedding_norm")(embeddings)
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

        def accuracy(labels: Tensor, distances: Tensor) -> Tensor:
            posterior = mixture_posterior(distances, args.sigma)
            return keras.metrics.sparse_categorical_accuracy(labels, posterior)

        metrics = [accuracy]
    model = keras.Model(network.inputs, outputs, name=f"{args.model_name}_{network.name}")
    model.compile(
        recipes.optimizer(args, steps),
        loss=loss,
        metrics=metrics,
        jit_compile=recipes.jit_compile(),
    )
    return Network(model, embed)


def magnet_batches(args: argparse.Namespace, data: Dataset) -> clusters.MagnetBatches | None:
    """Returns the batches for Magnet loss, as many per epoch as for the other models.

    Args:
        args: The flags of one run.
        data: The data of the run.

    Returns:
        The batches, or None for another model.

    Raises:
        BadInput: If the flags do not suit each other or the data.
    """
    if args.model_name != "magnet":
        return None
    if args.batch_size % args.members:
        raise BadInput(
            "--batch_size must be a multiple of --members, the images per cluster. "
            f"Received: {args.batch_size} and {args.members}"
        )
    augment = recipes.AUGMENTATIONS[args.augment]

    def transform(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return normalize(images if augment is None else augment(images, rng))

    images, labels = data.train
    try:
        return clusters.MagnetBatches(
            images,
            labels,
            args.per_class,
            clusters=args.batch_size // args.members,
            members=args.members,
            steps=math.ceil(len(labels) / args.batch_size),
            alpha=args.alpha,
            seed=args.seed,
            transform=transform,
            class_names=data.class_names,
        )
    except ValueError as error:
        raise BadInput(f"--per_class, --batch_size, --members: {error}") from error


def evaluate(args: argparse.Namespace, network: Network, data: Dataset) -> dict[str, float]:
    """Returns the accuracies of classification and retrieval on the test set.

    Args:
        args: The flags of one run.
        network: The trained network.
        data: The data of the run.

    Returns:
        `accuracy`, the share of images whose class is predicted; `retrieval_accuracy`, the share of
        the training images nearest to a test image in the embedding that are of its class.

    Raises:
        ClusterError: If no clusters can be made of the embeddings.
    """
    (images, labels), (test_images, test_labels) = data.train, data.test
    known = recipes.predict(network.embed, images)
    embeddings = recipes.predict(network.embed, test_images)
    if args.model_name == "magnet":
        index = clusters.cluster(
            *(known, labels, args.per_class, args.alpha, (args.seed, args.epochs)),
            data.class_names,
        )
        scores = clusters.knc(embeddings, index, args.nearest_clusters)
    else:
        scores = recipes.predict(network.model, test_images)
        if args.model_name != "softmax":
            scores = keras.ops.convert_to_numpy(mixture_posterior(scores, args.sigma))
    retrieval = clusters.attribute_concentration(
        embeddings, test_labels, args.neighbours, known, labels
    )
    accuracy = float(np.mean(scores.argmax(axis=1) == test_labels))
    return {"accuracy": accuracy, "retrieval_accuracy": retrieval}
