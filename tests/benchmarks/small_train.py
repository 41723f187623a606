"""`benchmarks/train.py` on a network that compiles fast, interrupted, resumed and then killed.

Ctrl-C ends it in its second epoch. It resumes after the first, and kills itself in the third.
"""

import itertools
import os
import signal
import sys

import keras

from mhe.harness import callbacks, flags, models


def network(arch, shape, classes, width, weight_decay):
    """Stands in for `models.build`; batch norm and dropout have states that a resume must keep."""
    return keras.Sequential(
        [
            keras.Input(shape),
            keras.layers.Flatten(),
            keras.layers.Dense(6, name="hidden"),
            keras.layers.BatchNormalization(momentum=0.9),
            keras.layers.ReLU(),
            keras.layers.Dropout(0.25),
            keras.layers.Dense(classes, name="logits"),
        ]
    )


if __name__ == "__main__":
    sys.path.insert(0, "benchmarks")
    import train

    steps = itertools.count(1)
    # Epochs are of three steps, and the second starts again after Ctrl-C.
    ends = {5: signal.SIGINT, 11: signal.SIGKILL}

    def end(self, batch, logs=None):
        step = next(steps)
        if step in ends:
            os.kill(os.getpid(), ends[step])

    callbacks.ChanceWarning.on_train_batch_end = end
    models.build = network
    # A process started in the background ignores Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    code = flags.program(train.main)
    if code != 130:
        sys.exit(f"Ctrl-C ended the program with code {code}")
    keras.backend.clear_session()
    folder = sys.argv[sys.argv.index("--out") + 1]
    flags.program(train.main, ["--resume", folder])
