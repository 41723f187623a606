"""How the networks of the comparison of softmax, Magnet loss and RepMet are scored."""

import numpy as np
import pytest

from mhe import clusters
from mhe.harness import recipes

pytestmark = pytest.mark.one_backend

FLAGS = [
    *("--dataset", "digits", "--train_images", "60", "--batch_size", "12", "--dims", "3"),
    *("--per_class", "2", "--base_lr", "0.01", "--model_name", "magnet", "--epochs", "2"),
]


@pytest.mark.usefixtures("weights_from_numpy")
def test_scores_are_of_the_embedding(small, load, parsed, load_task):
    """Magnet's classes are those of kNC, and retrieval looks among the training images."""
    task = load_task("clusters")
    args = parsed(load("clusters"), *FLAGS, "--neighbours", "3")
    data = recipes.load(args)
    network = task.build(args, data, steps=10)
    (images, labels), (test_images, test_labels) = data.train, data.test
    known, found = (
        network.embed.predict((each - 127.5) / 128, verbose=0).astype("float64")
        for each in (images.astype("float32"), test_images.astype("float32"))
    )
    apart = np.sum((found[:, None] - known) ** 2, axis=-1)
    nearest = np.argsort(apart, axis=1)[:, :3]
    scores = task.evaluate(args, network, data)
    expected = np.mean(labels[nearest] == test_labels[:, None])
    assert scores["retrieval_accuracy"] == pytest.approx(expected, abs=2e-3)
    index = clusters.cluster(known, labels, 2, args.alpha, (0, 2))
    right = clusters.knc(found, index).argmax(1) == test_labels
    assert scores["accuracy"] == pytest.approx(right.mean(), abs=5e-3)
