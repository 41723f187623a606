"""Energies as Keras regularizers, and sums of regularizers."""

from typing import Any

import keras
from keras import ops

from mhe import energy


@keras.saving.register_keras_serializable(package="mhe")
class MHE(keras.regularizers.Regularizer):
    """Minimum hyperspherical energy: spreads the neurons of a layer over the sphere.

    Adds `strength` times the mean energy of the layer's neurons to the loss; see
    `mhe.hyperspherical_energy` for what that is, and for degenerate neurons.

    With `sample=k` only k neurons, drawn afresh at every step, enter: an unbiased estimate of the
    same mean for layers too wide for all pairs. The draw depends on the weights themselves and on
    how often the regularizer was called, never on hidden state, so that it changes from step to
    step inside a compiled train step too. Where nothing is compiled, a process that takes up a
    training again begins to count anew, and draws other neurons than an unbroken one.

    Args:
        strength: Finite factor ≥ 0 of the mean energy.
        s: Real number ≥ 0, the power of the potential.
        distance: `"euclidean"` or `"angle"`.
        space: `"half"` counts every neuron's opposite as well, `"full"` does not.
        axis: The axis, or axes, of the weight that count its neurons: -1 is right for the kernels
            of Dense and Conv layers. `mhe.attach` knows it for every layer.
        sample: None for all neurons, or how many to draw, at least 2. Where a layer has no more
            than that, all are taken.
        block: Neurons a block, see `mhe.energy.block_size`.

    Raises:
        ValueError: If an argument is not one of the above.

    Example:

    >>> import keras, mhe
    >>> layer = keras.layers.Dense(10, kernel_regularizer=mhe.MHE(1.0, s=2, space="half"))
    >>> layer.build((None, 64))
    >>> len(layer.losses)
    1

    Reference:
        Liu et al., Learning towards Minimum Hyperspherical Energy, NeurIPS 2018
        ([arXiv:1805.09298](https://arxiv.org/abs/1805.09298)); `sample` is its section 3.6.
    """

    def __init__(
        self,
        strength: float = 1.0,
        s: float = 2,
        distance: str = "euclidean",
        space: str = "half",
        axis: int | tuple[int, ...] = -1,
        sample: int | None = None,
        block: int | None = None,
    ) -> None:
        energy.check_strength(strength)
        energy.check_options(s, distance, space)
        energy.check_count("sample", sample, 2)
        energy.check_count("block", block, 1)
        self.strength = float(strength)
        self.s = s
        self.distance = distance
        self.space = space
        self.axis = energy.check_axis(axis)
        self.sample = sample
        self.block = block
        self._calls = 0

    def __call__(self, x: Any) -> Any:
        """Strength times the mean energy of `x`, a scalar of Keras's `floatx`."""
        options = {"s": self.s, "distance": self.distance, "space": self.space}
        if self.sample is None:
            value = energy.hyperspherical_energy(x, axis=self.axis, block=self.block, **options)
        else:
            value = energy.sampled_energy(
                x, self.sample, seed=self._calls, axis=self.axis, block=self.block, **options
            )
            self._calls += 1
        return ops.cast(self.strength * value, keras.config.floatx())

    def with_axis(self, axis: int | tuple[int, ...]) -> "MHE":
        """A copy for weights whose neurons lie along another axis."""
        return type(self)(**{**self.get_config(), "axis": axis})

    def get_config(self) -> dict[str, Any]:
        return {
            "strength": self.strength,
            "s": self.s,
            "distance": self.distance,
            "space": self.space,
            "axis": self.axis,
            "sample": self.sample,
            "block": self.block,
        }

    def __repr__(self) -> str:
        text = f"MHE({self.strength:g}, s={self.s}, {self.distance}, {self.space}"
        return text + (f", sample={self.sample})" if self.sample else ")")


@keras.saving.register_keras_serializable(package="mhe")
class Sum(keras.regularizers.Regularizer):
    """Several regularizers on one weight.

    Args:
        *regularizers: Whatever `keras.regularizers.get` takes: regularizers, names, functions.

    Raises:
        ValueError: If one of them is None or is no regularizer.

    Example:

    >>> import keras, mhe
    >>> both = mhe.Sum(keras.regularizers.L2(5e-4), mhe.MHE())
    >>> layer = keras.layers.Dense(10, kernel_regularizer=both)
    """

    def __init__(self, *regularizers: Any) -> None:
        if not regularizers:
            raise ValueError("`Sum` needs at least one regularizer. Received: none")
        self.regularizers = tuple(_regularizer(each) for each in regularizers)

    def __call__(self, x: Any) -> Any:
        """The sum of what the regularizers give for `x`, a scalar of Keras's `floatx`."""
        dtype = keras.config.floatx()
        first, *others = (ops.cast(each(x), dtype) for each in self.regularizers)
        return sum(others, first)

    def get_config(self) -> dict[str, Any]:
        return {
            "regularizers": [
                keras.saving.serialize_keras_object(each) for each in self.regularizers
            ]
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Sum":
        return cls(
            *(keras.saving.deserialize_keras_object(each) for each in config["regularizers"])
        )

    def __repr__(self) -> str:
        return f"Sum({', '.join(map(describe, self.regularizers))})"


def describe(regularizer: Any) -> str:
    """A regularizer in a few words, for tables.

    Example:

    >>> import keras
    >>> describe(keras.regularizers.L2(0.5)), describe(MHE(2.0, s=0)), describe(None)
    ('L2(l2=0.5)', 'MHE(2, s=0, euclidean, half)', 'none')
    """
    if regularizer is None:
        return "none"
    if not isinstance(regularizer, keras.regularizers.Regularizer):
        return getattr(regularizer, "__name__", repr(regularizer))
    if type(regularizer).__repr__ is not object.__repr__:
        return repr(regularizer)
    options = ", ".join(
        f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}"
        for name, value in regularizer.get_config().items()
    )
    return f"{type(regularizer).__name__}({options})"


def _regularizer(identifier: Any) -> Any:
    regularizer = keras.regularizers.get(identifier)
    if regularizer is None:
        raise ValueError("`Sum` adds regularizers. Received: None")
    return regularizer
