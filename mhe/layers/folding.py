"""Plain models, whose kernels were divided by their spectral norms once, for serving."""

from typing import Any

import keras
from keras import ops

from mhe import keras_internals
from mhe.layers.spectral_norm import SpectralNorm, spectral_norms


def fold_spectral_norms(model: keras.Model) -> keras.Model:
    """Returns a plain model with W/σ(W) in place, which computes what a model does at inference.

    For serving: the copy has no `SpectralNorm`, divides nothing when it is called, and keeps
    neither the vectors of the power iteration nor their copy of each kernel. What was wrapped has
    the name of its `SpectralNorm`. Other layers, regularizers among them, are copied as they are,
    and so are all other weights. The copy is not compiled, and the model does not change.

    Functional and sequential models may hold layers of any class. Other models and layers that
    hold a `SpectralNorm`, such as `mhe.HeadModel`, are copied by their config, as when they are
    saved.

    Args:
        model: A built model. Without a `SpectralNorm` in it, the result is a copy.

    Returns:
        A built model of the same class.

    Raises:
        ValueError: If this is not a built model, or a copy by its config has other weights.

    Example:

    >>> import keras, mhe
    >>> import numpy as np
    >>> norm = mhe.layers.SpectralNorm(keras.layers.Dense(4), name="hidden")
    >>> model = keras.Sequential([keras.Input((6,)), norm, keras.layers.Dense(2)])
    >>> plain = mhe.layers.fold_spectral_norms(model)
    >>> [type(layer).__name__ for layer in plain.layers], plain.layers[0].name
    (['Dense', 'Dense'], 'hidden')
    >>> images = np.random.rand(3, 6).astype("float32")
    >>> bool(np.allclose(plain.predict(images, verbose=0), model.predict(images, verbose=0)))
    True
    """
    if not isinstance(model, keras.Model) or not model.built:
        raise ValueError(f"`model` must be a built Keras model. Received: {model!r}")
    norms = spectral_norms(model)
    dropped = {id(weight) for norm in norms for weight in norm.states}
    folded = {id(norm.kernel): norm.normalized_kernel for norm in norms}
    values = [
        ops.convert_to_numpy(folded.get(id(weight), weight))
        for weight in model.weights
        if id(weight) not in dropped
    ]
    plain = _copy(model)
    shapes, expected = (
        [tuple(each.shape) for each in weights] for weights in (plain.weights, values)
    )
    if shapes != expected:
        raise ValueError(
            "The copy of `model` by its config must have its weights, as a saved model has. "
            f"Received: {model!r} with weights of shapes {expected}, and a copy with {shapes}"
        )
    plain.set_weights(values)
    return plain


def _copy(layer: keras.layers.Layer) -> keras.layers.Layer:
    """A layer with weights of its own, without spectral norms."""
    if isinstance(layer, SpectralNorm):
        return type(layer.layer).from_config({**layer.layer.get_config(), "name": layer.name})
    is_graph = keras_internals.graph(layer) and keras_internals.is_saved_as_graph(layer)
    if is_graph or isinstance(layer, keras.Sequential):
        # Keras would compile the copy, too.
        with keras_internals.replaced_attribute(layer, "compiled", False):
            return keras.models.clone_model(layer, clone_function=_copy)
    if not spectral_norms(layer):
        return type(layer).from_config(layer.get_config())
    config = _without_norms(keras.saving.serialize_keras_object(layer))
    return keras.saving.deserialize_keras_object(config, {type(layer).__name__: type(layer)})


def _without_norms(config: Any) -> Any:
    """A config in which wrapped layers stand for their `SpectralNorm`, and nothing is compiled."""
    if isinstance(config, (list, tuple)):
        return type(config)(map(_without_norms, config))
    if not isinstance(config, dict):
        return config
    if config.get("registered_name") == keras.saving.get_registered_name(SpectralNorm):
        own, wrapped = config["config"], config["config"]["layer"]
        # In a graph, the entry of a layer also holds its name and what it is called on.
        config = {
            **{key: value for key, value in config.items() if key != "build_config"},
            **wrapped,
            "config": {**wrapped["config"], "name": own["name"]},
        }
    return {key: _without_norms(each) for key, each in config.items() if key != "compile_config"}
