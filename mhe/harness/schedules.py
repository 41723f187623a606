"""Learning rates over a training."""

from collections.abc import Sequence

import keras


def stepped(
    base_lr: float, steps: int, drops: Sequence[float]
) -> keras.optimizers.schedules.PiecewiseConstantDecay:
    """Returns a schedule that drops by x0.1 at some parts of the training, however long that is.

    Args:
        base_lr: The rate at the start.
        steps: The iterations of the whole training.
        drops: Parts of the training after which it drops, between 0 and 1, in order.

    Example:

    >>> rate = stepped(0.1, 1000, [0.4, 0.8])
    >>> [round(float(rate(step)), 6) for step in (399, 400, 800)]
    [0.1, 0.01, 0.001]
    """
    # Keras counts iterations from 0 and keeps a rate up to and with its boundary.
    boundaries = [round(steps * drop) - 1 for drop in drops]
    return keras.optimizers.schedules.PiecewiseConstantDecay(
        boundaries, [base_lr * 0.1**count for count in range(len(drops) + 1)]
    )
