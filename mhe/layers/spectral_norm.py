"""Spectral normalization as a reparametrization: a layer uses W/σ(W), and W itself is trained."""

import contextlib
from collections.abc import Iterator
from typing import Any

import keras
from keras import ops

from mhe import checks
from mhe.directions import unit_vectors
from mhe.keras_internals import flat_layers, replaced_attribute
from mhe.neuron_axes import DEPTHWISE, TRANSPOSED, neuron_kernels
from mhe.precision import at_least_float32
from mhe.types import Tensor

# A kernel with a smaller norm counts as zero and is not divided: the quotient, and the gradient
# above all, would leave float32.
_SMALLEST = 1e-30

_SUPPORTED = (
    keras.layers.Dense,
    keras.layers.Conv1D,
    keras.layers.Conv2D,
    keras.layers.Conv3D,
    *TRANSPOSED,
    *DEPTHWISE,
    keras.layers.Embedding,
)


def kernel_matrix(kernel: Tensor, axes: tuple[int, ...] = (-1,)) -> Tensor:
    """Returns a kernel as a matrix with one row per output.

    Args:
        kernel: Tensor of any rank.
        axes: The axes that count the outputs.

    Returns:
        A tensor `(outputs, rest)`.

    Example:

    >>> import numpy as np
    >>> kernel = np.arange(6).reshape(1, 2, 3)
    >>> np.asarray(kernel_matrix(kernel, axes=(-1,))).tolist()
    [[0, 3], [1, 4], [2, 5]]
    """
    outputs = 1
    for axis in axes:
        outputs *= kernel.shape[axis]
    return ops.reshape(ops.moveaxis(kernel, axes, tuple(range(len(axes)))), (outputs, -1))


def power_iteration(matrix: Tensor, u: Tensor, iterations: int = 1) -> tuple[Tensor, Tensor]:
    """Approximates the first singular vectors of a matrix: v ← Wᵀu/‖Wᵀu‖, u ← Wv/‖Wv‖.

    Args:
        matrix: W `(outputs, rest)`.
        u: Starting vector `(outputs,)`, of any length but 0.
        iterations: Number of iterations.

    Returns:
        Unit vectors u `(outputs,)` and v `(rest,)` without a gradient, or zero vectors if W is
        zero. They are float64 for a float64 matrix, else float32.

    Example:

    >>> import numpy as np
    >>> u, v = power_iteration(np.diag([3.0, 1.0]), np.array([1.0, 1.0]), iterations=20)
    >>> np.asarray(u).round(4).tolist(), np.asarray(v).round(4).tolist()
    ([1.0, 0.0], [1.0, 0.0])

    Reference:
        Miyato et al., Spectral normalization for generative adversarial networks, ICLR 2018
        ([arXiv:1802.05957](https://arxiv.org/abs/1802.05957)), algorithm 1.
    """
    matrix = ops.stop_gradient(at_least_float32(matrix))
    u = ops.cast(u, matrix.dtype)
    for _ in range(iterations):
        v = unit_vectors(ops.matmul(u, matrix))
        u = unit_vectors(ops.matmul(matrix, v))
    return u, v


def singular_value(matrix: Tensor, u: Tensor, v: Tensor) -> Tensor:
    """Returns σ = uᵀWv, with the gradient uvᵀ: u and v count as constants.

    Args:
        matrix: W `(outputs, rest)`.
        u: Unit vector `(outputs,)`.
        v: Unit vector `(rest,)`.

    Returns:
        A scalar: float64 for a float64 matrix, else float32. With the vectors of
        `power_iteration` it is at most the spectral norm, and it approaches it.

    Example:

    >>> import numpy as np
    >>> float(singular_value(np.diag([3.0, 1.0]), np.array([1.0, 0.0]), np.array([1.0, 0.0])))
    3.0

    Reference:
        Miyato et al., Spectral normalization for generative adversarial networks, ICLR 2018
        ([arXiv:1802.05957](https://arxiv.org/abs/1802.05957)), appendix A.
    """
    matrix = at_least_float32(matrix)
    u, v = (ops.stop_gradient(ops.cast(each, matrix.dtype)) for each in (u, v))
    # Not matrix products, whose inputs some devices round to a few digits.
    return ops.sum(matrix * (u[:, None] * v[None, :]))


