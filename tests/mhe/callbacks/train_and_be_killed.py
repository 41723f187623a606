"""A training with one callback more, killed while it writes: what `test_resumable.py` runs.

python train_and_be_killed.py FOLDER EPOCH[:BATCH] ...
"""

import os
import signal
import sys

import keras
import numpy as np

from mhe.callbacks import ResumableTraining
from mhe.checkpoints import generations


class Pairs(keras.utils.PyDataset):
    """A dataset as people write them, which `fit` shuffles."""

    def __init__(self, x, y):
        super().__init__()
        self.x, self.y = x, y

    def __len__(self):
        return len(self.x) // 4

    def __getitem__(self, index):
        own = slice(4 * index, 4 * index + 4)
        return self.x[own], self.y[own]


def data():
    rng = np.random.default_rng(3)
    x = rng.normal(size=(24, 5)).astype("float32")
    return x, (x @ rng.normal(size=(5, 2)) + rng.normal(size=(24, 2))).astype("float32")


def network():
    """The same weights each time, with other seeds of its dropout."""
    model = keras.Sequential(
        [
            keras.Input((5,)),
            keras.layers.Dense(6, activation="tanh"),
            keras.layers.BatchNormalization(),
            keras.layers.Dropout(0.3),
            keras.layers.Dense(2),
        ]
    )
    rng = np.random.default_rng(5)
    for weight in model.trainable_weights:
        weight.assign(rng.uniform(0.2, 1, weight.shape) * rng.choice([-1, 1], weight.shape))
    return model


def fit(folder, *callbacks):
    model = network()
    model.compile("adam", "mse", metrics=["mae"])
    resumable = ResumableTraining(folder, every=2)
    model.fit(Pairs(*data()), epochs=5, verbose=0, callbacks=[*callbacks, resumable])
    return model


class KilledWhileWriting(keras.callbacks.Callback):
    """Ends the process in the middle of a checkpoint, after an epoch or a batch in it."""

    def __init__(self, epoch, batch=None):
        super().__init__()
        self.last = epoch, batch

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        self.end(self.epoch, batch)

    def on_epoch_end(self, epoch, logs=None):
        self.end(epoch, None)

    def end(self, *now):
        if now == self.last:
            generations.checksums.write_checksums = lambda *_: os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    for last in sys.argv[2:]:
        child = os.fork()
        if not child:
            fit(sys.argv[1], KilledWhileWriting(*map(int, last.split(":"))))
            os._exit(0)
        assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
