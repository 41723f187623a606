"""The classifiers that `train.py` trains, with or without energies."""

import argparse
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from mhe.attach import attach
from mhe.attach.neurons import neuron_weights
from mhe.attach.outputs import head_layers
from mhe.callbacks import is_normalized
from mhe.harness import models, recipes
from mhe.losses import BoundedCrossEntropy, saturation
from mhe.metrics import pairwise_angles
from mhe.regularizers import (
    MHE,
    CoMHE,
    Covering,
    GramDeterminant,
    MinimalAngle,
    Orthogonality,
    Polarization,
    Separation,
    Uniformity,
)
from mhe.types import Tensor
from tasks.radial import RadialForce

# The iterations of the published training.
STEPS = 42_500
# What a `--model_name` other than the energies attaches, given a strength.
FAMILY: dict[str, Callable[[float], Any]] = {
    "comhe": CoMHE,
    "mhp": Polarization,
    "mhc": Covering,
    "uniformity": Uniformity,
    "mma": MinimalAngle,
    "mhs": Separation,
    "mgd": GramDeterminant,
    "so": functools.partial(Orthogonality, kind="single"),
    "dso": functools.partial(Orthogonality, kind="double"),
    "mc": functools.partial(Orthogonality, kind="coherence"),
    "srip": functools.partial(Orthogonality, kind="spectral"),
}
# The published momentum of batch norm's moving averages, and its minimum in shorter runs.
NORM_MOMENTUM, LEAST_NORM_MOMENTUM = 0.999, 0.9


def build(args: argparse.Namespace, shape: Sequence[int], classes: int, steps: int) -> keras.Model:
    """Builds the plain network, attaches the regularizers and compiles it.

    Args:
        args: The flags of one run.
        shape: The shape of an image, `(H, W, C)`.
        classes: The number of classes.
        steps: The iterations of the whole training.
    """
    policy = keras.config.dtype_policy()
    if args.mixed_precision is not None:
        keras.config.set_dtype_policy(f"mixed_{args.mixed_precision}")
    try:
        model = models.build(args.arch, tuple(shape), classes, args.width, args.weight_decay)
        if args.norm == "none":
            model = _without_norms(model)
    finally:
        keras.config.set_dtype_policy(policy)
    _set_norms(model, args, steps)
    if args.model_name == "radial":
        attach(model, RadialForce(args.strength), head=RadialForce(args.head_strength))
    elif args.model_name in FAMILY:
        kind, layers = FAMILY[args.model_name], None
        head = kind(args.head_strength)
        if kind is CoMHE:
            # A first layer of 27 numbers in each neuron has nothing to compress.
            layers = _is_compressible
            head = head if any(map(layers, head_layers(model))) else None
        attach(model, kind(args.strength), head=head, layers=layers)
    elif args.model_name != "baseline":
        s, distance = recipes.POWERS[args.power_s]
        space = "half" if args.model_name == "half_mhe" else "full"
        attach(
            model,
            MHE(args.strength, s=s, distance=distance, space=space),
            head=MHE(args.head_strength, s=s, distance=distance, space="full"),
        )
    optimizer = recipes.optimizer(args, steps)
    if args.mixed_precision == "float16":
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    if args.loss == "published":
        loss = BoundedCrossEntropy(from_logits=True)
    else:
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    def saturated(labels: Tensor, logits: Tensor) -> Tensor:
        return saturation(labels, logits, from_logits=True)

    model.compile(
        optimizer,
        loss,
        metrics=[
            keras.metrics.SparseCategoricalAccuracy(name="accuracy"),
            keras.metrics.SparseCategoricalCrossentropy(from_logits=True, name="cross_entropy"),
            *([saturated] if args.loss == "published" else []),
        ],
        jit_compile=recipes.jit_compile(),
    )
    return model


def _is_compressible(layer: keras.layers.Layer) -> bool:
    kernel = getattr(layer, "kernel", None)
    return kernel is not None and math.prod(kernel.shape[:-1]) >= CoMHE().dims


class _Passed(keras.layers.Layer):
    """Returns its inputs; unlike `keras.layers.Identity` it takes the arguments of batch norm."""

    def call(self, inputs: Tensor, training: bool = False, mask: Tensor = None) -> Tensor:
        return inputs


def _without_norms(model: keras.Model) -> keras.Model:
    """Returns a newly initialized copy of a network without its batch norms."""

    def clone(layer: keras.layers.Layer) -> keras.layers.Layer:
        if isinstance(layer, keras.layers.BatchNormalization):
            return _Passed(name=layer.name)
        return type(layer).from_config(layer.get_config())

    return keras.models.clone_model(model, clone_function=clone)


def _set_norms(model: keras.Model, args: argparse.Namespace, steps: int) -> None:
    """Applies the recipe to batch norms and to the kernels before them."""
    for layer in model.layers:
        if args.recipe == "published" and isinstance(layer, keras.layers.BatchNormalization):
            # The averages cover the same share of the training as published.
            layer.momentum = max(LEAST_NORM_MOMENTUM, 1 - (1 - NORM_MOMENTUM) * STEPS / steps)
        if args.normalized_kernels != "decayed" and is_normalized(layer):
            layer.kernel_regularizer = layer.kernel.regularizer = None
            if args.normalized_kernels == "fixed":
                norm = float(np.linalg.norm(keras.ops.convert_to_numpy(layer.kernel)))
                layer.kernel.constraint = keras.constraints.MinMaxNorm(
                    norm, norm, axis=tuple(range(len(layer.kernel.shape)))
                )


def expected_dead_steps(args: argparse.Namespace) -> int | None:
    """Returns how many iterations a collapsed network stays dead under the published loss.

    The loss has no gradient there, so weight decay alone acts and shrinks w by
    exp(-rate · decay / (1 - momentum)) per iteration. The published runs recover when the weights
    have shrunk to about a third.

    Args:
        args: The resolved flags.

    Returns:
        The iterations, or None if no such phase is expected.

    Example:

    >>> args = argparse.Namespace(loss="published", base_lr=0.1, weight_decay=5e-4, arch="cnn9")
    >>> expected_dead_steps(args)
    2197
    """
    decay = models.default_decay(args.arch) if args.weight_decay is None else args.weight_decay
    if args.loss != "published" or not decay:
        return None
    return round(math.log(3) * (1 - recipes.MOMENTUM) / (args.base_lr * decay))


def angles(model: keras.Model) -> dict[str, np.ndarray]:
    """Returns the angles between the neurons of each layer, in radians, by the weight's path."""
    return {
        weight.path: pairwise_angles(weight.variable, weight.axis)
        for weight in neuron_weights(model)
    }


def mean_smallest_angle(angles: Mapping[str, np.ndarray]) -> float:
    """Returns the mean over layers of the smallest angle between two neurons, in radians.

    Args:
        angles: See `angles`.

    Example:

    >>> round(mean_smallest_angle({"a": np.array([1.0, 0.5]), "b": np.array([1.5])}), 6)
    1.0
    """
    return float(np.mean([each.min() for each in angles.values()]))
