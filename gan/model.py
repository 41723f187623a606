"""A generator and a discriminator as one Keras model: the game in `fit`, images from `generate`."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import ops

import mhe
from gan.losses import check_kind, discriminator_loss, generator_loss
from gan.networks import from_pixels, to_pixels
from mhe.checks import check_count, check_number


def published_optimizer() -> keras.optimizers.Optimizer:
    """The published optimizer of either side: Adam, rate 1e-4, β 0.5 and 0.999.

    Example:

    >>> optimizer = published_optimizer()
    >>> optimizer.beta_1, optimizer.beta_2
    (0.5, 0.999)
    """
    return keras.optimizers.Adam(1e-4, beta_1=0.5, beta_2=0.999)


@keras.saving.register_keras_serializable(package="gan")
class GAN(keras.Model):
    """A generator and a discriminator, fit on real images.

    A training step is the published one, in its order: a step of the generator against the
    discriminator as it is, then a step of the discriminator on the batch of real images and on as
    many fakes of the generator as it is by now. Both draw their own latents, from the normal
    distribution; real images and fakes go through the discriminator as two batches; the generator's
    batch norm takes the statistics of the batch, and its moving ones in `generate`. Spectral norms
    make one power iteration at the beginning of the step, so that every call in it sees the same
    W/σ(W); the published code makes one in either half. Its two sides also count the steps of one
    Adam, which matters to the first steps alone; here each has its own optimizer. Regularizers of
    weights, such as `mhe.attach` puts on, belong to the loss of the side that has the weights; what
    layers add in a call (`add_loss`) belongs to neither.

    Each side's step is Keras's own train step of a model that shares the networks, so gradients are
    taken, losses scaled (`mixed_float16`) and optimizers called as Keras does on the backend.

    `fit` takes real images, or batches of which images are the first part (labels are not looked
    at): integers are pixels 0…255, floats numbers from −1 to 1. It logs `generator_loss`,
    `discriminator_loss`, and the mean logits `real_logit` and `fake_logit` of the discriminator's
    step. `model(latents)` gives images from −1 to 1, `generate` pixels. `save_weights` keeps
    networks, average, optimizers, spectral norms and the state that latents are drawn from.

    Args:
        generator: A built model from latents `(B, L)` to images `(B, H, W, C)` from −1 to 1.
        discriminator: A built model from images to logits `(B, 1)`, high for real images.
        loss: `"softplus"`, the published non-saturating loss, or `"hinge"`; see `gan.losses`.
        ema: Decay of an exponential moving average of the generator's weights, batch norm's
            statistics included, that `generate` and `model(latents)` then use: in step t it is
            min(ema, t/(9 + t)), so that the first weights do not linger. None keeps no average.
        seed: What decides the latents of training; None draws a seed.
        **kwargs: Keras's own: `name`, `dtype`, `trainable`.

    Raises:
        ValueError: If a network is no built model, the two do not fit together, there is no such
            loss, or `ema` is not between 0 and 1.

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
        # In an object of another kind, where neither saving nor `layers` finds networks again.
        self._sides = _Sides(
            _GeneratorSide(*parts, name="generator"),
            _DiscriminatorSide(*parts, name="discriminator"),
        )
        self.built = True

    @property
    def sampler(self) -> keras.Model:
        """The network that images come from: the average, where there is one, or the generator."""
        return self.generator if self.average is None else self.average

    def call(self, latents: Any, training: bool | None = None) -> Any:
        """Latents `(B, L)` → images `(B, H, W, C)` from −1 to 1."""
        return self.sampler(latents, training=training)

    def compile(
        self,
        generator_optimizer: Any = None,
        discriminator_optimizer: Any = None,
        **kwargs: Any,
    ) -> None:
        """Gets the model ready for `fit`.

        Args:
            generator_optimizer: What `keras.optimizers.get` takes; None is the published optimizer.
            discriminator_optimizer: Likewise.
            **kwargs: `run_eagerly`, `jit_compile`, `steps_per_execution` and `auto_scale_loss` as
                of `keras.Model.compile`.

        Raises:
            ValueError: If both are one optimizer.
        """
        given = generator_optimizer, discriminator_optimizer
        if isinstance(given[0], keras.optimizers.Optimizer) and given[0] is given[1]:
            raise ValueError(
                "Each side must have an optimizer of its own, which keeps moments of its own "
                f"weights. Received: {given[0].name!r} for both"
            )
        chosen = [
            published_optimizer() if each is None else keras.optimizers.get(each) for each in given
        ]
        scaled = {"auto_scale_loss": kwargs.pop("auto_scale_loss", True)}
        for side, optimizer in zip(self._sides, chosen, strict=True):
            side.compile(optimizer, **scaled)
            if not side.optimizer.built:
                side.optimizer.build(side.trainable_variables)
        super().compile(_BothOptimizers(self._sides), auto_scale_loss=False, **kwargs)
        self._compiled_with = {
            "generator_optimizer": chosen[0],
            "discriminator_optimizer": chosen[1],
            **scaled,
            "run_eagerly": self.run_eagerly,
            "jit_compile": self.jit_compile,
            "steps_per_execution": self.steps_per_execution,
        }

    def get_compile_config(self) -> dict[str, Any]:
        """What `compile` was given, for saving."""
        return keras.saving.serialize_keras_object(self._compiled_with) if self.compiled else {}

    def compile_from_config(self, config: dict[str, Any]) -> None:
        """Compiles as what is loaded was; Keras leaves that to classes with their own `compile`."""
        self.compile(**keras.saving.deserialize_keras_object(config))

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        """The metrics of both sides."""
        return [metric for side in self._sides for metric in side.metrics]

    def train_step(self, *args: Any) -> Any:
        """One step of the generator, then one of the discriminator.

        Args:
            *args: A batch; on JAX, where a step must not change variables, first their values.

        Returns:
            The logs; on JAX also the values as they are then.
        """
        if keras.backend.backend() == "jax":
            return self._stateless_train_step(*args)
        logs = {}
        mhe.layers.update_spectral_norms(self.discriminator)
        with mhe.layers.hold_spectral_norms(self.discriminator):
            for side in self._sides:
                logs.update(side.named(side.train_step(*args)))
        self._follow()
        return logs

    def _stateless_train_step(self, state: Any, data: Any) -> Any:
        """As `train_step`, on values `state` in the order in which Keras hands them over."""
        held = _held(self)
        values = _Values(held, state)
        logs = {}
        values.run(lambda: mhe.layers.update_spectral_norms(self.discriminator))
        with mhe.layers.hold_spectral_norms(self.discriminator):
            for side in self._sides:
                of_side = _held(side)
                side_logs, changed = side.train_step(values.of(of_side), data)
                values.update(of_side, changed)
                logs.update(side.named(side_logs))
        values.run(self._follow)
        return logs, values.of(held)

    def test_step(self, *args: Any) -> Any:
        """Refuses: the losses of a game do not tell how good its images are."""
        raise NotImplementedError(
            "A GAN is not evaluated by its losses: generate images and score them."
        )

    def _follow(self) -> None:
        """Moves the average towards the generator."""
        if self.average is None:
            return
        steps = ops.cast(self._sides.generator.optimizer.iterations, "float32")
        decay = ops.minimum(self.ema, steps / (9.0 + steps))
        for average, weight in zip(self.average.weights, self.generator.weights, strict=True):
            average.assign(weight + decay * (average - weight))

    def generate(self, latents: Any, batch_size: int = 500, seed: int | None = 0) -> np.ndarray:
        """Generated images.

        Args:
            latents: How many images, whose latents are drawn from the normal distribution; or the
                latents themselves, an array `(N, L)`.
            batch_size: Images that are made at once. The images do not depend on it.
            seed: What decides the latents, where they are drawn; the same on every backend. The
                state that training draws from is left alone.

        Returns:
            A uint8 array `(N, H, W, C)`.

        Raises:
            ValueError: If there are no images to make, the latents have another shape, or
                `batch_size` is less than 1.
        """
        return np.concatenate(list(self.generate_batches(latents, batch_size, seed)))

    def generate_batches(
        self, latents: Any, batch_size: int = 500, seed: int | None = 0
    ) -> Iterator[np.ndarray]:
        """As `generate`, a batch at a time, so that no more than a batch is in memory.

        Args:
            latents: As of `generate`.
            batch_size: As of `generate`; the last batch may be a smaller one.
            seed: As of `generate`.

        Yields:
            uint8 arrays `(B, H, W, C)`.

        Raises:
            ValueError: As `generate`.
        """
        check_count("batch_size", batch_size, least=1)
        dims = self.generator.input_shape[-1]
        drawn = None
        if np.ndim(latents) == 0:
            check_count("latents", latents, least=1)
            count, drawn = int(latents), np.random.default_rng(seed)
        elif np.ndim(latents) != 2 or np.shape(latents)[1] != dims or len(latents) == 0:
            raise ValueError(
                f"`latents` must be a count or an array (N, {dims}). "
                f"Received: shape {np.shape(latents)}"
            )
        else:
            count, latents = len(latents), ops.convert_to_numpy(latents)
        for start in range(0, count, batch_size):
            size = min(batch_size, count - start)
            if drawn is None:
                batch = np.asarray(latents[start : start + size], "float32")
            else:
                batch = drawn.standard_normal((size, dims), "float32")
            # A smaller batch would be compiled for.
            missing = min(batch_size, count) - size
            filled = np.concatenate([batch, np.zeros((missing, dims), "float32")])
            yield to_pixels(np.asarray(self.sampler.predict_on_batch(filled)[:size]))

    def save_own_variables(self, store: Any) -> None:
        """Saves the state that latents are drawn from, which Keras does not count as a weight."""
        store["latents"] = ops.convert_to_numpy(self.latents.state)

    def load_own_variables(self, store: Any) -> None:
        """Restores the state that latents are drawn from."""
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