@keras.saving.register_keras_serializable(package="mhe")
class SpectralNorm(keras.layers.Wrapper):
    """Makes a layer use W/σ(W) instead of its kernel W, where σ is the spectral norm of W.

    W stays the trainable weight: the optimizer updates it, regularizers see it, `mhe.attach` and
    `mhe.EnergyLogger` find it. The gradient of a loss L flows through σ = uᵀWv with constant u, v,

        dL/dW = (G - ⟨G, W/σ⟩ uvᵀ) / σ,   G = dL/d(W/σ).

    `keras.layers.SpectralNormalization` overwrites W with W/σ at each call instead, which is a
    projection without a gradient through σ.

    W is reshaped to a matrix of outputs × all other axes:

        Dense, Embedding       (in, out)             out × in
        Conv1D/2D/3D           (..., in, out)        out × (... · in)
        Conv1D/2D/3DTranspose  (..., out, in)        out × (... · in)
        DepthwiseConv1D/2D     (..., in, multiplier) (in · multiplier) × (...)

    The vectors u and v are non-trainable weights. The first call with `training=True` after W has
    changed makes one power iteration, and all calls use its vectors until W changes again. So in a
    training step, in which the optimizer updates W once, there is one power iteration however often
    the layer is called (on real and fake images, shared within a model, over accumulated batches),
    and all these calls see the same W/σ. To detect changes of W, the layer keeps a copy of it as a
    third weight. All this is arithmetic on weights: it works the same in TensorFlow's graphs, JAX's
    stateless calls and eager PyTorch, and in a resumed run.

    When the layer is built, `warm_up` iterations bring u and v near the singular vectors of the
    kernel it then has, so that inference with a fresh layer, or with one that was trained before it
    was wrapped, divides by about σ(W). Without `training=True`, or with `trainable=False`, u and v
    stay fixed. A step that calls the
    layer again after an update of W, as the generator's step of a GAN calls a discriminator that
    was just trained, would count as another training step. `hold_spectral_norms` prevents that, and
    `update_spectral_norms` iterates on demand:

        update_spectral_norms(discriminator)            # one power iteration in each layer
        with hold_spectral_norms(discriminator):        # and none in both steps
            ...

    σ is computed in at least float32, and W/σ is then rounded to the compute dtype of the layer. A
    kernel of zeros is not divided and has a finite gradient.

    Args:
        layer: A `Dense`, `Conv1D/2D/3D`, `Conv1D/2D/3DTranspose`, `DepthwiseConv1D/2D` or
            `Embedding`, built or not, without LoRA and not quantized.
        power_iterations: Number of power iterations per update.
        warm_up: Number of power iterations when the layer is built, as many as in PyTorch's
            `spectral_norm` by default.
        **kwargs: `name` and `trainable`, as for every Keras layer. The dtype is always that of the
            wrapped layer.

    Attributes:
        layer: The wrapped layer.
        u: Approximate first left singular vector `(outputs,)`.
        v: The right one, `(rest,)`, zeros before the first iteration.

    Raises:
        ValueError: If the layer is of another type, `power_iterations` is not an integer >= 1, or
            `warm_up` not an integer >= 0.

    Example:

    >>> import keras, mhe
    >>> import numpy as np
    >>> layer = mhe.layers.SpectralNorm(keras.layers.Dense(4, use_bias=False))
    >>> layer.build((None, 6))
    >>> _ = layer.kernel.assign(5 * np.eye(6, 4))  # its norm is 5
    >>> keras.ops.convert_to_numpy(layer(np.ones((3, 6), "float32"), training=True))[0].round(4)
    array([1., 1., 1., 1.], dtype=float32)
    >>> keras.ops.convert_to_numpy(layer.kernel).max().item()
    5.0

    Reference:
        Miyato et al., Spectral normalization for generative adversarial networks, ICLR 2018
        ([arXiv:1802.05957](https://arxiv.org/abs/1802.05957)).
    """

    def __init__(
        self,
        layer: keras.layers.Layer,
        power_iterations: int = 1,
        warm_up: int = 15,
        **kwargs: Any,
    ) -> None:
        checks.check_count("power_iterations", power_iterations, 1)
        checks.check_count("warm_up", warm_up, 0)
        _check_layer(layer)
        # Not in half precision: the layer casts its inputs itself, and σ needs all digits of W.
        kwargs = {**kwargs, "dtype": layer.variable_dtype}
        super().__init__(layer, **kwargs)
        self.autocast = False
        self.supports_masking = layer.supports_masking
        self.power_iterations = int(power_iterations)
        self.warm_up = int(warm_up)
        self._holds = 0

    @property
    def kernel(self) -> keras.Variable:
        """The kernel W of the wrapped layer, not divided by σ."""
        return vars(self.layer)[_slot(self.layer)]

    @property
    def sigma(self) -> Tensor:
        """σ(W) with the current vectors, as at inference: a scalar tensor."""
        matrix = self._matrix()
        return singular_value(matrix, *self._stored(matrix))

    @property
    def normalized_kernel(self) -> Tensor:
        """W/σ(W) with the current vectors, as at inference, in at least float32."""
        matrix = self._matrix()
        return self._divided(matrix, *self._stored(matrix))

    @property
    def states(self) -> list[keras.Variable]:
        """The weights of the layer itself: u, v and the kernel that they were iterated for."""
        return [self.u, self.v, self._iterated]

    def build(self, input_shape: Any = None) -> None:
        super().build(input_shape)
        kernel = self.kernel
        outputs, rest = kernel_matrix(keras.KerasTensor(kernel.shape), self._output_axes).shape
        dtype = keras.backend.result_type(kernel.dtype, "float32")
        self.u = self._state("u", (outputs,), dtype, self._first_vector)
        self.v = self._state("v", (rest,), dtype)
        self._iterated = self._state("iterated", kernel.shape, kernel.dtype)

    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        """The output of the wrapped layer with W/σ(W) as its kernel."""
        _check_plain(self.layer)
        matrix = self._matrix()
        if training and self._is_trained and not self._holds:
            changed = ops.any(ops.not_equal(self.kernel, self._iterated))
            u, v = self._iterate(matrix, changed)
        else:
            u, v = self._stored(matrix)
        normalised = ops.cast(self._divided(matrix, u, v), self.layer.compute_dtype)
        with replaced_attribute(self.layer, _slot(self.layer), normalised):
            return self.layer(inputs)

    def update(self) -> None:
        """Makes the power iterations of one training step now, whether or not W has changed.

        Calls make no more until W changes. With `trainable=False` this does nothing.
        """
        if self._is_trained:
            self._iterate(self._matrix(), True)

    def compute_output_shape(self, input_shape: Any) -> Any:
        return self.layer.compute_output_shape(input_shape)

    def compute_output_spec(self, inputs: Tensor, training: bool | None = None) -> Any:
        return self.layer.compute_output_spec(inputs)

    def compute_mask(self, inputs: Tensor, mask: Tensor = None) -> Any:
        return self.layer.compute_mask(inputs, mask)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "power_iterations": self.power_iterations,
            "warm_up": self.warm_up,
        }

    @property
    def _output_axes(self) -> tuple[int, ...]:
        # The neurons of an embedding are its rows, but as a map from one-hot vectors its outputs
        # are the columns.
        if isinstance(self.layer, keras.layers.Embedding):
            return (-1,)
        return neuron_kernels(self.layer)[0].axes

    @property
    def _is_trained(self) -> bool:
        return self.trainable and self.kernel.trainable

    def _state(
        self, name: str, shape: tuple[int, ...], dtype: str, initializer: Any = "zeros"
    ) -> keras.Variable:
        # All of TensorFlow's replicas compute the same vectors, as they have the same W.
        return self.add_weight(
            name=name,
            shape=shape,
            dtype=dtype,
            initializer=initializer,
            trainable=False,
            autocast=False,
            aggregation="only_first_replica",
        )

    def _first_vector(self, shape: tuple[int, ...], dtype: Any = None) -> Tensor:
        """A random unit vector after the iterations of the warm-up."""
        u = unit_vectors(keras.initializers.RandomNormal(stddev=1.0)(shape, dtype=dtype))
        if not self.warm_up:
            return u
        warm, _ = power_iteration(self._matrix(), u, self.warm_up)
        # Kernels of zeros, or that are not finite, have no vectors.
        return ops.where(ops.sum(ops.square(warm)) > 0.5, warm, u)

    def _matrix(self) -> Tensor:
        return kernel_matrix(at_least_float32(self.kernel), self._output_axes)

    def _stored(self, matrix: Tensor) -> tuple[Tensor, Tensor]:
        # Copies: PyTorch changes weights in place, maybe before it computes the gradient.
        u, v = (ops.copy(ops.convert_to_tensor(each)) for each in (self.u, self.v))
        # Before the first iteration there is no v.
        first = unit_vectors(ops.matmul(u, ops.stop_gradient(matrix)))
        return u, ops.where(ops.sum(ops.square(v)) > 0, v, first)

    def _divided(self, matrix: Tensor, u: Tensor, v: Tensor) -> Tensor:
        """W/σ(W), or W if it is zero."""
        sigma = singular_value(matrix, u, v)
        sigma = ops.where(sigma > _SMALLEST, sigma, ops.ones_like(sigma))
        return ops.cast(ops.convert_to_tensor(self.kernel), sigma.dtype) / sigma

    def _iterate(self, matrix: Tensor, needed: Tensor) -> tuple[Tensor, Tensor]:
        """Iterates if needed; stores and returns the vectors."""
        u, v = (ops.copy(ops.convert_to_tensor(each)) for each in (self.u, self.v))
        new_u, new_v = power_iteration(matrix, u, self.power_iterations)
        # Zero kernels have no vectors, and those of kernels that are not finite must not be stored.
        is_valid = ops.logical_and(needed, ops.sum(ops.square(new_u)) > 0.5)
        u, v = ops.where(is_valid, new_u, u), ops.where(is_valid, new_v, v)
        self.u.assign(u)
        self.v.assign(v)
        self._iterated.assign(ops.stop_gradient(self.kernel))
        return u, v


