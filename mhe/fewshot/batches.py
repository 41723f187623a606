"""Episodes of images as batches for `fit`."""

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import keras
import numpy as np

from mhe.checks import check_count
from mhe.fewshot.episodes import Episodes


class EpisodeBatches(keras.utils.PyDataset):
    """Episodes as batches for `fit`, one episode per batch.

    A batch is `({"support": images (1, ways, shots, ...), "query": images (1, ways, queries, ...)},
    classes (1, ways, queries))`, where the class of a query is its row in the episode. Batch k of
    epoch e is always episode `e * per_epoch + k`: with `fit(shuffle=False)`, and `epoch=` to resume
    a training, the episodes are those of an unbroken run. A thread assembles the next episode
    during a training step. Use an object for one `fit` only.

    Args:
        images: Array `(N, ...)` of any dtype that the network accepts.
        episodes: The episodes to draw from.
        per_epoch: Episodes per epoch.
        epoch: The epoch to start with.
        augment: A callable `(images, rng) -> images` for the images `(B, ...)` of an episode, or
            None. The generator depends on the episodes' seed and the episode's number alone.

    Raises:
        ValueError: If an argument is out of range.

    Example:

    >>> import numpy as np
    >>> episodes = Episodes(np.arange(12) % 3, ways=2, shots=1, queries=3)
    >>> batch, classes = EpisodeBatches(np.zeros((12, 8, 8, 1), "uint8"), episodes)[0]
    >>> batch["support"].shape, batch["query"].shape, classes.tolist()
    ((1, 2, 1, 8, 8, 1), (1, 2, 3, 8, 8, 1), [[[0, 0, 0], [1, 1, 1]]])
    """

    def __init__(
        self,
        images: np.ndarray,
        episodes: Episodes,
        per_epoch: int = 100,
        epoch: int = 0,
        augment: Callable[[np.ndarray, np.random.Generator], np.ndarray] | None = None,
    ) -> None:
        # Keras's own workers would carry episodes over from one epoch to the next.
        super().__init__(workers=1, use_multiprocessing=False)
        check_count("per_epoch", per_epoch, least=1)
        check_count("epoch", epoch, least=0)
        self.images, self.episodes, self.augment = images, episodes, augment
        self.per_epoch, self.epoch = per_epoch, epoch
        targets = np.repeat(np.arange(episodes.ways, dtype="int32"), episodes.queries)
        self._targets = targets.reshape(1, episodes.ways, episodes.queries)
        self._fitting = self._drawing = False
        self._next: tuple[int, Future] | None = None
        self._lock = threading.Lock()
        self._thread = ThreadPoolExecutor(1, "episodes")

    def __len__(self) -> int:
        """The number of episodes in an epoch."""
        return self.per_epoch

    def __getitem__(self, index: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """The episode at `index` of the current epoch."""
        if not 0 <= index < self.per_epoch:
            raise IndexError(f"There are {self.per_epoch} batches. Received: index={index}")
        number = self.epoch * self.per_epoch + index
        with self._lock:
            ahead = self._next
            self._next = number + 1, self._thread.submit(self._batch, number + 1)
        return ahead[1].result() if ahead and ahead[0] == number else self._batch(number)

    def on_epoch_begin(self) -> None:
        """Called by Keras before it draws the batches of an epoch, or one to build a model."""
        self._drawing = True

    def on_epoch_end(self) -> None:
        """Called by Keras after an epoch, and once before the first epoch of every `fit`."""
        if self._fitting and self._drawing:
            self.epoch += 1
        self._fitting, self._drawing = True, False

    def _batch(self, number: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
        support, query = self.episodes[number]
        images = {"support": self.images[support[None]], "query": self.images[query[None]]}
        if self.augment is not None:
            # A stream apart from the one that draws the episode.
            key = np.random.SeedSequence(self.episodes.seed, spawn_key=(number, 0))
            rng = np.random.default_rng(key)
            for name, each in images.items():
                flat = each.reshape(-1, *each.shape[3:])
                images[name] = self.augment(flat, rng).reshape(each.shape)
        return images, self._targets
