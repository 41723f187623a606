"""Mean and covariance of features, accumulated batch by batch."""

from typing import Any

import numpy as np

from gan.scores.arrays import rows


class Statistics:
    """Running mean and covariance of features, in float64.

    Batches are merged by their means and centered scatter matrices, without cancellation for any
    number and size of batches. Memory is O(D²).

    Args:
        dims: D, the number of features per image.

    Attributes:
        count: Number of images so far.
        mu: Mean `(D,)`.

    Example:

    >>> statistics = Statistics(2)
    >>> for batch in ([[0.0, 0.0], [2.0, 0.0]], [[4.0, 6.0]]):
    ...     statistics.update(batch)
    >>> statistics.count, statistics.mu.tolist(), statistics.sigma.tolist()
    (3, [2.0, 2.0], [[4.0, 6.0], [6.0, 12.0]])

    Reference:
        Chan, Golub and LeVeque, Algorithms for Computing the Sample Variance, The American
        Statistician 37(3), 1983, section 3.
    """

    def __init__(self, dims: int):
        self.count = 0
        self.mu = np.zeros(dims)
        self._scatter = np.zeros((dims, dims))

    @classmethod
    def restored(cls, count: int, mu: np.ndarray, sigma: np.ndarray) -> "Statistics":
        """Restores saved statistics.

        Args:
            count: Number of images so far.
            mu: Mean `(D,)`.
            sigma: Covariance `(D, D)`.

        Returns:
            The statistics, to which further batches can be added.
        """
        statistics = cls(len(mu))
        statistics.count, statistics.mu = int(count), np.array(mu, np.float64)
        statistics._scatter = np.array(sigma, np.float64) * (statistics.count - 1)
        return statistics

    @property
    def sigma(self) -> np.ndarray:
        """The covariance `(D, D)`, divided by `count - 1`.

        Raises:
            ValueError: If there are fewer than two images.
        """
        if self.count < 2:
            raise ValueError(f"A covariance needs at least 2 images. Received: {self.count}")
        return self._scatter / (self.count - 1)

    def update(self, features: Any) -> None:
        """Adds the features of a batch.

        Args:
            features: Array-like `(N, D)`.

        Raises:
            ValueError: If they have other dimensions, or are not finite.
        """
        batch = rows(features, "features").astype(np.float64)
        if batch.shape[1] != self.mu.size:
            raise ValueError(
                f"`features` must have shape (N, {self.mu.size}). Received: shape {batch.shape}"
            )
        mean = batch.mean(axis=0)
        batch -= mean
        shift = mean - self.mu
        total = self.count + len(batch)
        self._scatter += batch.T @ batch
        self._scatter += np.outer(shift, shift) * (self.count * len(batch) / total)
        self.mu = self.mu + shift * (len(batch) / total)
        self.count = total
