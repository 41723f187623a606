"""Prototypes that are learnt, guided by costs, or fixed."""

from typing import Any

import keras
from keras import ops

from mhe import checks
from mhe.layers.distance import check_distance, distances
from mhe.layers.head import Head, initial_value
from mhe.neuron_axes import NeuronKernel
from mhe.serialization import array_from_config, array_to_config
from mhe.types import Tensor


@keras.saving.register_keras_serializable(package="mhe")
class LearntPrototypes(Head):
    """Logits of an embedding: minus its distances to learnt prototypes, one per class.

    In the softmax of the logits, a class is the more likely the nearer its prototype is. Train with
    `keras.losses.SparseCategoricalCrossentropy(from_logits=True)`. With
    `prototypes_regularizer=mhe.Distortion(D)` or `mhe.Rank(D)` the distances between prototypes
    follow the costs of mistakes. Distances are computed and returned in float32 also under
    `mixed_float16` and `mixed_bfloat16`; see `distances`.

    Args:
        classes: Number of classes, at least 2.
        dims: Size of an embedding.
        distance: `"euclidean"`, `"squared"`, `"cosine"` or `"huber"`; see `distances`.
        delta: Where `"huber"` turns from a parabola into a line, > 0.
        prototypes: Initial prototypes `(classes, dims)`, such as `mhe.prototypes.embed` returns,
            or None to draw them. With `trainable=False` they stay fixed.
        prototypes_initializer: Draws prototypes if none are given.
        prototypes_regularizer: A Keras regularizer of the prototypes, one row per class.
        **kwargs: `name`, `dtype` and `trainable`, as for every Keras layer.

    Attributes:
        prototypes: The weight `(classes, dims)`, float32 unless the policy is float64.

    Raises:
        ValueError: If an argument is not as described, prototypes have another shape or are not
            finite, the regularizer's costs have another number of classes, or embeddings have
            another size.

    Example:

    >>> import keras, mhe
    >>> tree = mhe.ClassTree.from_paths(["animal/dog", "animal/cat", "oak"])
    >>> guide = mhe.Distortion(tree.cost_matrix())
    >>> head = mhe.layers.LearntPrototypes(3, 16, prototypes_regularizer=guide)
    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(16), head])
    >>> model.output_shape, len(model.losses)
    ((None, 3), 1)

    Reference:
        Garnot and Landrieu, Leveraging class hierarchies with metric-guided prototype learning
        ([arXiv:2007.03047](https://arxiv.org/abs/2007.03047)).
    """

    NEURONS = (NeuronKernel("prototypes", 0, "prototypes_regularizer"),)

    def __init__(
        self,
        classes: int,
        dims: int,
        distance: str = "euclidean",
        delta: float = 1.0,
        prototypes: Any = None,
        prototypes_initializer: Any = "glorot_uniform",
        prototypes_regularizer: Any = None,
        **kwargs: Any,
    ) -> None:
        checks.check_count("classes", classes, 2)
        checks.check_count("dims", dims, 1)
        check_distance(distance, delta)
        super().__init__(int(dims), int(classes), **kwargs)
        self.classes = int(classes)
        self.dims = int(dims)
        self.distance = distance
        self.delta = float(delta)
        self.prototypes_initializer = keras.initializers.get(prototypes_initializer)
        self.prototypes_regularizer = keras.regularizers.get(prototypes_regularizer)
        # `mhe.Sum` holds several regularizers.
        for each in getattr(self.prototypes_regularizer, "regularizers", [prototypes_regularizer]):
            if hasattr(each, "costs"):
                checks.check_costs(each.costs, self.classes)
        initializer, self._given = self.prototypes_initializer, None
        if prototypes is not None:
            self._given = checks.check_finite_array(
                "prototypes",
                ops.convert_to_numpy(prototypes),
                (self.classes, self.dims),
                "(classes, dims)",
            )
            initializer = initial_value(self._given)
        self.prototypes = self.add_weight(
            name="prototypes",
            shape=(self.classes, self.dims),
            dtype=self.output_dtype,
            initializer=initializer,
            regularizer=self.prototypes_regularizer,
            autocast=False,
        )

    def call(self, inputs: Tensor) -> Tensor:
        """Embeddings `(..., dims)` → logits `(..., classes)`."""
        inputs = ops.cast(inputs, self.output_dtype)
        return -distances(inputs, self.prototypes, self.distance, self.delta)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "classes": self.classes,
            "dims": self.dims,
            "distance": self.distance,
            "delta": self.delta,
            "prototypes": None if self._given is None else array_to_config(self._given),
            "prototypes_initializer": keras.initializers.serialize(self.prototypes_initializer),
            "prototypes_regularizer": keras.regularizers.serialize(self.prototypes_regularizer),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "LearntPrototypes":
        stored = config["prototypes"]
        return super().from_config(
            {**config, "prototypes": None if stored is None else array_from_config(stored)}
        )
