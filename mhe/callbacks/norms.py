"""A callback that logs the norms of kernels and their effective learning rates."""

import keras
import numpy as np

from mhe import keras_internals
from mhe.callbacks.watched import WeightLogger

_NORMS = (
    keras.layers.BatchNormalization,
    keras.layers.GroupNormalization,
    keras.layers.LayerNormalization,
)


def is_normalized(layer: keras.layers.Layer) -> bool:
    """Whether the scale of a kernel has no effect, because every use of its output normalizes it.

    Args:
        layer: A layer of a functional or sequential model.

    Returns:
        True if the layer has no activation and its outputs go into normalization layers only, and
        either these are batch norms or the layer has no bias.

    Example:

    >>> conv, norm = keras.layers.Conv2D(4, 3, use_bias=False), keras.layers.BatchNormalization()
    >>> model = keras.Sequential([keras.Input((8, 8, 3)), conv, norm, keras.layers.Conv2D(2, 3)])
    >>> [is_normalized(layer) for layer in model.layers]
    [True, False, False]
    """
    if getattr(layer, "activation", None) not in (None, keras.activations.linear):
        return False
    used = [node.operation for node in keras_internals.nodes(layer)[1]]
    if not used or not all(isinstance(operation, _NORMS) for operation in used):
        return False
    centered = all(isinstance(operation, keras.layers.BatchNormalization) for operation in used)
    return centered or not getattr(layer, "use_bias", True)


class NormLogger(WeightLogger):
    """Adds the norm of every kernel, and effective learning rates, to the logs after each epoch.

    The logs gain `norm/<weight's path>`, the Frobenius norm ‖w‖, for every weight that holds
    neurons, and `effective_rate/<weight's path>`, the learning rate over ‖w‖², for those whose
    layer is followed by a normalization layer. There the scale of w does not change the output, and
    the angle by which a step turns w is proportional to this ratio: weight decay, which shrinks
    ‖w‖, raises it without touching the learning rate.

    Put it before the callbacks that read the logs, such as `CSVLogger`.

    Args:
        layers: Which layers to watch, as `mhe.attach` takes it; None watches all.

    Raises:
        ValueError: In training, if no layer matches.

    Example:

    >>> import keras, numpy as np
    >>> from mhe.callbacks import NormLogger
    >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4, use_bias=False),
    ...                           keras.layers.BatchNormalization(), keras.layers.Dense(1)])
    >>> model.compile(keras.optimizers.SGD(0.1), "mse")
    >>> history = model.fit(np.ones((8, 3)), np.ones((8, 1)), verbose=0, callbacks=[NormLogger()])
    >>> [name.split("/")[0] for name in history.history if "/" in name]
    ['norm', 'effective_rate', 'norm']

    Reference:
        van Laarhoven, L2 regularization versus batch and weight normalization
        ([arXiv:1706.05350](https://arxiv.org/abs/1706.05350)), section 3.
    """

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Adds to `logs`, which the following callbacks receive too."""
        logs = {} if logs is None else logs
        optimizer = getattr(self.model, "optimizer", None)
        for weight in self.watched():
            values = np.asarray(keras.ops.convert_to_numpy(weight.variable), "float64")
            norm = float(np.linalg.norm(values))
            logs[f"norm/{weight.path}"] = norm
            if optimizer is not None and norm > 0 and is_normalized(weight.layer):
                rate = keras.ops.convert_to_numpy(optimizer.learning_rate)
                logs[f"effective_rate/{weight.path}"] = float(rate) / norm**2