def update_spectral_norms(model: keras.layers.Layer) -> None:
    """Makes one training step's power iterations in every `SpectralNorm` of a model.

    For training steps that call a model again after updating its kernels; otherwise `SpectralNorm`
    does this on its own. On JAX, call it where weight updates are collected, inside a
    `keras.StatelessScope` or a stateless function.

    Args:
        model: A built model or layer. Layers with `trainable=False` do not change.

    Example:

    >>> import keras, mhe
    >>> import numpy as np
    >>> norm = mhe.layers.SpectralNorm(keras.layers.Dense(4))
    >>> model = keras.Sequential([keras.Input((6,)), norm])
    >>> for _ in range(50):
    ...     mhe.layers.update_spectral_norms(model)
    >>> largest = np.linalg.svd(keras.ops.convert_to_numpy(norm.kernel), compute_uv=False)[0]
    >>> bool(abs(keras.ops.convert_to_numpy(norm.sigma) - largest) < 1e-3)
    True
    """
    for layer in spectral_norms(model):
        layer.update()


@contextlib.contextmanager
def hold_spectral_norms(model: keras.layers.Layer) -> Iterator[None]:
    """Inside this context, calls of a model make no power iterations, even if its kernels change.

    Every σ = uᵀWv uses W at the time of the call, with fixed u and v. `update_spectral_norms` works
    inside, too. A compiled step keeps the behavior that it was traced with.

    Args:
        model: A model or layer.

    Example:

    >>> import keras, mhe
    >>> import numpy as np
    >>> norm = mhe.layers.SpectralNorm(keras.layers.Dense(4))
    >>> model = keras.Sequential([keras.Input((6,)), norm])
    >>> before = keras.ops.convert_to_numpy(norm.u)
    >>> with mhe.layers.hold_spectral_norms(model):
    ...     _ = model(np.ones((3, 6), "float32"), training=True)
    >>> bool((keras.ops.convert_to_numpy(norm.u) == before).all())
    True
    """
    held = spectral_norms(model)
    for layer in held:
        layer._holds += 1
    try:
        yield
    finally:
        for layer in held:
            layer._holds -= 1


