"""Trains on images in memory or on disk, in a process of its own: `python -m timing.inputs`.

It reads a job as JSON from its input and answers on its output in one JSON line.
"""

import json
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any

import keras

from mhe.harness import datasets, models
from mhe.harness.batches import Batch, Batches, pad_crop_flip
from mhe.harness.errors import BadInput
from timing.backend import peak_resident

WARM_UP = 3  # batches, within which Keras compiles


class BatchRate:
    """Counts batches per second, after the first ones.

    Args:
        seconds: How long to count.

    Attributes:
        rate: Batches per second.
        over: Whether the time is over.
    """

    def __init__(self, seconds: float) -> None:
        self.rate, self.over = 0.0, False
        self._seconds, self._seen, self._began = seconds, 0, 0.0

    def count(self) -> None:
        """Counts a batch."""
        self._seen += 1
        if self._seen <= WARM_UP:
            self._began = time.perf_counter()
            return
        elapsed = time.perf_counter() - self._began
        self.rate = (self._seen - WARM_UP) / elapsed
        self.over = elapsed >= self._seconds


def rate_alone(batches: Batches, seconds: float) -> float:
    """Returns how many batches per second are drawn where nothing is trained on them."""
    counter, drawn = BatchRate(seconds), _epochs(batches)
    while not counter.over:
        next(drawn)
        counter.count()
    batches.epoch = 0
    return counter.rate


def _epochs(batches: Batches) -> Iterator[Batch]:
    while True:
        yield from batches
        batches.epoch += 1


def rate_of_training(model: keras.Model, batches: Batches, seconds: float) -> float:
    """Returns how many batches per second `fit` trains a compiled model on."""
    counter = BatchRate(seconds)

    def count(batch: int, logs: Mapping[str, Any] | None) -> None:
        # Keras gives the loss as a number, so the step is done.
        counter.count()
        model.stop_training = counter.over

    counting = keras.callbacks.LambdaCallback(on_train_batch_end=count)
    model.fit(batches, epochs=sys.maxsize, callbacks=[counting], verbose=0)
    return counter.rate


def measure(job: Mapping[str, Any]) -> dict[str, Any]:
    """Measures images in memory or on disk.

    Args:
        job: `dataset`, `memory` in bytes or None, `arch`, `width`, `batch_size`, `seconds` and
            `seed`.

    Returns:
        The images per second of `batches` alone and of `training`; and `memory_mib`, the peak of
        this process, or None where nothing tells.
    """
    data = datasets.load(job["dataset"], memory=job["memory"])
    images, labels = data.train
    keras.utils.set_random_seed(job["seed"])
    model = models.build(job["arch"], images.shape[1:], len(data.class_names), job["width"])
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    size = job["batch_size"]
    batches = Batches(
        images, labels, size, seed=job["seed"], augment=pad_crop_flip, drop_remainder=True
    )
    alone = rate_alone(batches, job["seconds"])
    training = rate_of_training(model, batches, job["seconds"])
    peak = peak_resident()
    return {
        "batches": size * alone,
        "training": size * training,
        "memory_mib": None if peak is None else peak / 2**20,
    }


if __name__ == "__main__":
    try:
        answer = measure(json.load(sys.stdin))
    except BadInput as error:
        answer = {"refused": str(error)}
    print(json.dumps(answer))
