"""Configs that earlier versions wrote load, also of classes whose modules have moved since."""

import keras
import numpy as np
import pytest

import mhe
from mhe.attach import Attached, Projections

COSTS = [[0.0, 1.0, 2.0], [1.0, 0.0, 2.0], [2.0, 2.0, 0.0]]
BITS = {"shape": [1, 2], "zlib_base64_float32": "eJxjYGCwZ2BgOAAAAgMBAA=="}
OPTIONS = {"distance": "angle", "space": "full", "sample": None, "block": None}


def written(name, module, **config):
    return {
        "module": module,
        "class_name": name,
        "config": config,
        "registered_name": f"mhe>{name}",
    }


ENERGY = written("MHE", "mhe.regularizers", strength=2.0, s=0, axis=[0, 1], **OPTIONS)


@pytest.mark.parametrize(
    ("config", "kind"),
    [
        (ENERGY, mhe.MHE),
        (written("Sum", "mhe.regularizers", regularizers=[ENERGY]), mhe.Sum),
        (
            written(
                "Distortion", "mhe.prototype_regularizers", D=COSTS, strength=2.0, scale_free=False
            ),
            mhe.Distortion,
        ),
        (
            written("Rank", "mhe.prototype_regularizers", D=COSTS, strength=2.0, triplets=5),
            mhe.Rank,
        ),
        (written("TotalVariation", "mhe.image_regularizers", strength=0.5), mhe.TotalVariation),
        (
            written(
                "NearestImagePull",
                "mhe.image_regularizers",
                images=BITS,
                strength=0.5,
                labels=[0],
            ),
            mhe.NearestImagePull,
        ),
        (written("PixelRange", "mhe.image_regularizers", low=-2.0, high=3.0), mhe.PixelRange),
        (written("Attached", "mhe.attach", added=ENERGY, existing=None), Attached),
        (
            written(
                "Projections", "mhe.attach", members={"query": [[4, 2, 3], ENERGY]}, existing=None
            ),
            Projections,
        ),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_configs_of_earlier_versions(config, kind):
    loaded = keras.saving.deserialize_keras_object(config)
    assert type(loaded) is kind
    again = keras.saving.serialize_keras_object(loaded)
    assert again["registered_name"] == config["registered_name"]
    assert again["class_name"] == config["class_name"]
    assert again["config"].keys() == config["config"].keys()
    if kind is mhe.MHE:
        assert loaded.get_config() == {**config["config"], "axis": (0, 1)}
    if kind is Projections:
        assert loaded.members["query"].get_config() == {**ENERGY["config"], "axis": (0, 1)}
    if kind is mhe.NearestImagePull:
        np.testing.assert_array_equal(loaded.images, np.array([[0.5, -2.0]], "float32"))
        assert again["config"]["images"] == config["config"]["images"]
