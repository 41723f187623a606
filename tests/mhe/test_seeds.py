"""Seeds that follow trained numbers."""

import keras
import numpy as np

from mhe.seeds import fresh_seed


def draw(numbers, seed):
    source = fresh_seed(keras.ops.convert_to_tensor(numbers), seed)
    return keras.ops.convert_to_numpy(keras.random.randint((20,), 0, 10**6, seed=source)).tolist()


def test_the_same_numbers_and_seed_draw_the_same():
    numbers = np.random.default_rng(0).normal(size=50).astype("float32")
    assert draw(numbers, 3) == draw(numbers.copy(), 3)
    assert draw(numbers, 3) == draw(numbers, 3 + 2**32)


def test_moved_numbers_and_other_seeds_draw_differently():
    numbers = np.random.default_rng(0).normal(size=50).astype("float32")
    moved = numbers + np.float32(1e-6)
    draws = [draw(numbers, 0), draw(numbers, 1), draw(moved, 0), draw(moved, 1)]
    assert len({tuple(each) for each in draws}) == 4