class _Side(keras.Model):
    """One side of the game, as a model that Keras's own train step trains on real images.

    It holds both networks, but its trainable variables are those of `network` alone. `call` gives
    the logits that its loss is made of.
    """

    def __init__(
        self, generator: Any, discriminator: Any, latents: Any, loss: str, name: str
    ) -> None:
        super().__init__(name=name)
        self.generator = generator
        self.discriminator = discriminator
        self.latents = latents
        self.adversarial_loss = loss
        self.built = True

    @property
    def network(self) -> keras.Model:
        """The network that this side trains."""
        raise NotImplementedError

    @property
    def trainable_variables(self) -> list[keras.Variable]:
        return self.network.trainable_variables

    @property
    def trainable_weights(self) -> list[keras.Variable]:
        return self.network.trainable_variables

    @property
    def non_trainable_variables(self) -> list[keras.Variable]:
        trained = {id(variable) for variable in self.trainable_variables}
        return [variable for variable in self.variables if id(variable) not in trained]

    def fakes(self, images: Any) -> Any:
        """As many generated images as there are real ones."""
        shape = (ops.shape(images)[0], self.generator.input_shape[-1])
        latents = keras.random.normal(shape, dtype="float32", seed=self.latents)
        return self.generator(latents, training=True)

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Any:
        """This side's loss: of the logits, and of the regularizers of its own weights."""
        loss = self.logits_loss(**y_pred)
        for variable in self.trainable_variables:
            if variable.regularizer is not None:
                loss = loss + ops.cast(variable.regularizer(variable), loss.dtype)
        return loss

    def named(self, logs: dict[str, Any]) -> dict[str, Any]:
        """Logs with the loss called after this side."""
        return {f"{self.name}_{key}" if key == "loss" else key: each for key, each in logs.items()}


