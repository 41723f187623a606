"""Batches hold the images of their episode."""

import numpy as np
import pytest

from mhe.fewshot import EpisodeBatches, Episodes

pytestmark = pytest.mark.one_backend


def test_batches_hold_the_images_of_their_episode(names):
    episodes = Episodes(names, ways=2, shots=1, queries=3, skip_small=True)
    images = np.arange(26, dtype="uint8").reshape(13, 2)
    batches = EpisodeBatches(images, episodes, per_epoch=3, epoch=2)
    assert len(batches) == 3
    for index in (0, 1, 2, 1):  # of which the thread has assembled some
        batch, classes = batches[index]
        support, query = episodes[6 + index]
        np.testing.assert_array_equal(batch["support"], images[support][None])
        np.testing.assert_array_equal(batch["query"], images[query][None])
        assert classes.tolist() == [[[0, 0, 0], [1, 1, 1]]]

    def noisy(images, rng):
        return images + rng.normal(size=images.shape)

    one, other = (EpisodeBatches(images, episodes, 3, epoch=2, augment=noisy) for _ in range(2))
    drawn = [one[index][0]["query"] for index in (0, 1)]
    np.testing.assert_array_equal(other[1][0]["query"], drawn[1])
    noise = [each - images[episodes[6 + k][1]][None] for k, each in enumerate(drawn)]
    assert np.abs(noise[0] - noise[1]).min() > 1e-6
    with pytest.raises(IndexError, match=r"3 batches. Received: index=3"):
        batches[3]
    with pytest.raises(ValueError, match=r"`per_epoch` must be an integer >= 1"):
        EpisodeBatches(images, episodes, per_epoch=0)
