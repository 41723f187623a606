"""Runs over several devices: the weights of one device, its logs, and the folder that resumes.

Devices are simulated on the CPU, which a process must ask for before its backend starts. So this
file is also a program: it makes the runs of one backend in one process of its own, prints what it
saw as JSON, and the tests judge that.
"""

import argparse
import contextlib
import csv
import io
import json
import os
import socket
import sys
import tempfile
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest

from mhe.harness import callbacks, devices, models
from mhe.harness.batches import Batches
from mhe.harness.errors import BadInput
from mhe.harness.flags import program
from mhe.layers import LearntPrototypes
from sphereface_plus import CosFace, FaceModel

ROOT = Path(__file__).parents[3]
DEVICES = 4 if keras.backend.backend() == "jax" else 2
STEPS = 20
# Two epochs of eight steps, and one of four; an odd number of images to evaluate on, in one batch.
FLAGS = [
    *("--dataset", "digits", "--train_images", "192", "--test_images", "59"),
    *("--model_name", "half_mhe", "--recipe", "modern", "--augment", "crop"),
    *("--batch_size", "24", "--base_lr", "0.1", "--steps", str(STEPS), "--seed", "3"),
]


# --- what is tested -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def seen(on_simulated_devices):
    """What the runs of this backend left, in a process of their own."""
    return on_simulated_devices(__file__, DEVICES)


def hows():
    return ["data", "classes"] if keras.backend.backend() == "jax" else ["data"]


@pytest.mark.parametrize("how", hows())
def test_weights_and_logs_after_twenty_steps_are_those_of_one_device(how, seen):
    one, many = seen["none"], seen[how]
    assert one["said"] == ""
    assert one["codes"] == [0]
    count = 2 if how == "classes" else DEVICES
    what = "class vectors" if how == "classes" else "batches"
    among = " of 2 processes" if keras.backend.backend() == "torch" else ""
    assert many["said"] == f"{what} split among {count} devices (cpu){among}"
    assert (one["devices"], one["shard"]) == (1, [12, 10])
    # Each process of PyTorch has the whole model.
    assert many["devices"] == (1 if among else count)
    assert many["shard"] == ([12, 5] if how == "classes" else [12, 10])
    assert many["weights"].keys() == one["weights"].keys()
    assert any("optimizer" in name for name in one["weights"])
    for name, expected in one["weights"].items():
        found, expected = np.array(many["weights"][name]), np.array(expected)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=2e-5, err_msg=name)
    assert len(one["rows"]) == 3
    for row, other in zip(many["rows"], one["rows"], strict=True):
        assert row == pytest.approx(other, rel=1e-4, abs=1e-5)
    assert many["metrics"] == pytest.approx(one["metrics"], rel=1e-4, abs=1e-5)


def test_the_energies_are_counted_once(seen):
    """Besides the cross-entropy, the loss is a sum of energies; no part of it is counted twice."""
    first = seen["none"]["rows"][0]
    added = first["loss"] - first["cross_entropy"]
    assert added > 1
    for how in hows():
        row = seen[how]["rows"][0]
        assert row["loss"] - row["cross_entropy"] == pytest.approx(added, rel=1e-4)


def test_the_run_was_interrupted_and_resumed_on_one_device(seen):
    """Two epochs on many devices, the last on one: what the tests above compare is both."""
    if keras.backend.backend() == "tensorflow":
        pytest.skip("compiling for one device again takes too long")
    ended = [130, 2] if keras.backend.backend() == "torch" else [130]
    assert seen["data"]["codes"] == ended
    assert seen["data"]["config"] == seen["none"]["config"]
    assert not {"distribute", "devices", "processes"} & seen["none"]["config"].keys()


def test_what_cannot_be_split_is_refused_in_one_line(seen):
    backend = keras.backend.backend()
    expected = {
        "batch": f"--distribute data splits batches into {DEVICES} equal parts, the last one of an "
        "epoch too: change --batch_size, --train_images or --devices. Received: a batch of 25",
    }
    if backend != "torch":
        expected["too many"] = (
            f"--devices must be at most the {DEVICES} that {backend} has. Received: 64"
        )
    if backend == "jax":
        expected["classes"] = (
            "--distribute classes splits class vectors into 4 equal parts. Received: 10 in "
            "sequential/logits/kernel; choose --devices accordingly"
        )
    else:
        expected["classes"] = f"--distribute classes needs KERAS_BACKEND=jax. Received: {backend}"
    if backend == "torch":
        expected["too many"] = (
            "--devices does not apply to PyTorch, which trains on a device per process: torchrun "
            "--nproc_per_node 64. Received: --devices 64"
        )
        expected["sum"] = (
            "--distribute data on PyTorch averages over processes, so losses must be means over a "
            "batch. Received: a sum, SparseCategoricalCrossentropy"
        )
    for name, message in expected.items():
        assert seen[f"refused: {name}"] == [2, message]


