"""Heads whose classes are split among devices train as on one, and no device holds them all.

Devices are simulated on the CPU, which a process must ask for before its backend starts. So this
file is also a program: it makes the checks in one process of its own, prints what it saw as JSON,
and the tests judge that.
"""

import functools
import json
import math
import re

import keras
import numpy as np
import pytest

from sphereface_plus import FaceModel, heads

DEVICES = 4
INPUTS, DIMS, CLASSES, BATCH = 6, 8, 12, 5
LABELS = [0, 11, 5, 5, 3]
# For what the compiled program is read: the sizes are unlike each other.
MANY, WIDE = 4096, 64
# Between them they do all that any head does with class vectors: products with them, those of the
# true classes, vectors of the classes in the batch, a softmax and sums over classes.
KINDS = (functools.partial(heads.SphereFacePlus, energy_over="batch"), heads.SphereFace2)


@pytest.fixture(scope="module")
def seen(on_simulated_devices):
    """What the checks saw in a process of their own."""
    if keras.backend.backend() != "jax":
        pytest.skip("Keras splits weights among JAX's devices only")
    return on_simulated_devices(__file__, DEVICES)


def test_training_step_with_classes_on_many_devices_equals_one(seen):
    one, many = seen["one device"], seen["many devices"]
    assert (one["devices"], one["shard"]) == (1, [DIMS, CLASSES])
    assert (many["devices"], many["shard"]) == (DEVICES, [DIMS, CLASSES // DEVICES])
    np.testing.assert_allclose(many["loss"], one["loss"], rtol=1e-5)
    # Losses are a sum over heads that share nothing but the features: each has its own gradient.
    assert len(one["steps"]) == len(["kernel", "bias", "bias of SphereFace2", *KINDS])
    for expected, found in zip(one["steps"], many["steps"], strict=True):
        expected, found = np.array(expected), np.array(found)
        assert np.abs(expected).max() > 1e-4
        np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())


def test_a_step_over_drawn_classes_on_many_devices_equals_one(seen):
    one, many = seen["drawn on one device"], seen["drawn on many devices"]
    assert (many["devices"], many["shard"]) == (DEVICES, [DIMS, CLASSES // DEVICES])
    np.testing.assert_allclose(many["loss"], one["loss"], rtol=1e-5)
    for expected, found in zip(one["steps"], many["steps"], strict=True):
        expected, found = np.array(expected), np.array(found)
        np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())
    *_, kernel = one["steps"]
    assert np.any(kernel, axis=0).sum() == CLASSES // 2


def test_no_device_holds_all_class_vectors(seen):
    assert seen["largest"] == MANY * WIDE // DEVICES


# --- the checks, in a process of their own ------------------------------------------------------


class Together(keras.layers.Layer):
    """Heads over the same features, so that all are compiled at once."""

    def __init__(self, classes, draw):
        super().__init__(name="together")
        self.kinds = [kind(classes, kernel_initializer=draw) for kind in KINDS]

    def build(self, shape):
        for each in self.kinds:
            each.build(shape)

    def call(self, features, labels=None, training=None):
        return keras.ops.stack(
            [each(features, labels, training=training) for each in self.kinds], axis=1
        )

    def loss(self, labels, logits):
        return sum(each.loss(labels, logits[:, place]) for place, each in enumerate(self.kinds))


def drawing(classes, draw):
    """A head that looks at half of the classes in a step."""
    return heads.CosFace(
        classes, 5, 0.2, sample=0.5, seed=0, kernel_initializer=draw, name="together"
    )


def step(head):
    """One step of SGD at rate 1, and where the first head's class vectors are."""
    rng = np.random.default_rng(0)

    def draw(shape, dtype=None):
        return rng.normal(size=shape).astype("float32")

    inputs = draw((BATCH, INPUTS))
    backbone = keras.Sequential(
        [keras.Input((INPUTS,)), keras.layers.Dense(DIMS, kernel_initializer=draw)]
    )
    model = FaceModel(backbone, head(CLASSES, draw))
    before = [keras.ops.convert_to_numpy(weight) for weight in model.trainable_weights]
    model.compile(keras.optimizers.SGD(1.0))
    loss = model.fit(inputs, np.array(LABELS), batch_size=BATCH, verbose=0).history["loss"][0]
    steps = [
        (keras.ops.convert_to_numpy(weight) - old).tolist()
        for weight, old in zip(model.trainable_weights, before, strict=True)
    ]
    first, *_ = getattr(model.head, "kinds", [model.head])
    sharding = first.kernel.value.sharding
    return {
        "devices": len(sharding.device_set),
        "shard": sharding.shard_shape((DIMS, CLASSES)),
        "loss": loss,
        "steps": steps,
    }


def largest():
    """Numbers of the largest array on a device in compiled gradients, which are never run."""
    import jax
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    mesh = Mesh(np.array(jax.devices()), ("model",))
    head = Together(MANY, lambda shape, dtype=None: np.ones(shape, "float32"))
    head.build((None, WIDE))
    labels = np.array(LABELS)

    def placed(variable):
        spec = PartitionSpec(*((None, "model") if len(variable.shape) == 2 else ()))
        sharding = NamedSharding(mesh, spec)
        return jax.ShapeDtypeStruct(variable.shape, variable.dtype, sharding=sharding)

    def loss(weights, features, state):
        variables = [*head.trainable_variables, *head.non_trainable_variables]
        with keras.StatelessScope(zip(variables, [*weights, *state], strict=True)):
            losses = [
                each.loss(labels, each(features, labels, training=True)) for each in head.kinds
            ]
        return keras.ops.sum(keras.ops.stack(losses))

    weights = list(map(placed, head.trainable_variables))
    state = list(map(placed, head.non_trainable_variables))
    features = jax.ShapeDtypeStruct((BATCH, WIDE), "float32")
    gradient = jax.jit(jax.grad(loss, argnums=(0, 1)))
    text = gradient.lower(weights, features, state).compile().as_text()
    shapes = re.findall(r"\b[a-z]+\d+\[([\d,]*)\]", text)
    return max(math.prod(map(int, re.findall(r"\d+", shape))) for shape in shapes)


def checks():
    seen = {"one device": step(Together), "largest": largest()}
    seen["drawn on one device"] = step(drawing)
    layouts = keras.distribution.LayoutMap(
        keras.distribution.DeviceMesh((1, DEVICES), ["batch", "model"])
    )
    layouts[".*together.*kernel"] = (None, "model")
    parallel = keras.distribution.ModelParallel(layout_map=layouts, batch_dim_name="batch")
    with parallel.scope():
        seen["many devices"] = step(Together)
        seen["drawn on many devices"] = step(drawing)
    return seen


if __name__ == "__main__":
    print(json.dumps(checks()))
