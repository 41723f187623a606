"""The order in which real images are trained on."""

import numpy as np

from mhe.harness.batches import Batches


class RealImages(Batches):
    """Batches of real images, counted in iterations: the epochs of `fit` may have any length.

    A GAN is trained for so many iterations, and an epoch of its run is what lies between two
    snapshots. Batch k of the whole training is a function of the seed and k alone: every pass
    over the images draws them in a new order, whatever the epochs are.

    Args:
        images: uint8 array `(N, H, W, C)`.
        batch_size: Images in a batch. What a pass leaves over is left out, for all batches are
            of one size.
        every: The iterations of an epoch.
        last: The iterations of this epoch, where it is a last one and shorter; None for `every`.
        seed: What decides the order.
        epoch: The epoch to begin with.

    Raises:
        BadInput: If there are fewer images than a batch has.

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
        # There is no use for labels here.
        none = np.zeros(len(images), np.int8)
        super().__init__(images, none, batch_size, seed=seed, drop_remainder=True, epoch=epoch)
        self._per_pass = self._batches
        self.every = every
        self._batches = every if last is None else last

    def _batch(self, epoch: int, index: int) -> tuple[np.ndarray]:
        # Pixels as they are: the model itself brings them to −1…1.
        chosen = self._chosen(*divmod(epoch * self.every + index, self._per_pass))
        return (self.images[chosen],)
