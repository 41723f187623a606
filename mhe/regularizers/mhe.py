"""The hyperspherical energy as a Keras regularizer."""

from typing import Any

import keras

from mhe import energy
from mhe.checks import check_count
from mhe.regularizers.base import Weighted
from mhe.types import Tensor


@keras.saving.register_keras_serializable(package="mhe")
class MHE(Weighted):
    """Minimum hyperspherical energy: spreads the neurons of a layer over the sphere.

    Adds `strength` times the mean energy of the layer's neurons to the loss; see
    `mhe.hyperspherical_energy` for what that is, and for degenerate neurons.

    With `sample=k` the mean is estimated, for layers too wide for all pairs: its second-order part
    comes from all pairs, in time proportional to the number of neurons, and the rest from k
    neurons, drawn afresh at every step. The estimate is unbiased; see `mhe.energy.sampled_energy`.
    The draw depends on the weights themselves and on the number of calls, never on hidden state, so
    it changes from step to step inside a compiled train step, too. In eager mode, a process that
    resumes training counts calls from 0 again, so it draws other neurons than an uninterrupted one.

    Args:
        strength: Finite factor ≥ 0 of the mean energy.
        s: Real number ≥ 0, the power of the potential.
        distance: `"euclidean"` or `"angle"`.
        space: `"half"` counts every neuron's opposite as well, `"full"` does not.
        axis: The axis, or axes, of the weight that count its neurons: -1 fits the kernels of Dense
            and Conv layers. `mhe.attach` knows it for every layer.
        sample: Number of neurons to draw, at least 2, or None for all. A layer with no more than
            that uses all of them.
        block: Neurons per block. Defaults to `mhe.energy.block_size`.

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
        super().__init__(strength)
        energy.check_options(s, distance, space)
        check_count("sample", sample, 2, optional=True)
        check_count("block", block, 1, optional=True)
        self.s = s
        self.distance = distance
        self.space = space
        self.axis = energy.check_axis(axis)
        self.sample = sample
        self.block = block
        self._calls = 0

    def value(self, x: Tensor) -> Tensor:
        """The mean energy of `x`, or its estimate from a sample."""
        options: dict[str, Any] = {
            "s": self.s,
            "distance": self.distance,
            "space": self.space,
            "axis": self.axis,
            "block": self.block,
        }
        if self.sample is None:
            return energy.hyperspherical_energy(x, **options)
        estimate = energy.sampled_energy(x, self.sample, seed=self._calls, **options)
        self._calls += 1
        return estimate

    def with_axis(self, axis: int | tuple[int, ...]) -> "MHE":
        """Returns a copy for weights whose neurons lie along another axis."""
        return type(self)(**{**self.get_config(), "axis": axis})

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
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
