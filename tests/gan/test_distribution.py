"""A step of the game on several of TensorFlow's replicas equals that on one.

Devices are simulated on the CPU, which a process must ask for before its backend starts. So this
file is also a program: it makes the steps in a process of its own, prints what it saw as JSON, and
the tests judge that.
"""

import json

import keras
import numpy as np
import pytest

import mhe
from gan import GAN

REPLICAS = 2
SHAPE, LATENTS, BATCH = (2, 2, 1), 3, 6


@pytest.fixture(scope="module")
def seen(on_simulated_devices):
    """What the steps did in a process of their own."""
    if keras.backend.backend() != "tensorflow":
        pytest.skip("MirroredStrategy is TensorFlow's")
    return on_simulated_devices(__file__, REPLICAS)


def test_a_step_on_many_replicas_equals_one(seen):
    one, many = seen["one"], seen["many"]
    assert (one["replicas"], many["replicas"]) == (1, REPLICAS)
    # The regularizers alone add more than this.
    assert one["logs"]["generator_loss"] > 2
    assert many["logs"] == pytest.approx(one["logs"], rel=1e-5)
    for expected, found in zip(one["steps"], many["steps"], strict=True):
        assert np.abs(expected).max() > 1e-3
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def step():
    """The logs of one step of SGD at rate 1, and what it added to every weight and average."""
    import tensorflow as tf

    keras.utils.set_random_seed(0)
    generator = keras.Sequential(
        [
            keras.Input((LATENTS,)),
            keras.layers.Dense(4, use_bias=False, activation="tanh"),
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
    model.compile(keras.optimizers.SGD(1.0), keras.optimizers.SGD(1.0), run_eagerly=True)
    weights = [*model.trainable_weights, *model.average.weights]
    before = [keras.ops.convert_to_numpy(weight) for weight in weights]
    images = rng.uniform(-1, 1, (BATCH, *SHAPE)).astype("float32")
    history = model.fit(images, batch_size=BATCH, shuffle=False, verbose=0).history
    return {
        "replicas": tf.distribute.get_strategy().num_replicas_in_sync,
        "logs": {name: values[0] for name, values in history.items()},
        "steps": [
            (keras.ops.convert_to_numpy(weight) - old).tolist()
            for weight, old in zip(weights, before, strict=True)
        ],
    }


def steps():
    import tensorflow as tf

    (cpu,) = tf.config.list_physical_devices("CPU")
    logical = [tf.config.LogicalDeviceConfiguration()] * REPLICAS
    tf.config.set_logical_device_configuration(cpu, logical)
    seen = {"one": step()}
    with tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(REPLICAS)]).scope():
        seen["many"] = step()
    return seen


if __name__ == "__main__":
    print(json.dumps(steps()))
