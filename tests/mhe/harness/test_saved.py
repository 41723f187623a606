"""Models and weights that Keras saved, and files that only look like some."""

import json
import os
import zipfile

import keras
import numpy as np
import pytest

from mhe.harness.errors import BadInput
from mhe.harness.saved import load_model, load_weights

pytestmark = pytest.mark.one_backend


@pytest.fixture
def model():
    return keras.Sequential([keras.Input((3,)), keras.layers.Dense(64, name="only")])


def rewritten(path, change):
    """A .keras with its members changed: a dictionary of bytes, in place."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    change(members)
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)


def layer_is(module, name, registered=None):
    """Replaces the layer of the model by any Python object."""

    def change(members):
        config = json.loads(members["config.json"])
        layer = config["config"]["layers"][1]
        layer |= {"module": module, "class_name": name, "registered_name": registered}
        layer["config"] = {"command": "touch executed", "name": "only"}
        members["config.json"] = json.dumps(config).encode()

    return change


def replace(name, data):
    def change(members):
        members[name] = data

    return change


CHANGES = {
    "os.system": layer_is("os", "system"),
    "exec": layer_is("builtins", "exec"),
    "registered exec": layer_is("builtins", "exec", "exec"),
    "a lambda": layer_is("keras.layers", "Lambda"),
    "no config": lambda members: members.pop("config.json"),
    "no weights": lambda members: members.pop("model.weights.h5"),
    "a list": replace("config.json", b"[]"),
    "null": replace("config.json", b"null"),
    "no JSON": replace("config.json", b"\xff"),
    "deep JSON": replace("config.json", b"[" * 100_000),
    "no HDF5": replace("model.weights.h5", b"\x89HDF\r\n\x1a\n" + bytes(500)),
}


def test_models_come_back(tmp_path, model):
    model.save(tmp_path / "model.keras")
    loaded = load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded.get_weights()[0], model.get_weights()[0])


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_what_is_no_model_is_one_line_and_not_executed(tmp_path, model, change, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model.save("model.keras")
    rewritten("model.keras", change)
    with pytest.raises(BadInput, match=r"^model\.keras cannot be read as a model") as caught:
        load_model("model.keras")
    assert len(str(caught.value)) < 500
    assert os.listdir() == ["model.keras"]


def test_damaged_models_are_refused(tmp_path, model):
    path = tmp_path / "model.keras"
    model.save(path)
    data = bytearray(path.read_bytes())
    kernel = np.asarray(model.get_weights()[0]).tobytes()
    data[data.index(kernel) + 5] ^= 1
    path.write_bytes(data)
    with pytest.raises(BadInput, match=r"model\.weights\.h5 is damaged"):
        load_model(path)
    path.write_bytes(data[:-100])
    with pytest.raises(BadInput, match="cannot be read as a model"):
        load_model(path)


def test_weights_of_this_model_alone(tmp_path, model):
    path = tmp_path / "model.weights.h5"
    model.save_weights(path)
    own = model.get_weights()
    model.set_weights([np.zeros_like(each) for each in own])
    load_weights(model, path)
    np.testing.assert_array_equal(model.get_weights()[0], own[0])
    other = keras.Sequential([keras.Input((3,)), keras.layers.Dense(5)])
    with pytest.raises(BadInput, match=r"weights\.h5 must hold the weights of this model"):
        load_weights(other, path)
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(BadInput, match=r"weights\.h5 must hold the weights of this model"):
        load_weights(model, path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_what_might_never_end_is_not_read(tmp_path, model):
    path = tmp_path / "model.keras"
    os.mkfifo(path)
    for read in (load_model, lambda path: load_weights(model, path)):
        with pytest.raises(BadInput, match="must be a regular file"):
            read(path)


def test_zeros_anywhere_in_a_model_are_refused_or_harmless(tmp_path, model):
    path = tmp_path / "model.keras"
    model.save(path)
    intact, own, refused = path.read_bytes(), model.get_weights(), 0
    for offset in range(0, len(intact), 512):
        end = min(offset + 512, len(intact))
        path.write_bytes(intact[:offset] + bytes(end - offset) + intact[end:])
        try:
            loaded = load_model(path)
        except BadInput:
            refused += 1
            continue
        for one, other in zip(loaded.get_weights(), own, strict=True):
            np.testing.assert_array_equal(one, other)
    assert refused > len(intact) // 1024