def spectral_norms(model: keras.layers.Layer) -> list[SpectralNorm]:
    """Every `SpectralNorm` in a model."""
    return [layer for layer in flat_layers(model) if isinstance(layer, SpectralNorm)]


def _check_layer(layer: keras.layers.Layer) -> None:
    if not isinstance(layer, _SUPPORTED):
        names = ", ".join(kind.__name__ for kind in _SUPPORTED)
        raise ValueError(
            f"SpectralNorm needs a layer with one kernel: {names}. In recurrent, attention or "
            "nested layers, wrap the layers inside. "
            f"Received: layer={layer!r} (of type {type(layer).__name__})"
        )
    _check_plain(layer)


def _check_plain(layer: keras.layers.Layer) -> None:
    quantized = getattr(layer, "quantization_mode", None)
    if quantized or getattr(layer, "lora_enabled", False) or getattr(layer, "lora_rank", None):
        what = f"quantized ({quantized})" if quantized else "LoRA"
        raise ValueError(
            "SpectralNorm needs a kernel that is trained itself, without LoRA and not quantized. "
            f"Received: layer={layer.name!r} with {what}"
        )


def _slot(layer: keras.layers.Layer) -> str:
    """The attribute that holds a layer's kernel, behind a property or not."""
    for name in ("_kernel", "kernel", "_embeddings", "embeddings"):
        if name in vars(layer):
            return name
    raise ValueError(
        "The wrapped layer must be built before it has a kernel. "
        f"Received: layer {layer.name!r}, which is not built"
    )
