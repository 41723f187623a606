"""Make compiled models notice that the losses of their layers have changed."""

from typing import Any

import keras
from keras.layers import Layer

from mhe import keras_internals
from mhe.attach.live import live
from mhe.attach.neurons import walk


def retrace(model: Layer) -> None:
    """Makes every live model that contains a layer of `model` trace its train and test steps again.

    A layer does not know the models that contain it, so they are looked for among all live models.
    `gc.freeze` hides objects from that search, so models inside `model` are not left to it.

    Args:
        model: A model or layer whose losses have changed.
    """
    layers = {id(layer): layer for layer, _ in walk(model)}
    inside = [layer for layer in layers.values() if isinstance(layer, keras.Model)]
    models = [
        each
        for each in {id(each): each for each in (*inside, *live(keras.Model))}.values()
        if getattr(each, "compiled", False) and any(id(layer) in layers for layer, _ in walk(each))
    ]
    for each in models:
        keras_internals.drop_traces(each)
    if keras.backend.backend() == "jax":
        # The one spot that needs JAX itself: equal methods, such as the train step of a model
        # before and after, share what `jax.jit` traced as long as the older one lives.
        import jax

        for each in models:
            for step in (each.train_step, each.test_step):
                traced: Any = jax.jit(step, donate_argnums=0)
                traced.clear_cache()
