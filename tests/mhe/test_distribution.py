"""Energies on several devices equal those on one, and no device ever holds an N×N array.

So do the means of classes, to which every device adds the embeddings it has.

Devices are simulated on the CPU, which a process must ask for before its backend starts. So this
file is also a program: it makes the checks of one backend in one process of its own, prints what
it saw as JSON, and the tests judge that.
"""

import json
import math
import re

import keras
import numpy as np
import pytest

import mhe

# Mirrored variables are traced once a device, which takes its time.
DEVICES = 2 if keras.backend.backend() == "tensorflow" else 4
IN, HIDDEN, OUT, BATCH = 12, 28, 4, 8
STRENGTH = 20.0
HIDDEN_ENERGY = {"s": 2, "distance": "euclidean", "space": "half", "axis": -1}
OUT_ENERGY = {"s": 1, "distance": "angle", "space": "full", "axis": -1}
# With 2, the hidden layer has enough blocks for a loop, the output layer few enough to unroll.
BLOCKS = (None, 2)
# Of classes, whose means are counted; no two devices have the same.
LABELS = [0, 0, 0, 1, 1, 2, 2, 2]
LARGE = [
    (64, 8192, 256, "full"),
    (64, 8192, None, "half"),
    (512, 100_000, None, "full"),
]


# --- what is tested -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def seen(on_simulated_devices):
    """What the checks of this backend saw in a process of their own."""
    if keras.backend.backend() == "torch":
        pytest.skip("Keras distributes over JAX's and TensorFlow's devices only")
    return on_simulated_devices(__file__, DEVICES)


def steps():
    if keras.backend.backend() == "jax":
        return ["data parallel", "model parallel", "model parallel over dims"]
    return ["mirrored"]


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("how", steps())
def test_training_step_on_many_devices_equals_one(how, block, seen):
    one, many = seen["one device"], seen[f"{how}, block {block}"]
    assert one["devices"] == 1
    assert many["devices"] == DEVICES
    assert many["shard"] == shard(how)
    np.testing.assert_allclose(energy(many, seen), energy(one, seen), rtol=1e-5)
    for name in kernels():
        expected, found = gradient(one, name, seen), gradient(many, name, seen)
        assert np.abs(expected).max() > 1e-3
        np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())


