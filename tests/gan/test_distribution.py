"""A step of the game on several devices equals that on one.

Devices are simulated on the CPU, which a process must ask for before its backend starts. So this
file is also a program: it makes the steps in a process of its own, prints what it saw as JSON, and
the tests judge that. On PyTorch two forks of that process make a step together.
"""

import contextlib
import json
import os
import socket

import keras
import numpy as np
import pytest

import mhe
from gan import GAN
from mhe import keras_internals
from mhe.harness import replicas

REPLICAS = 2
SHAPE, LATENTS, BATCH = (2, 2, 1), 3, 6


@pytest.fixture(scope="module")
def seen(on_simulated_devices):
    """What the steps did in a process of their own."""
    return on_simulated_devices(__file__, REPLICAS)


def test_a_step_on_many_devices_equals_one(seen):
    one, many = seen["one"], seen["many"]
    assert (one["parts"], many["parts"]) == (1, REPLICAS)
    # The regularizers alone add more than this.
    assert one["logs"]["generator_loss"] > 2
    assert many["logs"] == pytest.approx(one["logs"], rel=1e-5)
    for expected, found in zip(one["steps"], many["steps"], strict=True):
        assert np.abs(expected).max() > 1e-3
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def step(part=None):
    """The logs of one step of SGD at rate 1, and what it added to every weight and average.

    In several processes of PyTorch, of this part of the images.
    """
    keras.utils.set_random_seed(0)
    generator = keras.Sequential(
        [
            keras.Input((LATENTS,)),
            keras.layers.Dense(4, use_bias=False),
            keras.layers.BatchNormalization(synchronized=keras.backend.backend() == "tensorflow"),
            keras.layers.Activation("tanh"),
            keras.layers.Reshape(SHAPE),
        ]
    )
    discriminator = keras.Sequential(
        [
            keras.Input(SHAPE),
            keras.layers.Flatten(),
            mhe.layers.SpectralNorm(keras.layers.Dense(5, use_bias=False)),
            keras.layers.Dense(1, use_bias=False, kernel_regularizer=keras.regularizers.L2(0.2)),
        ]
    )
    rng = np.random.default_rng(0)
    for weight in [*generator.trainable_weights, *discriminator.trainable_weights]:
        weight.assign(rng.normal(size=weight.shape))
    mhe.attach(generator, mhe.MHE(2.0))
    model = GAN(generator, discriminator, ema=0.5, seed=1)
    eager = keras.backend.backend() == "tensorflow"
    model.compile(keras.optimizers.SGD(1.0), keras.optimizers.SGD(1.0), run_eagerly=eager)
    weights = [*model.trainable_weights, *model.average.weights]
    before = [keras.ops.convert_to_numpy(weight) for weight in weights]
    images = rng.uniform(-1, 1, (BATCH, *SHAPE)).astype("float32")
    callbacks = []
    if part is not None:
        images = np.split(images, REPLICAS)[part]
        callbacks.append(replicas.Alike())
    parts = keras_internals.batch_parts(model) if part is None else REPLICAS
    with contextlib.nullcontext() if part is None else replicas.synchronized(model):
        history = model.fit(
            images, batch_size=BATCH, shuffle=False, verbose=0, callbacks=callbacks
        ).history
    return {
        "parts": parts,
        "logs": {name: values[0] for name, values in history.items()},
        "steps": [
            (keras.ops.convert_to_numpy(weight) - old).tolist()
            for weight, old in zip(weights, before, strict=True)
        ],
    }


def step_on_replicas():
    """A step on TensorFlow's replicas."""
    import tensorflow as tf

    with tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(REPLICAS)]).scope():
        return step()


def step_on_devices():
    """A step on JAX's devices."""
    with keras.distribution.DataParallel(auto_shard_dataset=False).scope():
        return step()


def step_in_processes():
    """A step in two processes of PyTorch: this one, and a fork of it."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    os.environ.update(MASTER_ADDR="localhost", MASTER_PORT=str(port), WORLD_SIZE=str(REPLICAS))
    child = os.fork()
    part = 0 if child else 1
    os.environ["RANK"] = str(part)
    with replicas.started():
        seen = step(part)
    if not child:
        os._exit(0)
    os.waitpid(child, 0)
    return seen


def steps():
    if keras.backend.backend() == "torch":
        # Before this process has threads of its own.
        many = step_in_processes()
        return {"one": step(), "many": many}
    if keras.backend.backend() == "jax":
        return {"one": step(), "many": step_on_devices()}
    import tensorflow as tf

    (cpu,) = tf.config.list_physical_devices("CPU")
    logical = [tf.config.LogicalDeviceConfiguration()] * REPLICAS
    tf.config.set_logical_device_configuration(cpu, logical)
    return {"one": step(), "many": step_on_replicas()}


if __name__ == "__main__":
    print(json.dumps(steps()))