@pytest.mark.one_backend
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"devices": 4}, "--devices needs --distribute data or classes. Received: --devices 4"),
        ({"processes": 2}, "--processes needs --distribute data. Received: --processes 2"),
        (
            {"distribute": "classes", "processes": 2},
            "--distribute classes is for the devices of one machine, without --processes. "
            "Received: --processes 2",
        ),
        ({"distribute": "data"}, "--distribute data does not suit this program: it is a test"),
    ],
)
def test_flags_that_contradict_each_other_are_refused(flags, message):
    args = argparse.Namespace(**{"distribute": "none", "devices": None, "processes": None, **flags})
    with pytest.raises(BadInput) as caught:
        devices.check(args, ["classes"], "it is a test")
    assert str(caught.value) == message


@pytest.mark.one_backend
def test_what_looks_at_whole_batches_is_split_on_jax_alone(monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "torch")
    spread = devices.Devices("data", ["cpu:0", "cpu:1"])
    spread.require_divisible([4, 2], ["jax", "torch"])
    with pytest.raises(BadInput) as caught:
        spread.require_divisible([4, 2], ["jax"])
    assert str(caught.value) == (
        "--distribute data needs KERAS_BACKEND=jax here, as what is trained looks at whole "
        "batches. Received: torch"
    )


@pytest.mark.one_backend
def test_shares_are_consecutive_parts_of_the_same_batches():
    def batches():
        images = np.arange(24, dtype="uint8").reshape(12, 2, 1, 1)
        return Batches(images, np.arange(12), 4, seed=5)

    whole, shares = batches(), [devices.Share(batches(), part, 2) for part in range(2)]
    for each in (whole, *shares):
        each.on_epoch_begin()
    for index in range(len(whole)):
        batch, *halves = [each[index] for each in (whole, *shares)]
        for place in range(2):
            np.testing.assert_array_equal(
                np.concatenate([half[place] for half in halves]), batch[place]
            )
    with pytest.raises(ValueError, match=r"3 equal parts. Received: 4 rows"):
        devices.Share(batches(), 0, 3)[0]


@pytest.mark.one_backend
def test_class_vectors_are_prototypes_or_the_kernels_before_the_outputs():
    inputs = keras.Input((4,))
    hidden = keras.layers.Dense(6, name="hidden")(inputs)
    prototypes = LearntPrototypes(5, 6, name="learnt")
    model = keras.Model(inputs, prototypes(hidden))
    assert devices.class_axes(model) == {prototypes.prototypes.path: (0, 5)}
    image = keras.layers.Conv2D(3, 1, name="map")(keras.layers.Reshape((2, 1, 3))(hidden))
    assert devices.class_axes(keras.Model(inputs, image)) == {"map/kernel": (3, 3)}
    head = FaceModel(keras.Sequential([inputs, keras.layers.Dense(6)]), CosFace(4, name="head"))
    assert devices.class_axes(head) == {head.head.kernel.path: (1, 4)}


# --- the runs, in a process of their own --------------------------------------------------------


def network(arch, shape, classes, width, weight_decay):
    """Stands in for `models.build`: small, with batch norm."""
    return keras.Sequential(
        [
            keras.Input(shape),
            keras.layers.Flatten(),
            keras.layers.Dense(12, name="hidden"),
            keras.layers.BatchNormalization(momentum=0.9),
            keras.layers.ReLU(),
            keras.layers.Dense(classes, name="logits"),
        ]
    )


def where(kernel):
    """How many devices have a kernel, and the shape of what each has."""
    if keras.backend.backend() == "jax":
        sharding = kernel.value.sharding
        return len(sharding.device_set), list(sharding.shard_shape(kernel.shape))
    mirrored = keras.backend.backend() == "tensorflow" and hasattr(kernel.value, "values")
    return len(kernel.value.values) if mirrored else 1, list(kernel.shape)


