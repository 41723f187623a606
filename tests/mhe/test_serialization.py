"""Arrays in configs keep every bit of their float32 numbers."""

import base64
import json

import numpy as np
import pytest
from keras import ops

from mhe.serialization import array_from_config, array_to_config

NUMBERS = np.array([[0.1, -0.0, 1e-45], [np.inf, 3.4e38, 1 / 3]], "float32")


@pytest.mark.parametrize("given", [NUMBERS, ops.convert_to_tensor(NUMBERS), NUMBERS.tolist()])
def test_round_trip_through_json_keeps_every_bit(given):
    config = json.loads(json.dumps(array_to_config(given)))
    array = array_from_config(config)
    assert array.dtype == np.float32
    assert array.shape == NUMBERS.shape
    assert array.tobytes() == NUMBERS.tobytes()


def test_earlier_forms_are_read():
    text = base64.b64encode(NUMBERS.tobytes()).decode()
    for config in ({"shape": [2, 3], "base64_float32": text}, NUMBERS.tolist()):
        assert array_from_config(config).tobytes() == NUMBERS.tobytes()


def test_empty_arrays():
    assert array_from_config(array_to_config(np.zeros((0, 3)))).shape == (0, 3)
