"""The two sides of the game, each as a model that Keras's own train step trains."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import keras
from keras import ops

from gan.losses import discriminator_loss, generator_loss
from gan.networks import from_pixels
from mhe import keras_internals
from mhe.types import Tensor


class Side(keras.Model):
    """One side of the game, as a model that Keras's own train step trains on real images.

    It has both networks, but only those of `network` are its trainable variables. `call` returns
    the logits for its loss.
    """

    def __init__(
        self,
        generator: keras.Model,
        discriminator: keras.Model,
        latents: keras.random.SeedGenerator,
        loss: str,
        name: str,
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

    def logits_loss(self, **logits: Tensor) -> Tensor:
        """The loss of the logits that `call` returns."""
        raise NotImplementedError

    def fakes(self, images: Tensor) -> Tensor:
        """Generates as many images as there are real ones."""
        replica, replicas = keras_internals.replica()
        count, dims = ops.shape(images)[0], self.generator.input_shape[-1]
        shape = (replicas * count, dims)
        latents = keras.random.normal(shape, dtype="float32", seed=self.latents)
        if replicas > 1:
            # Each replica draws the same, and has its own part of it.
            latents = ops.take(ops.reshape(latents, (replicas, count, dims)), replica, axis=0)
        return self.generator(latents, training=True)

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Any:
        """This side's loss: that of the logits, and the regularizers of its own weights."""
        loss = self.logits_loss(**y_pred)
        for variable in self.trainable_variables:
            if variable.regularizer is not None:
                loss = loss + ops.cast(variable.regularizer(variable), loss.dtype)
        return keras_internals.share_of_replica(self, loss)

    def named(self, logs: dict[str, Any]) -> dict[str, Any]:
        """Logs in which the loss has the name of this side."""
        return {f"{self.name}_{key}" if key == "loss" else key: each for key, each in logs.items()}


class GeneratorSide(Side):
    """The generator, which is trained to get high logits for its fakes."""

    @property
    def network(self) -> keras.Model:
        return self.generator

    def call(self, images: Tensor, training: bool | None = None) -> dict[str, Tensor]:
        return {"fake": self.discriminator(self.fakes(images), training=training)}

    def logits_loss(self, **logits: Tensor) -> Tensor:
        return generator_loss(**logits, kind=self.adversarial_loss)

    def compute_metrics(self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        return self.get_metrics_result()


class DiscriminatorSide(Side):
    """The discriminator, which is trained to tell real images from fakes."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.means = {kind: keras.metrics.Mean(name=f"{kind}_logit") for kind in ("real", "fake")}

    @property
    def network(self) -> keras.Model:
        return self.discriminator

    def call(self, images: Tensor, training: bool | None = None) -> dict[str, Tensor]:
        fakes = ops.stop_gradient(self.fakes(images))
        return {
            "real": self.discriminator(from_pixels(images), training=training),
            "fake": self.discriminator(fakes, training=training),
        }

    def logits_loss(self, **logits: Tensor) -> Tensor:
        return discriminator_loss(**logits, kind=self.adversarial_loss)

    def compute_metrics(self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        for kind, logits in y_pred.items():
            self.means[kind].update_state(logits)
        return self.get_metrics_result()


@dataclass(frozen=True)
class Sides:
    """Both sides, in the order of their steps."""

    generator: GeneratorSide
    discriminator: DiscriminatorSide

    def __iter__(self) -> Iterator[Side]:
        return iter((self.generator, self.discriminator))


class BothOptimizers(keras.optimizers.Optimizer):
    """The optimizers of both sides, as the single optimizer that Keras expects of a model.

    It applies no gradients itself: each side's train step uses its own optimizer. Its learning rate
    is the generator's, and setting it sets both.
    """

    def __init__(self, sides: Sides) -> None:
        super().__init__(learning_rate=0.0, name="both")
        self.generator = sides.generator.optimizer
        self.discriminator = sides.discriminator.optimizer
        self._sides = sides
        self.built = True

    @property
    def parts(self) -> list[keras.optimizers.Optimizer]:
        """The optimizers that apply gradients."""
        return [self.generator, self.discriminator]

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

    # Each side's optimizer is saved with the side.
    def save_own_variables(self, store: Any) -> None:
        """Saves nothing."""

    def load_own_variables(self, store: Any) -> None:
        """Restores nothing."""