def contents(folder):
    """What a run left: all numbers of its newest checkpoint, its log and its result."""
    weights = {}
    (*_, newest) = sorted((folder / "checkpoints").glob("*.weights.h5"))
    with h5py.File(newest) as file:
        file.visititems(
            lambda name, each: (
                weights.__setitem__(name, np.array(each).tolist())
                if isinstance(each, h5py.Dataset)
                else None
            )
        )
    with open(folder / "log.csv", newline="") as file:
        rows = [{name: float(cell) for name, cell in row.items()} for row in csv.DictReader(file)]
    for row in rows:
        del row["seconds"]
    config = json.loads((folder / "config.json").read_text())
    result = json.loads((folder / "result.json").read_text())
    return {"weights": weights, "rows": rows, "config": config, "metrics": result["metrics"]}


def run(train, *flags):
    """Calls the program, and returns its code and what it printed to each stream."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = program(train.main, list(flags))
    keras.backend.clear_session()
    return code, out.getvalue(), err.getvalue()


def together(train, *flags):
    """As `run`, in as many processes as PyTorch needs: forks of this one."""
    if keras.backend.backend() != "torch" or "data" not in flags:
        return [run(train, *flags)]
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    names = {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port), "WORLD_SIZE": str(DEVICES)}
    processes = []
    for process in range(DEVICES):
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            os.environ.update(names, RANK=str(process))
            with open(writing, "w") as pipe:
                json.dump(run(train, *flags), pipe)
            os._exit(0)
        os.close(writing)
        processes.append((child, reading))
    ended = []
    for child, reading in processes:
        with open(reading) as pipe:
            # One that another's end has ended says nothing.
            ended.append(tuple(json.loads(pipe.read() or '[2, "", ""]')))
        os.waitpid(child, 0)
    return ended


@contextlib.contextmanager
def interrupted(after):
    """Presses Ctrl-C at the end of an epoch, counted from 1."""
    before = callbacks.Progress.on_epoch_end

    def interrupt(self, epoch, logs=None):
        # Of several processes the first, which ends the others.
        if epoch + 1 == after and os.environ.get("RANK", "0") == "0":
            raise KeyboardInterrupt
        before(self, epoch, logs)

    callbacks.Progress.on_epoch_end = interrupt
    try:
        yield
    finally:
        callbacks.Progress.on_epoch_end = before


def summing(build):
    """Makes the loss a sum over the batch."""

    def build_summing(*args):
        model = build(*args)
        model.loss.reduction = "sum"
        return model

    return build_summing


def runs(folder):
    sys.path.insert(0, str(ROOT / "benchmarks"))
    import train

    models.build = network
    prepare = train.Task.prepare_run

    def noted(self, run):
        (folder / "placed").write_text(json.dumps(where(self.model.get_layer("logits").kernel)))
        return prepare(self, run)

    train.Task.prepare_run = noted
    seen = {}
    # TensorFlow divides its CPU before it starts, or never.
    for how in [*hows(), "none"]:
        out = folder / how
        flags = [*FLAGS, "--out", str(out), *(["--distribute", how] if how != "none" else [])]
        flags += ["--devices", "2"] if how == "classes" else []
        # Compiling for TensorFlow's replicas and for one device again would take too long.
        is_broken = how == "data" and keras.backend.backend() != "tensorflow"
        with interrupted(after=2 if is_broken else None):
            ended = together(train, *flags)
        said = [line for line in ended[0][1].splitlines() if " split among " in line]
        seen[how] = {"codes": [code for code, *_ in ended], "said": "".join(said)}
        seen[how]["devices"], seen[how]["shard"] = json.loads((folder / "placed").read_text())
        if is_broken:
            code, _, errors = run(train, "--resume", str(out))
            assert code == 0, errors
        seen[how] |= contents(out)

    refused = {
        "too many": ["--distribute", "data", "--devices", "64"],
        "batch": ["--distribute", "data", "--batch_size", "25"],
        "classes": ["--distribute", "classes"],
        "sum": ["--distribute", "data"],
    }
    for name, flags in refused.items():
        if name == "sum":
            if keras.backend.backend() != "torch":
                continue
            train.classification.build = summing(train.classification.build)
        ended = together(train, *FLAGS, "--out", str(folder / f"refused {name}"), *flags)
        line = ended[0][2].splitlines()[-1].partition("error: ")[2]
        seen[f"refused: {name}"] = [ended[0][0], line]
    return seen


if __name__ == "__main__":
    os.environ[devices.CPU_DEVICES] = str(DEVICES)
    with tempfile.TemporaryDirectory() as name:
        print(json.dumps(runs(Path(name))))
