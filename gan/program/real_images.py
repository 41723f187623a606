"""Batches of real images, whose order does not depend on the epochs."""

import numpy as np

from mhe.harness.batches import Batches


class RealImages(Batches):
    """Batches of real images, counted in iterations, for epochs of any length.

    The training of a GAN is measured in iterations, and an epoch of its run is the interval between
    two snapshots. Batch k of the whole training depends on the seed and k only: every pass over the
    images shuffles them anew, regardless of the length of the epochs.

    Args:
        images: uint8 array `(N, H, W, C)`.
        batch_size: Number of images per batch. The remainder of a pass is dropped, so that all
            batches have the same size.
        every: The iterations of an epoch.
        last: The iterations of a last, shorter epoch; None for `every`.
        seed: Seed of the order.
        epoch: The epoch to start with.

    Raises:
        BadInput: If there are fewer images than `batch_size`.

    Example:

    >>> images = np.arange(5, dtype="uint8").reshape(5, 1, 1, 1)
    >>> batches = RealImages(images, batch_size=2, every=3)
    >>> [batch.shape for batch, in batches]
    [(2, 1, 1, 1), (2, 1, 1, 1), (2, 1, 1, 1)]
    """

    def __init__(
        self,
        images: np.ndarray,
        batch_size: int,
        *,
        every: int,
        last: int | None = None,
        seed: int = 0,
        epoch: int = 0,
    ):
        unused = np.zeros(len(images), np.int8)
        super().__init__(images, unused, batch_size, seed=seed, drop_remainder=True, epoch=epoch)
        self._per_pass = self._batches
        self.every = every
        self._batches = every if last is None else last

    def _batch(  # type: ignore[override]  # a GAN has no labels
        self, epoch: int, index: int
    ) -> tuple[np.ndarray]:
        # Unchanged pixels: the model scales them to −1…1.
        chosen = self._chosen(*divmod(epoch * self.every + index, self._per_pass))
        return (self.images[chosen],)
