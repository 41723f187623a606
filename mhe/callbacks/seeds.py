"""A callback that makes what is drawn in an epoch a function of the epoch."""

import keras
import numpy as np

from mhe import checks


class EpochSeeds(keras.callbacks.Callback):
    """Seeds everything that draws, at the start of each epoch, from the seed and the epoch.

    A training that is resumed then draws what an unbroken one would: dropout, the shuffling of
    Keras, Python, NumPy and PyTorch. TensorFlow shuffles arrays by a generator of its own, which
    goes on from epoch to epoch and which no seed reaches.

    Args:
        seed: Non-negative integer.

    Raises:
        ValueError: If `seed` is no such integer.

    Example:

    >>> import keras, random
    >>> from mhe.callbacks import EpochSeeds
    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dropout(0.5)])
    >>> seeds = EpochSeeds(3)
    >>> seeds.set_model(model)
    >>> drawn = []
    >>> for _ in range(2):
    ...     seeds.on_epoch_begin(7)
    ...     drawn.append(random.random())
    >>> drawn[0] == drawn[1]
    True
    """

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        checks.check_count("seed", seed, 0)
        self.seed = int(seed)

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        rng = np.random.default_rng([self.seed, epoch])
        keras.utils.set_random_seed(int(rng.integers(1, 1 << 31)))
        # Layers own their generators, which no global seed reaches.
        for variable in self.model.variables:
            if variable.name == "seed_generator_state":
                variable.assign(np.array([int(rng.integers(1, 1 << 31)), 0]))