class _GeneratorSide(_Side):
    """The generator, whose fakes are to get high logits."""

    @property
    def network(self) -> keras.Model:
        return self.generator

    def call(self, images: Any, training: bool | None = None) -> dict[str, Any]:
        return {"fake": self.discriminator(self.fakes(images), training=training)}

    def logits_loss(self, fake: Any) -> Any:
        return generator_loss(fake, self.adversarial_loss)

    def compute_metrics(self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        return self.get_metrics_result()


class _DiscriminatorSide(_Side):
    """The discriminator, which is to tell real images from fakes."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.means = {kind: keras.metrics.Mean(name=f"{kind}_logit") for kind in ("real", "fake")}

    @property
    def network(self) -> keras.Model:
        return self.discriminator

    def call(self, images: Any, training: bool | None = None) -> dict[str, Any]:
        fakes = ops.stop_gradient(self.fakes(images))
        return {
            "real": self.discriminator(from_pixels(images), training=training),
            "fake": self.discriminator(fakes, training=training),
        }

    def logits_loss(self, real: Any, fake: Any) -> Any:
        return discriminator_loss(real, fake, self.adversarial_loss)

    def compute_metrics(self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        for kind, logits in y_pred.items():
            self.means[kind].update_state(logits)
        return self.get_metrics_result()


@dataclass(frozen=True)
class _Sides:
    """Both sides, in the order in which they make their steps."""

    generator: _GeneratorSide
    discriminator: _DiscriminatorSide

    def __iter__(self) -> Iterator[_Side]:
        return iter((self.generator, self.discriminator))


class _BothOptimizers(keras.optimizers.Optimizer):
    """The optimizers of both sides as the one that Keras expects of a model.

    It makes no step itself: each side's own train step calls its own. Its learning rate is the
    generator's, and setting it sets both.
    """

    def __init__(self, sides: _Sides) -> None:
        super().__init__(learning_rate=0.0, name="both")
        self.generator = sides.generator.optimizer
        self.discriminator = sides.discriminator.optimizer
        self._sides = sides
        self.built = True

    @property
    def variables(self) -> list[keras.Variable]:
        return [*self.generator.variables, *self.discriminator.variables]

    @property
    def iterations(self) -> Any:
        return self.generator.iterations

    @property
    def learning_rate(self) -> Any:
        return self.generator.learning_rate

    @learning_rate.setter
    def learning_rate(self, rate: Any) -> None:
        self.generator.learning_rate = rate
        self.discriminator.learning_rate = rate

    def finalize_variable_values(self, variables: Any) -> None:
        for side in self._sides:
            side.optimizer.finalize_variable_values(side.trainable_variables)

    # Either optimizer is saved by itself.
    def save_own_variables(self, store: Any) -> None:
        """Saves nothing."""

    def load_own_variables(self, store: Any) -> None:
        """Restores nothing."""


class _Values:
    """The values of variables in a step that must not change variables, as on JAX.

    Args:
        held: Lists of variables.
        state: Their values, lists likewise.
    """

    def __init__(self, held: Any, state: Any) -> None:
        self._values = {}
        self.update(held, state)

    def of(self, held: Any) -> tuple[list[Any], ...]:
        """The values of lists of variables."""
        return tuple([self._values[id(each)][1] for each in variables] for variables in held)

    def update(self, held: Any, state: Any) -> None:
        """Takes new values of lists of variables."""
        for variables, values in zip(held, state, strict=True):
            for variable, value in zip(variables, values, strict=True):
                self._values[id(variable)] = variable, value

    def run(self, function: Any) -> None:
        """Calls a function that reads and assigns variables."""
        with keras.StatelessScope(list(self._values.values())) as scope:
            function()
        for key, (variable, _) in self._values.items():
            self._values[key] = variable, scope.get_current_value(variable)


def _held(model: keras.Model) -> tuple[list[keras.Variable], ...]:
    """The variables of a model in the order in which Keras hands their values over on JAX."""
    return (
        model.trainable_variables,
        model.non_trainable_variables,
        model.optimizer.variables,
        model.metrics_variables,
    )


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
            "The generator must make what the discriminator takes. Received: images "
            f"{generator.output_shape} for a discriminator of {discriminator.input_shape}"
        )
    if discriminator.output_shape not in ((None, 1), (None,)):
        raise ValueError(
            "The discriminator must give one logit an image, (B, 1). "
            f"Received: outputs {discriminator.output_shape}"
        )