def shard(how):
    """What a device holds of the hidden kernel."""
    dims, count = kernels()["hidden"].shape
    return {
        "model parallel": [dims, count // DEVICES],
        "model parallel over dims": [dims // DEVICES, count],
    }.get(how, [dims, count])


def test_step_on_one_device_is_the_gradient(seen, value_and_gradient):
    total = 0.0
    for name, options in (("hidden", HIDDEN_ENERGY), ("out", OUT_ENERGY)):
        value, expected = value_and_gradient(
            lambda w, o=options: STRENGTH * mhe.hyperspherical_energy(w, **o), kernels()[name]
        )
        total += value
        found = gradient(seen["one device"], name, seen)
        np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())
    np.testing.assert_allclose(energy(seen["one device"], seen), total, rtol=1e-5)


def energy(step, seen):
    """What the energies add to the loss."""
    return step["loss"] - seen["no energy"]["loss"]


def gradient(step, name, seen):
    """What the energy adds to a step of SGD at rate 1 is minus its gradient."""
    return np.array(seen["no energy"]["weights"][name]) - np.array(step["weights"][name])


def test_fit_goes_on_with_mirrored_variables(seen):
    if keras.backend.backend() != "tensorflow":
        pytest.skip("MirroredStrategy is TensorFlow's")
    many, one = seen["mirrored fit"], seen["one device fit"]
    assert len(one) == 3
    np.testing.assert_allclose(many, one, rtol=1e-4)
    assert one[-1] < one[0]


def test_class_means_are_those_of_the_whole_batch(seen):
    found = seen[f"class means, {steps()[0]}"]
    embeddings, labels = batch()[0][:, :OUT].astype("float64"), np.array(LABELS)
    means = np.array([embeddings[labels == label].mean(axis=0) for label in range(3)])
    np.testing.assert_allclose(found["means"], means, rtol=1e-5, atol=1e-6)
    logits = -np.sum((embeddings[:, None] - means) ** 2, axis=-1)
    logs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    loss = -logs[np.arange(BATCH), labels].mean()
    # Until two batches are counted in at once, all means are 0.
    np.testing.assert_allclose(found["loss"], [np.log(3)] * 2 + [loss] * 2, rtol=1e-5)
    # TensorFlow's replicas count what an average one of them has seen.
    replicas = DEVICES if keras.backend.backend() == "tensorflow" else 1
    counts = 4 * np.bincount(LABELS)
    np.testing.assert_array_equal(replicas * np.array(found["counts"]), counts)


def test_an_episode_is_not_split(seen):
    assert seen["episodes"].keys() == {"fit", "evaluate", "predict"}
    for error in seen["episodes"].values():
        assert re.fullmatch(
            "A batch is one episode, which cannot be split among devices: .* "
            rf"Received: one over {DEVICES} devices",
            error,
        )


@pytest.mark.parametrize(("dims", "count", "block", "space"), LARGE, ids=str)
def test_class_sharded_head_holds_no_square_array(dims, count, block, space, seen):
    if keras.backend.backend() != "jax":
        pytest.skip("only JAX shows the arrays of a compiled program")
    found = seen[f"{dims}x{count}, block {block}, {space}"]
    block = mhe.energy.block_size(count) if block is None else block
    padded = -(-count // block) * block
    assert found["largest"] <= padded * max(dims, block)
    assert found["largest"] < count * count // DEVICES
    assert found["gradient"] == [dims, count // DEVICES]
    # The same reading of the program does see a square array where there is one.
    assert seen["64x8192 as one block"]["largest"] >= 8192 * 8192 // DEVICES


# --- the checks, in a process of their own ------------------------------------------------------


def kernels():
    """The weights that every model starts from."""
    rng = np.random.default_rng(0)
    return {
        "hidden": rng.normal(size=(IN, HIDDEN)).astype("float32"),
        "out": rng.normal(size=(HIDDEN, OUT)).astype("float32"),
    }


def network(strength, block):
    model = keras.Sequential(
        [
            keras.Input((IN,)),
            keras.layers.Dense(
                HIDDEN,
                activation="tanh",
                use_bias=False,
                kernel_regularizer=mhe.MHE(strength, block=block, **HIDDEN_ENERGY),
                name="hidden",
            ),
            keras.layers.Dense(
                OUT,
                use_bias=False,
                kernel_regularizer=mhe.MHE(strength, block=block, **OUT_ENERGY),
                name="out",
            ),
        ]
    )
    model.set_weights(list(kernels().values()))
    model.compile(keras.optimizers.SGD(1.0), "mse")
    return model


def batch():
    rng = np.random.default_rng(1)
    inputs, targets = rng.normal(size=(BATCH, IN)), rng.normal(size=(BATCH, OUT))
    return inputs.astype("float32"), targets.astype("float32")


def fit(model, **options):
    return model.fit(*batch(), batch_size=BATCH, shuffle=False, verbose=0, **options)


def step(placed, strength=STRENGTH, block=None):
    """One step of SGD at rate 1; `placed` tells of a kernel its devices and the shape on each."""
    model = network(strength, block)
    loss = fit(model).history["loss"][0]
    weights = {
        name: values.tolist() for name, values in zip(kernels(), model.get_weights(), strict=True)
    }
    devices, held = placed(model.get_layer("hidden").kernel)
    return {"devices": devices, "shard": list(held), "loss": loss, "weights": weights}


def class_means():
    """Four steps at rate 0 of a model whose head counts embeddings, two batches of them at once."""
    backbone = keras.Sequential([keras.Input((IN,)), keras.layers.Dense(OUT)])
    backbone.set_weights([np.eye(IN, OUT), np.zeros(OUT)])
    head = mhe.layers.NearestClassMean(3, OUT, decay=0.5, accumulate=2)
    model = mhe.HeadModel(backbone, head)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.0), loss)
    history = model.fit(
        *(batch()[0], np.array(LABELS)), batch_size=BATCH, epochs=4, shuffle=False, verbose=0
    ).history
    means, counts = (keras.ops.convert_to_numpy(each) for each in (head.prototypes, head.counts))
    return {"loss": history["loss"], "means": means.tolist(), "counts": counts.tolist()}


def episodes():
    """What `fit` and the like say of a network whose batches are single episodes."""
    backbone = keras.Sequential([keras.Input((IN,)), keras.layers.Dense(OUT)])
    model = mhe.fewshot.PrototypicalNetwork(backbone)
    model.compile("sgd")
    images, labels = np.ones((BATCH, IN), "float32"), np.arange(BATCH) % 2
    drawn = mhe.fewshot.Episodes(labels, ways=2, shots=1, queries=1)
    seen = {}
    for name in ("fit", "evaluate", "predict"):
        try:
            getattr(model, name)(mhe.fewshot.EpisodeBatches(images, drawn, per_epoch=1), verbose=0)
        except ValueError as error:
            seen[name] = str(error)
    return seen


def jax_checks():
    import jax
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    def placed(kernel):
        sharding = kernel.value.sharding
        return len(sharding.device_set), sharding.shard_shape(kernel.shape)

    seen = {"one device": step(placed), "no energy": step(placed, 0.0)}
    data = keras.distribution.DataParallel(devices=keras.distribution.list_devices("cpu"))
    with data.scope():
        for block in BLOCKS:
            seen[f"data parallel, block {block}"] = step(placed, block=block)
        seen["class means, data parallel"] = class_means()
        seen["episodes"] = episodes()
    mesh = keras.distribution.DeviceMesh((1, DEVICES), ["batch", "model"])
    for how, layout in (
        ("model parallel", (None, "model")),
        ("model parallel over dims", ("model", None)),
    ):
        layouts = keras.distribution.LayoutMap(mesh)
        layouts[".*kernel"] = layout
        model_parallel = keras.distribution.ModelParallel(
            layout_map=layouts, batch_dim_name="batch"
        )
        with model_parallel.scope():
            for block in BLOCKS:
                seen[f"{how}, block {block}"] = step(placed, block=block)

    # Compiled for devices, never run: the program tells what arrays each device would hold.
    mesh = Mesh(np.array(jax.devices()), ("model",))
    by_class = NamedSharding(mesh, PartitionSpec(None, "model"))

    def program(dims, count, block, space):
        regularizer = mhe.MHE(space=space, block=block)
        kernel = jax.ShapeDtypeStruct((dims, count), "float32", sharding=by_class)
        compiled = jax.jit(jax.value_and_grad(regularizer)).lower(kernel).compile()
        shapes = re.findall(r"\b[a-z]+\d+\[([\d,]*)\]", compiled.as_text())
        return {
            "largest": max(math.prod(map(int, re.findall(r"\d+", shape))) for shape in shapes),
            "gradient": compiled.output_shardings[1].shard_shape((dims, count)),
        }

    for dims, count, block, space in LARGE:
        seen[f"{dims}x{count}, block {block}, {space}"] = program(dims, count, block, space)
    seen["64x8192 as one block"] = program(64, 8192, 8192, "full")
    return seen


def tensorflow_checks():
    import tensorflow as tf

    (cpu,) = tf.config.list_physical_devices("CPU")
    logical = [tf.config.LogicalDeviceConfiguration()] * DEVICES
    tf.config.set_logical_device_configuration(cpu, logical)
    strategy = tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(DEVICES)])

    def epochs():
        model = network(STRENGTH, block=None)
        model.compile(keras.optimizers.SGD(0.05), "mse")
        return fit(model, epochs=3).history["loss"]

    def placed(kernel):
        return tf.distribute.get_strategy().num_replicas_in_sync, kernel.shape

    seen = {"one device": step(placed), "no energy": step(placed, 0.0)}
    seen["one device fit"] = epochs()
    with strategy.scope():
        for block in BLOCKS:
            seen[f"mirrored, block {block}"] = step(placed, block=block)
        seen["mirrored fit"] = epochs()
        seen["class means, mirrored"] = class_means()
        seen["episodes"] = episodes()
    return seen


if __name__ == "__main__":
    checks = jax_checks if keras.backend.backend() == "jax" else tensorflow_checks
    print(json.dumps(checks()))
