"""A generator and a discriminator as one Keras model: the game in `fit`, images from `generate`."""

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
from keras import ops

import mhe
from gan.losses import check_kind
from gan.networks import check_range, to_pixels
from gan.sides import BothOptimizers, DiscriminatorSide, GeneratorSide, Sides
from gan.stateless import Values, variables_of
from mhe import keras_internals
from mhe.checks import check_count, check_number
from mhe.types import Tensor


def published_optimizer() -> keras.optimizers.Optimizer:
    """The published optimizer of both sides: Adam with learning rate 1e-4, β 0.5 and 0.999.

    Example:

    >>> optimizer = published_optimizer()
    >>> optimizer.beta_1, optimizer.beta_2
    (0.5, 0.999)
    """
    return keras.optimizers.Adam(1e-4, beta_1=0.5, beta_2=0.999)


@keras.saving.register_keras_serializable(package="gan")
class GAN(keras.Model):
    """A generator and a discriminator, fit on real images.

    A training step is the published one, in its order: a step of the generator against the current
    discriminator, then a step of the discriminator on the batch of real images and as many fakes of
    the updated generator. Both draw their own normal latents; real images and fakes go through the
    discriminator as two batches; the generator's batch norm uses the statistics of the batch, and
    its moving averages in `generate`. Spectral norms make one power iteration at the start of the
    step, so that all calls in it see the same W/σ(W); the published code makes one in each half.
    The published code also shares one step count of Adam, which matters for the first steps only;
    here each side has its own optimizer. Regularizers of weights, such as `mhe.attach` attaches,
    are part of the loss of the side that has the weights; losses that layers add in a call
    (`add_loss`) are part of neither.

    Each side's step is Keras's own train step of a model that shares the networks: Keras takes
    gradients, scales losses (`mixed_float16`) and applies the optimizers as usual on the backend.

    `fit` takes real images, or batches whose first element is images (labels are ignored): integers
    are pixels 0…255, floats are from −1 to 1. It logs `generator_loss`, `discriminator_loss`, and
    the mean logits `real_logit` and `fake_logit` of the discriminator's step. `model(latents)`
    returns images from −1 to 1, `generate` pixels. `save_weights` saves networks, average,
    optimizers, spectral norms and the state of the latents' random generator.

    Args:
        generator: A built model from latents `(B, L)` to images `(B, H, W, C)` from −1 to 1.
        discriminator: A built model from images to logits `(B, 1)`, high for real images.
        loss: `"softplus"`, the published non-saturating loss, or `"hinge"`; see `gan.losses`.
        ema: Decay of an exponential moving average of the generator's weights, including batch
            norm's statistics, for `generate` and `model(latents)`. In step t the decay is
            min(ema, t/(9 + t)), so that the initial weights do not linger. None for no average.
        seed: Seed of the latents in training; None draws one.
        **kwargs: Keras's own: `name`, `dtype`, `trainable`.

    Raises:
        ValueError: If a network is not a built model, their shapes do not match, the loss is
            unknown, or `ema` is not between 0 and 1.

    Example:

    >>> import keras, gan
    >>> import numpy as np
    >>> dense, shape = keras.layers.Dense, (8, 8, 1)
    >>> generator = keras.Sequential(
    ...     [keras.Input((4,)), dense(64, activation="tanh"), keras.layers.Reshape(shape)]
    ... )
    >>> discriminator = keras.Sequential([keras.Input(shape), keras.layers.Flatten(), dense(1)])
    >>> model = gan.GAN(generator, discriminator)
    >>> model.compile()
    >>> history = model.fit(np.zeros((6, *shape), "uint8"), batch_size=3, verbose=0)
    >>> sorted(history.history)
    ['discriminator_loss', 'fake_logit', 'generator_loss', 'real_logit']
    >>> model.generate(5, batch_size=2).shape
    (5, 8, 8, 1)

    Reference:
        Liu et al., Learning towards Minimum Hyperspherical Energy, NeurIPS 2018
        (arXiv 1805.09298), section 4.4, and its published code; Miyato et al., Spectral
        Normalization for Generative Adversarial Networks, ICLR 2018 (arXiv 1802.05957).
    """

    def __init__(
        self,
        generator: keras.Model,
        discriminator: keras.Model,
        loss: str = "softplus",
        ema: float | None = None,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        _check_networks(generator, discriminator)
        check_kind(loss)
        if ema is not None:
            check_number("ema", ema, above=0)
            if ema >= 1:
                raise ValueError(f"`ema` must be less than 1. Received: ema={ema}")
        super().__init__(**kwargs)
        self.generator = generator
        self.discriminator = discriminator
        self.adversarial_loss = loss
        self.ema = ema
        self.seed = seed
        self.latents = keras.random.SeedGenerator(seed)
        self.average = None
        if ema is not None:
            self.average = keras.models.clone_model(generator)
            self.average.set_weights(generator.get_weights())
            self.average.trainable = False
        parts = generator, discriminator, self.latents, loss
        # In a plain object, so that neither saving nor `layers` finds the networks twice.
        self._sides = Sides(
            GeneratorSide(*parts, name="generator"),
            DiscriminatorSide(*parts, name="discriminator"),
        )
        # Records the input shape, which `export` needs.
        self.build(generator.input_shape)
        keras_internals.unlock(self)  # a subclass may add layers

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Does nothing: the networks are built already."""

    def fit(self, x: Any = None, *args: Any, **kwargs: Any) -> keras.callbacks.History:
        """Trains like `keras.Model.fit`, after checking the range of images in an array.

        Raises:
            ValueError: If an array of floats holds pixels 0…255, or there are sample or class
                weights.
        """
        for name in ("sample_weight", "class_weight"):
            if kwargs.get(name) is not None:
                raise ValueError(
                    "A GAN has no sample weights and no class weights: its sides are trained on "
                    f"whole batches. Received: `{name}`"
                )
        if isinstance(x, np.ndarray):
            check_range(x)
        return super().fit(x, *args, **kwargs)

    def export(self, *args: Any, **kwargs: Any) -> None:
        """Exports the program from latents to images, as `keras.Model.export` does.

        Only `sampler` is exported: the files hold neither the discriminator nor, with a moving
        average, the weights that it averages.
        """
        keras_internals.call_on_zeros(self)
        self.sampler.export(*args, **kwargs)

    @property
    def sampler(self) -> keras.Model:
        """The network that generates images: the average if there is one, or the generator."""
        return self.generator if self.average is None else self.average

    def call(self, latents: Tensor, training: bool | None = None) -> Tensor:
        """Latents `(B, L)` → images `(B, H, W, C)` from −1 to 1."""
        return self.sampler(latents, training=training)

    def compile(
        self,
        generator_optimizer: Any = None,
        discriminator_optimizer: Any = None,
        **kwargs: Any,
    ) -> None:
        """Configures the model for `fit`.

        Args:
            generator_optimizer: As for `keras.optimizers.get`; None is the published optimizer.
            discriminator_optimizer: Likewise.
            **kwargs: `run_eagerly`, `jit_compile`, `steps_per_execution` and `auto_scale_loss` as
                in `keras.Model.compile`.

        Raises:
            ValueError: If both are the same optimizer.
        """
        identifiers = generator_optimizer, discriminator_optimizer
        if (
            isinstance(generator_optimizer, keras.optimizers.Optimizer)
            and generator_optimizer is discriminator_optimizer
        ):
            raise ValueError(
                "Each side must have an optimizer of its own, which keeps the moments of its "
                f"weights. Received: {generator_optimizer.name!r} for both"
            )
        optimizers = [
            published_optimizer() if each is None else keras.optimizers.get(each)
            for each in identifiers
        ]
        scaling = {"auto_scale_loss": kwargs.pop("auto_scale_loss", True)}
        for side, optimizer in zip(self._sides, optimizers, strict=True):
            side.compile(optimizer, **scaling)
            if not side.optimizer.built:
                side.optimizer.build(side.trainable_variables)
        super().compile(BothOptimizers(self._sides), auto_scale_loss=False, **kwargs)
        self._compiled_with = {
            "generator_optimizer": optimizers[0],
            "discriminator_optimizer": optimizers[1],
            **scaling,
            "run_eagerly": self.run_eagerly,
            "jit_compile": self.jit_compile,
            "steps_per_execution": self.steps_per_execution,
        }

    def get_compile_config(self) -> dict[str, Any]:
        """The arguments of `compile`, for saving."""
        return keras.saving.serialize_keras_object(self._compiled_with) if self.compiled else {}

    def compile_from_config(self, config: dict[str, Any]) -> None:
        """Compiles a loaded model; Keras leaves that to classes with their own `compile`."""
        self.compile(**keras.saving.deserialize_keras_object(config))

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        """The metrics of both sides."""
        return [metric for side in self._sides for metric in side.metrics]

    def get_metrics_result(self) -> dict[str, Any]:
        """The logs of both sides, by the names that `fit` logs."""
        logs: dict[str, Any] = {}
        for side in self._sides:
            logs.update(side.named(side.get_metrics_result()))
        return logs

    def train_step(self, *args: Any) -> Any:
        """One step of the generator, then one of the discriminator.

        Args:
            *args: A batch; on JAX, where a step must not change variables, their values before it.

        Returns:
            The logs; on JAX also the new values.
        """
        if keras.backend.backend() == "jax":
            return self._stateless_train_step(*args)
        logs: dict[str, Tensor] = {}
        mhe.layers.update_spectral_norms(self.discriminator)
        with mhe.layers.hold_spectral_norms(self.discriminator):
            for side in self._sides:
                logs.update(side.named(side.train_step(*args)))
        self._update_average()
        return logs

    def _stateless_train_step(self, state: Any, data: Any) -> Any:
        """As `train_step`, on values `state` in the order in which Keras passes them."""
        variables = variables_of(self)
        values = Values(variables, state)
        logs: dict[str, Tensor] = {}
        values.run(lambda: mhe.layers.update_spectral_norms(self.discriminator))
        with mhe.layers.hold_spectral_norms(self.discriminator):
            for side in self._sides:
                own = variables_of(side)
                side_logs, updated = side.train_step(values.of(own), data)
                values.update(own, updated)
                logs.update(side.named(side_logs))
        values.run(self._update_average)
        return logs, values.of(variables)

    def test_step(self, *args: Any) -> Any:
        """Raises: the losses of a GAN do not measure the quality of its images."""
        raise NotImplementedError(
            "A GAN is not evaluated by its losses: generate images and score them."
        )

    def _update_average(self) -> None:
        """Moves the average towards the generator."""
        if self.average is None:
            return
        steps = ops.cast(self._sides.generator.optimizer.iterations, "float32")
        decay = ops.minimum(self.ema, steps / (9.0 + steps))
        for average, weight in zip(self.average.weights, self.generator.weights, strict=True):
            average.assign(weight + decay * (average - weight))

    def generate(self, latents: Any, batch_size: int = 500, seed: int | None = 0) -> np.ndarray:
        """Generates images.

        Args:
            latents: The number of images, whose latents are drawn from the normal distribution; or
                the latents themselves, an array `(N, L)`.
            batch_size: Number of images to generate at once; the images do not depend on it.
            seed: Seed of drawn latents, which are the same on every backend. The random state of
                training does not change.

        Returns:
            A uint8 array `(N, H, W, C)`.

        Raises:
            ValueError: If the number of images or `batch_size` is less than 1, or the latents have
                another shape.
        """
        return np.concatenate(list(self.generate_batches(latents, batch_size, seed)))

    def generate_batches(
        self, latents: Any, batch_size: int = 500, seed: int | None = 0
    ) -> Iterator[np.ndarray]:
        """Like `generate`, but yields one batch at a time to save memory.

        Args:
            latents: As in `generate`.
            batch_size: As in `generate`; the last batch may be smaller.
            seed: As in `generate`.

        Yields:
            uint8 arrays `(B, H, W, C)`.

        Raises:
            ValueError: As `generate`.
        """
        check_count("batch_size", batch_size, least=1)
        dims = self.generator.input_shape[-1]
        rng = None
        if np.ndim(latents) == 0:
            check_count("latents", latents, least=1)
            count, rng = int(latents), np.random.default_rng(seed)
        elif np.ndim(latents) != 2 or np.shape(latents)[1] != dims or len(latents) == 0:
            raise ValueError(
                f"`latents` must be a count or an array (N, {dims}). "
                f"Received: shape {np.shape(latents)}"
            )
        else:
            count, latents = len(latents), ops.convert_to_numpy(latents)
        for start in range(0, count, batch_size):
            size = min(batch_size, count - start)
            if rng is None:
                batch = np.asarray(latents[start : start + size], "float32")
            else:
                batch = rng.standard_normal((size, dims), "float32")
            # A smaller batch would be compiled anew.
            missing = min(batch_size, count) - size
            padded = np.concatenate([batch, np.zeros((missing, dims), "float32")])
            yield to_pixels(np.asarray(self.sampler.predict_on_batch(padded)[:size]))

    def save_own_variables(self, store: Any) -> None:
        """Saves the random state of the latents, which Keras does not count as a weight."""
        store["latents"] = ops.convert_to_numpy(self.latents.state)

    def load_own_variables(self, store: Any) -> None:
        """Restores the random state of the latents."""
        self.latents.state.assign(np.asarray(store["latents"]))

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "generator": keras.saving.serialize_keras_object(self.generator),
            "discriminator": keras.saving.serialize_keras_object(self.discriminator),
            "loss": self.adversarial_loss,
            "ema": self.ema,
            "seed": self.seed,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> "GAN":
        networks = {
            name: keras.saving.deserialize_keras_object(config[name], custom_objects)
            for name in ("generator", "discriminator")
        }
        return cls(**{**config, **networks})


def _check_networks(generator: Any, discriminator: Any) -> None:
    for name, each in (("generator", generator), ("discriminator", discriminator)):
        if not isinstance(each, keras.Model) or not each.built:
            raise ValueError(f"`{name}` must be a built Keras model. Received: {each!r}")
    if len(generator.input_shape) != 2:
        raise ValueError(
            f"The generator must take latents (B, L). Received: inputs {generator.input_shape}"
        )
    if generator.output_shape != discriminator.input_shape:
        raise ValueError(
            "The outputs of the generator must be inputs of the discriminator. Received: images "
            f"{generator.output_shape} for a discriminator of {discriminator.input_shape}"
        )
    if discriminator.output_shape not in ((None, 1), (None,)):
        raise ValueError(
            "The discriminator must return one logit per image, (B, 1). "
            f"Received: outputs {discriminator.output_shape}"
        )
