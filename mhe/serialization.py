"""Arrays in the configs of layers and regularizers."""

import base64
import zlib
from typing import Any

import numpy as np
from keras import ops

from mhe.types import Tensor


def array_to_config(array: Tensor) -> dict[str, Any]:
    """An array in a form that JSON can hold, exact in float32.

    Args:
        array: Numbers of any shape: a Keras variable, a tensor or array-like.

    Returns:
        Its shape, and its float32 numbers compressed and in base64.

    Example:

    >>> array_from_config(array_to_config([[0.1, 2.0]]))
    array([[0.1, 2. ]], dtype=float32)
    """
    numbers = np.asarray(ops.convert_to_numpy(array), "<f4")
    text = base64.b64encode(zlib.compress(numbers.tobytes())).decode("ascii")
    return {"shape": list(numbers.shape), "zlib_base64_float32": text}


def array_from_config(config: Any) -> np.ndarray:
    """The float32 array behind a config.

    Args:
        config: What `array_to_config` returned; the uncompressed form of earlier versions
            (`base64_float32`) and nested lists are read, too.

    Returns:
        An array that may be read-only.
    """
    if not isinstance(config, dict):
        return np.asarray(config, np.float32)
    if "base64_float32" in config:
        data = base64.b64decode(config["base64_float32"])
    else:
        data = zlib.decompress(base64.b64decode(config["zlib_base64_float32"]))
    return np.frombuffer(data, "<f4").reshape(config["shape"])
